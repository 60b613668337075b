"""Tasks with several classes at once: average precision."""

import numpy as np
from jaxtyping import Float, Num


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
