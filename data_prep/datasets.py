"""`python -m data_prep datasets`: public datasets that are read as they were downloaded.

Each is a file in data_prep/sources. Its layout is "verified" where it was seen in the data itself,
"from-code" where public programs read it so, else "assumed": if yours looks different, send what
`python -m data_prep check --root FOLDER --layout` prints.
"""

import argparse

from data_prep import manifest, sources

COLUMNS = ("--dataset", "tasks", "splits", "layout", "licence", "access")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="a table as in data_prep/README.md")


def main(args: argparse.Namespace) -> int:
    """Returns 0."""
    rows = table()
    if args.markdown:
        lines = ["| " + " | ".join(row) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
        print("\n".join(lines))
        return 0
    for name, tasks, splits, layout, licence, access in rows:
        print(f"{name}\n  tasks   {tasks}\n  splits  {splits}\n  layout  {layout}")
        print(f"  licence {licence}; {access}")
    return 0


def table() -> list[tuple[str, ...]]:
    """A row of COLUMNS for each dataset."""
    rows = []
    for name in sources.known():
        module = sources.load(name)
        if name in (sources.FOLDER, "synthetic"):
            continue
        about = module.ABOUT
        tasks = [
            f"{task} ({len(of['classes'])})" if of["classes"] else task
            for task, of in about.tasks.items()
        ]
        if hasattr(module, "captions"):
            tasks.append("captions")
        splits = list(manifest.read(name).splits) or ["strict (7:2:1)"]
        layout = f"{about.layout}: {about.evidence}"
        rows.append(
            (name, ", ".join(tasks), ", ".join(splits), layout, about.licence, about.access)
        )
    return rows
