"""`python -m surgjax.benchmark score FILE --task T --protocol P`: numbers from saved predictions.

FILE is a predictions.parquet of ours or anybody's (surgjax/benchmark/predictions.py says what is in
it). With --labels STORE the truth comes from a store, and every labelled frame of the videos in
FILE has to be there. Numbers are shares in [0, 1], NaN as null, each with the 95 % interval from
resampled videos; below 6 videos the videos' own values stand in its place.

    task                   protocol
    phase, step, action    strict, relaxed_10s, relaxed_10s_tmrnet
    tool                   frame_map
    triplet                video_ap, global_ap
    cvs                    criteria_map, surgvista_total
    skill                  class, spearman
    clip                   acc1, acc1_views
    box                    miou
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from surgjax.benchmark import (
    boxes,
    calibration,
    floors,
    metrics,
    phases,
    predictions,
    segments,
    statistics,
    triplets,
)
from surgjax.benchmark.predictions import Predictions
from surgjax.benchmark.statistics import or_none
from surgjax.errors import UserError, nearest
from surgjax.verbs import between_commas

FRAMES = dict.fromkeys(("phase", "step", "action"), phases.PROTOCOLS)
PROTOCOLS = FRAMES | {
    "tool": ("frame_map",),
    "triplet": ("video_ap", "global_ap"),
    "cvs": ("criteria_map", "surgvista_total"),
    "skill": ("class", "spearman"),
    "clip": ("acc1", "acc1_views"),
    "box": ("miou",),
}
RESAMPLES = 1000
MOST_NAMES = 10  # of classes in a line of text
Metrics = dict[str, dict]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="predictions.parquet")
    parser.add_argument("--task", required=True, choices=PROTOCOLS)
    parser.add_argument("--protocol", help="default: the first of the task")
    parser.add_argument("--labels", type=Path, metavar="STORE", help="where the truth is")
    parser.add_argument(
        "--dataset", help="whose transitions relaxed protocols forgive, as cholec80"
    )
    parser.add_argument("--model", help="of a file with several (default: the first)")
    parser.add_argument("--setting", help="of a file with several, as prompts or '4 videos'")
    parser.add_argument("--exclude", default="", help="classes that are not counted, with commas")
    parser.add_argument(
        "--allow-seen", action="store_true", help="also where the model trained on these cases"
    )
    parser.add_argument("--json", action="store_true", help="the whole result")


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    protocol = args.protocol or PROTOCOLS[args.task][0]
    result = score(
        *(args.file, args.task, protocol),
        labels=args.labels,
        dataset=args.dataset,
        model=args.model,
        setting=args.setting,
        exclude=between_commas(args.exclude),
        allow_seen=args.allow_seen,
    )
    print(json.dumps(result, indent=1, allow_nan=False) if args.json else as_text(result))
    return 0


def score(
    file: Path,
    task: str,
    protocol: str,
    *,
    labels: Path | None = None,
    dataset: str | None = None,
    model: str | None = None,
    setting: str | None = None,
    exclude: Sequence[str] = (),
    allow_seen: bool = False,
) -> dict:
    """{"task", "protocol", "videos", "saw_test", "metrics": {name: {"value", "ci95", ...}},
    "per_class", "floors"} of a file of predictions; None stands for NaN.

    The floors hold the first metric of every other model in the file too, as
    "random_image_accuracy".

    Args:
      labels: a store, whose labels take the place of the targets.
      dataset: whose transitions relaxed protocols forgive.
      model, setting: rows to score, of a file with several; the first model by default.
      exclude: classes whose frames or clips are not counted, as those out of the body.
      allow_seen: also where the model was trained on these cases.

    Raises:
      UserError: as `predictions.read` and `surgjax.benchmark.truth.of_store`; an unknown protocol,
        model or setting; a file that lacks what the protocol needs; cases that were trained on.
    """
    if task not in PROTOCOLS or protocol not in PROTOCOLS[task]:
        raise UserError(
            f"protocol {protocol!r} of task {task!r}{nearest(protocol, PROTOCOLS.get(task, ()))}; "
            f"known: {', '.join(PROTOCOLS.get(task, PROTOCOLS))}"
        )
    if labels is None:
        table = predictions.read(file)
    else:
        from surgjax.benchmark import truth

        table = truth.of_store(file, labels, task)
    refuse_seen(table, file, allow_seen)
    if model is not None and model not in table.models:
        raise UserError(f"{file} has no model {model!r}; it has {', '.join(table.models)}")
    table = without(_of_setting(table, setting, file), exclude, file)
    if not len(table):
        left = f" but of {', '.join(exclude)}, which are not counted" if exclude else ""
        raise UserError(f"{file} has no rows{left}")
    first = model or table.models[0]
    videos = len(set(table.of(first)["video_id"].tolist()))
    has_interval = videos >= statistics.FEWEST_VIDEOS

    def numbers_of(name: str, resamples: int) -> tuple[Metrics, dict, dict]:
        return _SCORERS[task](table.of(name), protocol, dataset, resamples)

    try:
        numbers, per_class, beside = numbers_of(first, RESAMPLES if has_interval else 0)
        for other in table.models:
            if other != first:
                main_metric, found = next(iter(numbers_of(other, 0)[0].items()))
                beside.setdefault(f"{other}_{main_metric}", found["value"])
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    return {
        "task": task,
        "protocol": protocol,
        "videos": videos,
        "saw_test": table.saw_test,
        "metrics": numbers,
        "per_class": per_class,
        "floors": beside,
    }


def refuse_seen(table: Predictions, file: Path, allow_seen: bool) -> None:
    """Raises UserError where the model was trained on these cases, unless that is allowed."""
    if table.saw_test == "yes" and not allow_seen:
        raise UserError(
            f"{file}: the model was trained on these test cases, so its numbers are not those of "
            f"new cases; give --allow-seen to have them anyway, marked"
        )


def as_text(result: Mapping) -> str:
    """A line a number."""
    lines = [f"{result['task']}, {result['protocol']}, {result['videos']} videos"]
    if result["saw_test"] == "yes":
        lines.append("the model was TRAINED on these test cases")
    for name, found in result["metrics"].items():
        if found["value"] is None:
            lines.append(f"  {name:24s}  null")
            continue
        low, high = found["ci95"] or (None, None)
        between = f" [{low:.3f}, {high:.3f}]" if found["ci95"] else ""
        few = "" if found["reliable"] else " (too few videos)"
        lines.append(f"  {name:24s}{found['value']:6.3f}{between}{few}")
    for name, value in result["floors"].items():
        shown = f"{value:6.3f}" if isinstance(value, float) else f"  {value}"
        lines.append(f"  {'(' + name + ')':24s}{shown}")
    absent = [n for n, of in result["per_class"].items() if of.get("recall", of.get("ap")) is None]
    if absent:
        more = f" and {len(absent) - MOST_NAMES} more" if len(absent) > MOST_NAMES else ""
        lines.append(f"  never labelled, so null: {', '.join(absent[:MOST_NAMES])}{more}")
    return "\n".join(lines)


# --- tasks -------------------------------------------------------------------------------------


def _frames(
    table: Predictions, protocol: str, dataset: str | None, resamples: int
) -> tuple[Metrics, dict, dict]:
    _one_class(table)
    if protocol != "strict" and dataset is None:
        raise ValueError(f"{protocol} needs --dataset: what is forgiven depends on it")
    columns, classes = (table.target, table.pred, table["video_id"]), len(table.classes)
    time = {} if protocol == "strict" else {"dataset": dataset, "t_ms": _times(table)}
    counts = phases.count(*columns, classes, protocol=protocol, **time)
    units = np.arange(len(counts.videos))
    numbers = {
        name: interval.as_metric(
            {counts.videos[i]: phases.value(counts.of(units[i : i + 1]), name) for i in units}
        )
        for name, interval in phases.intervals(counts, resamples=resamples).items()
    }
    names, matrices = metrics.by_video(*columns, classes)
    if protocol == "strict":
        numbers["macro_f1_per_video"] = _mean_over_videos(
            names, metrics.macro_f1(matrices), resamples
        )
    if protocol == "strict" and "t_ms" in table:
        names, values = segments.by_video(*columns, t_ms=_times(table))
        for name in ("edit", *(f"f1_{k}" for k in segments.OVERLAPS)):
            numbers[name] = _mean_over_videos(names, values[name], resamples)
    per_class = {
        name: {m: or_none(phases.per_phase(counts, m)[i]) for m in phases.METRICS[2:]}
        for i, name in enumerate(table.classes)
    }
    return numbers, per_class, _floors(table)


def _several(
    table: Predictions, protocol: str, dataset: str | None, resamples: int
) -> tuple[Metrics, dict, dict]:
    """Average precision over all frames together (scikit-learn's, ties taken together)."""
    _several_classes(table)
    names, rows = _videos(table)

    def mean(chosen: np.ndarray) -> float:
        at = np.concatenate([rows[i] for i in chosen])
        return metrics.mean_known(
            metrics.average_precision(table.target[at], table.probabilities[at])
        )

    interval = statistics.bootstrap(np.arange(len(names)), mean, resamples=resamples)
    alone = {name: mean(np.array([i])) for i, name in enumerate(names)}
    each = metrics.average_precision(table.target, table.probabilities)
    chance = floors.chance_average_precision(table.target)
    per_class = {
        name: {"ap": or_none(ap), "chance": or_none(low)}
        for name, ap, low in zip(table.classes, each, chance, strict=True)
    }
    beside = {"chance_map": or_none(metrics.mean_known(chance))}
    return {"map": interval.as_metric(alone)}, per_class, beside


def _triplet(
    table: Predictions, protocol: str, dataset: str | None, resamples: int
) -> tuple[Metrics, dict, dict]:
    _several_classes(table)
    words, video = triplets.vocabulary(table.classes), table["video_id"]
    label, scores = table.target, table.probabilities.astype(np.float64)
    names, each = triplets.video_average_precision(label, scores, video, words)
    alone = {name: {k: v[i] for k, v in each.items()} for i, name in enumerate(names)}
    alone = {name: triplets.mean_average_precision(ap, words) for name, ap in alone.items()}
    draws = statistics.draws(len(names), resamples)
    if protocol == "video_ap":
        ap = {part: triplets.over_videos(values) for part, values in each.items()}
        drawn = {part: triplets.over_videos(values[draws]) for part, values in each.items()}
    else:
        times = statistics.times_drawn(draws)
        ap = triplets.global_average_precision(label, scores, words)
        drawn = triplets.resampled_global_average_precision(label, scores, video, times, words)
    values = triplets.mean_average_precision(ap, words)
    resampled = triplets.mean_average_precision(drawn, words)
    numbers = {
        name: statistics.from_resamples(float(value), resampled[name], len(names)).as_metric(
            {video: float(own[name]) for video, own in alone.items()}
        )
        for name, value in values.items()
    }
    for k in (5, 10, 20):
        names, counts = triplets.top_k_counts(label, scores, video, k)
        recall = statistics.bootstrap(counts, triplets.top_k_recall, resamples=resamples)
        own = {name: triplets.top_k_recall(counts[i : i + 1]) for i, name in enumerate(names)}
        numbers[f"top_{k}"] = recall.as_metric(own)
    per_class = {
        name: {"ap": or_none(value)} for name, value in zip(table.classes, ap["ivt"], strict=True)
    }
    chance = metrics.mean_known(floors.chance_average_precision(label))
    return numbers, per_class, {"chance_ap_ivt": or_none(chance)}


def _cvs(
    table: Predictions, protocol: str, dataset: str | None, resamples: int
) -> tuple[Metrics, dict, dict]:
    if protocol == "criteria_map":
        return _several(table, protocol, dataset, resamples)
    _one_class(table)
    if "6" in table.classes:  # SurgVISTA drops the frames whose criteria sum to 6
        top = table.classes.index("6")
        table = table.where(table.target != top)
    return _one_against_rest(table, protocol, dataset, resamples)


def _one_against_rest(
    table: Predictions, protocol: str, dataset: str | None, resamples: int
) -> tuple[Metrics, dict, dict]:
    """Accuracies, and the mean over classes of the average precision of each against the others."""
    onehot = np.eye(len(table.classes), dtype=np.float32)[table.target]
    numbers, per_class, beside = _several(
        replace(table, target=onehot), protocol, dataset, resamples
    )
    recalls = _recalls(table)
    per_class = {name: recalls[name] | found for name, found in per_class.items()}
    return _accuracy(table, resamples) | numbers, per_class, beside | _floors(table)


def _clip(
    table: Predictions, protocol: str, dataset: str | None, resamples: int
) -> tuple[Metrics, dict, dict]:
    _one_class(table)
    if protocol == "acc1_views":
        table = mean_of_views(table)
    return _one_against_rest(table, protocol, dataset, resamples)


def _skill(
    table: Predictions, protocol: str, dataset: str | None, resamples: int
) -> tuple[Metrics, dict, dict]:
    if protocol == "class":
        return _clip(table, protocol, dataset, resamples)
    missing = [name for name in ("value", "target_value") if name not in table]
    if missing:
        raise ValueError(f"spearman needs the columns value and target_value; lacks {missing[0]}")
    pairs = np.stack([table["value"], table["target_value"]], axis=1).astype(np.float64)
    names, rows = _videos(table)

    def correlation(chosen: np.ndarray) -> float:
        return metrics.spearman(pairs[np.concatenate([rows[i] for i in chosen])])

    interval = statistics.bootstrap(np.arange(len(names)), correlation, resamples=resamples)
    return {"spearman": interval.as_metric(dict.fromkeys(names, math.nan))}, {}, {}


def _box(
    table: Predictions, protocol: str, dataset: str | None, resamples: int
) -> tuple[Metrics, dict, dict]:
    missing = [name for name in ("boxes", "target_boxes") if name not in table]
    if missing:
        raise ValueError(f"miou needs the columns boxes and target_boxes; lacks {missing[0]}")
    names, rows = _videos(table)
    overlap = boxes.iou_or_zero(table["target_boxes"], table["boxes"])
    interval = statistics.bootstrap(
        np.arange(len(names)),
        lambda chosen: float(overlap[np.concatenate([rows[i] for i in chosen])].mean()),
        resamples=resamples,
    )
    own = {name: float(overlap[at].mean()) for name, at in zip(names, rows, strict=True)}
    return {"miou": interval.as_metric(own)}, {}, {}


_SCORERS: dict[str, Callable] = {
    **dict.fromkeys(FRAMES, _frames),
    "tool": _several,
    "triplet": _triplet,
    "cvs": _cvs,
    "skill": _skill,
    "clip": _clip,
    "box": _box,
}


# --- shared ------------------------------------------------------------------------------------


def _of_setting(table: Predictions, setting: str | None, file: Path) -> Predictions:
    """The rows of one setting and draw."""
    if "setting" in table:
        known = list(dict.fromkeys(map(str, table["setting"])))
        if setting not in known and (setting is not None or len(known) > 1):
            raise UserError(f"{file} has the settings {', '.join(known)}; give one as --setting")
        table = table.where(table["setting"] == (setting or known[0]))
    elif setting is not None:
        raise UserError(f"{file} has no settings, found --setting {setting!r}; leave it out")
    if "draw" in table and len(set(table["draw"].tolist())) > 1:
        raise UserError(
            f"{file} has several draws of a setting; its metrics.json has their mean and interval"
        )
    return table


def without(table: Predictions, exclude: Sequence[str], file: Path) -> Predictions:
    """The rows whose target is none of these classes."""
    if unknown := [name for name in exclude if name not in table.classes]:
        raise UserError(
            f"{file} has no class {unknown[0]!r} to leave out{nearest(unknown[0], table.classes)}"
        )
    if not exclude:
        return table
    if table.target.ndim > 1:
        raise UserError(f"{file} has several classes a row; --exclude leaves out rows of one class")
    return table.where(~np.isin(table.target, [table.classes.index(name) for name in exclude]))


def _accuracy(table: Predictions, resamples: int) -> Metrics:
    """Those of metrics.ACCURACIES."""
    names, counts = metrics.by_video(
        table.target, table.pred, table["video_id"], len(table.classes)
    )
    numbers = {}
    for name, statistic in metrics.ACCURACIES.items():
        interval = statistics.bootstrap(counts, statistic, resamples=resamples)
        own = {video: statistic(counts[i : i + 1]) for i, video in enumerate(names)}
        numbers[name] = interval.as_metric(own)
    return numbers


def _recalls(table: Predictions) -> dict:
    counts = metrics.confusion(table.target, table.pred, len(table.classes))
    f1, recall = metrics.f1_per_class(counts), metrics.recall_per_class(counts)
    return {
        name: {"recall": or_none(recall[i]), "f1": or_none(f1[i])}
        for i, name in enumerate(table.classes)
    }


def _floors(table: Predictions) -> dict:
    """What needs no look at the video, and whether the model looks at it."""
    columns = table.target, table.pred, table["video_id"]
    _, counts = metrics.by_video(*columns, len(table.classes))
    _, sums = calibration.reliability_by_video(table.target, table.probabilities, table["video_id"])
    constant, pooled = floors.best_constant(counts), counts.sum(0)
    return {
        "best_constant_image_accuracy": or_none(constant["image_accuracy"]),
        "best_constant_video_accuracy": or_none(constant["video_accuracy"]),
        "prediction_entropy": or_none(float(calibration.prediction_entropy(pooled))),
        "collapsed": calibration.collapsed(pooled),
        "ece_15": or_none(float(calibration.expected_calibration_error(sums.sum(0)))),
    }


def mean_of_views(table: Predictions) -> Predictions:
    """A row a clip, with the mean probabilities of its views."""
    if "clip_id" not in table:
        raise ValueError("acc1_views needs the column clip_id, which the views of a clip share")
    keys = np.char.add(
        np.char.add(table["video_id"].astype(str), "\0"), table["clip_id"].astype(str)
    )
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    if (table.target != table.target[first][which]).any():
        raise ValueError("the views of a clip have different targets")
    sums = np.zeros((len(first), len(table.classes)))
    np.add.at(sums, which, table.probabilities)
    merged = table.where(first)
    return replace(merged, probabilities=(sums / np.bincount(which)[:, None]).astype(np.float32))


def _mean_over_videos(names: list[str], values: np.ndarray, resamples: int) -> dict:
    interval = statistics.bootstrap(values, metrics.mean_known, resamples=resamples)
    return interval.as_metric(dict(zip(names, values.tolist(), strict=True)))


def _videos(table: Predictions) -> tuple[list[str], list[np.ndarray]]:
    names, which = np.unique(table["video_id"], return_inverse=True)
    return names.tolist(), [np.flatnonzero(which == i) for i in range(len(names))]


def _times(table: Predictions) -> np.ndarray:
    if "t_ms" not in table:
        raise ValueError("the column t_ms is missing; expected the time of each frame")
    return table["t_ms"]


def _one_class(table: Predictions) -> None:
    if table.target.ndim > 1:
        raise ValueError("target is a list; expected one class number a row")


def _several_classes(table: Predictions) -> None:
    if table.target.ndim == 1:
        raise ValueError("target is one class; expected a list of 1, 0 and NaN a row")
