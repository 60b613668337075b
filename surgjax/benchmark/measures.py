"""One metric of `score` as a function of the videos it is taken over.

What `score` computes once, resampled videos and several seeds need many times; here a file of
predictions is counted once, and a set of videos only adds up its counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from surgjax.benchmark import boxes, metrics, phases, segments, statistics, triplets
from surgjax.benchmark.predictions import Predictions
from surgjax.benchmark.score import FRAMES, RESAMPLES, mean_of_views


@dataclass(frozen=True)
class Measure:
    """A metric of one model and seed.

    Attributes:
      videos: their names, sorted.
      value: numbers of videos, (k,) with repeats, -> share; NaN where it is not defined.
    """

    videos: list[str]
    value: Callable[[Int[np.ndarray, "k"]], float]

    def of_all(self) -> float:
        return self.value(np.arange(len(self.videos)))

    def by_video(self) -> np.ndarray:
        """The metric of each video alone, (v,)."""
        return np.array([self.value(np.array([i])) for i in range(len(self.videos))])


def measure(
    table: Predictions, task: str, protocol: str, metric: str, *, dataset: str | None = None
) -> Measure:
    """A metric that `score` gives of the rows of one model.

    Raises:
      ValueError: not a metric of that task and protocol, or rows that lack what it needs.
    """
    if protocol == "acc1_views":
        table = mean_of_views(table)
    if protocol == "surgvista_total" and "6" in table.classes:
        table = table.where(table.target != table.classes.index("6"))
    names, which = np.unique(table["video_id"], return_inverse=True)
    videos, classes = names.tolist(), len(table.classes)
    rows = [np.flatnonzero(which == i) for i in range(len(videos))]
    columns = table.target, table.pred, table["video_id"]

    def of_rows(value: Callable[[np.ndarray], float]) -> Measure:
        return Measure(videos, lambda chosen: value(np.concatenate([rows[i] for i in chosen])))

    def mean_of(values: np.ndarray) -> Measure:
        return Measure(videos, lambda chosen: metrics.mean_known(values[chosen]))

    if task in FRAMES and metric in phases.METRICS:
        time = {} if protocol == "strict" else {"dataset": dataset, "t_ms": table["t_ms"]}
        counts = phases.count(*columns, classes, protocol=protocol, **time)
        return Measure(videos, lambda chosen: phases.value(counts.of(chosen), metric))
    if metric in metrics.ACCURACIES:
        _, matrices = metrics.by_video(*columns, classes)
        return Measure(videos, lambda chosen: metrics.ACCURACIES[metric](matrices[chosen]))
    if metric == "macro_f1_per_video":
        return mean_of(metrics.macro_f1(metrics.by_video(*columns, classes)[1]))
    if metric == "edit" or metric in {f"f1_{k}" for k in segments.OVERLAPS}:
        return mean_of(segments.by_video(*columns, t_ms=table["t_ms"])[1][metric])
    if metric == "map":
        own = table.target
        label = np.eye(classes, dtype=np.float32)[own] if own.ndim == 1 else own
        return of_rows(lambda at: _average_precision(label[at], table.probabilities[at]))
    if metric.startswith("top_"):
        k = int(metric.removeprefix("top_"))
        _, counts = triplets.top_k_counts(table.target, table.probabilities, columns[2], k)
        return Measure(videos, lambda chosen: triplets.top_k_recall(counts[chosen]))
    if metric.startswith("ap_"):
        words, part = triplets.vocabulary(table.classes), metric.removeprefix("ap_")
        label = triplets.of_component(table.target, words, part)
        guess = triplets.of_component(table.probabilities.astype(np.float64), words, part)
        if protocol == "global_ap":
            return of_rows(lambda at: _average_precision(label[at], guess[at]))
        each = np.stack([metrics.average_precision(label[at], guess[at]) for at in rows])
        return Measure(
            videos, lambda chosen: metrics.mean_known(triplets.over_videos(each[chosen]))
        )
    if metric == "spearman":
        pairs = np.stack([table["value"], table["target_value"]], axis=1).astype(np.float64)
        return of_rows(lambda at: metrics.spearman(pairs[at]))
    if metric == "miou":
        overlap = boxes.iou_or_zero(table["target_boxes"], table["boxes"])
        return of_rows(lambda at: float(overlap[at].mean()))
    raise ValueError(f"no metric {metric!r} of {task}, {protocol}")


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


def _average_precision(label: np.ndarray, scores: np.ndarray) -> float:
    return metrics.mean_known(metrics.average_precision(label, scores))
