"""What a metric is: a function of the videos that it is taken over, by task and protocol.

`score` gives its value and the interval from resampled videos, `table`, `stats` and `reproduce`
that over several seeds. A file of predictions is counted once, when a metric first needs it; a set
of videos then only adds up its counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from surgjax.benchmark import boxes, metrics, phases, segments, statistics, triplets
from surgjax.benchmark.predictions import Predictions

FRAMES = dict.fromkeys(("phase", "step", "action"), phases.PROTOCOLS)
PROTOCOLS = FRAMES | {
    "tool": ("frame_map",),
    "triplet": ("video_ap", "global_ap"),
    "cvs": ("criteria_map", "surgvista_total"),
    "skill": ("class", "spearman"),
    "clip": ("acc1", "acc1_views"),
    "box": ("miou",),
}
RESAMPLES = 1000
TOP = (5, 10, 20)  # highest scores of a frame among which triplets are looked for


@dataclass(frozen=True)
class Measure:
    """A metric of one model and seed.

    Attributes:
      videos: their names, sorted.
      value: numbers of videos, (k,) with repeats, -> share; NaN where it is not defined.
      of_draws: number of draws -> the value of each of `statistics.draws`, (r,), where that is
        faster than one by one.
      of_one: whether a single video has a value.
    """

    videos: list[str]
    value: Callable[[Int[np.ndarray, "k"]], float]
    of_draws: Callable[[int], Float[np.ndarray, "r"]] | None = None
    of_one: bool = True

    def of_all(self) -> float:
        return self.value(np.arange(len(self.videos)))

    def by_video(self) -> Float[np.ndarray, "v"]:
        """The metric of each video alone."""
        if not self.of_one:
            return np.full(len(self.videos), np.nan)
        return np.array([self.value(np.array([i])) for i in range(len(self.videos))])

    def as_metric(self, resamples: int = RESAMPLES) -> dict:
        """`Interval.as_metric` of all videos.

        Raises:
          ValueError: no videos.
        """
        units = np.arange(len(self.videos))
        if self.of_draws is None:
            interval = statistics.bootstrap(units, self.value, resamples=resamples)
        else:
            drawn = self.of_draws(resamples)
            interval = statistics.from_resamples(self.of_all(), drawn, len(units))
        own = [] if interval.reliable else zip(self.videos, self.by_video(), strict=True)
        return interval.as_metric(dict(own))


def measure(
    table: Predictions, task: str, protocol: str, metric: str, *, dataset: str | None = None
) -> Measure:
    """One of `every_measure`.

    Raises:
      ValueError: not a metric of that task and protocol, or as `every_measure`.
    """
    found = every_measure(table, task, protocol, dataset=dataset)
    if metric not in found:
        raise ValueError(f"no metric {metric!r} of {task}, {protocol}")
    return found[metric]


def every_measure(
    table: Predictions, task: str, protocol: str, *, dataset: str | None = None
) -> dict[str, Measure]:
    """The metrics of a task and protocol by name, the main one first.

    Args:
      table: the rows of one model.
      dataset: whose transitions relaxed protocols forgive.

    Raises:
      ValueError: rows that lack what the protocol needs.
    """
    table = counted(table, protocol)
    if task in FRAMES:
        return _of_frames(table, protocol, dataset)
    if task == "triplet":
        return _of_triplets(table, protocol)
    if protocol == "spearman":
        pairs = np.stack(_columns(table, protocol, "value", "target_value"), axis=1)
        found = _of_rows(table, lambda at: metrics.spearman(pairs[at].astype(np.float64)))
        return {"spearman": replace(found, of_one=False)}
    if protocol == "miou":
        pred, truth = _columns(table, protocol, "boxes", "target_boxes")
        overlap = boxes.iou_or_zero(truth, pred)
        return {"miou": _of_rows(table, lambda at: float(overlap[at].mean()))}
    if task == "tool" or protocol == "criteria_map":
        _several_classes(table)
        return {"map": _mean_average_precision(table, table.target)}
    return _of_clips(table)


def counted(table: Predictions, protocol: str) -> Predictions:
    """The rows that the protocol counts: of the views of a clip their mean, of SurgVISTA's totals
    those below 6.

    Raises:
      ValueError: clips without clip_id, or whose views have different targets.
    """
    if protocol == "acc1_views":
        _one_class(table)
        return _mean_of_views(table)
    if protocol == "surgvista_total":
        _one_class(table)
        if "6" in table.classes:  # SurgVISTA drops the frames whose criteria sum to 6
            return table.where(table.target != table.classes.index("6"))
    return table


def frame_counts(table: Predictions, protocol: str, dataset: str | None) -> phases.Counts:
    """Counts of labelled frames.

    Raises:
      ValueError: several classes a row; of a relaxed protocol no data set or no t_ms; as
        `phases.count`.
    """
    _one_class(table)
    time = {}
    if protocol != "strict":
        if dataset is None:
            raise ValueError(f"{protocol} needs --dataset: what is forgiven depends on it")
        if "t_ms" not in table:
            raise ValueError("the column t_ms is missing; expected the time of each frame")
        time = {"dataset": dataset, "t_ms": table["t_ms"]}
    columns = table.target, table.pred, table["video_id"]
    return phases.count(*columns, len(table.classes), protocol=protocol, **time)


def over_seeds(
    seeds: Sequence[Measure], *, minus: Sequence[Measure] = (), resamples: int = RESAMPLES
) -> statistics.Interval:
    """Mean of a metric over seeds, or of its difference to another model's, with its interval from
    resampled videos and seeds (`statistics.bootstrap_seeds`).

    Raises:
      ValueError: seeds that were tested on different videos.
    """
    everything = [*seeds, *minus]
    videos = everything[0].videos
    if any(one.videos != videos for one in everything):
        raise ValueError("seeds that were tested on different videos")
    numbers = np.arange(len(videos))
    units = np.stack(
        [np.stack([np.full_like(numbers, s), numbers], axis=1) for s in range(len(everything))]
    )
    return statistics.bootstrap_seeds(
        units[: len(seeds)],
        lambda of: everything[of[0, 0]].value(of[:, 1]),
        minus=units[len(seeds) :] if minus else None,
        resamples=resamples,
    )


# --- tasks -------------------------------------------------------------------------------------


def _of_frames(table: Predictions, protocol: str, dataset: str | None) -> dict[str, Measure]:
    counts = frame_counts(table, protocol, dataset)
    columns, videos = (table.target, table.pred, table["video_id"]), counts.videos

    def phase_metric(name: str) -> Measure:
        return Measure(videos, lambda chosen: phases.value(counts.of(chosen), name))

    def mean_of(values: Callable[[], Float[np.ndarray, "v"]]) -> Measure:
        return Measure(videos, lambda chosen: metrics.mean_known(values()[chosen]))

    found = {name: phase_metric(name) for name in phases.METRICS}
    if protocol != "strict":
        return found
    classes = len(table.classes)
    found["macro_f1_per_video"] = mean_of(
        cache(lambda: metrics.macro_f1(metrics.by_video(*columns, classes)[1]))
    )
    if "t_ms" in table:
        each = cache(lambda: segments.by_video(*columns, t_ms=table["t_ms"])[1])
        for name in ("edit", *(f"f1_{k}" for k in segments.OVERLAPS)):
            found[name] = mean_of(lambda name=name: each()[name])
    return found


def _of_clips(table: Predictions) -> dict[str, Measure]:
    """Accuracies, and the mean over classes of the average precision of each against the others."""
    _one_class(table)
    columns, classes = (table.target, table.pred, table["video_id"]), len(table.classes)
    videos, matrices = metrics.by_video(*columns, classes)

    def accuracy(statistic: Callable) -> Measure:
        return Measure(videos, lambda chosen: statistic(matrices[chosen]))

    found = {name: accuracy(statistic) for name, statistic in metrics.ACCURACIES.items()}
    onehot = np.eye(classes, dtype=np.float32)[table.target]
    return found | {"map": _mean_average_precision(table, onehot)}


def _of_triplets(table: Predictions, protocol: str) -> dict[str, Measure]:
    _several_classes(table)
    words, label = triplets.vocabulary(table.classes), table.target
    scores, video = table.probabilities.astype(np.float64), table["video_id"]
    videos, rows = _videos(table)

    @cache
    def of_part(part: str) -> list[np.ndarray]:
        return [triplets.of_component(values, words, part) for values in (label, scores)]

    @cache
    def each_video(part: str) -> Float[np.ndarray, "v k"]:
        truth, guess = of_part(part)
        return np.stack([metrics.average_precision(truth[at], guess[at]) for at in rows])

    @cache
    def drawn(resamples: int) -> dict[str, Float[np.ndarray, "r"]]:
        draws = statistics.draws(len(videos), resamples)
        if protocol == "video_ap":
            ap = {part: triplets.over_videos(each_video(part)[draws]) for part in triplets.PARTS}
        else:
            times = statistics.times_drawn(draws)
            ap = triplets.resampled_global_average_precision(label, scores, video, times, words)
        return triplets.mean_average_precision(ap, words)

    def component(part: str) -> Measure:
        def value(chosen: Int[np.ndarray, "k"]) -> float:
            if protocol == "video_ap":
                return metrics.mean_known(triplets.over_videos(each_video(part)[chosen]))
            at = np.concatenate([rows[i] for i in chosen])
            return metrics.mean_known(
                metrics.average_precision(*(values[at] for values in of_part(part)))
            )

        return Measure(videos, value, lambda resamples: drawn(resamples)[f"ap_{part}"])

    def top(k: int) -> Measure:
        counts = cache(lambda: triplets.top_k_counts(label, scores, video, k)[1])
        return Measure(videos, lambda chosen: triplets.top_k_recall(counts()[chosen]))

    found = {f"ap_{part}": component(part) for part in triplets.PARTS}
    return found | {f"top_{k}": top(k) for k in TOP}


# --- shared ------------------------------------------------------------------------------------


def _of_rows(table: Predictions, value: Callable[[Int[np.ndarray, "n"]], float]) -> Measure:
    """A metric of the rows of the videos together."""
    videos, rows = _videos(table)
    return Measure(videos, lambda chosen: value(np.concatenate([rows[i] for i in chosen])))


def _mean_average_precision(table: Predictions, label: Float[np.ndarray, "n c"]) -> Measure:
    """Of all rows together (scikit-learn's, ties taken together)."""
    return _of_rows(
        table,
        lambda at: metrics.mean_known(
            metrics.average_precision(label[at], table.probabilities[at])
        ),
    )


def _mean_of_views(table: Predictions) -> Predictions:
    """A row a clip, with the mean probabilities of its views."""
    if "clip_id" not in table:
        raise ValueError("acc1_views needs the column clip_id, which the views of a clip share")
    keys = np.char.add(
        np.char.add(table["video_id"].astype(str), "\0"), table["clip_id"].astype(str)
    )
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    if (table.target != table.target[first][which]).any():
        raise ValueError("the views of a clip have different targets")
    sums = np.zeros((len(first), len(table.classes)))
    np.add.at(sums, which, table.probabilities)
    merged = table.where(first)
    return replace(merged, probabilities=(sums / np.bincount(which)[:, None]).astype(np.float32))


def _videos(table: Predictions) -> tuple[list[str], list[Int[np.ndarray, "n"]]]:
    """Their names, sorted, and the rows of each."""
    names, which = np.unique(table["video_id"], return_inverse=True)
    return names.tolist(), [np.flatnonzero(which == i) for i in range(len(names))]


def _columns(table: Predictions, protocol: str, *names: str) -> list[np.ndarray]:
    if missing := [name for name in names if name not in table]:
        raise ValueError(f"{protocol} needs the columns {' and '.join(names)}; lacks {missing[0]}")
    return [table[name] for name in names]


def _one_class(table: Predictions) -> None:
    if table.target.ndim > 1:
        raise ValueError("target is a list; expected one class number a row")


def _several_classes(table: Predictions) -> None:
    if table.target.ndim == 1:
        raise ValueError("target is one class; expected a list of 1, 0 and NaN a row")
