"""The store's tables: written whole or not at all, checked where a person wrote the source."""

import hashlib
import json
from collections.abc import Callable, Container
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources import LabelTable, Refused, number, read_rows
from surgjax.data.record import CAPTION_COLUMNS, EDIT_COLUMNS, SAME_CASE_COLUMNS, VIDEO_COLUMNS
from surgjax.errors import UserError, nearest
from surgjax.files import whole, write_whole

ROWS_IN_MEMORY = 1_000_000  # rows of a label table gathered before they are written


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_videos(path: Path, rows: list[dict], splits: list[str]) -> None:
    """videos.parquet: VIDEO_COLUMNS, then split_<name>, and of the rows qc_<flag> and psnr."""
    columns = {name: pa.type_for_alias(kind) for name, kind in VIDEO_COLUMNS.items()}
    columns |= {f"split_{name}": pa.string() for name in splits}
    columns |= {name: pa.bool_() for name in rows[0] if name.startswith("qc_")}
    columns |= {name: pa.float64() for name in rows[0] if name.startswith("psnr")}
    _write(path, rows, pa.schema(columns))


def write_quarantine(path: Path, rows: list[Refused]) -> None:
    """quarantine.parquet: video_id, path below the root, reason, detail."""
    schema = pa.schema({name: pa.string() for name in ("video_id", "path", "reason", "detail")})
    _write(path, [vars(row) for row in rows], schema)


def _write(path: Path, rows: list[dict], schema: pa.Schema) -> None:
    with whole(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)


class LabelWriter:
    """labels/<task>.parquet, one video after another."""

    def __init__(self, path: Path, kind: str):
        self.values = kind != "one_of_n"
        column = ("values", pa.list_(pa.float32())) if self.values else ("label", pa.int32())
        self.schema = pa.schema([("video_id", pa.string()), ("t_ms", pa.int64()), column])
        self.tables: list[pa.Table] = []
        self.rows = 0
        self._whole = whole(path)
        self._writer = None

    def __enter__(self) -> "LabelWriter":
        self._writer = pq.ParquetWriter(self._whole.__enter__(), self.schema)
        return self

    def add(self, video_id: str, labels: LabelTable) -> None:
        if self.values:
            width = labels.values.shape[1]
            offsets = np.arange(len(labels.t_ms) + 1, dtype=np.int32) * width
            column = pa.ListArray.from_arrays(
                offsets, pa.array(labels.values.ravel(), pa.float32())
            )
        else:
            column = pa.array(labels.label, pa.int32())
        name = pa.array([video_id] * len(labels.t_ms), pa.string())
        t_ms = pa.array(labels.t_ms, pa.int64())
        self.tables.append(pa.Table.from_arrays([name, t_ms, column], schema=self.schema))
        self.rows += len(labels.t_ms)
        if self.rows >= ROWS_IN_MEMORY:
            self._flush()

    def _flush(self) -> None:
        if self.tables:
            self._writer.write_table(pa.concat_tables(self.tables).combine_chunks())
        self.tables, self.rows = [], 0

    def __exit__(self, *error) -> None:
        try:
            if error[0] is None:
                self._flush()
        finally:
            self._writer.close()
            self._whole.__exit__(*error)


def clips(path: Path, videos: Container[str], rename: Callable[[str], str] = str) -> list[dict]:
    """Rows of clips.csv; `rename` tells what the store calls a video of the file.

    Raises UserError naming the first bad row.
    """
    rows = []
    for where, row in read_rows(path, ["video_id", "start_ms", "end_ms"], ("label", "weight")):
        row["video_id"] = rename(row["video_id"])
        row |= span(row, where, videos)
        if "weight" in row:
            row["weight"] = number(row["weight"], where, "weight")
        rows.append(row)
    return rows


def write_clips(path: Path, rows: list[dict]) -> None:
    """clips.parquet, in the order of the csv file."""
    kinds = {"start_ms": pa.int64(), "end_ms": pa.int64(), "weight": pa.float64()}
    _write(path, rows, pa.schema({name: kinds.get(name, pa.string()) for name in rows[0]}))


def write_captions(path: Path, rows: list[dict]) -> None:
    """captions.parquet, in the order of the csv file."""
    columns = {name: pa.type_for_alias(kind) for name, kind in CAPTION_COLUMNS.items()}
    _write(path, rows, pa.schema(columns))


def write_same_cases(path: Path, rows: list[dict]) -> None:
    """same_cases.parquet."""
    columns = {name: pa.type_for_alias(kind) for name, kind in SAME_CASE_COLUMNS.items()}
    _write(path, rows, pa.schema(columns))


def write_edits(path: Path, rows: list[dict]) -> None:
    """edits.parquet."""
    columns = {name: pa.type_for_alias(kind) for name, kind in EDIT_COLUMNS.items()}
    _write(path, rows, pa.schema(columns))


def register(store: Path, name: str) -> None:
    """Put the digest of a table that a finished store has got into its store.json."""
    about = store / "store.json"
    meta = json.loads(about.read_text(encoding="utf-8"))
    meta["tables"][name] = sha256(store / name)
    write_whole(about, json.dumps(meta, indent=1) + "\n")


def span(row: dict[str, str], where: str, videos: Container[str]) -> dict[str, int]:
    """start_ms and end_ms of a row. Raises UserError naming it."""
    if row["video_id"] not in videos:
        raise UserError(f"{where}: no video {row['video_id']!r}{nearest(row['video_id'], videos)}")
    start, end = (number(row[name], where, name) for name in ("start_ms", "end_ms"))
    if not start < end or start % 1 or end % 1:
        raise UserError(
            f"{where}: start_ms {row['start_ms']}, end_ms {row['end_ms']}; expected whole "
            f"milliseconds, end after start"
        )
    return {"start_ms": int(start), "end_ms": int(end)}
