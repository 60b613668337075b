"""`python -m surgjax.benchmark list`: the sets and tasks of the suites, and where one gets them.

A line an entry: its task, its split and who defined that, how far the layout of the download was
seen (verified, from-code or assumed: see `python -m data_prep datasets`), licence, the store on
this disk, and how to get the data.
"""

import argparse
from collections.abc import Sequence

from surgjax.benchmark import suites
from surgjax.benchmark.suites import Entry, Suite
from surgjax.data.store import Store
from surgjax.verbs import between_commas

COLUMNS = ("set", "task", "split (who)", "unit", "layout", "licence", "here", "access")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", help=f"one of {', '.join(suites.names())}; default: all")
    parser.add_argument("--tier", default="strict", help="strict (default) or release")
    parser.add_argument("--stores", default="", metavar="DIR,...", help="stores or folders of such")


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    stores = suites.open_stores(between_commas(args.stores))
    for name in [args.suite] if args.suite else suites.names():
        suite = suites.load(name, args.tier)
        found = rows(suite, stores)
        here = sum(suites.store_of(entry, stores) is not None for entry in suite.entries)
        paper = f", {suite.paper}" if suite.paper else ""
        print(f"{name}{paper}, tier {suite.tier}: {here} of {len(found)} here")
        print(f"  protocols: {', '.join(suite.protocols)}")
        widths = [max(len(row[i]) for row in [COLUMNS, *found]) for i in range(len(COLUMNS))]
        for row in (COLUMNS, *found):
            print("  " + "  ".join(map(str.ljust, row, widths)).rstrip())
        for note in suite.notes:
            print(f"  {note}")
        print()
    if not args.stores:
        print("nothing was looked for on this disk; name stores as --stores DIR")
    return 0


def rows(suite: Suite, stores: Sequence[Store] = ()) -> list[tuple[str, ...]]:
    """COLUMNS of each entry. Raises UserError: a damaged store."""
    return [_row(entry, stores) for entry in suite.entries]


def _row(entry: Entry, stores: Sequence[Store]) -> tuple[str, ...]:
    store = suites.store_of(entry, stores)
    return (
        entry.id,
        f"{entry.task}: {entry.label}",
        f"{entry.split} ({tier(entry, store)})",
        entry.unit,
        _layout(entry),
        suites.licence(entry),
        str(store.path) if store else "-",
        suites.access(entry),
    )


def tier(entry: Entry, store: Store | None = None) -> str:
    """Who defined the split: official, community, paper-release or ours. "in files" for splits that
    are made of the download's files, where no store tells."""
    from data_prep import manifest, sources

    if entry.own:
        return "yours"
    said = manifest.read(entry.source).about
    for source in store.meta.get("sources", ()) if store else ():
        said = said | source.get("splits", {})
    if entry.split in said:
        flags = [flag.replace("_", " ") for flag in manifest.FLAGS if said[entry.split].get(flag)]
        return ", ".join([said[entry.split]["tier"], *flags])
    return "in files" if hasattr(sources.load(entry.source), "SPLITS") else "ours, 7:2:1"


def _layout(entry: Entry) -> str:
    from data_prep import sources

    return "yours" if entry.own else sources.load(entry.source).ABOUT.layout
