"""`python -m surgjax.benchmark table RESULTS --suite S`: models by sets, as a paper arranges them.

RESULTS is the folder that `run` filled. A table for each protocol: models; floors, which need no
pretraining or do not look at the video; below a rule what papers printed. Values are in per cent
with 95 % intervals from resampled videos and seeds, in csv files shares. What is missing is marked
and counted, and averages are taken over the sets that all models have.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq

from surgjax.benchmark import aggregates, literature, predictions, results, statistics, suites
from surgjax.benchmark.measures import Measure, measure, over_seeds
from surgjax.benchmark.results import Job
from surgjax.benchmark.score import without
from surgjax.benchmark.suites import Entry, Suite
from surgjax.errors import UserError, nearest
from surgjax.files import write_whole

FORMATS = {"markdown": ".md", "latex": ".tex", "csv": ".csv", "html": ".html"}
SAW, COLLAPSED, PRINTED = "*", "!", "†"  # marks of cells
AVERAGES = "averages"
# Rows of a file of predictions, and how a table calls them.
FLOORS = {"majority": "majority class of train", "best_constant": "best constant answer"}
RANDOM = "random"
# Floors that depend on the labels alone.
OF_LABELS = (
    *("best_constant_image_accuracy", "best_constant_video_accuracy"),
    *("chance_map", "chance_ap_ivt"),
)
CHANCE = {"map": "chance_map", "ap_ivt": "chance_ap_ivt"}


@dataclass(frozen=True)
class Column:
    """`key` is "<entry>:<metric>" or the name of an average; a group stands together."""

    key: str
    group: str
    header: str


@dataclass(frozen=True)
class Cell:
    """A share. low and high are None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None
    marks: str = ""


@dataclass(frozen=True)
class Row:
    """Cells by key of column. kind: model, floor or cited. saw_test: "yes: 2 of 5" sets, "no",
    "unknown", or "" of floors."""

    name: str
    kind: str
    cells: dict[str, Cell] = field(hash=False)
    saw_test: str = ""


@dataclass(frozen=True)
class Table:
    """What every format shows."""

    title: str
    protocol: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument("--suite", required=True, help=", ".join(suites.names()))
    parser.add_argument("--tier", default="strict", help="strict (default) or release")
    parser.add_argument("--protocol", help="only this one, as linear_probe")
    parser.add_argument("--metric", help="this one in place of the paper's, as f1_pooled")
    parser.add_argument("--format", choices=FORMATS, help="default: as --out ends, or markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the screen")


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    from surgjax.benchmark import table_formats  # which builds on this module

    form = _format(args.format, args.out)
    suite = suites.load(args.suite, args.tier)
    tables = build(results.read(args.results), suite, protocol=args.protocol, metric=args.metric)
    text = getattr(table_formats, form)(tables)
    if args.out is None:
        print(text, end="")
    else:
        write_whole(args.out, text)
        print(f"{args.out}: {sum(len(table.rows) for table in tables)} rows, {form}")
    return 0


def build(
    jobs: Sequence[Job], suite: Suite, *, protocol: str | None = None, metric: str | None = None
) -> list[Table]:
    """A table for each protocol that the jobs of the suite have, in the suite's order.

    Args:
      protocol: only this one.
      metric: a key of `score` in place of the paper's metrics.

    Raises:
      UserError: no finished job of the suite, the tier or the protocol; no job with the metric;
        seeds of a job that were tested on different videos.
    """
    own = [job for job in jobs if job.suite == suite.name]
    mine = [job for job in own if job.tier == suite.tier]
    if not mine:
        other = sorted({job.tier for job in own} or {job.suite for job in jobs})
        what = f"{suite.name}, tier {suite.tier}" if own else suite.name
        raise UserError(f"no finished job of suite {what}; there is {', '.join(other) or 'none'}")
    found = list(dict.fromkeys(job.protocol for job in mine))
    if protocol is not None and protocol not in found:
        raise UserError(
            f"no finished job of protocol {protocol!r}{nearest(protocol, found)}; there is "
            f"{', '.join(found)}"
        )
    if metric is not None:
        known = list(dict.fromkeys(name for job in mine for name in job.score["metrics"]))
        if metric not in known:
            raise UserError(f"no metric {metric!r}{nearest(metric, known)}; {', '.join(known)}")
        tasks = {job.task for job in mine if metric in job.score["metrics"]}
        entries = [
            replace(entry, metrics={metric: metric}, main=metric)
            for entry in suite.entries
            if entry.task in tasks
        ]
        suite = replace(suite, entries=tuple(entries))
    order = [name for name in (*suite.protocols, *found) if name in found]
    tables = []
    for one in dict.fromkeys(order) if protocol is None else [protocol]:
        chosen = [job for job in mine if job.protocol == one]
        shown = suite if metric else _as_scored(suite, chosen)
        tables.append(_table(chosen, shown, one))
    return tables


def cell(
    jobs: Sequence[Job], tables: Sequence[predictions.Predictions], metric: str, entry: Entry
) -> Cell | None:
    """A metric of the seeds of one model on one entry; None where `score` has none.

    Of one seed what score.json says; of several the mean, and the interval over videos and seeds
    from the predictions.

    Args:
      tables: of several seeds, the predictions of each.

    Raises:
      UserError: seeds that were tested on different videos.
    """
    if any(job.score["metrics"].get(metric, {}).get("value") is None for job in jobs):
        return None
    marks = SAW if any(job.saw_test == "yes" for job in jobs) else ""
    if any(job.score["floors"].get("collapsed") for job in jobs):
        marks += COLLAPSED
    if len(jobs) == 1:
        said = jobs[0].score["metrics"][metric]
        low, high = said["ci95"] or (None, None)
        return Cell(said["value"], low, high, marks)
    try:
        interval = over_seeds(
            [
                _measured(job, rows.of(rows.models[0]), metric, entry)
                for job, rows in zip(jobs, tables, strict=True)
            ]
        )
    except ValueError as error:
        raise UserError(f"{jobs[0].path.parent}: {error}; run all seeds on one store") from error
    said = interval.as_metric({})
    low, high = said["ci95"] or (None, None)
    return Cell(interval.value, low, high, marks)


def _format(asked: str | None, out: Path | None) -> str:
    """One of FORMATS. Raises UserError: `out` is a folder, or ends as none of them and none is
    asked for."""
    if out is None:
        return asked or "markdown"
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give a file, as {out / 'table.md'}")
    ends = {suffix: name for name, suffix in FORMATS.items()}
    if asked is None and out.suffix not in ends:
        raise UserError(
            f"--out {out} ends in {out.suffix or 'no suffix'}; expected one of "
            f"{', '.join(ends)}, or give --format"
        )
    return asked or ends[out.suffix]


def _as_scored(suite: Suite, jobs: Sequence[Job]) -> Suite:
    """The suite with other metrics where jobs have none of the paper's: of few-shot learning, whose
    metrics are named "<metric> <setting>", the first one in every setting."""
    entries = []
    for entry in suite.entries:
        known = [name for job in jobs if job.entry == entry.id for name in job.score["metrics"]]
        if known and not set(known) & entry.metrics.keys():
            first = known[0].split(" ")[0]
            names = {name: name for name in known if name.split(" ")[0] == first}
            entry = replace(entry, metrics=names, main=list(names)[-1])
        entries.append(entry)
    return replace(suite, entries=tuple(entries))


# --- rows --------------------------------------------------------------------------------------


def _table(jobs: Sequence[Job], suite: Suite, protocol: str) -> Table:
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.model, job.entry), []).append(job)
    models = list(dict.fromkeys(job.model for job in jobs))
    columns = [
        Column(f"{entry.id}:{metric}", entry.title, header)
        for entry in suite.entries
        for metric, header in entry.metrics.items()
    ]
    rows = [_model_row(model, suite, groups) for model in models]
    common = [
        entry
        for entry in suite.averaged
        if all(f"{entry.id}:{entry.main}" in row.cells for row in rows)
    ]
    everything = [*rows, *_floor_rows(models, suite, groups)]
    everything = [
        replace(row, cells=row.cells | _averages(row, suite, common)) for row in everything
    ]
    averages = [Column(key, AVERAGES, header) for key, header in _headers(suite).items()]
    cited, sources = _cited_rows(suite, {column.key for column in [*columns, *averages]})
    paper = f" ({suite.paper})" if suite.paper else ""
    title = f"{suite.name}{paper}, tier {suite.tier}, {protocol}"
    notes = _notes(suite, columns, rows, common, groups)
    return Table(title, protocol, columns + averages, everything + cited, notes + sources)


def _model_row(model: str, suite: Suite, groups: Mapping[tuple[str, str], list[Job]]) -> Row:
    cells, saw = {}, {}
    for entry in suite.entries:
        jobs = groups.get((model, entry.id), [])
        tables = [predictions.read(job.predictions) for job in jobs] if len(jobs) > 1 else []
        for metric in entry.metrics if jobs else ():
            if (found := cell(jobs, tables, metric, entry)) is not None:
                cells[f"{entry.id}:{metric}"] = found
        for job in jobs:
            saw.setdefault(job.saw_test, set()).add(entry.dataset)
    if "yes" in saw:
        text = f"yes: {len(saw['yes'])} of {len(set().union(*saw.values()))}"
    else:
        text = "unknown" if "unknown" in saw else "no"
    return Row(model, "model", cells, text)


def _floor_rows(
    models: Sequence[str], suite: Suite, groups: Mapping[tuple[str, str], list[Job]]
) -> list[Row]:
    """Constant answers, the same for all models, and each model's network with fresh weights."""
    constant = {name: {} for name in FLOORS}
    random = {model: {} for model in models}
    for entry in suite.entries:
        for model in models:
            jobs = groups.get((model, entry.id), [])
            tables = [predictions.read(job.predictions) for job in jobs]
            for metric in entry.metrics:
                key = f"{entry.id}:{metric}"
                for name in (*FLOORS, RANDOM):
                    values = [
                        _floor(job, table, name, metric, entry)
                        for job, table in zip(jobs, tables, strict=True)
                    ]
                    values = [value for value in values if value is not None]
                    if values and len(values) == len(jobs):
                        cells = random[model] if name == RANDOM else constant[name]
                        cells.setdefault(key, Cell(sum(values) / len(values)))
    rows = [Row(FLOORS[name], "floor", cells) for name, cells in constant.items()]
    rows += [Row(f"{model}, random weights", "floor", cells) for model, cells in random.items()]
    return [row for row in rows if row.cells]


def _floor(
    job: Job, table: predictions.Predictions, name: str, metric: str, entry: Entry
) -> float | None:
    """What `score` says, or the metric of the floor's own predictions; None without."""
    said = job.score["floors"]
    key = CHANCE.get(metric) if name == "best_constant" else None
    for known in (key, f"{name}_{metric}"):
        if said.get(known) is not None:
            return said[known]
    if name not in table.models or metric not in job.score["metrics"] or "draw" in table:
        return None
    value = _measured(job, table.of(name), metric, entry).of_all()
    return None if math.isnan(value) else value


def _measured(job: Job, table: predictions.Predictions, metric: str, entry: Entry) -> Measure:
    table = without(table, entry.exclude, job.predictions)
    return measure(table, job.task, job.score_protocol, metric, dataset=job.dataset)


def _cited_rows(suite: Suite, keys: set[str]) -> tuple[list[Row], list[str]]:
    """Published rows that have any of these columns, and the notes that say where they are from."""
    rows, sources, slips = [], {}, []
    for cited in literature.of_suite(suite.name):
        cells = {
            key: Cell(value, marks=PRINTED if key in cited.notes else "")
            for key, value in cited.values.items()
            if key in keys
        }
        if not cells:
            continue
        numbers = [sources.setdefault(source, len(sources) + 1) for source in cited.sources]
        name = f"{cited.model} [{', '.join(map(str, numbers))}]"
        rows.append(Row(name, "cited", cells, "not said"))
        printed = {cited.notes[key] for key in cells.keys() & cited.notes.keys()}
        slips += [f"{PRINTED} {cited.model}: {text}." for text in sorted(printed)]
    if not rows:
        return [], []
    where = "" if suite.tier == "release" else ", on the papers' own splits"
    notes = [f"Cited rows are as printed{where}, and in no average."]
    for source, number in sources.items():
        text = f"[{number}] {source.paper}, {source.where}; {source.protocol}. {source.note}"
        notes.append(text.rstrip())
    return rows, notes + slips


# --- averages ----------------------------------------------------------------------------------


def _averages(row: Row, suite: Suite, common: Sequence[Entry]) -> dict[str, Cell]:
    """Averages of a row over the common entries; {} where it lacks one of them."""
    main = [row.cells.get(f"{entry.id}:{entry.main}") for entry in common]
    if not common or None in main or suite.averages == "none":
        return {}
    if suite.averages == "main":
        return {"main": Cell(aggregates.mean([one.value for one in main]))}
    if suite.averages == "metrics":
        of: dict[str, list[Cell | None]] = {}
        for entry in common:
            for metric, header in entry.metrics.items():
                of.setdefault(header, []).append(row.cells.get(f"{entry.id}:{metric}"))
        return {
            header: Cell(aggregates.mean([one.value for one in cells]))
            for header, cells in of.items()
            if None not in cells
        }
    by_set: dict[str, list[float]] = {}
    for entry, one in zip(common, main, strict=True):
        by_set.setdefault(entry.dataset, []).append(one.value)
    found = aggregates.aggregate(
        {name: aggregates.mean(of) for name, of in by_set.items()}, _domains(suite)
    )
    values = found.domains | {"macro": found.macro, "worst": found.worst, "mean": found.datasets}
    return {name: Cell(value) for name, value in values.items() if not math.isnan(value)}


def _domains(suite: Suite) -> dict[str, list[str]]:
    domains: dict[str, list[str]] = {}
    for entry in suite.entries:
        if entry.dataset not in domains.setdefault(entry.domain, []):
            domains[entry.domain].append(entry.dataset)
    return domains


def _headers(suite: Suite) -> dict[str, str]:
    """Averages of the suite -> their headers."""
    if suite.averages == "domains":
        order = [name for name in aggregates.SURGREC_DOMAINS if name in _domains(suite)]
        names = {"macro": "domain macro", "worst": "worst domain", "mean": "mean of sets"}
        return {name: name for name in order} | names
    if suite.averages == "main":
        return {"main": "mean of sets"}
    if suite.averages == "metrics":
        headers = [header for entry in suite.entries for header in entry.metrics.values()]
        return {header: f"mean {header}" for header in dict.fromkeys(headers)}
    return {}


# --- notes -------------------------------------------------------------------------------------


def _notes(
    suite: Suite,
    columns: Sequence[Column],
    models: Sequence[Row],
    common: Sequence[Entry],
    groups: Mapping[tuple[str, str], list[Job]],
) -> list[str]:
    seeds = sorted({len(jobs) for jobs in groups.values()})
    counted = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    notes = [
        f"Per cent [95 % interval from resampled videos{' and seeds' * (seeds[-1] > 1)}]; "
        f"seeds a cell: {counted}; no interval below {statistics.FEWEST_VIDEOS} videos."
    ]
    missing = sum(column.key not in row.cells for row in models for column in columns)
    if missing:
        notes.append(f"{missing} of {len(columns) * len(models)} cells of models are missing (-).")
    if suite.averages != "none":
        names = ", ".join(f"{entry.title} ({entry.metrics[entry.main]})" for entry in common)
        total = len(suite.averaged)
        notes.append(
            f"Averages are over the {len(common)} of {total} public columns that all models here "
            f"have: {names or 'none'}. They have no interval: sets share cases and domains."
        )
    marks = "".join(one.marks for row in models for one in row.cells.values())
    if SAW in marks:
        notes.append(f"{SAW} the model was trained on test cases of this set.")
    if COLLAPSED in marks:
        notes.append(f"{COLLAPSED} nearly always the same answer.")
    if unequal := _unequal(suite, groups):
        notes.append(f"{unequal}: not all models and seeds were tested on the same labels.")
    if shared := _shared(suite, groups):
        notes.append(shared)
    return notes + suite.notes


def _unequal(suite: Suite, groups: Mapping[tuple[str, str], list[Job]]) -> str:
    """The sets of which stores or labels have changed between jobs: on equal labels a constant
    answer reaches equal scores."""
    found: dict[str, set[tuple]] = {}
    for (_, entry_id), jobs in groups.items():
        for job in jobs:
            told = (job.score.get("videos"), *map(job.score["floors"].get, OF_LABELS))
            found.setdefault(entry_id, set()).add(told)
    return ", ".join(entry.title for entry in suite.entries if len(found.get(entry.id, ())) > 1)


def _shared(suite: Suite, groups: Mapping[tuple[str, str], list[Job]]) -> str:
    """Which sets show the same operations, by their cases and by what is published of them."""
    from data_prep import shared_cases

    cases: dict[str, set[str]] = {}
    for (_, entry_id), jobs in groups.items():
        entry, file = suite.entry(entry_id), jobs[0].predictions
        if entry and entry.title not in cases and "case" in pq.read_schema(file).names:
            column = pq.read_table(file, columns=["case"])["case"]
            cases[entry.title] = set(column.unique().to_pylist())
    rows = shared_cases.rows(set().union(*cases.values()))
    return statistics.shared_cases_note(cases, [(row["case"], row["same_as"]) for row in rows])
