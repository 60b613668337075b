import functools
import itertools
import math

import numpy as np
import pytest

from surgjax.benchmark import segments


def made(seed):
    """Label and prediction of one video; few classes, of which some stay unused."""
    rng = np.random.default_rng(seed)
    classes, length = rng.integers(1, 6), rng.choice([1, 2, 20, 80])
    label = np.repeat(rng.integers(0, classes, length), rng.integers(1, 9, length))[:length]
    pred = np.roll(label, rng.integers(-5, 6))
    noise = rng.random(length) < rng.choice([0.0, 0.05, 0.4])
    return label, np.where(noise, rng.integers(0, classes + 1, length), pred)


def listed(values, background):
    """[(class, first frame, last frame)], frame by frame."""
    found = []
    for i, x in enumerate(values):
        if found and found[-1][0] == x:
            found[-1][2] = i
        else:
            found.append([x, i, i])
    return [tuple(s) for s in found if s[0] != background]


def edits(first, second):
    """Levenshtein distance from its recursive definition."""

    @functools.cache
    def distance(i, j):
        if not i or not j:
            return i + j
        changed = distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(changed, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(first), len(second))


def greedy_f1(label, pred, overlap, background):
    """Precision and recall of greedy matching, with sets of frames as segments."""
    truth, guess = listed(label, background), listed(pred, background)
    used, tp, fp = [False] * len(truth), 0, 0
    for c, a, b in guess:
        frames, best, which = set(range(a, b + 1)), 0.0, None
        for j, (other, start, end) in enumerate(truth):
            true_frames = set(range(start, end + 1))
            share = len(frames & true_frames) / len(frames | true_frames) if other == c else 0
            if share > best:
                best, which = share, j
        if which is not None and best >= overlap and not used[which]:
            used[which], tp = True, tp + 1
        else:
            fp += 1
    fn = used.count(False)
    if tp + fp + fn == 0:
        return math.nan
    if tp == 0:
        return 0.0
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("background", [None, 0])
def test_edit_score_and_f1_match_their_definitions(background):
    seen = []
    for seed in range(250):
        label, pred = made(seed)
        orders = [[c for c, _, _ in listed(x, background)] for x in (label, pred)]
        longer = max(map(len, orders))
        expected = 1 - edits(*map(tuple, orders)) / longer if longer else math.nan
        found = segments.edit_score(label, pred, background=background)
        assert found == pytest.approx(expected, nan_ok=True)
        for overlap in (0.1, 0.25, 0.5, 1.0):
            expected = greedy_f1(label, pred, overlap, background)
            found = segments.f1_at(label, pred, overlap, background=background)
            assert found == pytest.approx(expected, nan_ok=True)
            seen.append(found)
    assert {0.0, 1.0} < set(seen) and len(set(seen)) > 100
    assert np.isnan(seen).any() == (background is not None)


def test_known_scores():
    label = np.repeat([0, 1, 2], 10)
    assert segments.edit_score(label, label) == segments.f1_at(label, label, 1.0) == 1
    pred = np.repeat([0, 1, 0, 1, 2], [10, 2, 2, 6, 10])  # one flicker in class 1
    assert segments.edit_score(label, pred) == pytest.approx(1 - 2 / 5)
    # Of the two parts of class 1 the first, 2 of 10 frames, takes the match at 10 %.
    assert segments.f1_at(label, pred, 0.1) == pytest.approx(2 * 3 / (3 + 5))
    assert segments.f1_at(label, pred, 0.25) == pytest.approx(2 * 3 / (3 + 5))
    assert segments.f1_at(label, pred, 0.7) == pytest.approx(2 * 2 / (3 + 5))


def test_edit_score_sees_order_and_not_length():
    order = np.array([0, 1, 2, 1, 3])
    label, pred = np.repeat(order, [20, 1, 5, 1, 3]), np.repeat(order, [1, 3, 1, 20, 5])
    assert segments.edit_score(label, pred) == 1
    assert segments.f1_at(label, pred, 0.1) == pytest.approx(2 / 10)  # the last segments meet
    assert segments.edit_score(label, label[::-1].copy()) < 1


@pytest.mark.parametrize("classes", list(itertools.product([0, 1], repeat=2)))
def test_only_background(classes):
    label, pred = (np.full(4, c) for c in classes)
    expected = {(0, 0): np.nan, (1, 1): 1.0}.get(classes, 0.0)
    np.testing.assert_equal(segments.edit_score(label, pred, background=0), expected)
    np.testing.assert_equal(segments.f1_at(label, pred, 0.1, background=0), expected)


def test_a_table_of_videos_in_any_order():
    parts = [made(seed) for seed in (10, 11, 14)]
    label, pred = (np.concatenate(column) for column in zip(*parts, strict=True))
    lengths = [len(one) for one, _ in parts]
    video = np.repeat(["c", "a", "b"], lengths)
    t_ms = np.concatenate([np.arange(n) * 100 for n in lengths])
    shuffle = np.random.default_rng(1).permutation(len(label))
    names, found = segments.by_video(
        label[shuffle], pred[shuffle], video[shuffle], t_ms=t_ms[shuffle], background=1
    )
    assert names == ["a", "b", "c"]
    for row, (one, guess) in enumerate([parts[1], parts[2], parts[0]]):
        assert found["accuracy"][row] == pytest.approx(np.mean(one == guess))
        for k in (10, 25, 50):
            expected = greedy_f1(one, guess, k / 100, 1)
            np.testing.assert_allclose(found[f"f1_{k}"][row], expected)
        np.testing.assert_equal(found["edit"][row], segments.edit_score(one, guess, background=1))
    with pytest.raises(ValueError, match="video . has two rows at t_ms 0"):
        segments.by_video(label, pred, video, t_ms=np.zeros(len(label)))


def test_sar_score_is_the_root_of_the_product_of_two_means():
    accuracy, f1 = np.array([0.5, 0.7, 0.9]), np.array([0.2, 0.4, 0.9])
    assert segments.sar_score(accuracy, f1) == pytest.approx(math.sqrt(0.7 * 0.5))


def test_runs_cover_every_frame_once():
    values = np.array([3, 3, 0, 3, 1, 1])
    assert [x.tolist() for x in segments.runs(values)] == [[3, 0, 3, 1], [0, 2, 3, 4], [2, 3, 4, 6]]
    assert [len(x) for x in segments.runs(values[:0])] == [0, 0, 0]


def test_a_percentage_is_no_overlap():
    with pytest.raises(ValueError, match="overlap is 10.0, expected a share"):
        segments.f1_at(np.array([0]), np.array([0]), 10.0)
