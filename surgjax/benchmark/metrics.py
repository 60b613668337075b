"""Metrics of frame and clip classification, each name with its variant: pooled or per video.

Videos differ in length and in the classes they show, so the two variants differ; a number without
its variant cannot be compared. All values are shares in [0, 1].
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int, Num

BLOCK = 2**22  # numbers of one array while resampling: 32 MiB


def confusion(
    label: Int[np.ndarray, "n"], pred: Int[np.ndarray, "n"], classes: int
) -> Int[np.ndarray, "c c"]:
    """Counts with true classes as rows and predicted classes as columns, int64.

    Raises:
      ValueError: a label or prediction outside 0..classes-1.
    """
    for name, values in (("label", label), ("pred", pred)):
        if len(values) and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(
                f"{name} reaches from {values.min()} to {values.max()}, expected 0 to {classes - 1}"
            )
    counts = np.bincount(label.astype(np.int64) * classes + pred, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def accuracy(counts: Int[np.ndarray, "*videos c c"]) -> Float[np.ndarray, "*videos"]:
    """Share of correct predictions of each confusion matrix; NaN where it is empty."""
    right = np.trace(counts, axis1=-2, axis2=-1)
    return ratio(right, counts.sum((-2, -1)))


def f1_per_class(counts: Int[np.ndarray, "*videos c c"]) -> Float[np.ndarray, "*videos c"]:
    """F1 = 2 TP / (2 TP + FP + FN) of each class; NaN for a class neither true nor predicted."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    return ratio(2 * hit, counts.sum(-1) + counts.sum(-2))


def macro_f1(counts: Int[np.ndarray, "*videos c c"]) -> Float[np.ndarray, "*videos"]:
    """Mean F1 over the classes present: true or predicted in that matrix.

    Of the matrix of all frames this is "macro_f1_pooled", scikit-learn's f1_score(average="macro");
    the mean over the videos' matrices is "macro_f1_per_video" (surgical zero-shot papers).
    """
    scores = f1_per_class(counts)
    present = ~np.isnan(scores)
    return ratio(np.where(present, scores, 0).sum(-1), present.sum(-1))


def by_video(
    label: Int[np.ndarray, "n"],
    pred: Int[np.ndarray, "n"],
    video: np.ndarray,
    classes: int,
) -> tuple[list, Int[np.ndarray, "v c c"]]:
    """(names of the videos in sorted order, one confusion matrix each)."""
    names, which = np.unique(np.asarray(video).astype(str), return_inverse=True)
    matrices = [confusion(label[which == i], pred[which == i], classes) for i in range(len(names))]
    return names.tolist(), np.array(matrices, np.int64).reshape(-1, classes, classes)


def recall_per_class(counts: Int[np.ndarray, "*videos c c"]) -> Float[np.ndarray, "*videos c"]:
    """TP / (TP + FN) of each class; NaN for a class that is never true."""
    return ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1))


def average_precision(
    label: Num[np.ndarray, "n c"], prob: Float[np.ndarray, "n c"]
) -> Float[np.ndarray, "c"]:
    """Area under each class's precision-recall steps; NaN for a class without positives. Labels are
    1, 0 and NaN (unknown).

    Precision at each positive in falling order of score, ties taken together, averaged: as
    scikit-learn's average_precision_score, many times faster. Sorting values is much faster than
    sorting indices, and only positives need their ranks: each adds (positives scored as high or
    higher) / (frames scored as high or higher).
    """
    label, prob = np.ascontiguousarray(label.T), np.ascontiguousarray(prob.T)
    out = np.full(len(label), np.nan)
    for i in np.flatnonzero((label > 0.5).any(1)):
        scores = np.sort(prob[i][~np.isnan(label[i])])
        at = np.sort(prob[i][label[i] > 0.5])
        hits = len(at) - np.searchsorted(at, at)
        out[i] = (hits / (len(scores) - np.searchsorted(scores, at))).mean()
    return out


def resampled_average_precision(
    positive: Bool[np.ndarray, "n"],
    score: Float[np.ndarray, "n"],
    which: Int[np.ndarray, "n"],
    times: Num[np.ndarray, "r v"],
) -> Float[np.ndarray, "r"]:
    """AP of one class in r sets, in which video v is times[r, v] times; NaN without positives.

    Frames are counted by video and by the highest positive's score that they reach.

    Args:
      which: number of each frame's video.
    """
    if not positive.any():
        return np.full(len(times), np.nan)
    times = np.asarray(times, np.float64)
    at = np.unique(score[positive])
    reached = np.searchsorted(at, score, side="right")

    def counted(rows: np.ndarray) -> np.ndarray:
        cells = which[rows] * (len(at) + 1) + reached[rows]
        table = np.bincount(cells, minlength=times.shape[1] * (len(at) + 1))
        return table.reshape(times.shape[1], -1)[:, :0:-1].astype(np.float64)  # highest first

    every, new, out = counted(np.arange(len(score))), counted(np.flatnonzero(positive)), []
    for sets in np.array_split(times, max(1, -(-len(times) * len(at) // BLOCK))):
        gained = sets @ new
        hits, frames = gained.cumsum(1), (sets @ every).cumsum(1)
        precision = np.divide(hits, frames, out=np.zeros_like(hits), where=frames > 0)
        above, below = (gained * precision).sum(1), hits[:, -1]
        out.append(np.divide(above, below, out=np.full(len(sets), np.nan), where=below > 0))
    return np.concatenate(out)


# Of the confusion matrices (v, c, c) of videos; balanced: mean recall of the classes there.
ACCURACIES = {
    "image_accuracy": lambda counts: float(accuracy(counts.sum(0))),
    "video_accuracy": lambda counts: float(accuracy(counts).mean()),
    "balanced_accuracy": lambda counts: mean_known(recall_per_class(counts.sum(0))),
}


def spearman(pairs: Float[np.ndarray, "n 2"]) -> float:
    """Pearson's correlation of ranks, equal values sharing their mean rank; NaN of a constant."""
    ranks = []
    for column in pairs.T:
        _, which, counts = np.unique(column, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[which])
    first, second = (rank - rank.mean() for rank in ranks)
    size = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / size) if size else math.nan


def mean_known(values: Float[np.ndarray, "n"]) -> float:
    """Mean over the values that are not NaN; NaN without any."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan


def in_words(name: str) -> str:
    """A metric's name as tables and pictures print it: "macro-F1 per video"."""
    return name.replace("_", " ").replace("macro f1", "macro-F1").replace("map", "mAP")


def ratio(above, below) -> np.ndarray:
    """Quotient in float64, NaN where nothing is below."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
