"""Metrics of frame and clip classification, each name with its variant: pooled or per video.

Videos differ in length and in the classes they show, so the two variants differ; a number without
its variant cannot be compared. All values are shares in [0, 1].
"""

import numpy as np
from jaxtyping import Float, Int


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


def ratio(above, below) -> np.ndarray:
    """Quotient in float64, NaN where nothing is below."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
