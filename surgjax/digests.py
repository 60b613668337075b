"""Which checkpoints of a run are whole, without jax: every file has its sha256 in DIGESTS.json."""

import errno
import logging
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from surgjax.errors import UserError
from surgjax.files import absolute, files_below, parse_json, remove_folder, sha256, size
from surgjax.migrations import migrate

DIGESTS = "DIGESTS.json"
MODEL = ("params", "ema", "meta")  # the items that a model is read from

# What a step says about itself, as far as it says it.
SAID = {"format": int, "config": dict, "licences": dict, "used_cases": list}
SAID |= {"pretrained_on": list | str, "init_from": dict, "teacher": dict}

log = logging.getLogger("surgjax")


def is_run(path: Path) -> bool:
    """Whether a folder is a run of ours, or one of its steps."""
    marks = ("checkpoints", DIGESTS, "STATUS", "metrics.jsonl")
    return path.is_dir() and any((path / mark).exists() for mark in marks)


def find_step(path: Path, step: int | None = None, items: Collection[str] = MODEL) -> Path:
    """The step folder meant by a run folder (its newest whole step, or `step`) or a step folder.

    Args:
      items: what will be read; damage elsewhere, as in an optimizer's state, does not matter.

    Raises:
      UserError: there is none that is whole.
    """
    path = absolute(path)
    if (path / DIGESTS).is_file():
        if damage := damaged_files(path, items):
            raise UserError(
                f"checkpoint {path} is damaged ({', '.join(damage[:3])}); name its run folder, and "
                f"the newest whole one is used"
            )
        return path
    folder = path / "checkpoints"
    for found in reversed([step] if step is not None else completed_steps(folder)):
        if not damaged_files(folder / str(found), items):
            return folder / str(found)
        log.error("checkpoint %d of %s is damaged or incomplete", found, path)
    wanted = "completed checkpoint" if step is None else f"whole checkpoint {step}"
    raise UserError(f"{path} has no {wanted}; expected {path}/checkpoints/<step>/{DIGESTS}")


def read_meta(folder: Path) -> dict[str, Any]:
    """What a step says about itself, in today's format. Raises UserError: damaged, or newer."""
    file = folder / "meta" / "metadata"
    try:
        meta = parse_json(file.read_text())
        wrong = [n for n, kind in SAID.items() if not isinstance(meta.get(n), kind | None)]
        wrong += ["used_cases"] * any(not isinstance(c, str) for c in meta.get("used_cases") or [])
        wrong += ["format"] * (meta.get("format", 0) < 0)
        before = [meta[role] for role in ("init_from", "teacher") if meta.get(role)]
        wrong += ["init_from"] * any(not isinstance(of.get("source"), str) for of in before)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({error}); use an older checkpoint") from error
    if wrong:
        raise UserError(f"{file} is odd at {wrong[0]!r}; use an older checkpoint")
    return migrate({}, meta, folder)[1]


def completed_steps(folder: Path) -> list[int]:
    """Steps of a folder of checkpoints that have digests, oldest first (not verified)."""
    return sorted(step for step in step_folders(folder) if (folder / str(step) / DIGESTS).is_file())


def step_folders(folder: Path) -> list[int]:
    """All steps there, in no order, whole or not."""
    return [int(f.name) for f in folder.glob("*") if f.name.isdigit() and f.is_dir()]


def leftovers(folder: Path) -> list[Path]:
    """What killed saves left in a folder of checkpoints: unfinished ones, steps without digests."""
    unfinished = sorted(folder.glob("*.orbax-checkpoint-tmp*"))
    never_completed = set(step_folders(folder)) - set(completed_steps(folder))
    return unfinished + [folder / str(step) for step in sorted(never_completed)]


def outdated(steps: list[int], keep: int, keep_every: int) -> list[int]:
    """Of steps, oldest first, those that need not stay: all but the newest `keep` and every so
    many (0: no others)."""
    return [s for s in steps[:-keep] if not (keep_every and s % keep_every == 0)]


def remove_step(folder: Path) -> None:
    """Remove a completed step; one that is left half-way is no longer trusted."""
    (folder / DIGESTS).unlink(missing_ok=True)
    remove_folder(folder)


def digest(folder: Path) -> dict[str, dict[str, Any]]:
    """{relative path: {sha256, bytes}} of every file below a step folder, DIGESTS.json excepted."""
    return {name: {"sha256": sha256(folder / name), "bytes": n} for name, n in _files(folder)}


def damaged_files(folder: Path, items: Collection[str] | None = None) -> list[str]:
    """Files of a step that are missing or differ from DIGESTS.json; empty when it is whole.

    Args:
      items: look at these alone ("params", ...), and at the files beside them; None for all.
    """
    expected = read_digests(folder)
    if expected is None:
        return [DIGESTS]
    names = [n for n in expected if items is None or "/" not in n or n.split("/")[0] in items]
    odd = set(wrong_sizes(folder, {name: expected[name] for name in names}))
    rest = [name for name in names if name not in odd]
    # hashlib lets other threads go on, and a disk gives more to several readers.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for name, found in zip(rest, threads.map(lambda n: _hash(folder / n), rest), strict=True):
            if found != expected[name]["sha256"]:
                odd.add(name)
    return [name for name in names if name in odd]


def read_digests(folder: Path) -> dict[str, dict[str, Any]] | None:
    """Content of a step's DIGESTS.json, None where it is missing or damaged itself."""
    try:
        content = parse_json((folder / DIGESTS).read_text())
        found = {
            n: {"sha256": str(e["sha256"]), "bytes": int(e["bytes"])} for n, e in content.items()
        }
        return found or None
    except (OSError, ValueError, OverflowError, TypeError, KeyError, AttributeError):
        return None


def wrong_sizes(folder: Path, expected: dict[str, dict[str, Any]]) -> list[str]:
    """Names of `expected` that are missing or have another size, found without reading them."""
    return [name for name, entry in expected.items() if _size(folder / name) != entry["bytes"]]


def stray_files(folder: Path, expected: dict[str, dict[str, Any]]) -> list[str]:
    """Files of a step that its digests do not name."""
    return [name for name, _ in _files(folder) if name not in expected]


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """(relative path, bytes) of every file below a step folder but its digests."""
    for file in files_below(folder):
        if file.name != DIGESTS:
            yield str(file.relative_to(folder)), size(file)


def _size(file: Path) -> int | None:
    return size(file) if file.is_file() else None


def _hash(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        if error.errno != errno.EIO:  # what a disk says that can read it no more
            raise
        return "unreadable"
