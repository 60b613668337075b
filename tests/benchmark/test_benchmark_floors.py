import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, average_precision_score

from surgjax.benchmark import floors, metrics


def made(seed, classes=5):
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(classes))
    train, label = rng.choice(classes, 50, p=share), rng.choice(classes, 80, p=share)
    return train, label, rng.choice(["b", "a", "c"], 80, p=[0.7, 0.2, 0.1])


def per_video(label, pred, video):
    names = sorted(set(video.tolist()))
    return np.mean([accuracy_score(label[video == n], pred[video == n]) for n in names])


@pytest.mark.parametrize("seed", range(20))
def test_floors_are_those_of_constant_predictions(seed):
    train, label, video = made(seed)
    _, counts = metrics.by_video(label, np.roll(label, seed), video, 5)
    dummy = DummyClassifier(strategy="most_frequent").fit(train[:, None], train)
    pred = dummy.predict(label[:, None])
    found = floors.majority_of_train(train, counts)
    assert found["class"] == pred[0]
    assert found["image_accuracy"] == pytest.approx(accuracy_score(label, pred))
    assert found["video_accuracy"] == pytest.approx(per_video(label, pred, video))
    constants = [np.full(80, c) for c in range(5)]
    best = floors.best_constant(counts)
    assert best["image_accuracy"] == pytest.approx(
        max(accuracy_score(label, pred) for pred in constants)
    )
    assert best["video_accuracy"] == pytest.approx(
        max(per_video(label, pred, video) for pred in constants)
    )


def test_a_published_row_is_a_constant():
    """Cataract-21 in SurgRec's Table 2: every model reaches 15.69, the class with 8 of 51 clips."""
    label = np.array([10] * 8 + list(range(10)) * 4 + [0, 1, 2])
    _, counts = metrics.by_video(label, label, np.arange(len(label)), 11)
    assert round(100 * floors.best_constant(counts)["image_accuracy"], 2) == 15.69


def test_chance_is_the_precision_of_constant_scores():
    rng = np.random.default_rng(0)
    label = (rng.random((200, 4)) < [0.5, 0.1, 0.02, 0.0]).astype(np.float64)
    found = floors.chance_average_precision(label)
    for i in range(3):
        assert found[i] == pytest.approx(average_precision_score(label[:, i], np.ones(200)))
    assert np.isnan(found[3])
    label[:100, 0] = np.nan
    assert floors.chance_average_precision(label)[0] == label[100:, 0].mean()


def test_empty_and_bad_input():
    none = np.zeros((0, 3, 3), np.int64)
    assert np.isnan(floors.best_constant(none)["image_accuracy"])
    assert np.isnan(floors.majority_of_train(np.array([1]), none)["video_accuracy"])
    for train in (np.zeros(0, np.int64), np.array([3])):
        with pytest.raises(ValueError, match="training labels"):
            floors.majority_of_train(train, none)
