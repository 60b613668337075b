"""Saved predictions and the numbers computed from them; the same for our models and any other.

predictions.parquet has one row a model and labelled clip or frame:

    dataset, split, video_id, case   where it comes from
    t_ms                             time of the labelled frame, milliseconds
    label, pred                      class numbers
    prob_<i>                         probability of class i, float32
    model                            "pretrained", "random", "mean_colour", "majority", ...
    protocol                         how the predictions were made, in a line
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from surgjax.benchmark import metrics, statistics
from surgjax.errors import UserError
from surgjax.files import whole, write_whole

COLUMNS = ("dataset", "split", "video_id", "case", "t_ms", "label", "pred", "model", "protocol")


def write_predictions(path: Path, columns: dict[str, np.ndarray], probs: np.ndarray) -> None:
    """Writes the file whole.

    Args:
      columns: all of COLUMNS, each (n,); `probs` (n, classes).

    Raises:
      ValueError: a column is missing or of another length.
    """
    missing = [name for name in COLUMNS if name not in columns]
    lengths = {len(columns[name]) for name in columns} | {len(probs)}
    if missing or len(lengths) > 1:
        raise ValueError(f"predictions lack {missing} or have columns of lengths {sorted(lengths)}")
    data = {name: pa.array(columns[name]) for name in COLUMNS[:7]}
    data |= {f"prob_{i}": pa.array(probs[:, i].astype(np.float32)) for i in range(probs.shape[1])}
    data |= {name: pa.array(columns[name]) for name in COLUMNS[7:]}
    with whole(path) as part:
        pq.write_table(pa.table(data), part)


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """Columns of a predictions.parquet as numpy arrays.

    Raises:
      UserError: not there, unreadable, or columns missing.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as predictions ({error})") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}")
    return {name: table[name].to_numpy() for name in table.column_names}


def score(path: Path, classes: list[str], *, seed: int = 0) -> dict:
    """Metrics of every model in a predictions file.

    Returns:
      {"videos": [...], "clips": n, "models": {name: {"macro_f1_per_video", "accuracy_per_video":
      Interval as a dict over videos, "macro_f1_pooled", "accuracy_pooled": float, "f1_pooled":
      {class: float or None}, "by_video": {video: macro F1}}}, "differences": {"pretrained-random":
      Interval as a dict of paired per-video macro F1, ...}} for every model beside the first one.
    """
    table = read_predictions(path)
    models = list(dict.fromkeys(table["model"].tolist()))
    results, per_video, videos = {}, {}, None
    for name in models:
        rows = table["model"] == name
        names, counts = metrics.by_video(
            table["label"][rows], table["pred"][rows], table["video_id"][rows], len(classes)
        )
        if videos not in (None, names):
            raise UserError(f"{path}: model {name} was tested on other videos than {models[0]}")
        videos = names
        pooled = counts.sum(0)
        per_video[name] = metrics.macro_f1(counts)
        results[name] = {
            "macro_f1_per_video": statistics.bootstrap_mean(per_video[name], seed=seed).as_dict(),
            "accuracy_per_video": statistics.bootstrap_mean(
                metrics.accuracy(counts), seed=seed
            ).as_dict(),
            "macro_f1_pooled": float(metrics.macro_f1(pooled)),
            "accuracy_pooled": float(metrics.accuracy(pooled)),
            "f1_pooled": {
                c: None if np.isnan(v) else float(v)
                for c, v in zip(classes, metrics.f1_per_class(pooled), strict=True)
            },
            "by_video": dict(zip(names, per_video[name].tolist(), strict=True)),
        }
    differences = {
        f"{models[0]}-{other}": statistics.paired_difference(
            per_video[models[0]], per_video[other], seed=seed
        ).as_dict()
        for other in models[1:]
    }
    clips = int((table["model"] == models[0]).sum())
    return {"videos": videos, "clips": clips, "models": results, "differences": differences}


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file whole, keys in the order given."""
    write_whole(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def text_table(result: dict) -> str:
    """The result of `score` (with its "models" and "differences") as lines of text."""
    lines = [f"{'':24s} macro-F1 per video [95 % interval]   pooled   accuracy"]
    for name, row in result["models"].items():
        f1 = row["macro_f1_per_video"]
        lines.append(
            f"{name.replace('_', ' '):24s} {f1['value']:.3f} [{f1['low']:.3f}, {f1['high']:.3f}]"
            f"               {row['macro_f1_pooled']:.3f}    {row['accuracy_pooled']:.3f}"
        )
    for name, row in result["differences"].items():
        if name.endswith("-random"):
            lines.append(
                f"{name.replace('-', ' minus '):24s} {row['value']:+.3f} "
                f"[{row['low']:+.3f}, {row['high']:+.3f}] over {row['videos']} held-out videos"
                + ("" if row["reliable"] else ", few videos: read the interval with care")
            )
    return "\n".join(lines)
