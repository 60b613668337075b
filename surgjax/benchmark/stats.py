"""`python -m surgjax.benchmark stats OUT/A OUT/B`: two models compared, video by video.

A and B are folders that `run` made for two models. Of each set and protocol that both have, the
paired difference of a metric with its interval from resampled videos (and seeds), Wilcoxon's
signed-rank test over videos with Holm's correction over the sets, and the matched-pairs
rank-biserial correlation as effect size. --mode surgvista tests one-sided that A is better.
--protocol finetune,linear_probe compares A as fine-tuned with B as probed; A and B may be one
model.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from surgjax.benchmark import measures, predictions, results, score, statistics, suites
from surgjax.benchmark.predictions import Predictions
from surgjax.benchmark.results import Job
from surgjax.errors import UserError, nearest
from surgjax.verbs import between_commas

MODES = ("two_sided", "surgvista")
OF_DRAWS = {"accuracy_per_video": "video_accuracy", "map_pooled": "map"}  # few_shot.py's names
Key = tuple[str, str, str, str]  # entry, task, protocol, score_protocol


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("first", type=Path, metavar="A", help="folder of a model's results")
    add("second", type=Path, metavar="B", help="of another's")
    add("--metric", help="a key of `score` (default: the first of each set)")
    add("--protocol", help="this one alone, as linear_probe; or that of A and that of B")
    add("--mode", choices=MODES, default="two_sided", help="surgvista: one-sided, A is better")
    add("--stores", default="", help="with commas: stores that know which cases are the same")
    add("--json", action="store_true", help="the whole result")


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    same = [
        (row["case"], row["same_as"])
        for store in suites.open_stores(between_commas(args.stores))
        for row in store.same_cases()
    ]
    found = compare(
        of_model(args.first),
        of_model(args.second),
        metric=args.metric,
        protocol=args.protocol,
        mode=args.mode,
        same=same,
    )
    print(json.dumps(found, indent=1, allow_nan=False) if args.json else as_text(found))
    return 0


def of_model(folder: Path) -> list[Job]:
    """The finished jobs of OUT/<model>. Raises UserError: there are none."""
    folder = Path(folder).absolute()
    jobs = results.read(folder.parent) if folder.is_dir() else []
    own = [job for job in jobs if job.path.is_relative_to(folder)]
    if not own:
        raise UserError(
            f"{folder} holds no finished jobs; expected a model's folder in the --out of "
            f"`python -m surgjax.benchmark run`"
        )
    return own


def scored_rows(job: Job) -> Predictions:
    """The rows of a job that are scored, sorted by video and time."""
    table = predictions.read(job.predictions)
    entry = suites.load(job.suite, job.tier).entry(job.entry)
    exclude = entry.exclude if entry else ()
    table = score.without(table.of(table.models[0]), exclude, job.predictions)
    keys = [table[name] for name in ("clip_id", "t_ms", "video_id") if name in table]
    return table.where(np.lexsort(keys))


def compare(
    first: Sequence[Job],
    second: Sequence[Job],
    *,
    metric: str | None = None,
    protocol: str | None = None,
    mode: str = "two_sided",
    same: Sequence[tuple[str, str]] = (),
) -> dict:
    """{"first", "second", "mode", "sets": [...], "shared_cases": a sentence or ""}.

    A set has "entry", "task", "protocol", "score_protocol", "metric", "videos", "seeds" (of either
    model), "values" (of either), "difference" (an Interval as a dict), "test" (a SignedRank as a
    dict), "p_holm", "saw_test" (of either) and "note". None stands for NaN.

    Args:
      metric: a key of `score`; the first of each set by default. Sets without it are left out.
      protocol: of the jobs, or that of `first` and that of `second` with a comma; all by default.
      same: pairs of names of one operation, see `statistics.shared_cases_note`.

    Raises:
      UserError: nothing in common, no such metric, other frames or labels.
    """
    asked = between_commas(protocol) if protocol else [None]
    if len(asked) > 2:
        raise UserError(f"--protocol is {protocol!r}; expected one, or that of A and that of B")
    ours, theirs = _by_set(first, asked[0], protocol), _by_set(second, asked[-1], protocol)
    common = [key for key in ours if key in theirs]
    if not common:
        raise UserError(
            f"{first[0].model} and {second[0].model} have no set and protocol in common; run both "
            f"on one suite with the same --protocol"
        )
    known = list(dict.fromkeys(m for key in common for m in ours[key][0].score["metrics"]))
    if metric is not None and metric not in known:
        raise UserError(f"no metric {metric!r}{nearest(metric, known)}; known: {', '.join(known)}")
    rows, cases = [], {}
    for key in common:
        name = metric or next(iter(ours[key][0].score["metrics"]))
        if name not in ours[key][0].score["metrics"]:
            continue
        row, cases[key[0]] = _compared(ours[key], theirs[key], name, mode)
        rows.append(dict(zip(("entry", "task", "protocol", "score_protocol"), key, strict=True)))
        rows[-1] |= {"metric": name} | row
    corrected = statistics.holm(np.array([_nan(row["test"]["p"]) for row in rows]))
    for row, p in zip(rows, corrected, strict=True):
        row["p_holm"] = _none(p)
    named = [f" {word}" for word in asked] if len(asked) == 2 else ["", ""]
    return {
        "first": first[0].model + named[0],
        "second": second[0].model + named[1],
        "mode": mode,
        "sets": rows,
        "shared_cases": statistics.shared_cases_note(cases, same),
    }


def as_text(found: Mapping) -> str:
    """A line a set, and what is to be kept in mind."""
    one, two = found["first"], found["second"]
    sided = "one-sided: A is better" if found["mode"] == "surgvista" else "two-sided"
    lines = [
        f"A: {one}, B: {two}",
        f"A minus B, a metric of each video; Wilcoxon signed-rank, {sided}; Holm over "
        f"{len(found['sets'])} sets",
    ]
    notes = []
    names = [f"{row['entry']} {row['protocol']}" for row in found["sets"]]
    wide = max(map(len, ["set", *names]))
    lines.append(
        f"{'set':{wide}s} {'metric':20s} {'A':>10s} {'B':>10s}  difference [95 %]"
        f"           {'p':>8s} {'p Holm':>8s} {'effect':>7s} videos"
    )
    for name, row in zip(names, found["sets"], strict=True):
        interval, test = row["difference"], row["test"]
        values = [_shown(value, 10) for value in row["values"]]
        lines.append(
            f"{name:{wide}s} {row['metric'][:20]:20s} {values[0]} {values[1]}  "
            f"{_shown(interval['value'], 0, '+')} [{_shown(interval['low'], 0, '+')}, "
            f"{_shown(interval['high'], 0, '+')}]  {_shown(test['p'], 8, places=4)} "
            f"{_shown(row['p_holm'], 8, places=4)} {_shown(test['effect'], 7, '+', 2)} "
            f"{test['videos']:5d}"
        )
        notes += [f"{name}: {row['note']}"] if row["note"] else []
    return "\n".join([*lines, *notes, *([found["shared_cases"]] if found["shared_cases"] else [])])


def _by_set(jobs: Sequence[Job], protocol: str | None, called: str | None) -> dict[Key, list[Job]]:
    """The seeds of each set and protocol, which is then called `called`."""
    found: dict[Key, list[Job]] = {}
    for job in jobs:
        if protocol in (None, job.protocol):
            key = (job.entry, job.task, called or job.protocol, job.score_protocol)
            found.setdefault(key, []).append(job)
    return found


def _compared(
    first: Sequence[Job], second: Sequence[Job], metric: str, mode: str
) -> tuple[dict, set[str]]:
    """(the row of a set, its test cases)."""
    tables = [[scored_rows(job) for job in jobs] for jobs in (first, second)]
    reference = tables[0][0]
    for jobs, own in zip((first, second), tables, strict=True):
        for job, table in zip(jobs, own, strict=True):
            if not _same_frames(reference, table):
                raise UserError(
                    f"{job.predictions} has other frames or labels than {first[0].predictions}; "
                    f"models are compared on equal ones"
                )
    values = []
    for jobs, own in zip((first, second), tables, strict=True):
        of_seeds = [_by_video(*pair, metric) for pair in zip(jobs, own, strict=True)]
        values.append(np.concatenate(of_seeds))
    # A video without a value, as one without the class, has no difference.
    known = ~np.isnan(np.concatenate(values)).any(axis=0)
    if not known.any():
        raise UserError(f"{metric} of {first[0].entry} has no value in any single video")
    one, two = (of_seeds[:, known] for of_seeds in values)
    interval = statistics.paired_difference(one, two).as_dict()
    test = statistics.signed_rank(one, two, mode=mode)
    notes = [test.note()]
    if (~known).any():
        notes.append(f"{int((~known).sum())} videos have no {metric} of their own")
    saw = [
        "yes" if any(job.saw_test == "yes" for job in jobs) else jobs[0].saw_test
        for jobs in (first, second)
    ]
    if "yes" in saw:
        notes.append("a model was trained on these test cases")
    row = {
        "videos": int(known.sum()),
        "seeds": [len(one), len(two)],
        "values": [_none(float(one.mean())), _none(float(two.mean()))],
        "difference": {name: _none(value) for name, value in interval.items()},
        "test": {name: _none(value) for name, value in test.as_dict().items()},
        "saw_test": saw,
        "note": "; ".join(note for note in notes if note),
    }
    cases = reference["case"].tolist() if "case" in reference else []
    return row, set(map(str, cases))


def _by_video(job: Job, table: Predictions, metric: str) -> np.ndarray:
    """The metric of each video (1, v), or of each draw and video, where "<metric> <setting>" names
    one of few-shot learning."""
    draws, name = [table], metric
    if "draw" in table:
        name, _, setting = metric.partition(" ")
        name = OF_DRAWS.get(name, name)
        of_setting = table.where(table["setting"] == setting)
        draws = [of_setting.where(of_setting["draw"] == k) for k in np.unique(of_setting["draw"])]
    how = (job.task, job.score_protocol, name)
    return np.stack([measures.measure(d, *how, dataset=job.dataset).by_video() for d in draws])


def _same_frames(one: Predictions, two: Predictions) -> bool:
    keys = [name for name in ("video_id", "t_ms", "clip_id") if name in one]
    return (
        len(one) == len(two)
        and one.classes == two.classes
        and np.array_equal(one.target, two.target, equal_nan=one.target.ndim > 1)
        and all(name in two and np.array_equal(one[name], two[name]) for name in keys)
    )


def _shown(value: float | None, width: int, sign: str = "", places: int = 3) -> str:
    return f"{'null':>{width}s}" if value is None else f"{value:{sign}{width}.{places}f}"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _none(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value
