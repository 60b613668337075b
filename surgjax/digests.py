"""Which checkpoints of a run are whole, without jax: every file has its sha256 in DIGESTS.json."""

import json
import logging
from pathlib import Path
from typing import Any

from surgjax.errors import UserError
from surgjax.files import sha256

DIGESTS = "DIGESTS.json"

log = logging.getLogger("surgjax")


def is_run(path: Path) -> bool:
    """Whether a folder is a run of ours, or one of its steps."""
    marks = ("checkpoints", DIGESTS, "STATUS", "metrics.jsonl")
    return path.is_dir() and any((path / mark).exists() for mark in marks)


def find_step(path: Path, step: int | None = None) -> Path:
    """The step folder meant by a run folder (its newest whole step, or `step`) or a step folder.

    Raises UserError when there is none.
    """
    if (path / DIGESTS).is_file():
        return path
    folder = path / "checkpoints"
    for found in reversed([step] if step is not None else completed_steps(folder)):
        if not damaged_files(folder / str(found)):
            return folder / str(found)
        log.error("checkpoint %d of %s is damaged or incomplete", found, path)
    wanted = "completed checkpoint" if step is None else f"whole checkpoint {step}"
    raise UserError(f"{path} has no {wanted}; expected {path}/checkpoints/<step>/{DIGESTS}")


def completed_steps(folder: Path) -> list[int]:
    """Steps of a folder of checkpoints that have digests, oldest first (not verified)."""
    return sorted(step for step in step_folders(folder) if (folder / str(step) / DIGESTS).is_file())


def step_folders(folder: Path) -> list[int]:
    """All steps there, in no order, whole or not."""
    return [int(f.name) for f in folder.glob("*") if f.is_dir() and f.name.isdigit()]


def digest(folder: Path) -> dict[str, dict[str, Any]]:
    """{relative path: {sha256, bytes}} of every file below a step folder, DIGESTS.json excepted."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != DIGESTS)
    return {
        str(f.relative_to(folder)): {"sha256": sha256(f), "bytes": f.stat().st_size} for f in files
    }


def damaged_files(folder: Path) -> list[str]:
    """Files of a step that are missing or differ from DIGESTS.json; empty when it is whole."""
    try:
        expected = json.loads((folder / DIGESTS).read_text())
    except (OSError, ValueError):
        return [DIGESTS]
    damage = []
    for name, entry in expected.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            damage.append(name)
        elif sha256(file) != entry["sha256"]:
            damage.append(name)
    return damage
