"""Command lines of verbs: `python -m PACKAGE VERB`, each a module with add_arguments and main.

Arguments that begin with the module's PASSED_ON, if it has one, are for other programs: main finds
them in `args.passed_on`.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping

from surgjax.errors import UserError, nearest


def between_commas(text: str) -> list[str]:
    """The words of an argument that takes several."""
    return [word.strip() for word in text.split(",") if word.strip()]


def run_verb(
    package: str, about: str, verbs: Mapping[str, str], argv: list[str] | None = None
) -> int:
    """Run one verb; returns its exit code.

    Args:
      about: the package in a line or more.
      verbs: name of a module of the package -> what it does, in a line.
      argv: the verb and its arguments; those of this process by default.

    Raises:
      UserError: no such verb, or what the verb raises.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["verbs:", *(f"  {verb:<12}{does}" for verb, does in verbs.items())])
        + f"\n\n`python -m {package} VERB --help` lists the options of one.",
    )
    parser.add_argument("verb", metavar="VERB")
    if not argv or argv[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if argv else 2
    verb = argv[0]
    if verb not in verbs:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, verbs)}; known: {', '.join(verbs)}")
    module = importlib.import_module(f"{package}.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"python -m {package} {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    prefix = getattr(module, "PASSED_ON", None)
    passed_on = [word for word in argv[1:] if prefix and word.startswith(prefix)]
    args = parser.parse_args([word for word in argv[1:] if word not in passed_on])
    args.passed_on = passed_on
    return module.main(args) or 0
