import math

import numpy as np
import pytest
from scipy.stats import entropy

from surgjax.benchmark import calibration, metrics


def made(seed, frames=300, classes=4):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.4), frames)
    if seed % 2:
        probs = np.round(probs * 15) / 15  # on the edges of bins
    label = rng.integers(0, classes, frames)
    video = rng.choice(["b", "a", "c"], frames)
    return label, probs, video


def literal_ece(label, probs, bins):
    total = 0.0
    for m in range(1, bins + 1):
        members = []
        for truth, row in zip(label, probs, strict=True):
            confidence = max(row)
            if (m - 1) / bins < confidence <= m / bins:
                members.append((list(row).index(confidence) == truth, confidence))
        if members:
            accuracy = sum(right for right, _ in members) / len(members)
            confidence = sum(value for _, value in members) / len(members)
            total += len(members) / len(label) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_the_literal_one(seed, bins):
    label, probs, video = made(seed)
    probs = np.minimum(probs, 1)
    names, sums = calibration.reliability_by_video(label, probs, video, bins)
    pooled = calibration.expected_calibration_error(sums.sum(0))
    assert pooled == pytest.approx(literal_ece(label, probs, bins))
    each = calibration.expected_calibration_error(sums)
    for name, value in zip(names, each, strict=True):
        rows = video == name
        assert value == pytest.approx(literal_ece(label[rows], probs[rows], bins))
    assert names == ["a", "b", "c"] and sums[..., 0].sum() == len(label)


def test_known_calibration():
    video, sure = np.array(["a"] * 10), np.tile([0.0, 1.0], (10, 1))
    _, sums = calibration.reliability_by_video(np.ones(10, np.int64), sure, video)
    assert calibration.expected_calibration_error(sums) == 0
    _, sums = calibration.reliability_by_video(np.zeros(10, np.int64), sure, video)
    assert calibration.expected_calibration_error(sums) == 1
    assert np.isnan(calibration.expected_calibration_error(np.zeros((15, 3))))
    with pytest.raises(ValueError, match="probabilities outside"):
        calibration.reliability_by_video(np.ones(10, np.int64), sure * 2, video)
    with pytest.raises(ValueError, match="probabilities outside"):
        calibration.reliability_by_video(np.ones(10, np.int64), sure * np.nan, video)


def test_prediction_entropy_is_scipys():
    rng = np.random.default_rng(0)
    for classes in (2, 5, 30):
        pred = rng.integers(0, classes, 40) // rng.integers(1, 4)
        counts = metrics.confusion(np.roll(pred, 1), pred, classes)
        expected = entropy(np.bincount(pred, minlength=classes)) / math.log(classes)
        assert calibration.prediction_entropy(counts) == pytest.approx(expected)
    every = metrics.confusion(np.zeros(6, np.int64), np.arange(6), 6)
    one = metrics.confusion(np.arange(6), np.full(6, 2), 6)
    found = calibration.prediction_entropy(np.stack([every, one, np.zeros_like(one)]))
    np.testing.assert_allclose(found, [1, 0, np.nan], atol=1e-12)
    assert np.isnan(calibration.prediction_entropy(np.full((1, 1), 3)))


@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        ([60, 40], [100, 0], True),
        ([60, 40], [95, 5], True),
        ([60, 40], [94, 6], False),
        ([96, 4], [100, 0], False),  # the answer is nearly always the same
        ([4, 96], [100, 0], True),
        ([90, 10], [100, 0], True),
    ],
)
def test_collapse(labels, predictions, expected):
    label, pred = np.repeat([0, 1], labels), np.repeat([0, 1], predictions)
    assert calibration.collapsed(metrics.confusion(label, pred, 2)) is expected


def test_nothing_is_not_collapsed():
    assert not calibration.collapsed(np.zeros((3, 3), np.int64))
