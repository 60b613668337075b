"""Intervals by resampling videos: frames of one video are not independent, videos are.

The percentile bootstrap (Efron and Tibshirani 1993, chapter 13) with whole videos as units. Below
MIN_VIDEOS videos the interval is too narrow to rely on; it is then marked so.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

MIN_VIDEOS = 8
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval.

    Attributes:
      value: the statistic of all videos.
      low, high: bounds; NaN where the statistic is undefined.
      level: coverage aimed at.
      videos: number of units.
      reliable: at least MIN_VIDEOS videos.
    """

    value: float
    low: float
    high: float
    level: float
    videos: int
    reliable: bool

    def as_dict(self) -> dict:
        return asdict(self)

    def excludes(self, point: float | int = 0) -> bool:
        """Whether `point` lies outside the bounds."""
        return bool(self.low > point or self.high < point)


def bootstrap(
    units: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of `statistic(units)`, where `units` has one entry a video along its first axis.

    `statistic` is recomputed on every resampled set. Resamples on which it is undefined (NaN) are
    left out.

    Raises:
      ValueError: no videos.
    """
    if not len(units):
        raise ValueError("no videos to resample")
    values = np.array([statistic(units[rows]) for rows in _draws(len(units), resamples, seed)])
    return _interval(float(statistic(units)), values, level, len(units))


def bootstrap_mean(
    values: Float[np.ndarray, "v"],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of one value a video; the same draws as `bootstrap`, faster.

    Raises:
      ValueError: no videos.
    """
    if not len(values):
        raise ValueError("no videos to resample")
    means = values[_draws(len(values), resamples, seed)].mean(axis=1)
    return _interval(float(values.mean()), means, level, len(values))


def paired_difference(
    first: Float[np.ndarray, "v"],
    second: Float[np.ndarray, "v"],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of mean(first - second), both measured on the same videos in the same order."""
    return bootstrap_mean(first - second, level=level, resamples=resamples, seed=seed)


def _draws(videos: int, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(videos, size=(resamples, videos))


def _interval(value: float, values: np.ndarray, level: float, videos: int) -> Interval:
    values = values[~np.isnan(values)]
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (np.nan, np.nan)
    return Interval(value, float(low), float(high), level, videos, videos >= MIN_VIDEOS)
