"""A folder of clip features: `surgjax.embed` writes it, `surgjax.curate` reads it.

`features.json` says which model made them, how long a vector is and how many there are.
`features-SSSSS.parquet` hold a row a clip: where the clip is, of which case and dataset, whether a
known split holds its case out, and the vector.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from surgjax.errors import UserError
from surgjax.files import parse_json, whole

META = "features.json"
COLUMNS = {
    "store": pa.string(),
    "video_id": pa.string(),
    "start_ms": pa.int64(),
    "end_ms": pa.int64(),
    "case": pa.string(),
    "dataset": pa.string(),
    "held_out": pa.bool_(),
}
ROWS_AT_ONCE = 4096  # of a shard, while it is read


@dataclass(frozen=True)
class Features:
    """Clips and their vectors; row i of both is one clip.

    Attributes:
      clips: the columns of COLUMNS.
      values: float32.
      meta: content of features.json.
      held_out: clips that were left out because a known split holds their case out.
    """

    clips: pa.Table
    values: Float[np.ndarray, "n d"]
    meta: dict[str, Any]
    held_out: int


def read_features(folder: str | Path, *, keep_held_out: bool = False) -> Features:
    """Reads a folder of features; one copy of the kept vectors is all that is held in memory.

    Raises:
      UserError: a file is missing, damaged or of another length or type; a vector is not finite;
        no clip is left.
    """
    folder = Path(folder)
    meta = _read_meta(folder)
    shards = _shards(folder)
    tables = [_read_columns(path, meta["dim"]) for path in shards]
    found = sum(table.num_rows for table in tables)
    if found != meta["count"]:
        raise UserError(
            f"{folder} holds {found:,} clips and {META} counts {meta['count']:,}; a shard is "
            f"missing or too much; run surgjax.embed again"
        )
    clips = pa.concat_tables(tables).combine_chunks()
    held_out = clips["held_out"].to_numpy()
    keep = np.ones(found, bool) if keep_held_out else ~held_out
    if not keep.any():
        raise UserError(
            f"all {found:,} clips of {folder} are of cases that a known split holds out; embed "
            f"a store with training cases, or give --keep-held-out"
        )
    values = np.empty((int(keep.sum()), meta["dim"]), np.float32)
    row = at = 0
    for path, table in zip(shards, tables, strict=True):
        at += _fill(path, keep[row : row + table.num_rows], values[at:])
        row += table.num_rows
    clips = clips if keep.all() else clips.filter(pa.array(keep))
    return Features(clips, values, meta, int((~keep).sum()))


def write_shard(
    path: str | Path, columns: Mapping[str, Any], features: Float[np.ndarray, "n d"]
) -> None:
    """Writes one shard, whole or not at all.

    Args:
      path: in the folder of features; `shard_name` gives the name.
      columns: the columns of COLUMNS, n values each.
      features: float32.

    Raises:
      UserError: a vector is not finite.
      ValueError: columns are missing, unknown, of another length, or of a type that does not fit.
    """
    if set(columns) != set(COLUMNS):
        raise ValueError(f"columns {sorted(columns)}; expected {sorted(COLUMNS)}")
    features = np.ascontiguousarray(features, np.float32)
    arrays = [pa.array(columns[name], kind) for name, kind in COLUMNS.items()]
    wrong = {name for name, a in zip(COLUMNS, arrays, strict=True) if len(a) != len(features)}
    if wrong or any(array.null_count for array in arrays):
        raise ValueError(f"{sorted(wrong) or 'a column'} lacks values for {len(features)} features")
    table = pa.Table.from_arrays(arrays, names=list(COLUMNS))
    _check_finite(features, lambda row: _name(table, row))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    with whole(Path(path)) as part:
        pq.write_table(table.append_column("feature", vectors), part, use_dictionary=list(COLUMNS))


def shard_name(index: int) -> str:
    """features-00012.parquet"""
    return f"features-{index:05}.parquet"


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    try:
        meta = parse_json(path.read_text(encoding="utf-8"))
        dim, count = meta["dim"], meta["count"]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); expected a folder of features; make it "
            f"with python -m surgjax.embed, and let it finish"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} has no dim and count; run surgjax.embed again") from error
    if not all(type(value) is int and 0 < value < 2**31 for value in (dim, count)):
        raise UserError(
            f"{path} says dim {dim!r}, count {count!r}; expected whole numbers above 0; run "
            f"surgjax.embed again"
        )
    return meta


def _shards(folder: Path) -> list[Path]:
    """All shards in order. Raises UserError where one is missing."""
    found = {
        int(match[1]): path
        for path in folder.glob("features-*.parquet")
        if (match := re.fullmatch(r"features-(\d{5,})\.parquet", path.name))
    }
    for index in range(max(found, default=0) + 1):
        if index not in found:
            raise UserError(
                f"{folder / shard_name(index)} is missing; copy it there or run surgjax.embed again"
            )
    return [found[index] for index in sorted(found)]


def _read_columns(path: Path, dim: int) -> pa.Table:
    """The columns of a shard but the vectors. Raises UserError naming what does not fit."""
    try:
        schema = pq.read_schema(path)
        wanted = COLUMNS | {"feature": pa.list_(pa.float32(), dim)}
        for name, kind in wanted.items():
            index = schema.get_field_index(name)
            held = str(schema.field(index).type) if index >= 0 else "nothing"
            # The name of a list's items is the writer's own affair.
            if held.replace("item:", "element:") != str(kind).replace("item:", "element:"):
                raise UserError(
                    f"{path}: column {name} is {held}; expected {kind}; run surgjax.embed again"
                )
        table = pq.read_table(path, columns=list(COLUMNS))
        table.validate(full=True)  # texts may be none
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    for name in COLUMNS:
        if table[name].null_count:
            raise UserError(f"{path}: column {name} has empty values; run surgjax.embed again")
    return table


def _fill(path: Path, keep: np.ndarray, values: np.ndarray) -> int:
    """Puts the kept vectors of a shard into the first rows of `values`; returns their number."""
    row = at = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=["feature"]):
                column = batch.column(0)
                if column.null_count or column.flatten().null_count:
                    raise UserError(f"{path}: a feature is empty; run surgjax.embed again")
                flat = column.flatten().to_numpy(zero_copy_only=False)
                vectors = flat.reshape(len(column), -1)[keep[row : row + len(column)]]
                values[at : at + len(vectors)] = vectors
                chosen = row + np.flatnonzero(keep[row : row + len(column)])
                _check_finite(vectors, lambda i, chosen=chosen: _name_in(path, int(chosen[i])))
                row, at = row + len(column), at + len(vectors)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    return at


def _check_finite(vectors: np.ndarray, name) -> None:
    # A sum over a row is finite only if all of it is, or overflows: then look closely.
    odd = ~np.isfinite(vectors.sum(1, dtype=np.float64))
    if odd.any():
        raise UserError(
            f"{name(int(np.flatnonzero(odd)[0]))}: the feature is not finite ({int(odd.sum())} "
            f"of these); look at the video and at the model that made it, and embed again"
        )


def _name_in(path: Path, row: int) -> str:
    return f"{path}, {_name(pq.read_table(path, columns=list(COLUMNS)), row)}"


def _name(clips: pa.Table, row: int) -> str:
    store, video, start = (clips[name][row].as_py() for name in ("store", "video_id", "start_ms"))
    return f"row {row}, clip {store}:{video} at {start} ms"


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read ({str(error).splitlines()[0][:120]}); delete it and run "
        f"surgjax.embed again"
    )
