"""features.parquet: a vector a labelled frame, made here or elsewhere.

    video_id    whose frame it is
    t_ms        its time in the recording, milliseconds
    vector      list of float32, of one length

The schema's metadata may hold `about`, what made them, as a JSON object: model, licence,
pretrained_on, used_cases (ids "<dataset>/<case>"), sha256.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped

from surgjax.benchmark.predictions import filled, matrix, read_parquet
from surgjax.errors import UserError
from surgjax.files import parse_json, whole

COLUMNS = ("video_id", "t_ms", "vector")


@dataclass(frozen=True)
class Vectors:
    """Rows of one file."""

    video_id: Shaped[np.ndarray, "n"]
    t_ms: Int[np.ndarray, "n"]
    values: Float[np.ndarray, "n d"]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)


def write(
    path: Path,
    video_id: Shaped[np.ndarray, "n"],
    t_ms: Int[np.ndarray, "n"],
    values: Float[np.ndarray, "n d"],
    about: Mapping[str, Any],
) -> None:
    """Writes the file whole."""
    flat = pa.array(np.ascontiguousarray(values, np.float32).ravel())
    columns = {
        "video_id": pa.array(np.asarray(video_id).astype(str)),
        "t_ms": pa.array(np.asarray(t_ms, np.int64)),
        "vector": pa.FixedSizeListArray.from_arrays(flat, values.shape[1]),
    }
    table = pa.table(columns).replace_schema_metadata({"about": json.dumps(dict(about))})
    with whole(path) as part:
        pq.write_table(table, part)


def read(path: Path) -> Vectors:
    """The rows of a file, checked.

    Raises:
      UserError: unreadable, columns or values missing, no vectors, vectors of several lengths or
        that are not finite, or two rows of one video and time; the first bad row is named.
    """
    table = read_parquet(path, "features")
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}"
        )
    filled(path, table, COLUMNS[:2])
    video = table["video_id"].to_numpy().astype(str)
    t_ms = table["t_ms"].to_numpy().astype(np.int64)
    values = matrix(path, table, "vector").astype(np.float32)
    if not values.size:
        raise UserError(f"{path} holds no vectors; make the features again")
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise UserError(
            f"{path}, row {row} ({video[row]} at {t_ms[row]} ms): the vector is not finite; make "
            f"the features again"
        )
    order = np.lexsort((t_ms, video))
    twice = (video[order][1:] == video[order][:-1]) & (t_ms[order][1:] == t_ms[order][:-1])
    if twice.any():
        row = int(order[1:][twice].min())
        raise UserError(f"{path} has two rows of {video[row]} at {t_ms[row]} ms; expected one each")
    return Vectors(video, t_ms, values, _about(path, table.schema))


def read_about(path: Path) -> dict[str, Any]:
    """What made the vectors, as far as the file says, without its rows. Raises UserError."""
    try:
        return _about(path, pq.read_schema(path))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as features ({error})") from error


def _about(path: Path, schema: pa.Schema) -> dict[str, Any]:
    try:
        about = parse_json((schema.metadata or {}).get(b"about", b"{}"))
    except ValueError as error:
        raise UserError(f"{path}: `about` in its metadata is no JSON ({error})") from error
    if not isinstance(about, dict):
        raise UserError(f"{path}: `about` in its metadata is {about!r:.60}; expected a JSON object")
    # A single name taken for a list would be letters, and no case of a test set is a letter.
    for name, kinds in (("used_cases", list), ("pretrained_on", (list, str)), ("licence", str)):
        value = about.get(name)
        words = value if isinstance(value, list) else []
        if value is not None and not (isinstance(value, kinds) and all(map(_is_word, words))):
            raise UserError(
                f"{path}: {name} of `about` in its metadata is {value!r:.60}; expected "
                f"{'a list of names' if kinds is list else 'names'}"
            )
    return about


def _is_word(value: object) -> bool:
    return isinstance(value, str)
