"""Saved predictions of tasks with several classes at once, and average precision from them.

The file has one row a labelled clip or frame, with the columns of predictions.py except `label` and
`pred`; instead label_<i> is 1, 0 or NaN (unknown) for class i, beside prob_<i>.
"""

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from surgjax.benchmark import statistics
from surgjax.errors import UserError
from surgjax.files import whole

COLUMNS = ("dataset", "split", "video_id", "case", "t_ms", "model", "protocol")


def write_predictions(
    path: Path,
    columns: dict[str, np.ndarray],
    label: Float[np.ndarray, "n c"],
    probs: Float[np.ndarray, "n c"],
) -> None:
    """Writes the file whole; `columns` has all of COLUMNS, each (n,)."""
    data = {name: pa.array(columns[name]) for name in COLUMNS}
    for kind, values in (("label", label), ("prob", probs)):
        for i in range(values.shape[1]):
            data[f"{kind}_{i}"] = pa.array(values[:, i].astype(np.float32))
    with whole(path) as part:
        pq.write_table(pa.table(data), part)


def score(path: Path, classes: list[str], *, seed: int = 0) -> dict:
    """Average precision of every class over all frames together, and its mean.

    Returns:
      {"videos": [...], "clips": n, "map_pooled": Interval as a dict, over videos, of the mean over
      the classes that occur, "chance": the mean share of positives, which constant scores reach,
      "ap_pooled": {class: float, None where it never occurs}}.

    Raises:
      UserError: unreadable, or columns missing.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as predictions ({error})") from error
    needed = [f"{kind}_{i}" for kind in ("label", "prob") for i in range(len(classes))]
    missing = [name for name in (*COLUMNS, *needed) if name not in table.column_names]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}")
    columns = {name: table[name].to_numpy() for name in needed}
    label, prob = (
        np.stack([columns[f"{kind}_{i}"] for i in range(len(classes))], axis=1)
        for kind in ("label", "prob")
    )
    videos, which = np.unique(table["video_id"].to_numpy().astype(str), return_inverse=True)
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
    label: Float[np.ndarray, "n c"], prob: Float[np.ndarray, "n c"]
) -> Float[np.ndarray, "c"]:
    """Area under each class's precision-recall steps; NaN for a class without positives.

    Precision at each positive in falling order of score, ties taken together, averaged: as
    scikit-learn's average_precision_score, many times faster for resampling.
    """
    out = np.full(label.shape[1], np.nan)
    for i in range(label.shape[1]):
        known = ~np.isnan(label[:, i])
        positive, score = label[known, i] > 0.5, prob[known, i]
        if not positive.any():
            continue
        order = np.argsort(-score, kind="stable")
        score, hits = score[order], np.cumsum(positive[order])
        ends = np.flatnonzero(np.append(np.diff(score) != 0, True))
        gained = np.diff(hits[ends], prepend=0)
        out[i] = (gained * hits[ends] / (ends + 1)).sum() / hits[-1]
    return out


def _mean(values: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing known: NaN says so
        return float(np.nanmean(values))
