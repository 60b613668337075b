import itertools
import json

import numpy as np
import pytest
from scipy.stats import PermutationMethod, wilcoxon

from surgjax.benchmark import metrics, statistics


def test_interval_matches_all_resamples_of_few_videos():
    values = np.array([0.2, 0.5, 0.55, 0.9])
    every = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    found = statistics.bootstrap_mean(values, resamples=200_000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(every, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(every, 0.975), abs=0.02)
    assert found.videos == 4 and not found.reliable


def test_general_form_equals_the_fast_one_and_is_a_function_of_the_seed():
    values = np.random.default_rng(1).normal(size=9)
    fast = statistics.bootstrap_mean(values, resamples=500, seed=3)
    slow = statistics.bootstrap(values, lambda v: float(v.mean()), resamples=500, seed=3)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high))
    assert fast == statistics.bootstrap_mean(values, resamples=500, seed=3)
    assert fast != statistics.bootstrap_mean(values, resamples=500, seed=4)
    assert fast.reliable


def test_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        found = statistics.bootstrap_mean(rng.normal(1, 1, 30), resamples=400, seed=seed)
        inside += found.low <= 1 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_pooled_metric_by_resampling_confusion_matrices():
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 20, (10, 3, 3))
    found = statistics.bootstrap(counts, lambda c: float(metrics.macro_f1(c.sum(0))), resamples=300)
    assert found.low < found.value < found.high


def test_pairing_removes_what_the_videos_share():
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 0.3, 12)
    better = hard + 0.05 + rng.normal(0, 0.01, 12)
    found = statistics.paired_difference(better, hard)
    assert found.excludes(0) and 0.03 < found.low < found.value < found.high < 0.07
    assert not statistics.paired_difference(hard, hard).excludes(0)
    alone = statistics.bootstrap_mean(better)
    assert alone.high - alone.low > 5 * (found.high - found.low)


def test_no_videos_and_undefined_resamples():
    with pytest.raises(ValueError, match="no videos"):
        statistics.bootstrap_mean(np.array([], float))
    found = statistics.bootstrap(np.array([np.nan, 1.0]), lambda v: float(v.mean()), resamples=200)
    assert np.isnan(found.value) and found.low == found.high == 1.0


def test_seeds_and_videos_are_drawn_by_themselves():
    rng = np.random.default_rng(4)
    units = rng.integers(1, 30, (2, 3, 2)).astype(float)  # right and all frames of seed and video
    pooled = lambda u: float(u[:, 0].sum() / u[:, 1].sum())  # noqa: E731
    shares = units[..., 0] / units[..., 1]
    resamples = list(
        itertools.product(
            itertools.product(range(2), repeat=2), itertools.product(range(3), repeat=3)
        )
    )
    every = [np.mean([pooled(units[s][list(v)]) for s in seeds]) for seeds, v in resamples]
    every_mean = [shares[np.ix_(seeds, v)].mean() for seeds, v in resamples]
    for level in (0.1, 0.3, 0.5, 0.7, 0.9):
        options = {"level": level, "resamples": 5000}
        slow = statistics.bootstrap_seeds(units, pooled, **options)
        fast = statistics.bootstrap_mean(shares, **options)
        for found, all_of_them in ((slow, every), (fast, every_mean)):
            tails = np.array([(1 - level) / 2, (1 + level) / 2])
            least, most = (np.quantile(all_of_them, tails + off) for off in (-0.02, 0.02))
            assert (least <= [found.low, found.high]).all()
            assert ([found.low, found.high] <= most).all()
    assert slow.value == pytest.approx((pooled(units[0]) + pooled(units[1])) / 2)
    assert slow.seeds == 2 and slow.videos == 3 and fast.value == pytest.approx(shares.mean())


def test_one_seed_is_no_seed_and_the_fast_form_equals_the_slow_one():
    rng = np.random.default_rng(6)
    first, second = rng.normal(size=(3, 9)), rng.normal(size=(2, 9))
    mean = lambda v: float(v.mean())  # noqa: E731
    options = {"resamples": 300, "seed": 5}
    alone = statistics.bootstrap(first[0], mean, **options)
    assert statistics.bootstrap_seeds(first[:1], mean, **options) == alone
    assert statistics.bootstrap_mean(first[:1], **options) == statistics.bootstrap_mean(
        first[0], **options
    )
    for fast, slow in (
        (
            statistics.bootstrap_mean(first, **options),
            statistics.bootstrap_seeds(first, mean, **options),
        ),
        (
            statistics.paired_difference(first, second, **options),
            statistics.bootstrap_seeds(first, mean, minus=second, **options),
        ),
    ):
        numbers = [(i.value, i.low, i.high) for i in (fast, slow)]
        assert numbers[0] == pytest.approx(numbers[1])
        assert (fast.seeds, fast.videos) == (slow.seeds, slow.videos)
    assert (fast.seeds, fast.videos) == (2, 9)


def test_covers_the_mean_where_seeds_and_videos_both_vary_and_pooling_them_does_not():
    rng = np.random.default_rng(7)
    inside, pooled = 0, 0
    for seed in range(200):
        values = (
            rng.normal(0, 1, (1, 20)) + rng.normal(0, 0.3, (8, 1)) + rng.normal(0, 0.3, (8, 20))
        )
        found = statistics.bootstrap_mean(values, resamples=400, seed=seed)
        inside += not found.excludes(0)
        pooled += not statistics.bootstrap_mean(values.ravel(), resamples=200).excludes(0)
    assert 0.88 <= inside / 200 <= 0.99
    assert pooled / 200 < 0.7


def test_seeds_of_two_models_are_no_pairs_and_their_videos_are():
    of_seed = np.repeat([[0.0], [1.0], [2.0]], 6, axis=1)
    found = statistics.paired_difference(of_seed, of_seed)
    assert found.value == 0 and found.low < -0.5 and found.high > 0.5
    of_video = of_seed[:, :1].T * np.ones((4, 1))
    found = statistics.paired_difference(of_video, of_video)
    assert found.low == found.value == found.high == 0


def test_other_videos_of_the_second_model_are_refused():
    units = np.zeros((2, 4, 1))
    with pytest.raises(ValueError, match="4 and 3 videos"):
        statistics.bootstrap_seeds(units, np.sum, minus=units[:, 1:])
    with pytest.raises(ValueError, match="no seeds"):
        statistics.bootstrap_seeds(units[:0], np.sum)
    with pytest.raises(ValueError, match="no videos"):
        statistics.bootstrap_mean(np.zeros((2, 0)))


def test_below_six_videos_their_values_are_published_and_no_interval():
    values = np.array([0.1, 0.4, np.nan, 0.5, 0.6, 0.7, 0.3, 0.8])
    names = [f"v{i}" for i in range(8)]
    low = statistics.bootstrap_mean(values[:2])
    few = low.as_metric(dict(zip(names, values, strict=True)))
    assert few["value"] == 0.25 and few["ci95"] is None and not few["reliable"]
    assert few["by_video"] == dict(zip(names, [0.1, 0.4, None, *values[3:]], strict=True))
    for count, reliable in ((5, False), (6, True), (9, True)):
        found = statistics.bootstrap_mean(np.linspace(0, 1, count))
        metric = found.as_metric(dict.fromkeys(names, 0.0))
        assert ("by_video" in metric) == (metric["ci95"] is None) == (count < 6)
        assert metric["reliable"] == reliable and metric["videos"] == count
        assert count < 6 or metric["ci95"] == [found.low, found.high]
    assert statistics.as_text(low.as_dict(), values[:2]) == "0.250 (0.10 0.40)"
    assert statistics.as_text(low.as_dict()) == "0.250 (2 videos)"
    text = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    assert statistics.as_text(found.as_dict(), values, "+") == text
    undefined = statistics.bootstrap_mean(np.full(9, np.nan)).as_metric({})
    assert undefined["value"] is None and undefined["ci95"] is None
    assert json.loads(json.dumps([few, metric, undefined], allow_nan=False))


def by_hand(differences, zeros):
    """(share of sign assignments with at most, with at least the rank sum; the two rank sums)."""
    kept = [d for d in differences if d != 0 or zeros == "zsplit"]
    size = [abs(d) for d in kept]
    ranks = [sum(b < a for b in size) + (sum(b == a for b in size) + 1) / 2 for a in size]
    split = sum(r for r, d in zip(ranks, kept, strict=True) if d == 0) / 2
    moving = [r for r, d in zip(ranks, kept, strict=True) if d != 0]
    plus = split + sum(r for r, d in zip(ranks, kept, strict=True) if d > 0)
    minus = split + sum(r for r, d in zip(ranks, kept, strict=True) if d < 0)
    sums = [
        split + sum(r for r, up in zip(moving, ups, strict=True) if up)
        for ups in itertools.product([False, True], repeat=len(moving))
    ]
    return np.mean([s <= plus for s in sums]), np.mean([s >= plus for s in sums]), plus, minus


def test_signed_rank_is_exact_with_ties_and_zeros():
    rng = np.random.default_rng(8)
    for _ in range(150):
        differences = rng.integers(-3, 5, rng.integers(1, 9)).astype(float)
        for zeros in ("wilcox", "zsplit"):
            below, above, plus, minus = by_hand(differences, zeros)
            found = statistics.signed_rank(differences, 0 * differences, zeros=zeros)
            assert found.p == pytest.approx(min(1, 2 * min(below, above)))
            assert (found.rank_sum_first, found.rank_sum_second) == (plus, minus)
            if plus + minus:
                assert found.effect == pytest.approx((plus - minus) / (plus + minus))
            else:
                assert np.isnan(found.effect) and found.p == 1
            assert (found.videos, found.zeros) == (len(differences), (differences == 0).sum())
            assert found.zero_handling == zeros and found.method == "exact"
            found = statistics.signed_rank(
                differences, 0 * differences, zeros=zeros, mode="surgvista"
            )
            assert found.p == pytest.approx(above) and found.alternative == "greater"


@pytest.mark.parametrize("count", [1, 2, 5, 6, 13, 30, 50, 51, 80, 300])
def test_signed_rank_matches_scipy(count):
    rng = np.random.default_rng(count)
    for shift in (0.0, 0.3, -0.5):
        first, second = rng.normal(shift, 1, count), rng.normal(0, 1, count)
        for mode, alternative in (("two_sided", "two-sided"), ("surgvista", "greater")):
            found = statistics.signed_rank(first, second, mode=mode)
            method = "exact" if count <= 50 else "approx"
            expected = wilcoxon(first, second, alternative=alternative, method=method)
            assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
            smaller = min(found.rank_sum_first, found.rank_sum_second)
            reported = smaller if mode == "two_sided" else found.rank_sum_first
            assert reported == expected.statistic
            assert found.method == ("exact" if count <= 50 else "normal")


def test_signed_rank_with_ties_and_zeros_matches_scipy():
    rng = np.random.default_rng(9)
    every = PermutationMethod(n_resamples=np.inf)
    for count, method in ((8, every), (200, "approx")):
        for _ in range(8):
            differences = rng.integers(-4, 6, count).astype(float)
            differences[:2] = 0, 1
            for zeros in ("wilcox", "zsplit"):
                # Pratt's p is that of split zeros, whose halves no sign changes; scipy's normal
                # approximation of "zsplit" lets them vary nevertheless.
                theirs = "pratt" if (zeros, count) == ("zsplit", 200) else zeros
                expected = wilcoxon(differences, zero_method=theirs, method=method)
                found = statistics.signed_rank(differences, np.zeros(count), zeros=zeros)
                assert found.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_differences_equal_but_for_rounding_are_ties():
    first, second = np.array([0.3, 0.2, 0.7, 0.9]), np.array([0.2, 0.1, 0.8, 0.9])
    assert len(set(np.abs(first - second))) == 4
    found = statistics.signed_rank(first, second)
    assert (found.rank_sum_first, found.rank_sum_second, found.zeros) == (4, 2, 1)
    assert found.effect == pytest.approx(1 / 3)


def test_effect_is_one_where_a_model_always_wins_and_its_sign_says_which():
    better, worse = np.linspace(0.5, 0.9, 7), np.linspace(0.1, 0.3, 7)
    assert statistics.signed_rank(better, worse).effect == 1
    assert statistics.signed_rank(worse, better).effect == -1
    assert statistics.signed_rank(worse, better, mode="surgvista").p == 1


def test_too_few_videos_for_significance_are_said():
    for count, mode, possible in (
        (5, "two_sided", False),
        (6, "two_sided", True),
        (4, "surgvista", False),
        (5, "surgvista", True),
    ):
        first = np.arange(1.0, count + 1)
        found = statistics.signed_rank(first, 0 * first, mode=mode)
        assert found.p == found.smallest_p and (found.p < 0.05) == possible
        assert (found.note() == "") == possible
    few = statistics.signed_rank(np.array([0.5, 0.6, 0.5]), np.array([0.5, 0.4, 0.1]))
    assert "2 videos that differ" in few.note() and "0.5" in few.note()


def test_seeds_of_a_video_are_one_pair_and_undefined_videos_are_left_out():
    rng = np.random.default_rng(10)
    first, second = rng.normal(0.4, 1, (3, 12)), rng.normal(0, 1, (5, 12))
    found = statistics.signed_rank(first, second)
    expected = wilcoxon(first.mean(0), second.mean(0))
    assert found.videos == 12 and found.p == pytest.approx(expected.pvalue)
    first[1, 3] = second[0, 7] = np.nan
    found = statistics.signed_rank(first, second)
    kept = [i for i in range(12) if i not in (3, 7)]
    expected = wilcoxon(first[:, kept].mean(0), second[:, kept].mean(0))
    assert (found.videos, found.undefined) == (10, 2)
    assert found.p == pytest.approx(expected.pvalue)
    nothing = statistics.signed_rank(np.full(4, np.nan), np.zeros(4))
    assert nothing.p == 1 and nothing.undefined == 4 and nothing.videos == 0


def test_signed_rank_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="mode 'less'"):
        statistics.signed_rank(np.ones(3), np.ones(3), mode="less")
    with pytest.raises(ValueError, match="zeros 'drop'"):
        statistics.signed_rank(np.ones(3), np.ones(3), zeros="drop")
    with pytest.raises(ValueError, match="0 and 0 videos"):
        statistics.signed_rank(np.ones(0), np.ones(0))


def test_holm_is_the_closure_of_bonferroni():
    rng = np.random.default_rng(11)
    for _ in range(60):
        p = rng.choice([0.001, 0.01, 0.02, 0.04, 0.3, 1.0], rng.integers(1, 7))
        p = np.where(rng.random(len(p)) < 0.3, rng.random(len(p)), p)
        # A test is rejected where every set of tests with it is, by its least p times its size.
        sets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), n)]
        expected = [
            max(min(1, len(s) * p[list(s)].min()) for s in sets if i in s) for i in range(len(p))
        ]
        np.testing.assert_allclose(statistics.holm(p), expected)


def test_holm_leaves_tests_without_p_out():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(statistics.holm(p), [0.03, np.nan, 0.06, 0.06])
    assert len(statistics.holm(np.array([], float))) == 0
    with pytest.raises(ValueError, match="reach from 0.2 to 1.5"):
        statistics.holm(np.array([0.2, 1.5]))


def test_sets_that_share_operations_are_named():
    cases = {
        "phase": ["cholec80/video01", "cholec80/video02", "cholec80/video03"],
        "triplet": ["cholect50/VID01", "cholect50/VID02"],
        "action": ["cholect45/VID01"],
        "cataract": ["cataract101/1"],
    }
    same = [
        ("cholect50/VID01", "cholec80/video01"),
        ("cholect45/VID01", "cholect50/VID01"),  # Cholec80's only by way of CholecT50
        ("cholec80/video01", "cholect50/VID01"),
    ]
    note = statistics.shared_cases_note(cases, same)
    assert "phase and triplet (1), phase and action (1), triplet and action (1)." in note
    assert "cataract" not in note and "not independent" in note
    assert statistics.shared_cases_note(cases) == ""
    twice = {"phase": cases["phase"], "tool": cases["phase"][1:]}
    assert "phase and tool (2)" in statistics.shared_cases_note(twice)
