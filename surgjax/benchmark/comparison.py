"""A model beside its floors: numbers of every model in one predictions file, and as text."""

from pathlib import Path

import numpy as np

from surgjax.benchmark import metrics, predictions, statistics
from surgjax.errors import UserError


def compare(path: Path, *, seed: int = 0) -> dict:
    """Metrics of every model in a predictions file of one class each.

    Returns:
      {"videos": [...], "clips": n, "models": {name: {"macro_f1_per_video", "accuracy_per_video":
      Interval as a dict over videos, "macro_f1_pooled", "accuracy_pooled": float, "f1_pooled":
      {class: float or None}, "by_video": {video: macro F1}}}, "differences": {"pretrained-random":
      Interval as a dict of paired per-video macro F1, ...}} for every model beside the first one.
    """
    table = predictions.read(path)
    models = table.models
    results, per_video, videos = {}, {}, None
    for name in models:
        own = table.of(name)
        names, counts = metrics.by_video(own.target, own.pred, own["video_id"], len(table.classes))
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
                for c, v in zip(table.classes, metrics.f1_per_class(pooled), strict=True)
            },
            "by_video": dict(zip(names, per_video[name].tolist(), strict=True)),
        }
    differences = {
        f"{models[0]}-{other}": statistics.paired_difference(
            per_video[models[0]], per_video[other], seed=seed
        ).as_dict()
        for other in models[1:]
    }
    clips = len(table.of(models[0]))
    return {"videos": videos, "clips": clips, "models": results, "differences": differences}


def text_table(result: dict) -> str:
    """The result of `compare` (with its "models" and "differences") as lines of text."""
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
