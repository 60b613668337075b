"""`python -m surgjax.benchmark VERB`: numbers from saved predictions, without jax."""

import argparse
import importlib
import sys

VERBS = {"score": "the numbers of a task and protocol, from a file of predictions"}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code. Raises UserError."""
    from surgjax.errors import UserError, nearest

    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m surgjax.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["verbs:", *(f"  {verb:<12}{about}" for verb, about in VERBS.items())]),
    )
    parser.add_argument("verb", metavar="VERB")
    if not argv or argv[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if argv else 2
    verb = argv[0]
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; known: {', '.join(VERBS)}")
    module = importlib.import_module(f"surgjax.benchmark.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"python -m surgjax.benchmark {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return module.main(parser.parse_args(argv[1:]))


if __name__ == "__main__":
    from surgjax.errors import run

    run(main)
