"""What is known of a model without opening it: whose weights, seen cases, licence."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgjax.benchmark import vectors
from surgjax.digests import DIGESTS, find_step, is_run, read_meta
from surgjax.errors import UserError
from surgjax.files import sha256
from surgjax.interop.licence import UNKNOWN, UNKNOWN_DATA, combined, licences, pretrained_on


@dataclass(frozen=True)
class Weights:
    """A model as far as its files tell without opening it.

    Attributes:
      path: a run, a public model's folder, a weight file or features.parquet.
      sha256: of its content; of a run, of its newest step's digests.
      used_cases: what it was trained on, None where not known.
      licence, pretrained_on: "unknown" where a file does not tell.
    """

    path: Path
    sha256: str
    used_cases: tuple[str, ...] | None = None
    licence: str = UNKNOWN
    pretrained_on: str = UNKNOWN


def open_weights(path: Path) -> Weights:
    """What can be known of a model without loading it.

    Raises:
      UserError: nothing there, or a run without a finished checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"--model {path} does not exist; expected a run, a Hugging Face folder, a weight file "
            f"or a features.parquet"
        )
    if path.suffix == ".parquet":
        told = vectors.read_about(path)
        cases = told.get("used_cases")
        return Weights(
            *(path, sha256(path), None if cases is None else tuple(cases)),
            licence=told.get("licence") or UNKNOWN,
            pretrained_on=listed(told.get("pretrained_on") or UNKNOWN),
        )
    if not is_run(path):
        return Weights(path, digest(path))
    step = find_step(path)
    meta = _read_meta(step)
    known = UNKNOWN_DATA[0] not in pretrained_on(meta)
    cases = meta.get("used_cases")
    return Weights(
        path,
        sha256(step / DIGESTS),
        tuple(cases) if known and cases is not None else None,
        combined(licences(meta).values()),
        listed(pretrained_on(meta)),
    )


def listed(names: str | Sequence[str]) -> str:
    """One name, or several with commas."""
    return names if isinstance(names, str) else ", ".join(names)


def _read_meta(step: Path) -> dict[str, Any]:
    """What a checkpoint says about itself. Raises UserError: unreadable."""
    try:
        return read_meta(step)
    except (OSError, ValueError) as error:
        raise UserError(f"{step} is damaged ({error}); use an older checkpoint") from error


def digest(path: Path) -> str:
    """sha256 of a file, or of a folder's weight and configuration files with their names."""
    if not path.is_dir():
        return sha256(path)
    kinds = {".json", ".safetensors", ".bin", ".pth", ".pt", ".txt", ".model"}
    files = sorted(file for file in path.iterdir() if file.suffix in kinds)
    lines = "".join(f"{file.name} {sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
