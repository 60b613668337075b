import numpy as np
import pytest
from sklearn import metrics as sk

from surgjax.benchmark import metrics


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 300)
    pred = np.where(rng.random(300) < 0.6, label, rng.integers(0, 4, 300))
    video = rng.choice(["b", "a", "c"], 300)
    label[video == "c"] %= 2  # a video that does not show every class
    pred[video == "c"] %= 3
    return label, pred, video


def test_confusion_matches_scikit_learn(table):
    label, pred, _ = table
    np.testing.assert_array_equal(
        metrics.confusion(label, pred, 5), sk.confusion_matrix(label, pred, labels=range(5))
    )


def test_pooled_scores_match_scikit_learn(table):
    label, pred, _ = table
    counts = metrics.confusion(label, pred, 6)
    assert metrics.accuracy(counts) == pytest.approx(sk.accuracy_score(label, pred))
    assert metrics.macro_f1(counts) == pytest.approx(sk.f1_score(label, pred, average="macro"))
    expected = sk.f1_score(label, pred, average=None, labels=range(4))
    np.testing.assert_allclose(metrics.f1_per_class(counts)[:4], expected)
    assert np.isnan(metrics.f1_per_class(counts)[4:]).all()


def test_per_video_scores_match_scikit_learn_on_the_classes_of_each_video(table):
    label, pred, video = table
    names, counts = metrics.by_video(label, pred, video, 4)
    assert names == ["a", "b", "c"]
    expected = [
        sk.f1_score(label[video == name], pred[video == name], average="macro") for name in names
    ]
    np.testing.assert_allclose(metrics.macro_f1(counts), expected)
    np.testing.assert_array_equal(counts.sum(0), metrics.confusion(label, pred, 4))


def test_a_class_predicted_but_never_true_counts_zero_and_one_absent_does_not_count():
    counts = metrics.confusion(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]), 4)
    np.testing.assert_allclose(metrics.f1_per_class(counts), [1, 2 / 3, 0, np.nan])
    assert metrics.macro_f1(counts) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_empty_is_undefined():
    counts = np.zeros((2, 3, 3), np.int64)
    assert np.isnan(metrics.accuracy(counts)).all() and np.isnan(metrics.macro_f1(counts)).all()


def test_label_out_of_range_is_named():
    with pytest.raises(ValueError, match="pred reaches from 0 to 3"):
        metrics.confusion(np.array([0, 1]), np.array([0, 3]), 3)
