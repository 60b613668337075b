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
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from surgjax.benchmark import (
    calibration,
    floors,
    measures,
    metrics,
    phases,
    predictions,
    statistics,
    triplets,
)
from surgjax.benchmark.measures import FRAMES, PROTOCOLS, RESAMPLES
from surgjax.benchmark.predictions import Predictions
from surgjax.benchmark.statistics import or_none
from surgjax.errors import UserError, nearest
from surgjax.verbs import between_commas

MOST_NAMES = 10  # of classes in a line of text


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

    def measured(name: str) -> dict[str, measures.Measure]:
        return measures.every_measure(table.of(name), task, protocol, dataset=dataset)

    try:
        numbers = {
            name: one.as_metric(RESAMPLES if has_interval else 0)
            for name, one in measured(first).items()
        }
        per_class, beside = _details(table.of(first), task, protocol, dataset)
        for other in table.models:
            if other != first:
                main_metric, found = next(iter(measured(other).items()))
                beside.setdefault(f"{other}_{main_metric}", or_none(found.of_all()))
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


# --- beside the metrics ------------------------------------------------------------------------


def _details(
    table: Predictions, task: str, protocol: str, dataset: str | None
) -> tuple[dict, dict]:
    """(numbers of each class, floors)."""
    if protocol in ("spearman", "miou"):
        return {}, {}
    table = measures.counted(table, protocol)
    if task in FRAMES:
        counts = measures.frame_counts(table, protocol, dataset)
        shares = {name: phases.per_phase(counts, name) for name in phases.METRICS[2:]}
        return _by_class(table, shares), _floors(table)
    one_class = table.target.ndim == 1
    label = table.target
    if one_class:
        label = np.eye(len(table.classes), dtype=np.float32)[label]
    chance = floors.chance_average_precision(label)
    mean_chance = or_none(metrics.mean_known(chance))
    if protocol == "video_ap":
        columns = label, table.probabilities, table["video_id"]
        _, each = triplets.video_average_precision(*columns, triplets.vocabulary(table.classes))
        ap = triplets.over_videos(each["ivt"])
    else:
        ap = metrics.average_precision(label, table.probabilities)
    if task == "triplet":
        return _by_class(table, {"ap": ap}), {"chance_ap_ivt": mean_chance}
    values, beside = {"ap": ap, "chance": chance}, {"chance_map": mean_chance}
    if one_class:
        matrix = metrics.confusion(table.target, table.pred, len(table.classes))
        recall, f1 = metrics.recall_per_class(matrix), metrics.f1_per_class(matrix)
        values = {"recall": recall, "f1": f1} | values
        beside |= _floors(table)
    return _by_class(table, values), beside


def _by_class(table: Predictions, values: Mapping[str, Float[np.ndarray, "c"]]) -> dict:
    return {
        name: {metric: or_none(each[i]) for metric, each in values.items()}
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
