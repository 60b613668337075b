"""Prints which XLA flags this jaxlib knows: an unknown one in XLA_FLAGS ends every program.

    python launch/xla_flags.py --given="$XLA_FLAGS" -- --xla_gpu_deterministic_ops=true ...

Each flag is tried once per jaxlib version by a program that starts jax with it, and the answer is
kept in ~/.cache/surgjax/xla_flags-VERSION.json. An unknown flag is left out with one line; an
unknown one among the given flags, the user's own, is exit code 2.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from surgjax.errors import UserError, run  # noqa: E402
from surgjax.files import write_whole  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--given", default="", help="the user's own XLA_FLAGS")
    parser.add_argument(
        "--remembered", action="store_true", help="try nothing: a flag not tried yet is printed"
    )
    parser.add_argument("flags", nargs="*", metavar="FLAG")
    args = parser.parse_args()
    # XLA_FLAGS can also be the name of a file of flags.
    given = args.given.split() if args.given.lstrip().startswith("--") else []
    known = known_flags([*given, *args.flags], try_them=not args.remembered)
    for flag in given:
        if not known[flag]:
            raise UserError(
                f"XLA_FLAGS has {flag}, which jaxlib {_version()} does not know and would die of; "
                f"unset it"
            )
    for flag in args.flags:
        if not known[flag]:
            print(f"left out: jaxlib {_version()} does not know {flag}", file=sys.stderr)
    print(*(flag for flag in args.flags if known[flag]))
    return 0


def known_flags(flags: list[str], try_them: bool = True) -> dict[str, bool]:
    """Whether jaxlib knows each flag; without `try_them` one that was never tried counts as known.

    Raises:
      UserError: jax does not start even without flags.
    """
    file = _cache()
    known = _remembered(file)
    new = [flag for flag in flags if flag not in known]
    if new and try_them:
        all_known = _starts(new)
        found = {flag: all_known or (len(new) > 1 and _starts([flag])) for flag in new}
        if not any(found.values()) and not _starts([]):
            raise UserError("jax does not start; python -m surgjax.doctor says why")
        known |= found
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(file, json.dumps(known, indent=1))
        except OSError:
            pass  # a read-only home: try again next time
    return {flag: known.get(flag, True) for flag in flags}


def _starts(flags: list[str]) -> bool:
    # Flags are read where the first device is made, those of GPUs too; no GPU is touched.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
    program = [sys.executable, "-c", "import jax; jax.devices()"]
    return not subprocess.run(program, env=environment, capture_output=True).returncode


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "surgjax" / f"xla_flags-{_version()}.json"


def _remembered(file: Path) -> dict[str, bool]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _version() -> str:
    try:
        return importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("jaxlib is not installed; pip install -r requirements.txt") from None


if __name__ == "__main__":
    run(main)
