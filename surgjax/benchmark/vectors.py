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

from surgjax.errors import UserError
from surgjax.files import whole

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
      UserError: unreadable, columns missing, vectors of several lengths or that are not finite, or
        two rows of one video and time; the first bad row is named.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as features ({error})") from error
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}"
        )
    video = table["video_id"].to_numpy().astype(str)
    t_ms = table["t_ms"].to_numpy().astype(np.int64)
    values = _matrix(path, table["vector"].combine_chunks())
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
    try:
        about = json.loads((table.schema.metadata or {}).get(b"about", b"{}"))
    except ValueError as error:
        raise UserError(f"{path}: `about` in its metadata is no JSON ({error})") from error
    return Vectors(video, t_ms, values, about)


def _matrix(path: Path, column: pa.Array) -> Float[np.ndarray, "n d"]:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise UserError(f"{path}: vector is of type {column.type}; expected lists of float32")
    flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    width = len(flat) // max(1, len(column))
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    odd = lengths != width
    if column.null_count or odd.any() or not width:
        row = int(odd.argmax())
        raise UserError(
            f"{path}, row {row}: the vector has {lengths[row] if len(lengths) else 0} numbers; "
            f"expected the same number, above 0, in every row"
        )
    return flat.reshape(-1, width)
