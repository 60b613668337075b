"""A model beside its floors: numbers of every model in one predictions file, and as text."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from surgjax.benchmark import floors, metrics, predictions, statistics
from surgjax.benchmark.predictions import Predictions
from surgjax.errors import UserError

RESAMPLES = 1000  # of average precision, which every resample computes from all frames


def compare(path: Path, *, seed: int = 0) -> dict:
    """Metrics of every model in a predictions file, beside the first one's difference to each.

    Returns:
      Of one class a row:
      {"videos": [...], "clips": n, "models": {name: {"macro_f1_per_video", "accuracy_per_video":
      Interval as a dict over videos, "macro_f1_pooled", "accuracy_pooled": float, "f1_pooled":
      {class: float or None}, "by_video": {video: macro F1}}}, "differences": {"pretrained-random":
      Interval as a dict of paired per-video macro F1, ...}} for every model beside the first one.

      Of several classes a row the same, with {"map_pooled": Interval as a dict over videos, of the
      mean average precision over the classes that occur, "ap_pooled": {class: float or None}} of
      each model and "chance", the mean share of positives, which constant scores reach.

    Raises:
      UserError: as `predictions.read`, or a model that was tested on other videos.
    """
    return compare_table(predictions.read(path), str(path), seed=seed)


def compare_table(table: Predictions, source: str, *, seed: int = 0) -> dict:
    """`compare` of rows that are read; `source` names them in messages."""
    models = table.models
    videos = sorted(set(table.of(models[0])["video_id"].tolist()))
    for name in models[1:]:
        if sorted(set(table.of(name)["video_id"].tolist())) != videos:
            raise UserError(f"{source}: model {name} was tested on other videos than {models[0]}")
    compared = _one_of_n if table.target.ndim == 1 else _multi_label
    about = {"videos": videos, "clips": len(table.of(models[0]))}
    return about | compared(table, seed)


def _one_of_n(table: Predictions, seed: int) -> dict:
    models, results, per_video = table.models, {}, {}
    for name in models:
        own = table.of(name)
        names, counts = metrics.by_video(own.target, own.pred, own["video_id"], len(table.classes))
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
                c: statistics.or_none(v)
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
    return {"models": results, "differences": differences}


def _multi_label(table: Predictions, seed: int) -> dict:
    models, results, means = table.models, {}, {}
    label = table.of(models[0]).target
    for name in models:
        own = table.of(name)
        each = metrics.average_precision(own.target, own.probabilities)
        means[name] = metrics.mean_known(each), resampled_map(own, seed)
        videos = len(set(own["video_id"].tolist()))
        interval = statistics.from_resamples(*means[name], videos)
        results[name] = {
            "map_pooled": interval.as_dict(),
            "ap_pooled": {
                c: statistics.or_none(v) for c, v in zip(table.classes, each, strict=True)
            },
        }
    first = means[models[0]]
    differences = {
        f"{models[0]}-{other}": statistics.from_resamples(
            first[0] - means[other][0], first[1] - means[other][1], videos
        ).as_dict()
        for other in models[1:]
    }
    chance = metrics.mean_known(floors.chance_average_precision(label))
    return {"chance": chance, "models": results, "differences": differences}


def resampled_map(table: Predictions, seed: int = 0) -> Float[np.ndarray, "r"]:
    """Mean average precision over the classes that occur, of RESAMPLES sets of the videos.

    Equal videos and seeds draw equal sets, so that models can be subtracted.
    """
    videos, which = np.unique(table["video_id"], return_inverse=True)
    times = statistics.times_drawn(statistics.draws(len(videos), RESAMPLES, seed))
    each = []
    for label, score in zip(table.target.T, table.probabilities.T, strict=True):
        known = ~np.isnan(label)
        found = metrics.resampled_average_precision(
            label[known] > 0.5, score[known], which[known], times
        )
        each.append(found)
    each = np.array(each)
    occurs = ~np.isnan(each)
    return metrics.ratio(np.where(occurs, each, 0).sum(0), occurs.sum(0))


def text_table(result: dict) -> str:
    """The result of `compare` (with its "models" and "differences") as lines of text."""
    first, *_ = result["models"].values()
    if "chance" in result:
        lines = [f"{'':24s} mean average precision [95 % interval], chance {result['chance']:.3f}"]
    else:
        between = "[95 % interval]" if first["macro_f1_per_video"]["reliable"] else "(each video)"
        lines = [f"{'':24s} {f'macro-F1 per video {between}':41s}pooled   accuracy"]
    for name, row in result["models"].items():
        title = f"{name.replace('_', ' '):24s}"
        if "chance" in result:
            lines.append(f"{title} {statistics.as_text(row['map_pooled'])}")
            continue
        f1 = statistics.as_text(row["macro_f1_per_video"], row["by_video"].values())
        lines.append(
            f"{title} {f1:41s}{row['macro_f1_pooled']:6.3f}   {row['accuracy_pooled']:8.3f}"
        )
    for name, row in result["differences"].items():
        if name.endswith("-random"):
            found = statistics.as_text(row, differences_by_video(result, name), "+")
            lines.append(
                f"{name.replace('-', ' minus '):24s} {found} over {row['videos']} held-out videos"
            )
    return "\n".join(lines)


def differences_by_video(result: Mapping, name: str) -> list[float]:
    """Of "pretrained-random" in `compare`'s differences; none of tasks of several classes."""
    first, second = (result["models"][model].get("by_video", {}) for model in name.split("-"))
    return [first[video] - second[video] for video in first]
