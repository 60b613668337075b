import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from data_prep.sources import cholect50
from surgjax.benchmark import metrics, triplets

NAMES = cholect50.CLASSES["triplet"]
WORDS = triplets.vocabulary(NAMES)


def made(seed, frames=60, videos=3):
    """Labels of few triplets with scores that tie; a video can be one frame or show nothing."""
    rng = np.random.default_rng(seed)
    common = rng.random(100) < 0.2
    label = (rng.random((frames, 100)) < 0.08 * common).astype(np.int64)
    score = rng.random((frames, 100)) + 0.4 * label
    if seed % 2:
        score = np.round(score, 1)
    video = np.array([f"VID{v:02d}" for v in rng.integers(0, videos, frames)])
    video[0] = "VID77"  # one frame
    label[video == "VID01"] *= seed % 3 > 0
    return label, score.astype(np.float32 if seed % 4 else np.float64), video


def literal_ap(label, score):
    """Precision times gained recall at each different score, highest first."""
    positives, before, area = sum(label), 0, 0.0
    if positives == 0:
        return float("nan")
    for threshold in sorted(set(score), reverse=True):
        reached = [y for y, s in zip(label, score, strict=True) if s >= threshold]
        recall = sum(reached) / positives
        area += (recall - before) * sum(reached) / len(reached)
        before = recall
    return area


def literal_component(values, places):
    """{words of the class: highest value of each frame}, by loops over frames and triplets."""
    out = {}
    for frame, row in enumerate(values.tolist()):
        for name, value in zip(NAMES, row, strict=True):
            key = tuple(name.split(",")[place] for place in places)
            column = out.setdefault(key, [-np.inf] * len(values))
            column[frame] = max(column[frame], value)
    return out


def mean(values):
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def literal_video(label, score, video, places, *, without_null=False):
    truth, guess = literal_component(label, places), literal_component(score, places)
    each = []
    for key in truth:
        if without_null and "null_verb" in key:
            continue
        aps = []
        for name in set(video.tolist()):
            rows = [i for i in range(len(video)) if video[i] == name]
            aps.append(literal_ap([truth[key][i] for i in rows], [guess[key][i] for i in rows]))
        each.append(mean(aps))
    return mean(each)


def literal_global(label, score, places):
    truth, guess = literal_component(label, places), literal_component(score, places)
    return mean([literal_ap(truth[key], guess[key]) for key in truth])


def test_vocabulary_of_cholect50():
    sizes = {component: len(names) for component, names in WORDS.names.items()}
    assert sizes == {"i": 6, "v": 10, "t": 15, "iv": 26, "it": 59, "ivt": 100}
    for component in "ivt":
        task = {"i": "instrument", "v": "verb", "t": "target"}[component]
        assert sorted(WORDS.names[component]) == sorted(cholect50.CLASSES[task])
    assert np.flatnonzero(WORDS.null).tolist() == list(range(94, 100))
    assert WORDS.names["iv"][WORDS.of_triplet["iv"][22]] == "bipolar,coagulate"
    assert WORDS.names["it"][WORDS.of_triplet["it"][99]] == "irrigator,null_target"


@pytest.mark.parametrize("component", triplets.PARTS)
def test_components_are_maxima(component):
    label, score, _ = made(1)
    for values in (label, score):
        expected = literal_component(values, triplets.PARTS[component])
        assert tuple(map(",".join, expected)) == WORDS.names[component]
        found = triplets.of_component(values, WORDS, component)
        np.testing.assert_array_equal(found, np.array(list(expected.values())).T)


@pytest.mark.parametrize("seed", range(4))
def test_means_are_the_literal_ones(seed):
    label, score, video = made(seed)
    _, by_video = triplets.video_average_precision(label, score, video, WORDS)
    over = {component: triplets.over_videos(ap) for component, ap in by_video.items()}
    video_wise = triplets.mean_average_precision(over, WORDS)
    without_null = triplets.mean_average_precision(over, WORDS, ignore_null=True)
    everything = triplets.mean_average_precision(
        triplets.global_average_precision(label, score, WORDS), WORDS
    )
    for component, places in triplets.PARTS.items():
        key = f"ap_{component}"
        expected = literal_video(label, score, video, places)
        assert video_wise[key] == pytest.approx(expected)
        assert everything[key] == pytest.approx(literal_global(label, score, places))
        if component != "ivt":
            assert without_null[key] == video_wise[key]
    expected = literal_video(label, score, video, (0, 1, 2), without_null=True)
    assert without_null["ap_ivt"] == pytest.approx(expected)


def test_hundreds_of_classes_are_scikit_learns():
    compared = 0
    for seed in range(10):
        label, score, _ = made(seed, frames=200)
        found = triplets.global_average_precision(label, score, WORDS)["ivt"]
        for i in range(100):
            if label[:, i].any():
                assert found[i] == pytest.approx(average_precision_score(label[:, i], score[:, i]))
                compared += 1
            else:
                assert np.isnan(found[i])
    assert compared > 100


def test_absent_classes_do_not_count_as_zero():
    label, score = np.zeros((4, 100), np.int64), np.zeros((4, 100))
    label[:2, 7], score[:2, 7] = 1, 0.9  # perfect; the other 99 are absent
    video = np.array(["a", "a", "b", "b"])
    names, ap = triplets.video_average_precision(label, score, video, WORDS)
    assert names == ["a", "b"] and np.isnan(ap["ivt"][1]).all()
    over = {component: triplets.over_videos(values) for component, values in ap.items()}
    means = triplets.mean_average_precision(over, WORDS)
    assert means == {f"ap_{component}": 1 for component in triplets.PARTS}
    nothing = triplets.global_average_precision(np.zeros_like(label), score, WORDS)
    assert np.isnan(list(triplets.mean_average_precision(nothing, WORDS).values())).all()


@pytest.mark.parametrize("block", [metrics.BLOCK, 20])
def test_resampled_videos_give_what_their_repeated_frames_give(block, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", block)
    label, score, video = made(5, frames=40)
    names = sorted(set(video.tolist()))
    times = np.array([[1] * len(names), *itertools.product([0, 1, 2], repeat=len(names))])[:30]
    found = triplets.resampled_global_average_precision(label, score, video, times, WORDS)
    for r, row in enumerate(times):
        which = [
            np.flatnonzero(video == n) for n, k in zip(names, row, strict=True) for _ in [0] * k
        ]
        rows = np.concatenate([*which, np.empty(0, np.int64)])
        expected = triplets.global_average_precision(label[rows], score[rows], WORDS)
        for component in triplets.PARTS:
            np.testing.assert_allclose(found[component][r], expected[component], rtol=1e-12)


@pytest.mark.parametrize("k", [1, 5, 200])
def test_top_k_recall_is_the_literal_one(k):
    for seed in (0, 1, 2):
        label, score, video = made(seed)
        found = every = 0
        for truth, guess in zip(label, score, strict=True):
            best = sorted(range(100), key=lambda c, guess=guess: (-guess[c], c))[:k]
            found += sum(truth[c] for c in best)
            every += truth.sum()
        names, counts = triplets.top_k_counts(label, score, video, k)
        assert triplets.top_k_recall(counts) == pytest.approx(found / every)
        assert names == sorted(set(video.tolist())) and counts[:, 1].sum() == label.sum()
    assert np.isnan(triplets.top_k_recall(np.zeros((2, 2), np.int64)))


def test_no_frames_are_undefined():
    label, score, video = (values[:0] for values in made(0))
    assert np.isnan(triplets.global_average_precision(label, score, WORDS)["iv"]).all()
    names, ap = triplets.video_average_precision(label, score, video, WORDS)
    assert names == [] and ap["it"].shape == (0, 59)
    assert np.isnan(triplets.over_videos(ap["it"])).all()


def test_bad_input_is_named():
    label, score, video = made(0)
    with pytest.raises(ValueError, match="'grasper,grasp', expected instrument,verb,target"):
        triplets.vocabulary(["grasper,grasp"])
    with pytest.raises(ValueError, match="same name"):
        triplets.vocabulary(["a,b,c", "a,b,c"])
    with pytest.raises(ValueError, match="99 columns, expected 100"):
        triplets.global_average_precision(label[:, 1:], score[:, 1:], WORDS)
    with pytest.raises(ValueError, match="other than 0 and 1"):
        triplets.global_average_precision(label * 2, score, WORDS)
    score[3, 4] = np.nan
    with pytest.raises(ValueError, match="1 frames have a score that is NaN"):
        triplets.video_average_precision(label, score, video, WORDS)
    with pytest.raises(ValueError, match="k = 0"):
        triplets.top_k_counts(label, score, video, 0)
    with pytest.raises(ValueError, match="times of 2 videos"):
        times = np.ones((1, 2), np.int64)
        triplets.resampled_global_average_precision(label, label / 2, video, times, WORDS)
