"""Intervals and tests over videos: frames of one video are not independent, videos are.

Intervals are percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13) with whole
videos as units. Below FEWEST_VIDEOS videos an interval is too narrow to rely on: the values of the
videos are shown in its place.

A model trained with several seeds has a score for each seed and video. The scores of one video
share how hard it is, those of one seed what its training came to, so neither all scores nor the
seeds alone are independent. A resample draws videos, the same ones for all seeds, and separately
seeds, both with replacement: the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics
1(2), 386-411). It is conservative: variance that is of neither a video nor a seed but of the two
together counts up to three times. As every bootstrap it sees (s - 1) / s of the variance between
s seeds: with two or three that differ much the interval is too narrow.

Two models are compared by their per-video differences: the paired interval, and the signed-rank
test of Wilcoxon (1945, Biometrics Bulletin 1(6), 80-83) with Holm's correction for several sets.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

FEWEST_VIDEOS = 6  # with fewer the two-sided signed-rank test cannot give p < 0.05 either
RESAMPLES = 10_000
EXACT_PAIRS = 50  # so many: all chances are multiples of 2**-50, of which float64 sums are exact
TIED = 12  # decimals: differences of shares that are equal but for rounding are ties


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval.

    Attributes:
      value: the statistic of all videos.
      low, high: bounds; NaN where the statistic is undefined.
      level: coverage aimed at.
      videos: number of units.
      reliable: at least FEWEST_VIDEOS videos.
      seeds: trainings that the value is the mean of; of a difference, those of the model with
        fewer.
    """

    value: float
    low: float
    high: float
    level: float
    videos: int
    reliable: bool
    seeds: int = 1

    def as_dict(self) -> dict:
        return asdict(self)

    def as_metric(self, by_video: Mapping[str, float]) -> dict:
        """The value as it is published: {"value", "ci95": [low, high], "videos", "seeds", ...}.

        Below FEWEST_VIDEOS videos ci95 is None and "by_video" gives the value of each video in its
        place. None stands for NaN.
        """
        known = self.reliable and not math.isnan(self.low)
        found = {
            "value": or_none(self.value),
            f"ci{100 * self.level:g}": [self.low, self.high] if known else None,
            "videos": self.videos,
            "seeds": self.seeds,
            "reliable": self.reliable,
        }
        if not self.reliable:
            found["by_video"] = {name: or_none(value) for name, value in by_video.items()}
        return found

    def excludes(self, point: float | int = 0) -> bool:
        """Whether `point` lies outside the bounds."""
        return bool(self.low > point or self.high < point)


def as_text(found: Mapping, by_video: Iterable[float] = (), sign: str = "") -> str:
    """ "0.341 [0.226, 0.474]" of an `Interval.as_dict`; of too few videos "0.341 (0.23 0.45)", the
    values of the videos where they are given.

    Args:
      sign: "+" shows it always.
    """
    value = f"{found['value']:{sign}.3f}"
    if found["reliable"]:
        return f"{value} [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"
    each = " ".join(f"{one:{sign}.2f}" for one in by_video) or f"{found['videos']} videos"
    return f"{value} ({each})"


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
    values = np.array([statistic(units[rows]) for rows in draws(len(units), resamples, seed)])
    return _interval(float(statistic(units)), values, level, len(units))


def bootstrap_seeds(
    units: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    minus: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of a model trained with several seeds: the mean of `statistic` over its seeds.

    Args:
      units: (s, v, ...), an entry for each seed and video, all seeds tested on the same videos.
      statistic: of the units (v, ...) of one seed, as in `bootstrap`.
      minus: (z, v, ...), another model on the same videos; the interval is then that of the
        difference. Its seeds are drawn by themselves, also where they have the same numbers.

    With one seed this is `bootstrap(units[0], statistic)`, draw for draw.

    Raises:
      ValueError: no seeds or videos, or other numbers of videos.
    """
    models = [units] if minus is None else [units, minus]
    of_videos, of_seeds = _joint_draws(models, resamples, seed)

    def value(model: np.ndarray, videos: np.ndarray, seeds: np.ndarray) -> float:
        which, times = np.unique(seeds, return_counts=True)
        return float(np.average([statistic(model[i][videos]) for i in which], weights=times))

    def difference(videos: np.ndarray, seeds: list[np.ndarray]) -> float:
        first, *rest = [value(*of, videos, own) for *of, own in zip(models, seeds, strict=True)]
        return first - sum(rest)

    values = [difference(v, list(own)) for v, *own in zip(of_videos, *of_seeds, strict=True)]
    whole = difference(np.arange(units.shape[1]), [np.arange(len(model)) for model in models])
    seeds = min(len(model) for model in models)
    return _interval(whole, np.array(values), level, units.shape[1], seeds)


def bootstrap_mean(
    values: Float[np.ndarray, "*s v"],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of one value a video, or a value for each seed and video.

    The same draws as `bootstrap` and `bootstrap_seeds`, faster.

    Raises:
      ValueError: no videos.
    """
    values = np.atleast_2d(values)
    of_videos, (of_seeds,) = _joint_draws([values], resamples, seed)
    means = _means(_mean_of_seeds(values, of_seeds), of_videos)
    return _interval(float(values.mean()), means, level, values.shape[1], len(values))


def paired_difference(
    first: Float[np.ndarray, "*s v"],
    second: Float[np.ndarray, "*z v"],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Interval of mean(first - second), both measured on the same videos in the same order.

    With seeds the videos are drawn for both models together and the seeds of each by themselves.

    Raises:
      ValueError: no videos, or other numbers of videos.
    """
    models = [np.atleast_2d(first), np.atleast_2d(second)]
    of_videos, of_seeds = _joint_draws(models, resamples, seed)
    one, two = (_mean_of_seeds(*pair) for pair in zip(models, of_seeds, strict=True))
    means = _means(one - two, of_videos)
    value = float((models[0].mean(0) - models[1].mean(0)).mean())
    return _interval(value, means, level, models[0].shape[1], min(map(len, models)))


@dataclass(frozen=True)
class SignedRank:
    """Outcome of the signed-rank test of paired videos.

    Attributes:
      p: chance of rank sums at least so uneven if neither model were better; not corrected for
        other tests.
      effect: matched-pairs rank-biserial correlation, -1 to 1, positive where the first model is
        better: the difference of the two rank sums over their total (Kerby 2014, Comprehensive
        Psychology 3, 11.IT.3.1). NaN where nothing is ranked.
      rank_sum_first, rank_sum_second: ranks of the videos on which that model is better.
      videos: compared.
      zeros: of these, videos without a difference.
      undefined: videos left out, as one of the values is NaN.
      alternative: "two_sided", or "greater": the first model is better.
      zero_handling: "wilcox" or "zsplit".
      method: "exact" or "normal".
      smallest_p: what p would be if all videos that differ spoke for the first model.
    """

    p: float
    effect: float
    rank_sum_first: float
    rank_sum_second: float
    videos: int
    zeros: int
    undefined: int
    alternative: str
    zero_handling: str
    method: str
    smallest_p: float

    def as_dict(self) -> dict:
        return asdict(self)

    def note(self, alpha: float = 0.05) -> str:
        """Says that so few videos cannot give p < alpha, or is empty."""
        if self.smallest_p < alpha:
            return ""
        return (
            f"{self.videos - self.zeros} videos that differ cannot give p < {alpha:g}, whatever "
            f"the models do: the smallest possible p is {self.smallest_p:.4g}"
        )


def signed_rank(
    first: Float[np.ndarray, "*s v"],
    second: Float[np.ndarray, "*z v"],
    *,
    mode: str = "two_sided",
    zeros: str = "wilcox",
) -> SignedRank:
    """Wilcoxon's signed-rank test of two models on the same videos in the same order.

    Of a model with several seeds the mean over seeds of each video is taken: a video is one pair,
    however many seeds saw it. The p is exact up to EXACT_PAIRS videos that differ, ties included:
    all 2**n ways to sign the ranks found are equally likely. Above, the normal approximation
    without continuity correction, its variance the sum of the squared ranks over four.

    Args:
      mode: "surgvista" is the one-sided test that SurgVISTA (caption of its Fig. 6) names: the
        first model is better. Its paper does not say how zeros are handled.
      zeros: videos without a difference are left out before ranking ("wilcox") or ranked, with
        half their ranks for either model ("zsplit"). As these halves are the same whichever way
        the others are signed, the p is that of Pratt (1959, JASA 54, 655-667).

    Raises:
      ValueError: no videos, other numbers of videos, or an unknown mode.
    """
    if mode not in ("two_sided", "surgvista") or zeros not in ("wilcox", "zsplit"):
        raise ValueError(f"no signed-rank test with mode {mode!r} and zeros {zeros!r}")
    one, two = np.atleast_2d(first).mean(0), np.atleast_2d(second).mean(0)
    if one.shape != two.shape or not len(one):
        raise ValueError(f"{len(one)} and {len(two)} videos: expected the same videos of both")
    differences = np.round(one - two, TIED)
    differences = differences[~np.isnan(differences)]
    ranked = differences[differences != 0] if zeros == "wilcox" else differences
    twice = _doubled_ranks(np.abs(ranked))  # of ties the mean rank: doubled it is whole
    ahead, behind = int(twice[ranked > 0].sum()), int(twice[ranked < 0].sum())
    signed = twice[ranked != 0]
    tails = _exact_tails if len(signed) <= EXACT_PAIRS else _normal_tails
    below, above = tails(signed, ahead)
    two_sided = mode == "two_sided"
    half, total = (int(twice.sum()) - ahead - behind) / 2, int(twice.sum())
    return SignedRank(
        p=min(1.0, 2 * min(below, above)) if two_sided else above,
        effect=(ahead - behind) / total if total else math.nan,
        rank_sum_first=(ahead + half) / 2,
        rank_sum_second=(behind + half) / 2,
        videos=len(differences),
        zeros=int((differences == 0).sum()),
        undefined=len(one) - len(differences),
        alternative="two_sided" if two_sided else "greater",
        zero_handling=zeros,
        method="exact" if tails is _exact_tails else "normal",
        smallest_p=min(1.0, (2.0 if two_sided else 1.0) * 0.5 ** len(signed)),
    )


def holm(p: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """The p values of several tests, corrected for their number.

    Calling those at or below alpha significant is wrong about any of them with a chance of at most
    alpha, however the tests depend on each other (Holm 1979, Scandinavian Journal of Statistics 6,
    65-70). NaN stays NaN and is not counted as a test.

    Raises:
      ValueError: a value outside 0..1.
    """
    tests = np.flatnonzero(~np.isnan(p))
    if ((p[tests] < 0) | (p[tests] > 1)).any():
        raise ValueError(f"p values reach from {p[tests].min()} to {p[tests].max()}")
    tests = tests[np.argsort(p[tests], kind="stable")]
    steps = p[tests] * np.arange(len(tests), 0, -1)
    corrected = np.full(p.shape, np.nan)
    corrected[tests] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def shared_cases_note(
    cases: Mapping[str, Collection[str]], same: Iterable[tuple[str, str]] = ()
) -> str:
    """Says which sets show the same operations, and what that forbids; empty if none do.

    Args:
      cases: test cases (`<dataset>/<case>`) of each set.
      same: pairs of names of one operation, as case and same_as of a store's same_cases.parquet.
    """
    groups: dict[str, frozenset[str]] = {}
    for pair in same:
        joined = frozenset().union(*(groups.get(name, {name}) for name in pair))
        groups |= dict.fromkeys(joined, joined)
    sets = {
        name: {min(groups.get(case, {case})) for case in found} for name, found in cases.items()
    }
    shared = [
        f"{one} and {other} ({len(both)})"
        for one, other in combinations(sets, 2)
        if (both := sets[one] & sets[other])
    ]
    if not shared:
        return ""
    return (
        f"Sets that share test cases: {', '.join(shared)}. Their results are not independent. "
        "Holm's correction allows that; a test or an interval with sets as units, and a count of "
        "the sets won, do not."
    )


def draws(
    units: int, resamples: int, seed: int | tuple[int, int] = 0
) -> Int[np.ndarray, "r units"]:
    """Numbers of units, drawn with replacement; equal seeds draw equally."""
    return np.random.default_rng(seed).integers(units, size=(resamples, units))


def times_drawn(drawn: Int[np.ndarray, "r n"]) -> Float[np.ndarray, "r n"]:
    """How often each of the n units is in each draw."""
    times = [np.bincount(row, minlength=drawn.shape[1]) for row in drawn]
    return np.array(times, np.float64).reshape(drawn.shape)


def _joint_draws(
    models: list[np.ndarray], resamples: int, seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Videos (r, v), drawn for all models together, and the seeds (r, s) of each model."""
    videos = [model.shape[1] for model in models]
    if not min(videos):
        raise ValueError("no videos to resample")
    if not min(map(len, models)):
        raise ValueError("no seeds to resample")
    if len(set(videos)) > 1:
        raise ValueError(f"{videos[0]} and {videos[1]} videos: expected the same videos of both")
    seeds = [draws(len(model), resamples, (seed, 1 + i)) for i, model in enumerate(models)]
    return draws(videos[0], resamples, seed), seeds


def _mean_of_seeds(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Values (s, v) as means (r, v) over the drawn seeds (r, s)."""
    if len(values) == 1:
        return np.broadcast_to(values, (len(drawn), values.shape[1]))
    return times_drawn(drawn) @ values / len(values)


def _means(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, drawn, axis=1).mean(axis=1)


def from_resamples(
    value: float, resampled: Float[np.ndarray, "r"], videos: int, *, level: float = 0.95
) -> Interval:
    """Interval of a statistic whose values on resampled sets are known; NaN ones are left out."""
    return _interval(value, resampled, level, videos)


def _interval(
    value: float, values: np.ndarray, level: float, videos: int, seeds: int = 1
) -> Interval:
    values = values[~np.isnan(values)]
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (np.nan, np.nan)
    return Interval(value, float(low), float(high), level, videos, videos >= FEWEST_VIDEOS, seeds)


def _doubled_ranks(values: np.ndarray) -> Int[np.ndarray, "n"]:
    """Twice the rank of each value from 1, equal values at the mean of their ranks."""
    _, which, times = np.unique(values, return_inverse=True, return_counts=True)
    return (2 * np.cumsum(times) - times + 1)[which]


def _exact_tails(ranks: np.ndarray, reached: int) -> tuple[float, float]:
    """Chances of a sum at most and at least `reached`, each rank being counted or not."""
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1
    for rank in ranks:
        counted = np.zeros_like(chance)
        counted[rank:] = chance[:-rank]
        chance = (chance + counted) / 2
    return float(chance[: reached + 1].sum()), float(chance[reached:].sum())


def _normal_tails(ranks: np.ndarray, reached: int) -> tuple[float, float]:
    """The same by the normal distribution of that mean and variance."""
    z = (reached - ranks.sum() / 2) / math.sqrt((ranks.astype(float) ** 2).sum() / 4)
    return math.erfc(-z / math.sqrt(2)) / 2, math.erfc(z / math.sqrt(2)) / 2


def or_none(value: float) -> float | None:
    """None in the place of NaN, as JSON and csv files have it."""
    return None if math.isnan(value) else float(value)
