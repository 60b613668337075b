"""`python -m data_prep datasets`: public datasets that are read as they were downloaded.

Each is a file in data_prep/sources. Its layout is "verified" where it was seen in the data itself,
"from-code" where public programs read it so, else "assumed": if yours looks different, send what
`python -m data_prep check --root FOLDER --layout` prints.
"""

import argparse
from types import ModuleType

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
        elif not tasks:
            tasks = ["as the files name it" if hasattr(module, "SPLITS") else "none"]
        layout = f"{about.layout}: {about.evidence}"
        words = (", ".join(tasks), _splits(module), layout, about.licence, about.access)
        rows.append((name, *words))
    return rows


def _splits(module: ModuleType) -> str:
    if hasattr(module, "SPLITS"):  # made when the files are seen
        return module.SPLITS
    if not module.ABOUT.tasks:
        return "none, for pretraining"
    names = {}  # folds as one
    for name in manifest.read(module.ABOUT.dataset).splits or ("strict (7:2:1)",):
        stem, _, fold = name.rpartition("_")
        names.setdefault(f"{stem}_*" if fold.isdecimal() else name)
    return ", ".join(names)
