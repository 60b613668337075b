import itertools

import numpy as np
import pytest

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
