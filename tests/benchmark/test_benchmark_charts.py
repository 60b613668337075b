"""Pictures of one file of predictions: the numbers in them against scikit-learn and brute force."""

import csv
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, recall_score

from surgjax.benchmark import charts, pictures
from surgjax.benchmark.predictions import Predictions

TRIPLETS = ["hook,cut,duct", "hook,cut,plate", "hook,null_verb,null_target", "clip,clip,duct"]


def one_class(videos=8, frames=30, classes=4, seed=0, absent=0):
    rng = np.random.default_rng(seed)
    n = videos * frames
    names = [f"class $x_{i}$" for i in range(classes)]
    target = rng.integers(0, classes - absent, n)
    probabilities = rng.dirichlet(np.ones(classes), n) + 0.4 * np.eye(classes)[target]
    probabilities[:, classes - absent :] = 0
    probabilities /= probabilities.sum(1, keepdims=True)
    columns = {"video_id": np.repeat([f"v{i}" for i in range(videos)], frames)}
    return Predictions(names, probabilities.astype(np.float32), target, columns, "unknown")


def several(classes, videos=8, frames=30, seed=0, rate=0.3, unknown=False):
    rng = np.random.default_rng(seed)
    n = videos * frames
    target = (rng.random((n, len(classes))) < rate).astype(np.float32)
    scores = (0.3 * target + rng.random(target.shape)).astype(np.float32)
    if unknown:
        target[rng.random(target.shape) < 0.2] = np.nan
    columns = {"video_id": np.repeat([f"v{i}" for i in range(videos)], frames)}
    return Predictions(list(classes), scores, target, columns, "yes")


def columns_of(rows):
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}


def test_confusion_is_that_of_scikit_learn(tmp_path):
    table = one_class(absent=1)
    figure, rows = charts.plot_confusion(table)
    found = columns_of(rows)
    expected = confusion_matrix(table.target, table.pred, labels=range(4))
    np.testing.assert_array_equal(np.reshape(found["count"], (4, 4)), expected)
    share = np.array(found["share_of_true"], dtype=float).reshape(4, 4)
    np.testing.assert_allclose(share[:3].sum(1), 1)
    assert np.isnan(share[3]).all()  # of a class that never occurs there is no share
    assert len(figure.axes[1].patches) == 1 and "class that never occurs" in figure.get_suptitle()
    first = pictures.save_with_data(figure, rows, tmp_path / "a.b")
    again = pictures.save_with_data(*charts.plot_confusion(one_class(absent=1)), tmp_path / "c")
    assert [path.name for path in first] == ["a.b.png", "a.b.svg", "a.b.csv"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    read = list(csv.reader(first[2].read_text().splitlines()))
    assert len(read) == 17 and read[1][0] == "class $x_0$" and int(read[1][2]) == expected[0, 0]


@pytest.mark.parametrize("metric", ["f1", "recall"])
def test_class_bars_are_scikit_learns_with_resampled_intervals(metric, monkeypatch):
    monkeypatch.setattr(charts, "RESAMPLES", 40)
    table = one_class()
    figure, rows = charts.plot_per_class(table, metric)
    found = columns_of(rows)
    reference = {"f1": f1_score, "recall": recall_score}[metric]
    np.testing.assert_allclose(found[metric], reference(table.target, table.pred, average=None))
    np.testing.assert_array_equal(found["positives"], np.bincount(table.target))
    names, which = np.unique(table["video_id"], return_inverse=True)
    values = []
    for draw in np.random.default_rng(0).integers(8, size=(40, 8)):
        at = np.concatenate([np.flatnonzero(which == v) for v in draw])
        values.append(reference(table.target[at], table.pred[at], average=None))
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(found["low"], low)
    np.testing.assert_allclose(found["high"], high)
    bars = [patch.get_width() for patch in figure.axes[0].patches]
    np.testing.assert_allclose(bars, found[metric])


def test_bars_of_several_classes_are_average_precision(monkeypatch):
    monkeypatch.setattr(charts, "RESAMPLES", 30)
    table = several("abc", unknown=True)
    table.target[:, 2] = np.where(np.isnan(table.target[:, 2]), np.nan, 0)
    _, rows = charts.plot_per_class(table)
    found = columns_of(rows)
    which = np.unique(table["video_id"], return_inverse=True)[1]
    draws = np.random.default_rng(0).integers(8, size=(30, 8))
    for i in range(2):
        known = ~np.isnan(table.target[:, i])
        label, score = table.target[known, i], table.probabilities[known, i]
        assert found["ap"][i] == pytest.approx(average_precision_score(label, score))
        assert found["chance"][i] == pytest.approx(label.mean())
        values = []
        for draw in draws:
            at = np.concatenate([np.flatnonzero(which[known] == v) for v in draw])
            values.append(average_precision_score(label[at], score[at]))
        assert found["low"][i] == pytest.approx(np.quantile(values, 0.025))
    assert found["ap"][2] is None and found["positives"][2] == 0  # no positives: empty, never 0
    with pytest.raises(ValueError, match="no number of such a table"):
        charts.plot_per_class(table, "f1")


def test_few_videos_have_dots_and_no_interval():
    table = one_class(videos=3)
    figure, rows = charts.plot_per_class(table)
    found = columns_of(rows)
    assert found["low"] == found["high"] == [None] * 4
    own = table.where(table["video_id"] == "v1")
    alone = f1_score(own.target, own.pred, average=None, labels=range(4))
    np.testing.assert_allclose(found["v1"], alone)
    assert len(figure.axes[0].lines) == 4  # a row of dots each
    assert "too few" in figure.axes[0].get_xlabel()


def test_reliability_is_the_calibration_error():
    table = one_class(frames=100)
    figure, rows = charts.plot_reliability(table)
    found = columns_of(rows)
    confidence, right = table.probabilities.max(1).astype(float), table.pred == table.target
    place = np.minimum(np.ceil(confidence * 15).astype(int) - 1, 14)
    error = 0.0
    for b in range(15):
        own = place == b
        assert found["frames"][b] == own.sum()
        if own.any():
            assert found["accuracy"][b] == pytest.approx(right[own].mean())
            assert found["mean_confidence"][b] == pytest.approx(confidence[own].mean())
            error += own.mean() * abs(right[own].mean() - confidence[own].mean())
        else:
            assert found["accuracy"][b] is None
    assert f"ECE of 15 bins: {error:.3f} [" in figure.axes[0].get_title(loc="left")


def test_triplets_are_pairs_of_instrument_and_verb_or_target():
    table = several(TRIPLETS)
    figure, rows = charts.plot_triplets(table, "global_ap")
    found = {(row[0], row[1]): row[2] for row in rows[1:]}
    label, score = table.target[:, :2].max(1), table.probabilities[:, :2].max(1)
    expected = average_precision_score(label, score)
    assert found["iv", "hook,cut"] == pytest.approx(expected)
    verbs, targets = figure.axes
    assert f"{expected:.2f}" in {text.get_text() for text in verbs.texts}
    shown = verbs.images[0].get_array()
    assert shown.shape == (2, 3) and np.ma.count_masked(np.ma.masked_invalid(shown)) == 3
    assert targets.images[0].get_array().shape == (2, 3)
    assert "model saw test cases: yes" in figure.get_suptitle()
    by_video = {tuple(row[:2]): row[2] for row in charts.plot_triplets(table)[1][1:]}
    each = [
        average_precision_score(label[table["video_id"] == v], score[table["video_id"] == v])
        for v in np.unique(table["video_id"])
    ]
    assert by_video["iv", "hook,cut"] == pytest.approx(np.mean(each))


def test_pictures_of_other_tables_are_refused():
    table = several("abc")
    for plot in (charts.plot_confusion, charts.plot_reliability):
        with pytest.raises(ValueError, match="several classes"):
            plot(table)
    with pytest.raises(ValueError, match="triplet"):
        charts.plot_triplets(table)
    with pytest.raises(ValueError, match="list of 1 and 0"):
        charts.plot_triplets(one_class())


def test_a_hundred_classes_have_readable_names():
    table = one_class(videos=6, frames=200, classes=100)
    for plot in (charts.plot_confusion, charts.plot_per_class):
        figure, _ = plot(table)
        for axis in figure.axes:
            labels = axis.get_yticklabels()
            inches = figure.get_size_inches()[1] / len(figure.axes) * 0.8 / len(labels)
            assert len(labels) == 100 and labels[0].get_fontsize() / 72 < inches
            assert labels[0].get_fontsize() >= 5.5 and not math.isnan(inches)
            assert labels[0].get_text().startswith(r"class \$x_0\$")
