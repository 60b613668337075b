import numpy as np
import pytest
from sklearn import metrics as sk

from surgjax.benchmark import phases

PHASES = {"cholec80": 7, "autolaparo": 7, "m2cai16": 8, "other": 5}


def made(seed, classes, *, videos=3, longest=60):
    """Videos as operations are: phases in order, some left out or entered again, noisy borders."""
    rng = np.random.default_rng(seed)
    labels, preds = [], []
    for _ in range(videos):
        order = np.flatnonzero(rng.random(classes) < rng.choice([0.3, 0.8, 1.0]))
        order = order if len(order) else rng.integers(0, classes, 1)
        if rng.random() < 0.5:
            order = np.append(order, rng.choice(order))
        lengths = rng.integers(1, rng.choice([3, 15, longest]), len(order))
        label = np.repeat(order, lengths)[: 1 if rng.random() < 0.1 else None]
        pred = np.roll(label, rng.integers(-12, 13))  # late or early transitions
        noise = rng.random(len(label)) < rng.choice([0.0, 0.1, 0.5])
        pred = np.where(noise, rng.integers(0, classes, len(label)), pred)
        if rng.random() < 0.3:
            pred[pred == rng.choice(order)] = rng.integers(0, classes)  # a class never predicted
        labels.append(label)
        preds.append(pred)
    video = np.repeat([f"video{i:02d}" for i in range(videos)], [len(x) for x in labels])
    return np.concatenate(labels), np.concatenate(preds), video


def relaxed_differences(label, pred, classes, dataset, window, misplaced):
    """The rules frame by frame with ids from 1, as the published program numbers phases."""
    truth, guess = [x + 1 for x in label], [x + 1 for x in pred]
    updated = [g - t for g, t in zip(guess, truth, strict=True)]
    jumps, last = ((), ()) if dataset == "other" else ((4, 5), (6, 7))
    if dataset == "m2cai16":
        jumps, last = (5, 6), (7, 8)
    a = 0
    while a < len(truth):
        b = a
        while b + 1 < len(truth) and truth[b + 1] == truth[a]:
            b += 1
        size = b - a + 1
        t = min(window, size)
        late = (-1, -2) if truth[a] in last else (-1,)
        early = (1, 2) if truth[a] in jumps + last else (1,)
        for k in range(t):
            if updated[a + k] in late:
                updated[a + k] = 0
        mask = [updated[b - t + 1 + k] in early for k in range(t)]
        for k in range(t):
            if mask[k]:
                updated[a + k if misplaced else b - t + 1 + k] = 0
        a = b + 1
    return updated


def evaluated(label, pred, classes, differences):
    """(Jaccard, precision, recall and F1 of each phase, accuracy) of one video in percent, cut to
    100; division by zero as in Matlab."""
    rows = []
    for c in range(classes):
        truth = sum(int(x == c) for x in label)
        guess = sum(int(x == c) for x in pred)
        union = [i for i in range(len(label)) if label[i] == c or pred[i] == c]
        if truth == 0:
            rows.append([np.nan] * 4)
            continue
        tp = sum(int(differences[i] == 0) for i in union)
        if guess:
            precision = 100 * tp / guess
        else:
            precision = np.inf if tp else np.nan
        row = [100 * tp / len(union), precision, 100 * tp / truth, 200 * tp / (truth + guess)]
        rows.append([min(x, 100) if not np.isnan(x) else x for x in row])
    right = sum(int(d == 0) for d in differences)
    return np.array(rows), 100 * right / len(label)


def over_videos(videos):
    """Per phase and means, from `evaluated` of each video, with plain loops."""
    tables = np.array([table for table, _ in videos])
    phase = np.full(tables.shape[1:], np.nan)
    for c in range(tables.shape[1]):
        for m in range(tables.shape[2]):
            known = [x for x in tables[:, c, m] if not np.isnan(x)]
            if known:
                phase[c, m] = sum(known) / len(known)
    accuracy = [a for _, a in videos]
    return phase, accuracy


def check(seed, dataset, protocol):
    classes = PHASES[dataset]
    label, pred, video = made(seed, classes, videos=seed % 4 + 1)
    keywords = {} if protocol == "strict" else {"dataset": dataset, "fps": 1}
    counts = phases.count(label, pred, video, classes, protocol=protocol, **keywords)
    results, right, frames = [], 0, 0
    for name in sorted(set(video)):
        one, guess = label[video == name].tolist(), pred[video == name].tolist()
        if protocol == "strict":
            differences = [g - t for g, t in zip(guess, one, strict=True)]
        else:
            bug = protocol == "relaxed_10s_tmrnet"
            differences = relaxed_differences(one, guess, classes, dataset, 10, bug)
        table, accuracy = evaluated(one, guess, classes, differences)
        if protocol == "relaxed_10s":
            table[[c not in guess for c in range(classes)], 1] = np.nan
        results.append((table, accuracy))
        right += differences.count(0)
        frames += len(one)
    phase, accuracy = over_videos(results)
    for column, metric in enumerate(("jaccard", "precision", "recall", "f1")):
        expected = phase[:, column] / 100
        np.testing.assert_allclose(phases.per_phase(counts, metric), expected, atol=1e-12)
        if metric == "precision":
            expected = expected[~np.isnan(expected)]
        mean = expected.mean() if len(expected) else np.nan
        assert phases.value(counts, metric) == pytest.approx(mean, abs=1e-12, nan_ok=True)
        deviation = expected.std(ddof=1) if len(expected) > 1 else np.nan
        assert phases.spread(counts, metric) == pytest.approx(deviation, abs=1e-12, nan_ok=True)
    assert phases.value(counts, "image_accuracy") == pytest.approx(right / frames)
    assert phases.value(counts, "video_accuracy") == pytest.approx(np.mean(accuracy) / 100)
    if len(accuracy) > 1:
        deviation = np.std(accuracy, ddof=1) / 100
        assert phases.spread(counts, "video_accuracy") == pytest.approx(deviation, abs=1e-12)
    return counts


@pytest.mark.parametrize("protocol", phases.PROTOCOLS)
@pytest.mark.parametrize("dataset", PHASES)
def test_every_metric_follows_the_published_rules_frame_by_frame(dataset, protocol):
    found = [check(seed, dataset, protocol) for seed in range(60)]
    # The sequences reach the cases that the rules speak of.
    assert any((c.true == 0).any() for c in found)
    assert any(((c.true > 0) & (c.predicted == 0)).any() for c in found)
    assert any((c.frames == 1).any() for c in found)
    if protocol != "strict":
        assert any((c.hit > c.predicted).any() for c in found)
        assert any(((c.hit > 0) & (c.predicted == 0)).any() for c in found)


def test_forgiveness_at_the_end_is_misplaced_by_the_published_program():
    # Phase 0 for 30 frames, its last 4 already predicted as phase 1, which follows for 30 frames.
    label = np.repeat([0, 1], 30)
    pred = np.repeat([0, 1], [26, 34])
    video = np.zeros(60, np.int64)
    keywords = {"dataset": "cholec80", "fps": 1}
    strict = phases.count(label, pred, video, 7, protocol="strict")
    intended = phases.count(label, pred, video, 7, protocol="relaxed_10s", **keywords)
    published = phases.count(label, pred, video, 7, protocol="relaxed_10s_tmrnet", **keywords)
    assert phases.value(strict, "image_accuracy") == 56 / 60
    assert phases.value(intended, "image_accuracy") == 1
    assert phases.value(published, "image_accuracy") == 56 / 60  # frames 6 to 9, right before
    assert intended.hit[0].tolist() == [30, 34, 0, 0, 0, 0, 0]
    # 34 hits of 30 labels: recall is cut to 1, and jaccard is 34 of the union's 34 frames.
    assert phases.per_phase(intended, "recall")[1] == phases.per_phase(intended, "jaccard")[1] == 1
    assert phases.per_phase(intended, "precision")[0] == 1


def test_a_forgiven_phase_that_was_never_predicted_has_no_precision():
    label, pred = np.repeat([0, 1], [30, 5]), np.zeros(35, np.int64)
    for protocol, expected in (("relaxed_10s", np.nan), ("relaxed_10s_tmrnet", 1.0)):
        counts = phases.count(
            label, pred, np.zeros(35), 2, protocol=protocol, dataset="other", fps=1
        )
        assert phases.per_phase(counts, "recall")[1] == 1
        np.testing.assert_equal(phases.per_phase(counts, "precision")[1], expected)


@pytest.mark.parametrize("protocol", phases.PROTOCOLS[1:])
def test_the_tolerance_is_ten_seconds_at_any_rate(protocol):
    label, pred, video = made(7, 7)
    keywords = {"protocol": protocol, "dataset": "cholec80"}
    slow = phases.count(label, pred, video, 7, fps=1, **keywords)
    often = [np.repeat(x, 25) for x in (label, pred, video)]
    fast = phases.count(*often, 7, fps=25, **keywords)
    for metric in phases.METRICS:
        assert phases.value(fast, metric) == pytest.approx(phases.value(slow, metric), nan_ok=True)
    assert (fast.correct == 25 * slow.correct).all()
    narrow = phases.count(*often, 7, fps=1, **keywords)  # a wrong rate is not silently put right
    assert phases.value(narrow, "image_accuracy") < phases.value(fast, "image_accuracy")


def test_times_give_the_rate_and_the_order():
    label, pred, video = made(11, 7)
    keywords = {"protocol": "relaxed_10s", "dataset": "cholec80"}
    expected = phases.count(label, pred, video, 7, fps=1, **keywords)
    t_ms = np.concatenate([np.arange((video == v).sum()) * 999.2 + 40 for v in np.unique(video)])
    shuffle = np.random.default_rng(0).permutation(len(label))
    found = phases.count(
        label[shuffle], pred[shuffle], video[shuffle], 7, t_ms=t_ms[shuffle], **keywords
    )
    for name in ("frames", "correct", "hit", "true", "predicted", "either"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("seed", range(30))
def test_pooled_scores_are_scikit_learns(seed):
    label, pred, video = made(seed, 6)
    counts = phases.count(label, pred, video, 9, protocol="strict")
    seen = sorted({*label, *pred})
    undefined = {"average": None, "labels": seen, "zero_division": np.nan}
    for metric, score in (("precision", sk.precision_score), ("recall", sk.recall_score)):
        each = score(label, pred, **undefined)
        np.testing.assert_allclose(phases.per_phase(counts, f"{metric}_pooled")[seen], each)
        assert phases.value(counts, f"{metric}_pooled") == pytest.approx(np.nanmean(each))
    for metric, score in (("jaccard", sk.jaccard_score), ("f1", sk.f1_score)):
        expected = score(label, pred, average="macro", labels=seen)
        assert phases.value(counts, f"{metric}_pooled") == pytest.approx(expected)
    unseen = np.setdiff1d(np.arange(9), seen)
    for metric in phases.SHARES:
        assert np.isnan(phases.per_phase(counts, f"{metric}_pooled")[unseen]).all()
    assert phases.value(counts, "image_accuracy") == pytest.approx(sk.accuracy_score(label, pred))


def test_an_absent_phase_is_nan_and_never_zero():
    label, pred = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    counts = phases.count(label, pred, np.zeros(4), 4, protocol="strict")
    for metric in phases.SHARES:
        assert np.isnan(phases.per_phase(counts, metric)[[1, 3]]).all()
    assert phases.value(counts, "precision") == 1  # the false alarm of phase 1 does not count
    assert phases.value(counts, "precision_pooled") == pytest.approx(2 / 3)  # here it does
    assert np.isnan(phases.value(counts, "recall")) and np.isnan(phases.value(counts, "jaccard"))
    assert phases.value(counts, "recall_pooled") == pytest.approx(0.75)


@pytest.mark.parametrize("protocol", phases.PROTOCOLS)
def test_resampled_counts_are_the_counts_of_the_resampled_frames(protocol):
    label, pred, video = made(3, 7, videos=5)
    keywords = {"protocol": protocol}
    keywords |= {} if protocol == "strict" else {"dataset": "cholec80", "fps": 1}
    rows = np.array([4, 0, 0, 2])
    found = phases.count(label, pred, video, 7, **keywords).of(rows)
    parts = [np.flatnonzero(video == f"video{row:02d}") for row in rows]
    chosen = np.concatenate(parts)
    names = np.repeat(["a", "b", "c", "d"], [len(part) for part in parts])
    again = phases.count(label[chosen], pred[chosen], names, 7, **keywords)
    for metric in phases.METRICS:
        np.testing.assert_equal(phases.value(found, metric), phases.value(again, metric))
        np.testing.assert_equal(phases.spread(found, metric), phases.spread(again, metric))
    assert found.videos == ["video04", "video00", "video00", "video02"]


def test_no_frames_are_undefined():
    nothing = np.zeros(0, np.int64)
    counts = phases.count(nothing, nothing, nothing, 3, protocol="strict")
    for metric in phases.METRICS:
        assert np.isnan(phases.value(counts, metric))
        assert np.isnan(phases.spread(counts, metric))


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"protocol": "relaxed"}, "protocol is 'relaxed', expected one of strict, relaxed_10s"),
        ({"protocol": "relaxed_10s", "fps": 1}, "needs the data set's name"),
        ({"protocol": "relaxed_10s", "dataset": "cholec80"}, "needs t_ms or fps"),
        ({"protocol": "relaxed_10s", "dataset": "cholec80", "fps": 0}, "fps is 0"),
        ({"protocol": "relaxed_10s", "dataset": "m2cai16", "fps": 1}, "expected the 8 phases"),
        (
            {"protocol": "relaxed_10s", "dataset": "other", "t_ms": np.array([0, 1000, 1000])},
            "video a has two rows at t_ms 1000",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(keywords, message):
    label = np.array([0, 1, 2])
    with pytest.raises(ValueError, match=message):
        phases.count(label, label, np.array(["a"] * 3), 7, **keywords)


def test_an_unknown_metric_is_named():
    label = np.array([0, 1, 2])
    counts = phases.count(label, label, label, 3, protocol="strict")
    with pytest.raises(ValueError, match="metric is 'accuracy', expected one of image_accuracy"):
        phases.value(counts, "accuracy")
