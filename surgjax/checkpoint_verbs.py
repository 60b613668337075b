"""Look after the checkpoints of runs, without jax.

    python -m surgjax.checkpoint ls RUN ...        what is there; --verify reads all of it
    python -m surgjax.checkpoint verify RUN ...    every file against its digest; 1 when any differs
    python -m surgjax.checkpoint prune RUN ...     old ones, leftovers of killed saves, damaged ones

RUN is a folder that `surgjax.main --workdir` made, also at gs:// or s3://.
"""

import argparse
from pathlib import Path
from typing import Any

from surgjax.digests import (
    DIGESTS,
    completed_steps,
    damaged_files,
    leftovers,
    outdated,
    read_digests,
    remove_step,
    step_folders,
    stray_files,
    wrong_sizes,
)
from surgjax.errors import DAMAGE, UserError
from surgjax.files import files_below, held, parse_json, remove_folder, size, to_path

COLUMNS = ("step", "state", "size", "items", "format", "saved from", "versions")


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code. Raises UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m surgjax.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    made = {name: verbs.add_parser(name) for name in ("ls", "verify", "prune")}
    for verb in made.values():
        verb.add_argument("runs", nargs="+", metavar="RUN")
    made["ls"].add_argument("--verify", action="store_true", help="hash every file: takes long")
    prune_flags = made["prune"]
    prune_flags.add_argument("--keep", type=int, default=2, help="how many of the newest stay")
    prune_flags.add_argument(
        "--keep-every", type=int, default=0, help="steps divisible by it stay too (0: none)"
    )
    prune_flags.add_argument("--dry-run", action="store_true", help="only say what would go")
    given = parser.parse_args(argv)
    runs = [to_path(run) for run in given.runs]
    for run in runs:
        if not (run / "checkpoints").is_dir():
            raise UserError(
                f"{run} has no checkpoints; expected the folder of a run, its --workdir"
            )
    if given.verb == "ls":
        for run in runs:
            print(listing(run, given.verify))
        return 0
    if given.verb == "verify":
        return DAMAGE if sum([verify(run) for run in runs]) else 0
    if given.keep < 1 or given.keep_every < 0:
        raise UserError(
            f"--keep={given.keep} --keep-every={given.keep_every}; expected --keep of at least 1 "
            f"and --keep-every of at least 0"
        )
    return max([prune(run, given.keep, given.keep_every, given.dry_run) for run in runs])


def listing(run: Path, is_verified: bool = False) -> str:
    """The checkpoints of a run as a table.

    A state is `whole` (all files match their digests), `unverified` (they are there in the right
    sizes), `damaged`, or `incomplete` (without digests: never used).
    """
    folder = run / "checkpoints"
    rows = [COLUMNS]
    for step in sorted(step_folders(folder)):
        rows.append(_row(folder / str(step), is_verified))
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    shown = {folder / str(step) for step in step_folders(folder)}
    rest = [path for path in _useless(run) if path not in shown]
    lines += [f"{path.name}: {_bytes(path)}; prune removes it" for path in rest]
    return "\n".join([f"{run}: {_bytes(folder)}", *(f"  {line}" for line in lines)])


def verify(run: Path) -> int:
    """Print what is wrong with the checkpoints of a run; returns how many of them are damaged."""
    wrong, folder = 0, run / "checkpoints"
    steps = [folder / str(step) for step in completed_steps(folder)]
    if (run / "frozen" / DIGESTS).is_file():
        steps.append(run / "frozen")
    for step in steps:
        damage = damaged_files(step)
        stray = stray_files(step, read_digests(step) or {}) if step.is_dir() else []
        if not (step / DIGESTS).exists():
            print(f"{step}: removed meanwhile")
            continue
        for name in damage:
            print(f"{step / name}: damaged")
        if DIGESTS not in damage:
            for name in stray:
                print(f"{step / name}: not one of its files")
        if damage or stray:
            wrong += 1
        else:
            print(f"{step}: whole")
    for path in leftovers(folder):
        print(f"{path}: never completed, not used")
    if not steps:
        print(f"{run}: no completed checkpoint")
    return wrong


def prune(run: Path, keep: int, keep_every: int = 0, is_dry: bool = False) -> int:
    """Remove old checkpoints, what killed saves left, and what a run has set aside as damaged.

    The newest `keep`, those divisible by `keep_every` and the newest whole one stay. Stopped half-
    way, the same command finishes.

    Returns:
      0, or DAMAGE when nothing was removed because no checkpoint is whole.

    Raises:
      UserError: a process holds the run.
    """
    if is_dry:
        return _prune(run, keep, keep_every, is_dry)
    with held(run):
        return _prune(run, keep, keep_every, is_dry)


def _prune(run: Path, keep: int, keep_every: int, is_dry: bool) -> int:
    folder = run / "checkpoints"
    steps = completed_steps(folder)
    whole = next((s for s in reversed(steps) if not damaged_files(folder / str(s))), None)
    if steps and whole is None:
        print(f"{run}: no checkpoint is whole; nothing was removed")
        return DAMAGE
    old = [folder / str(s) for s in outdated(steps, keep, keep_every) if s != whole]
    for path in [*old, *_useless(run)]:
        print(f"{'would remove' if is_dry else 'removed'} {path}: {_bytes(path)}")
        if not is_dry:
            remove_step(path) if path in old else remove_folder(path)
    left = len(steps) - len(old)
    print(f"{run}: checkpoints that {'would ' * is_dry}stay: {left}")
    return 0


def _useless(run: Path) -> list[Path]:
    """Folders that no run reads: of killed saves, and what was damaged."""
    found = [*leftovers(run / "checkpoints"), *run.glob("*.orbax-checkpoint-tmp*"), run / "damaged"]
    return [path for path in found if path.is_dir()]


def _row(step: Path, is_verified: bool) -> tuple[str, ...]:
    expected = read_digests(step)
    if not (step / DIGESTS).is_file():
        state = "incomplete"
    elif expected is None or wrong_sizes(step, expected):
        state = "damaged"
    elif is_verified:
        state = "damaged" if damaged_files(step) else "whole"
    else:
        state = "unverified"
    items = [name for name in ("params", "opt_state", "ema") if (step / name).is_dir()]
    meta = _meta(step)
    versions = meta.get("versions", {})
    named = [f"{name} {versions[name]}" for name in ("python", "jax") if name in versions]
    if "orbax-checkpoint" in versions:
        named.append(f"orbax {versions['orbax-checkpoint']}")
    return (
        *(step.name, state, _bytes(step), " ".join(items), str(meta.get("format", 0))),
        *(_devices(meta.get("saved_from") or {}), ", ".join(named)),
    )


def _meta(step: Path) -> dict[str, Any]:
    """As it was written, of any format; empty where it cannot be read."""
    try:
        meta = parse_json((step / "meta" / "metadata").read_text())
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _devices(saved_from: dict[str, Any]) -> str:
    if not saved_from:
        return "-"
    axes = " ".join(f"{name}={size}" for name, size in saved_from["mesh"].items() if size > 1)
    hosts = f" of {saved_from['processes']} processes" if saved_from["processes"] > 1 else ""
    return f"{saved_from['devices']} {saved_from['kind']}{hosts}{f' ({axes})' if axes else ''}"


def _bytes(folder: Path) -> str:
    total = sum(size(file) for file in files_below(folder))
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if total >= scale:
            return f"{total / scale:.1f} {unit}"
    return f"{total / 1e3:.1f} kB"
