"""`python -m surgjax.benchmark reproduce NAME --weights FILE --stores DIR`: a published number.

published.yaml names the weights, the suite's entry, the protocol, the printed values and how far a
repetition may be off. Without weights or a store it is said what is awaited and where that is. With
them the job is done as by `run`, and what comes out is laid beside what was printed; the exit code
is 1 where they differ by more.
"""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from surgjax.benchmark import jobs, measures, results, suites
from surgjax.benchmark.run import read_seeds, run
from surgjax.benchmark.stats import scored_rows
from surgjax.benchmark.weights import open_weights
from surgjax.errors import DAMAGE, UserError, nearest
from surgjax.verbs import between_commas

FILE = Path(__file__).with_name("published.yaml")
STATUS = ("run", "awaiting data")


@dataclass(frozen=True)
class Published:
    """A row of published.yaml, which says what the fields mean; values are in per cent."""

    suite: str
    tier: str
    entry: str
    protocol: str
    weights: str
    get: str
    expected: dict[str, float]
    tolerance: float
    why: str
    source: str
    status: str
    settings: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="see --list")
    add("--list", action="store_true", help="what can be repeated")
    add("--weights", type=Path, help="the published file, or the folder it is in")
    add("--stores", default="", help="stores or folders of stores, with commas")
    add("--out", type=Path, default=Path("reproduced"), help="folder of results")
    add("--seeds", default="0", help="with commas (default 0)")
    add("--allow-seen", action="store_true", help="also test cases that the model trained on")


def main(args: argparse.Namespace) -> int:
    """Returns 0; 1 when a value is off by more than the tolerance, or a job failed.

    Raises:
      UserError: no such name, weights or store.
      Stopped: as `run.run`.
    """
    rows = read()
    if args.list or args.name is None:
        print(listed(rows))
        return 0
    if args.name not in rows:
        raise UserError(
            f"nothing published is called {args.name!r}{nearest(args.name, rows)}; --list names all"
        )
    row = rows[args.name]
    stores = suites.open_stores(between_commas(args.stores))
    if awaited := missing(row, args.weights, stores):
        print(f"{args.name}: {row.source}; {_values(row)}")
        raise UserError(f"{args.name} awaits {'; and '.join(awaited)}")
    planned = jobs.plan(
        *(suites.load(row.suite, row.tier), stores, args.out, args.name),
        open_weights(args.weights),
        protocols=[row.protocol],
        seeds=read_seeds(args.seeds),
        only=[row.entry],
        fields=[f"--config.{field}" for field in row.settings],
    )
    if code := run(planned, allow_seen=args.allow_seen):
        return code
    done = [job for job in results.read(args.out) if job.path in {p.folder for p in planned}]
    return DAMAGE if not compared(row, done) else 0


def read() -> dict[str, Published]:
    """published.yaml. Raises ValueError: a row with an unknown field or status."""
    rows = {}
    known = {field.name for field in fields(Published)}
    for name, said in yaml.safe_load(FILE.read_text(encoding="utf-8")).items():
        if unknown := said.keys() - known:
            raise ValueError(f"{FILE.name}, {name}: {', '.join(sorted(unknown))} is no field")
        rows[name] = Published(**said | {"settings": tuple(said.get("settings", ()))})
        if rows[name].status not in STATUS:
            raise ValueError(f"{FILE.name}, {name}: status {rows[name].status!r}")
    return rows


def listed(rows: dict[str, Published]) -> str:
    """Two lines a row."""
    lines = []
    for name, row in rows.items():
        entry = suites.load(row.suite, row.tier).entry(row.entry)
        what = f"{row.weights}, {entry.dataset} split {entry.split}, {row.protocol}"
        lines += [f"{name} ({row.status}): {_values(row)}", f"  {what}; {row.source}"]
    return "\n".join(lines)


def missing(row: Published, weights: Path | None, stores: list) -> list[str]:
    """What is not there yet, and where it is."""
    suite = suites.load(row.suite, row.tier)
    awaited = []
    if weights is None:
        awaited.append(f"weights: {row.weights} from {row.get}, given as --weights")
    if suites.store_of(suite.entry(row.entry), stores) is None:
        needed = [line for line in suites.needed(suite, stores) if line.startswith(f"{row.entry}:")]
        awaited.append(f"data: {needed[0]}, given as --stores")
    return awaited


def compared(row: Published, done: list[results.Job]) -> bool:
    """Prints what was printed beside what came out; whether all of it is within the tolerance."""
    print(f"{'metric':24s} published    found [95 %]               off by  allowed")
    agrees = True
    for metric, printed in row.expected.items():
        each = [
            measures.measure(
                *(scored_rows(job), job.task, job.score_protocol, metric), dataset=job.dataset
            )
            for job in done
        ]
        found = measures.over_seeds(each)
        off = 100 * found.value - printed
        within = abs(off) <= row.tolerance
        agrees = agrees and within
        print(
            f"{metric:24s} {printed:9.2f}  {100 * found.value:7.2f} [{100 * found.low:.2f}, "
            f"{100 * found.high:.2f}]  {off:+8.2f}  {row.tolerance:.2f} "
            f"{'agrees' if within else 'DIFFERS'}"
        )
    print(f"allowed because: {row.why}")
    return agrees


def _values(row: Published) -> str:
    return ", ".join(f"{metric} {value:.2f}" for metric, value in row.expected.items())
