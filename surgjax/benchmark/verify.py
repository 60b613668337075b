"""`python -m surgjax.benchmark verify RESULTS`: every number again, from predictions alone.

Of each job in a folder that `run` filled, predictions.parquet must be the file that was scored,
score.json must equal what it gives (to 1e-12), and job.json must say what the folder, the
predictions and the suite say. What differs, is missing or does not belong there is named; exit
code 1.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from surgjax.benchmark import comparison, few_shot, jobs, prompt_sets, results, suites
from surgjax.errors import DAMAGE, UserError
from surgjax.files import sha256

TOLERANCE = 1e-12
FILES = {results.JOB, results.SCORE, results.PREDICTIONS, results.WORK}
# What an evaluation's metrics.json is made of, where it is not `comparison.compare`.
SCORED = {"few_shot": few_shot.score, "coop": few_shot.score, "zero_shot": prompt_sets.score}
MOST_LINES = 10  # of one job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RESULTS", help="the --out of `run`")


def main(args: argparse.Namespace) -> int:
    """Returns 0, or 1 when something is wrong. Raises UserError: no results there."""
    folders = job_folders(args.folder)
    wrong, unfinished = 0, 0
    for folder in folders:
        name = folder.relative_to(args.folder)
        if not any((folder / file).exists() for file in FILES - {results.WORK}):
            unfinished += 1
            continue
        if damage := list(check(folder)):
            wrong += 1
            print(f"{name}:")
            for line in damage[:MOST_LINES]:
                print(f"  {line}")
            if len(damage) > MOST_LINES:
                print(f"  and {len(damage) - MOST_LINES} more")
    print(
        f"{len(folders) - wrong - unfinished} jobs verified, {wrong} damaged"
        + (f", {unfinished} not finished" if unfinished else "")
    )
    return DAMAGE if wrong else 0


def job_folders(folder: Path) -> list[Path]:
    """Folders of jobs, finished or not. Raises UserError: there are none."""
    found = sorted(path for path in Path(folder).glob(results.FOLDERS) if path.is_dir())
    if not found:
        raise UserError(
            f"{folder} holds no results; expected the --out of `python -m surgjax.benchmark run`"
        )
    return found


def check(folder: Path) -> Iterator[str]:
    """A line for each thing that is wrong with a job's files."""
    # Hidden files are those of a desktop, or what a killed process had not finished writing.
    there = {file.name for file in folder.iterdir() if not file.name.startswith(".")}
    yield from (f"{name} is missing" for name in sorted(FILES - {results.WORK} - there))
    yield from (f"{name} does not belong there" for name in sorted(there - FILES))
    if FILES - {results.WORK} - there:
        return
    file = folder / results.PREDICTIONS
    try:
        job, kept = (
            results.read_json(folder / results.JOB),
            results.read_json(folder / results.SCORE),
        )
        if sha256(file) != job["predictions"]:
            yield f"{file.name} is not the file that was scored"
        again = jobs.numbers(
            *(file, job["task"], job["score_protocol"]),
            dataset=job["dataset"],
            exclude=job["exclude"],
            allow_seen=True,
        )
    except (UserError, KeyError, TypeError) as error:
        yield f"cannot be scored: {' '.join(str(error).split())}"
        return
    yield from (f"{results.SCORE}: {line}" for line in differences(kept, again))
    *_, model, entry, task, protocol, seed = folder.absolute().parts
    number = seed.removeprefix("seed")
    said = {"model": model, "entry": entry, "task": task, "protocol": protocol}
    said |= {"seed": int(number) if number.isdecimal() else seed, "saw_test": again["saw_test"]}
    try:
        said |= _of_suite(job, entry)
    except UserError as error:
        yield f"{results.JOB}: {error}"
    yield from (
        f"{results.JOB}: {name} is {job.get(name)!r}, expected {value!r}"
        for name, value in said.items()
        if job.get(name) != value
    )
    for metrics in sorted((folder / results.WORK).glob("eval/*/metrics.json")):
        try:
            yield from _of_evaluation(metrics)
        except (UserError, KeyError, TypeError) as error:
            yield f"{metrics.parent.name}: cannot be scored: {' '.join(str(error).split())}"


def differences(kept: object, again: object, path: str = "") -> Iterator[str]:
    """A line for each place where two JSON values are not equal, to TOLERANCE."""
    if isinstance(kept, dict) and isinstance(again, dict):
        for name in [*again, *(name for name in kept if name not in again)]:
            inner = f"{path}.{name}" if path else str(name)
            if name not in kept:
                yield f"{inner} is missing"
            elif name not in again:
                yield f"{inner} does not belong there"
            else:
                yield from differences(kept[name], again[name], inner)
    elif isinstance(kept, list) and isinstance(again, list) and len(kept) == len(again):
        for i, pair in enumerate(zip(kept, again, strict=True)):
            yield from differences(*pair, f"{path}[{i}]")
    elif not _equal(kept, again):
        yield f"{path} is {kept!r}, the predictions give {again!r}"


def _equal(kept: object, again: object) -> bool:
    numbers = (int, float)
    if isinstance(kept, bool) or isinstance(again, bool):
        return kept is again
    if isinstance(kept, numbers) and isinstance(again, numbers):
        return math.isclose(kept, again, rel_tol=0, abs_tol=TOLERANCE)
    return kept == again


def _of_suite(job: Mapping, entry_id: str) -> dict:
    """What the suite says of a job: other labels, splits or rules make other numbers. Nothing of a
    suite of one's own, which no table shows."""
    if job.get("suite") not in suites.names():
        return {}
    suite = suites.load(job.get("suite"), job.get("tier"))
    entry = suite.entry(entry_id)
    if entry is None:
        raise UserError(f"suite {suite.name} has no entry {entry_id!r}")
    names = ("dataset", "label", "split")
    said = {name: getattr(entry, name) for name in names}
    return said | {"exclude": list(entry.exclude), "score_protocol": entry.score_protocols[0]}


def _of_evaluation(file: Path) -> Iterator[str]:
    """The numbers that an evaluation printed, where its predictions are still beside them."""
    made = file.with_name(results.PREDICTIONS)
    kept, name = results.read_json(file), f"{file.parent.name}/{file.name}"
    if not made.is_file() or "models" not in kept:
        return
    again = SCORED.get(kept["evaluation"], comparison.compare)(made)
    parts = {part: kept.get(part) for part in again}
    yield from (f"{name}: {line}" for line in differences(parts, json.loads(json.dumps(again))))
