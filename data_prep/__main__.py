"""`python -m data_prep VERB`: from recordings to a store, on the CPU, without jax."""

import argparse
import importlib
import sys

VERBS = {
    "synthesize": "render a labelled corpus to try everything on",
    "catalogue": "explore: what a catalogue of web videos holds, in numbers and pictures",
    "download": "fetch the videos that a catalogue names",
    "datasets": "public datasets that are read as they were downloaded",
    "check": "what is under a folder, what is odd, what a store of it would take",
    "qc": "look through recordings: quality, privacy, duplicates, a page to review",
    "shards": "write a store from videos",
    "inspect": "pictures and counts of a store",
    "inventory": "the table of a corpus, and how near it is to a benchmark",
    "clips": "cut the videos of a store into clips, for curation",
    "overlap": "operations that are in several stores, by their pictures",
    "verify": "digests and decode check of a store",
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code. Raises UserError."""
    from surgjax.errors import UserError, nearest

    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["verbs:", *(f"  {verb:<12}{about}" for verb, about in VERBS.items())])
        + "\n\n`python -m data_prep VERB --help` lists the options of one.",
    )
    parser.add_argument("verb", metavar="VERB")
    if not argv or argv[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if argv else 2
    verb = argv[0]
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; known: {', '.join(VERBS)}")
    module = importlib.import_module(f"data_prep.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"python -m data_prep {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.main(parser.parse_args(argv[1:])) or 0


if __name__ == "__main__":
    from surgjax.errors import run

    run(main)
