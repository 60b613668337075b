"""Average precision and top-k recall of action triplets and of their components.

A triplet is instrument, verb and target; a component is a part of it: i, v, t, iv, it, or ivt, the
whole. Variants differ: "video" averages each class over the videos that show it, then the classes;
"global" takes the frames of all videos together. Reference: ivtmetrics (Nwoye and Padoy, "Data
Splits and Metrics for Method Benchmarking on Surgical Action Triplet Datasets", 2022). Which
classes occur is read from the labels: its release 0.1.5 with scikit-learn 1.6 or newer counts
absent classes as 0. All values are shares in [0, 1], NaN where undefined.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from surgjax.benchmark.metrics import average_precision, resampled_average_precision

PARTS = {"i": (0,), "v": (1,), "t": (2,), "iv": (0, 1), "it": (0, 2), "ivt": (0, 1, 2)}


@dataclass(frozen=True)
class Vocabulary:
    """How triplets fall into the classes of each component.

    Attributes:
      names: class names of each component, in the order in which the triplets first show them.
      of_triplet: number of each triplet's class in each component, (triplets,).
      null: triplets of an instrument without a known action, (triplets,).
    """

    names: dict[str, tuple[str, ...]]
    of_triplet: dict[str, Int[np.ndarray, "triplets"]]
    null: Bool[np.ndarray, "triplets"]


def vocabulary(triplets: Sequence[str]) -> Vocabulary:
    """Components of "instrument,verb,target" names, the class names of the store's label table.

    Raises:
      ValueError: a name without three parts, or twice the same.
    """
    split = [tuple(name.split(",")) for name in triplets]
    for name, parts in zip(triplets, split, strict=True):
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"triplet {name!r}, expected instrument,verb,target")
    if len(set(split)) < len(split):
        raise ValueError("two triplets have the same name")
    names, of_triplet = {}, {}
    for component, places in PARTS.items():
        each = [",".join(parts[place] for place in places) for parts in split]
        names[component] = tuple(dict.fromkeys(each))
        number = {name: i for i, name in enumerate(names[component])}
        of_triplet[component] = np.array([number[name] for name in each], np.int64)
    null = np.array([parts[1] == "null_verb" for parts in split], bool)
    return Vocabulary(names, of_triplet, null)


def of_component(
    values: Num[np.ndarray, "n triplets"], vocabulary: Vocabulary, component: str
) -> Num[np.ndarray, "n k"]:
    """The maximum over the triplets of each class of a component; for labels as for scores.

    Raises:
      ValueError: another number of triplets than the vocabulary has.
    """
    of = vocabulary.of_triplet[component]
    if values.shape[1] != len(of):
        raise ValueError(f"{values.shape[1]} columns, expected {len(of)}, one a triplet")
    if component == "ivt":
        return values
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(len(vocabulary.names[component])))
    # Classes as rows: the maximum then runs over whole rows of frames, several times faster.
    return np.maximum.reduceat(np.ascontiguousarray(values.T)[order], starts, axis=0).T


def video_average_precision(
    label: Num[np.ndarray, "n triplets"],
    score: Float[np.ndarray, "n triplets"],
    video: np.ndarray,
    vocabulary: Vocabulary,
) -> tuple[list[str], dict[str, Float[np.ndarray, "v k"]]]:
    """(names of the videos in sorted order, AP of each component by video and class).

    A class that a video does not show is NaN there.

    Args:
      label: 0 or 1.
      video: name of each frame's video, (n,).

    Raises:
      ValueError: labels other than 0 and 1, scores that are NaN, wrong number of columns.
    """
    _check(label, score)
    names, rows = _by_video(video)
    ap = {}
    for component in PARTS:
        truth = of_component(label, vocabulary, component)
        guess = of_component(score, vocabulary, component)
        each = [average_precision(truth[frames], guess[frames]) for frames in rows]
        ap[component] = np.array(each).reshape(len(names), truth.shape[1])
    return names, ap


def global_average_precision(
    label: Num[np.ndarray, "n triplets"],
    score: Float[np.ndarray, "n triplets"],
    vocabulary: Vocabulary,
) -> dict[str, Float[np.ndarray, "k"]]:
    """AP of each component and class over all frames together (compute_global_AP of ivtmetrics).

    Raises:
      ValueError: as video_average_precision.
    """
    _check(label, score)
    return {
        component: average_precision(
            of_component(label, vocabulary, component), of_component(score, vocabulary, component)
        )
        for component in PARTS
    }


def resampled_global_average_precision(
    label: Num[np.ndarray, "n triplets"],
    score: Float[np.ndarray, "n triplets"],
    video: np.ndarray,
    times: Num[np.ndarray, "r v"],
    vocabulary: Vocabulary,
) -> dict[str, Float[np.ndarray, "r k"]]:
    """global_average_precision of r sets in which video v, in sorted order, is times[r, v] times.

    For intervals by resampling videos. A class is counted once; what a set adds up are counts.

    Raises:
      ValueError: as video_average_precision, or `times` of another number of videos.
    """
    _check(label, score)
    names, which = np.unique(np.asarray(video).astype(str), return_inverse=True)
    if times.shape[1] != len(names):
        raise ValueError(f"times of {times.shape[1]} videos, expected {len(names)}")
    out = {}
    for component in PARTS:
        truth = of_component(label, vocabulary, component) > 0
        guess = of_component(score, vocabulary, component)
        out[component] = np.stack(
            [
                resampled_average_precision(truth[:, k], guess[:, k], which, times)
                for k in range(truth.shape[1])
            ],
            axis=1,
        )
    return out


def over_videos(ap: Float[np.ndarray, "*r v k"]) -> Float[np.ndarray, "*r k"]:
    """Mean of each class over the videos that show it; NaN where none does."""
    return _mean_of_known(ap, -2)


def mean_average_precision(
    ap: dict[str, Float[np.ndarray, "*r k"]], vocabulary: Vocabulary, *, ignore_null: bool = False
) -> dict[str, Float[np.ndarray, "*r"]]:
    """Mean over the classes that occur: "ap_i", "ap_v", "ap_t", "ap_iv", "ap_it", "ap_ivt".

    Args:
      ap: by class; of the video variant what `over_videos` returns.
      ignore_null: leave the null triplets out of ap_ivt, and of nothing else, as ivtmetrics does.
    """
    kept = {component: ap[component] for component in PARTS}
    if ignore_null:
        kept["ivt"] = kept["ivt"][..., ~vocabulary.null]
    return {f"ap_{component}": _mean_of_known(values, -1) for component, values in kept.items()}


def top_k_counts(
    label: Num[np.ndarray, "n c"], score: Float[np.ndarray, "n c"], video: np.ndarray, k: int
) -> tuple[list[str], Int[np.ndarray, "v 2"]]:
    """(names of the videos in sorted order, positives among the k highest scores and all of them).

    Of a component, give what `of_component` makes of labels and scores. Of equal scores the
    smaller class number is taken first; ivtmetrics leaves that open.

    Raises:
      ValueError: k below 1, labels other than 0 and 1, scores that are NaN.
    """
    if k < 1:
        raise ValueError(f"k = {k}, expected at least 1")
    _check(label, score)
    best = np.argsort(-score, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(label, best, axis=1).sum(1)
    names, rows = _by_video(video)
    counts = [(found[frames].sum(), label[frames].sum()) for frames in rows]
    return names, np.array(counts, np.int64).reshape(-1, 2)


def top_k_recall(counts: Int[np.ndarray, "v 2"]) -> float:
    """Share of all positives that are among their frame's k highest scores, videos pooled.

    topK of ivtmetrics, except that no positives at all give NaN and not 0.
    """
    found, every = counts.sum(0).tolist()
    return found / every if every else float("nan")


def _check(label: np.ndarray, score: np.ndarray) -> None:
    if not ((label == 0) | (label == 1)).all():
        raise ValueError("labels other than 0 and 1; leave frames without labels out")
    if np.isnan(score).any():
        raise ValueError(f"{int(np.isnan(score).any(1).sum())} frames have a score that is NaN")


def _by_video(video: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    names, which = np.unique(np.asarray(video).astype(str), return_inverse=True)
    return names.tolist(), [np.flatnonzero(which == v) for v in range(len(names))]


def _mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
