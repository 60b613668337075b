"""Reading a store: tables stay in Arrow until asked for, frames come by (video, frame).

Opening reads store.json and three columns of videos.parquet; shards are opened when a frame of
theirs is first asked for, with a bound on open files. The layout is described in record.py.
"""

import bisect
import collections
import contextlib
import itertools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from surgjax.data import record
from surgjax.errors import UserError

# One record at a time, nothing read ahead: a clip's frames are asked for one by one, and every
# thread that reads keeps its own few open shards. Without the footer's prefetch of 1 MiB, opening a
# shard of 10,000 records reads 0.25 MB and takes 1.3 ms instead of 1.65.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0,footer_prefetch_bytes:0"
READER_BUFFER = 65536
OPEN_SHARDS = 32  # a thread

Whole = int | np.integer
Frames = Sequence[Whole] | np.ndarray


def open_store(path: str | Path) -> "Store":
    """The store in folder `path`, from videos.parquet and store.json alone.

    Raises:
      UserError: no store there, a store of a newer schema, unreadable tables, or no frames.
    """
    path = Path(path)
    return Store(path, _read_meta(path))


def _read_meta(path: Path) -> dict:
    if not path.is_dir():
        raise UserError(
            f"no store at {path}: the folder does not exist; expected the --out of "
            "`python -m data_prep shards`"
        )
    for name in ("store.json", "videos.parquet"):
        if not (path / name).is_file():
            raise UserError(
                f"{path} is no complete store: {name} is missing; run the same "
                "`python -m data_prep shards` command again to finish it"
            )
    try:
        meta = json.loads((path / "store.json").read_text())
        version = int(meta["schema_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path / 'store.json'} is damaged ({error!r}); prepare the store again"
        ) from error
    if version > record.SCHEMA_VERSION:
        raise UserError(
            f"{path} has store schema {version}, this surgjax reads up to "
            f"{record.SCHEMA_VERSION}; upgrade surgjax"
        )
    missing = [key for key in ("settings", "shards") if key not in meta]
    if missing:
        raise UserError(
            f"{path / 'store.json'} lacks {', '.join(missing)}; prepare the store again"
        )
    return meta


class Store:
    """A prepared corpus.

    Attributes:
      path: folder of the store.
      meta: store.json.
      name: meta["name"], or the folder's name.
      codec: of the frames, "jpeg" or "x264"; see decode.py.
      frames: int64 (videos,), stored frames of each video.
      videos: columns of videos.parquet by name as numpy arrays, converted when first asked for.
    """

    def __init__(self, path: Path, meta: dict):
        self.path, self.meta = path, meta
        self.name = str(meta.get("name") or path.name)
        self.frames_per_record = int(meta["settings"].get("frames_per_record", 1))
        self.codec = str(meta["settings"].get("codec", "jpeg"))
        if self.codec not in record.CODECS:
            raise UserError(
                f"{path} holds frames of codec {self.codec!r}, this surgjax reads "
                f"{' and '.join(record.CODECS)}; upgrade surgjax"
            )
        self._local = threading.local()
        try:
            self._schema = pq.read_schema(path / "videos.parquet")
        except (pa.ArrowException, OSError) as error:
            raise self._damaged("videos.parquet", error) from error
        missing = [c for c in record.VIDEO_COLUMNS if c not in self._schema.names]
        if missing:
            raise UserError(
                f"{path / 'videos.parquet'} lacks the columns {', '.join(missing)}; "
                "prepare the store again"
            )
        table = self._table("videos.parquet", columns=["video_id", "frames", "first_record"])
        self.frames = _numbers(table["frames"]).astype(np.int64, copy=False)
        self._first_record = _numbers(table["first_record"]).astype(np.int64, copy=False)
        self._ids = table["video_id"].combine_chunks()
        if not len(self.frames) or self.frames.max() < 1:
            raise UserError(
                f"{path} is empty: {len(self.frames)} videos and no frames; see its "
                "quarantine.parquet for what could not be read"
            )
        counts = [int(shard["records"]) for shard in meta["shards"]]
        self._shard_files = [str(shard["file"]) for shard in meta["shards"]]
        self._shard_ends = list(itertools.accumulate(counts))
        records = self._first_record + -(-self.frames // self.frames_per_record)
        if records.max() > (self._shard_ends[-1] if counts else 0):
            raise UserError(
                f"{path} is inconsistent: videos.parquet needs {records.max()} records, "
                f"store.json lists {sum(counts)}; prepare the store again"
            )
        self.videos = _Columns(self)

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.frames)

    def __reduce__(self):
        return open_store, (self.path,)  # readers stay with their thread; tables are cheap to open

    def video_id(self, video: Whole) -> str:
        """Name of one video, without making all of them Python strings."""
        return self._ids[int(video)].as_py()

    @property
    def split_columns(self) -> list[str]:
        return [name for name in self._schema.names if name.startswith("split_")]

    @property
    def held_out_columns(self) -> list[str]:
        """Splits whose validation and test cases pretraining leaves out: all but folds."""
        folds = {
            f"split_{name}"
            for source in self.meta.get("sources", ())
            for name, about in source.get("splits", {}).items()
            if "fold" in about
        }
        return [name for name in self.split_columns if name not in folds]

    def column(self, name: str) -> pa.Array:
        """One column of videos.parquet in Arrow form."""
        if name == "video_id":
            return self._ids
        if name not in self._schema.names:
            raise KeyError(f"{self.path} has no column {name!r}; it has {self._schema.names}")
        return self._table("videos.parquet", columns=[name])[name].combine_chunks()

    def labels(self, task: str) -> dict[str, np.ndarray]:
        """Labels of a task: {"video" int32 row of videos.parquet, "t_ms" int64} and either
        "label" int32 (n,) or "values" float32 (n, classes).

        Raises:
          UserError: the store has no such task.
        """
        path = self.path / "labels" / f"{task}.parquet"
        if not path.is_file():
            known = sorted(p.stem for p in (self.path / "labels").glob("*.parquet"))
            raise UserError(f"{self.path} has no labels of task {task!r}; it has {known or 'none'}")
        table = self._table(f"labels/{task}.parquet", read_dictionary=["video_id"])
        out = {
            "video": self._rows_of(table, path),
            "t_ms": _numbers(table["t_ms"]).astype(np.int64, copy=False),
        }
        if "label" in table.column_names:
            return out | {"label": _numbers(table["label"]).astype(np.int32, copy=False)}
        values = table["values"].combine_chunks()
        flat = _numbers(values.flatten()).astype(np.float32, copy=False)
        return out | {"values": flat.reshape(len(values), -1)}

    def same_cases(self) -> list[dict]:
        """Rows of same_cases.parquet (record.SAME_CASE_COLUMNS); none if there is no such table."""
        if not (self.path / "same_cases.parquet").is_file():
            return []
        return self._table("same_cases.parquet").to_pylist()

    @property
    def has_captions(self) -> bool:
        return (self.path / "captions.parquet").is_file()

    def captions(self) -> dict[str, np.ndarray]:
        """Columns of captions.parquet (record.CAPTION_COLUMNS), read at every call; in place of
        "video_id" is "video", int32 row of videos.parquet. Strings are objects.

        Raises:
          UserError: the store has no captions.
        """
        path = self.path / "captions.parquet"
        if not self.has_captions:
            raise UserError(
                f"{self.path} has no captions; run its `python -m data_prep shards` command again "
                "with --captions FILE"
            )
        table = self._table(path.name, read_dictionary=["video_id"])
        missing = [name for name in record.CAPTION_COLUMNS if name not in table.column_names]
        if missing:
            raise UserError(
                f"{path} lacks the columns {', '.join(missing)}; it was written by an older "
                "surgjax: prepare the store again"
            )
        names = [name for name in record.CAPTION_COLUMNS if name != "video_id"]
        columns = {name: _numbers(table[name]) for name in names}
        return {"video": self._rows_of(table, path)} | columns

    def read(self, video: Whole, frames: Frames) -> list[bytes]:
        """Encoded frames of one video, in the order asked for; a record is read once for
        neighbouring frames of it. Safe from any thread.

        Raises:
          UserError: a shard is missing.
          RuntimeError, ValueError: a record cannot be read or is not the one expected.
        """
        return list(self.stream(video, frames))

    def stream(self, video: Whole, frames: Frames) -> Iterator[bytes]:
        """As `read`, one after the other, so that an error belongs to a frame."""
        for parsed, at in self.records(video, frames):
            yield parsed.frames[at]

    def records(self, video: Whole, frames: Frames) -> Iterator[tuple[record.Record, int]]:
        """The record of each frame and the frame's place in it; read once for neighbours."""
        n, first, total = self.frames_per_record, self._first_record[video], self.frames[video]
        name, last, parsed = self.video_id(video), -1, None
        for frame in map(int, frames):
            if not 0 <= frame < total:
                raise IndexError(f"frame {frame} of {name}, which has {total}")
            number = frame // n
            if number != last:
                parsed = record.parse(self._read_record(int(first) + number))
                if parsed.first_frame != number * n or parsed.video_id != name:
                    raise ValueError(
                        f"record of {parsed.video_id} frame {parsed.first_frame} where {name} "
                        f"frame {number * n} belongs"
                    )
                last = number
            if frame - number * n >= len(parsed.frames):
                raise ValueError(f"record of {name} at frame {parsed.first_frame} is short")
            yield parsed, frame - number * n

    def read_times(self, video: Whole, frames: Frames) -> list[int]:
        """Presentation times of stored frames in the original recording, milliseconds."""
        return [parsed.t_ms[at] for parsed, at in self.records(video, frames)]

    def frames_at(self, video: Whole, t_ms: Frames) -> np.ndarray:
        """Stored frames with exactly these presentation times, int64. The rate gives a first
        guess, so that a label costs one or two reads.

        Raises:
          ValueError: no stored frame has that time.
        """
        fps = float(self.videos["stored_fps"][video])
        return np.array([self._frame_at(video, int(t), fps) for t in t_ms], np.int64)

    def frames_before(self, video: Whole, t_ms: Whole) -> int:
        """How many stored frames of a video come before a time. Whatever the rate, at a few reads:
        where it is constant, time and rate give the number too."""
        frames = range(int(self.frames[video]))
        return bisect.bisect_left(frames, t_ms, key=lambda i: self.read_times(video, [i])[0])

    def close(self) -> None:
        """Close the shards this thread has open; the next read opens them again."""
        readers = self._local.__dict__.get("readers", {})
        while readers:
            readers.popitem()[1].close()

    def _rows_of(self, table: pa.Table, path: Path) -> np.ndarray:
        """Rows of videos.parquet named by a table's dictionary-encoded video_id, int32."""
        ids = table["video_id"].combine_chunks()
        rows = pc.index_in(ids.dictionary, value_set=self._ids)
        if rows.null_count:
            raise UserError(
                f"{path} names a video that videos.parquet lacks; prepare the store again"
            )
        return rows.to_numpy(zero_copy_only=False)[_numbers(ids.indices)].astype(np.int32)

    def _frame_at(self, video: Whole, t_ms: int, fps: float) -> int:
        low, high = 0, int(self.frames[video]) - 1
        guess = round(t_ms * fps / 1000)
        while low <= high:
            guess = min(max(guess, low), high)
            found = self.read_times(video, [guess])[0]
            if found == t_ms:
                return guess
            if found < t_ms:
                low = guess + 1
            else:
                high = guess - 1
            # The rate may be an average, so after a first correction the search halves.
            step = round((t_ms - found) * fps / 1000)
            guess = guess + step if low <= guess + step <= high else (low + high) // 2
        raise ValueError(f"{self.video_id(video)} has no stored frame at {t_ms} ms")

    def _read_record(self, number: int) -> bytes:
        shard = bisect.bisect_right(self._shard_ends, number)
        reader = self._reader(shard)
        try:
            # seek + read costs the same in any shard; read([i]) walks the whole index of the shard.
            reader.seek(number - (self._shard_ends[shard - 1] if shard else 0))
            return reader.read()
        except BaseException:
            # A reader that met damage refuses the sound records after it too.
            del self._local.readers[shard]
            with contextlib.suppress(RuntimeError):
                reader.close()
            raise

    def _reader(self, shard: int):
        opened = self._local.__dict__.setdefault("readers", collections.OrderedDict())
        if shard in opened:
            opened.move_to_end(shard)
            return opened[shard]
        from array_record.python import array_record_module

        path = self.path / self._shard_files[shard]
        if not path.is_file():
            raise UserError(f"{path} is missing; run `python -m data_prep verify {self.path}`")
        opened[shard] = array_record_module.ArrayRecordReader(
            str(path), READER_OPTIONS, file_reader_buffer_size=READER_BUFFER
        )
        while len(opened) > OPEN_SHARDS:
            opened.popitem(last=False)[1].close()
        return opened[shard]

    def _table(self, name: str, **options) -> pa.Table:
        try:
            return pq.read_table(self.path / name, **options)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> UserError:
        return UserError(
            f"{self.path / name} cannot be read ({error}); run "
            f"`python -m data_prep verify {self.path}`"
        )


class _Columns(Mapping):
    """Columns of videos.parquet as numpy arrays; strings become objects only when asked for."""

    def __init__(self, store: Store):
        self._store, self._cache = store, {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._cache:
            column = self._store.column(name)
            self._cache[name] = column.to_numpy(zero_copy_only=False)
        return self._cache[name]

    def __iter__(self):
        return iter(self._store._schema.names)

    def __len__(self) -> int:
        return len(self._store._schema.names)


def _numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.to_numpy(zero_copy_only=False)
