"""Tasks with several classes at once: average precision, from saved predictions."""

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num

from surgjax.benchmark import predictions, statistics
from surgjax.errors import UserError


def score(path: Path, *, seed: int = 0) -> dict:
    """Average precision of every class over all frames together, and its mean.

    Returns:
      {"videos": [...], "clips": n, "map_pooled": Interval as a dict, over videos, of the mean over
      the classes that occur, "chance": the mean share of positives, which constant scores reach,
      "ap_pooled": {class: float, None where it never occurs}}.

    Raises:
      UserError: as `predictions.read`, or rows of one class each.
    """
    table = predictions.read(path)
    classes, label, prob = table.classes, table.target, table.probabilities
    if label.ndim == 1:
        raise UserError(f"{path}: target is one class; expected a list, as of several at once")
    videos, which = np.unique(table["video_id"], return_inverse=True)
    rows = [np.flatnonzero(which == v) for v in range(len(videos))]

    def mean_precision(units: np.ndarray) -> float:
        chosen = np.concatenate([rows[v] for v in units])
        return _mean(average_precision(label[chosen], prob[chosen]))

    units = np.arange(len(videos))
    interval = statistics.bootstrap(units, mean_precision, resamples=1000, seed=seed)
    each = average_precision(label, prob)
    shares = np.array([_mean(label[:, i]) for i in range(len(classes)) if not np.isnan(each[i])])
    return {
        "videos": videos.tolist(),
        "clips": len(label),
        "map_pooled": interval.as_dict(),
        "chance": float(shares.mean()) if len(shares) else None,
        "ap_pooled": {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(classes, each, strict=True)
        },
    }


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


def _mean(values: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing known: NaN says so
        return float(np.nanmean(values))
