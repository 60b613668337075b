"""Reading a store: tables stay in Arrow until asked for, frames come by (video, frame).

Opening reads store.json and three columns of videos.parquet; shards are opened when a frame of
theirs is first asked for, with a bound on open files. The layout is described in record.py.
"""

import bisect
import collections
import contextlib
import functools
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from surgjax.data import record, tables
from surgjax.data.record import VIDEO_COLUMNS as VIDEO_KINDS
from surgjax.errors import UserError
from surgjax.inside import inside

# One record at a time, nothing read ahead: a clip's frames are asked for one by one, and every
# thread that reads keeps its own few open shards. Without the footer's prefetch of 1 MiB, opening a
# shard of 10,000 records reads 0.25 MB and takes 1.3 ms instead of 1.65.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0,footer_prefetch_bytes:0"
READER_BUFFER = 65536
OPEN_SHARDS = 32  # a thread
NO_END = 1 << 62  # milliseconds, of a span that reaches the end of its video
MAX_GUESSES = 8  # by the rate, in the search for a time

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
        meta = tables.parse_meta((path / "store.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path / 'store.json'} is damaged ({error}); prepare the store again"
        ) from error
    if meta["schema_version"] > record.SCHEMA_VERSION:
        raise UserError(
            f"{path} has store schema {meta['schema_version']}, this surgjax reads up to "
            f"{record.SCHEMA_VERSION}; upgrade surgjax"
        )
    refuse_names_outside(path, meta)
    return meta


def refuse_names_outside(path: Path, meta: dict) -> None:
    """Raises UserError where store.json names a shard, table or task outside of the store."""
    shards = [shard["file"] for shard in meta["shards"]]
    for name in [*shards, *meta.get("tables", {}), *meta.get("tasks", {})]:
        inside(path, name, "store.json")


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
        self.frames_per_record = meta["settings"].get("frames_per_record", 1)
        self.codec = str(meta["settings"].get("codec", "jpeg"))
        if self.codec not in record.CODECS:
            raise UserError(
                f"{path} holds frames of codec {self.codec!r}, this surgjax reads "
                f"{' and '.join(record.CODECS)}; upgrade surgjax"
            )
        self._local = threading.local()
        self._stretches: dict[int, list[tuple[int, int]]] = {}
        self._schema = self._schema_of("videos.parquet")
        missing = [c for c in record.VIDEO_COLUMNS if c not in self._schema.names]
        if missing:
            raise UserError(
                f"{path / 'videos.parquet'} lacks the columns {', '.join(missing)}; "
                "prepare the store again"
            )
        kinds = {name: VIDEO_KINDS[name] for name in ("video_id", "frames", "first_record")}
        table = self._table("videos.parquet", kinds)
        self.frames, self._first_record = _numbers(table["frames"]), _numbers(table["first_record"])
        self._ids = table["video_id"].combine_chunks()
        if pc.count_distinct(self._ids).as_py() < len(self._ids):
            raise self._damaged("videos.parquet", "a video is there twice")
        if not len(self.frames) or self.frames.max() < 1:
            raise UserError(
                f"{path} is empty: {len(self.frames)} videos and no frames; see its "
                "quarantine.parquet for what could not be read"
            )
        self._shard_files = [shard["file"] for shard in meta["shards"]]
        self._shard_ends = list(itertools.accumulate(shard["records"] for shard in meta["shards"]))
        first, total = self._first_record, min(sum(self._shard_ends[-1:]), 1 << 62)
        needed = -(-self.frames // self.frames_per_record)
        if min(first.min(), self.frames.min()) < 0 or (first > total - needed).any():
            raise UserError(
                f"{path} is inconsistent: videos.parquet needs {(first + needed).max()} records, "
                f"store.json lists {total}; prepare the store again"
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
        kind = "string" if name.startswith("split_") else VIDEO_KINDS.get(name)
        kinds = {name: kind or self._schema.field(name).type}
        may_be_empty = () if name in ("dataset", "case", "stored_fps") else (name,)
        column = self._table("videos.parquet", kinds, may_be_empty)[name].combine_chunks()
        if name in ("stored_fps", "native_fps"):
            rate = _numbers(column)
            known = (rate > 0) | (name == "native_fps") & (np.isnan(rate) | (rate == 0))
            if not (known & ~(rate >= 1e6)).all():
                raise self._damaged("videos.parquet", f"{name} is no rate")
        return column

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
        file, classes = f"labels/{task}.parquet", self._classes(task)
        one_of_n = "values" not in self._schema_of(file).names
        kinds = {"label": "int32"} if one_of_n else {"values": pa.list_(pa.float32())}
        table = self._table(file, {"video_id": tables.NAMES, "t_ms": "int64"} | kinds)
        out = {"video": self._rows_of(table, path), "t_ms": _numbers(table["t_ms"])}
        if one_of_n:
            label = _numbers(table["label"])
            if classes is not None and label.max(initial=0) >= classes:
                raise self._damaged(file, f"class {label.max()} of {classes}")
            return out | {"label": label}
        lists = table["values"].combine_chunks()
        width = len(lists.values) // max(1, len(lists)) if classes is None else classes
        if not tables.is_rectangular(lists, width):
            raise self._damaged(file, f"rows without values for {width} classes")
        return out | {"values": _numbers(lists.flatten()).reshape(len(lists), width)}

    def same_cases(self) -> list[dict]:
        """Rows of same_cases.parquet (record.SAME_CASE_COLUMNS); none if there is no such table."""
        if not (self.path / "same_cases.parquet").is_file():
            return []
        return self._table("same_cases.parquet", record.SAME_CASE_COLUMNS).to_pylist()

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
        table = self._table(path.name, record.CAPTION_COLUMNS | {"video_id": tables.NAMES})
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
        """Stored frames with exactly these presentation times, int64, at one or two reads each.

        Raises:
          UserError: no stored frame has that time.
        """
        found = [self._search(video, int(t)) for t in t_ms]
        for t, (_, is_there) in zip(t_ms, found, strict=True):
            if not is_there:
                raise UserError(
                    f"{self.video_id(video)} has no stored frame at {t} ms in {self.path}; labels "
                    f"and frames are of different versions: prepare the store again"
                )
        return np.array([frame for frame, _ in found], np.int64)

    def frames_before(self, video: Whole, t_ms: Whole) -> int:
        """How many stored frames of a video come before a time, at a few reads whatever the rate.
        For spans of time see `frames_in`, which reads nothing where the rate gives the number."""
        return self._search(video, int(t_ms))[0]

    def frames_in(self, video: Frames, span_ms: np.ndarray | Sequence[Frames]) -> np.ndarray:
        """Stored frames of spans of time: those that begin in it.

        A span between two frames has the one after it; one after the last frame, before the video
        ends, has that. A span in which every frame was left out of the store has none.

        Args:
          video: (n,) rows of videos.parquet.
          span_ms: (n, 2) from and to, in the time of the recording.

        Returns:
          int64 (n, 2), the first frame and the one after the last, equal where there is none. More
          than the frames of the video where the span is known to begin after its end.
        """
        video, span_ms = np.asarray(video), np.asarray(span_ms)
        frames, fps = self.frames[video], self.videos["stored_fps"][video].astype(np.float64)
        found = np.ceil(np.round(span_ms * fps[:, None] / 1000, 6)).astype(np.int64)
        has_none = found[:, 0] > frames
        before = functools.cache(self.frames_before)  # neighbours share a time
        for i in np.flatnonzero(self._is_searched[video]):
            row = int(video[i])
            found[i] = first, end = [before(row, int(t)) for t in span_ms[i]]
            has_none[i] = first == end and self._is_cut(row, first)
        first = np.minimum(found[:, 0], frames - 1)
        end = np.clip(found[:, 1], first + 1, frames)
        return np.where(has_none[:, None], found[:, :1], np.stack([first, end], axis=1))

    def stretches(self, video: Whole) -> list[tuple[int, int]]:
        """Stored frames [first, end) of a video from one left-out span to the next, in order: all
        in one where nothing was left out. The first call for a video reads a few times of it."""
        video, count = int(video), int(self.frames[video])
        if video not in self._left_out:
            return [(0, count)]
        if video not in self._stretches:
            cuts = {self.frames_before(video, start) for start, _ in self._left_out[video]}
            self._stretches[video] = list(itertools.pairwise(sorted(cuts | {0, count})))
        return self._stretches[video]

    @property
    def interrupted(self) -> list[int]:
        """Rows of the videos that spans of time were left out of."""
        return sorted(self._left_out)

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

    def _search(self, video: Whole, t_ms: int) -> tuple[int, bool]:
        """How many stored frames come before a time, and whether the next has exactly that time."""
        fps = float(self.videos["stored_fps"][video])
        low, high = 0, int(self.frames[video])
        missing = sum(max(0, min(e, t_ms) - s) for s, e in self._left_out.get(int(video), ()))
        guess, tries = round((t_ms - missing) * fps / 1000), 0
        while low < high:
            guess, tries = min(max(guess, low), high - 1), tries + 1
            found = self.read_times(video, [guess])[0]
            if found == t_ms:
                return guess, True
            if found < t_ms:
                low, nearest = guess + 1, 1
            else:
                high, nearest = guess, -1
            # The rate may be an average: when it leads nowhere, halve.
            step = round((t_ms - found) * fps / 1000) or nearest
            guess = guess + step if tries < MAX_GUESSES else (low + high) // 2
        return low, False

    @functools.cached_property
    def _left_out(self) -> dict[int, list[tuple[int, int]]]:
        """Spans left out of videos, from and to in milliseconds; only of videos with any."""
        path = self.path / "edits.parquet"
        if not path.is_file():
            return {}
        kinds = record.EDIT_COLUMNS | {"video_id": tables.NAMES}
        table = self._table(path.name, kinds, may_be_empty=("end_ms", "x0", "y0", "x1", "y1"))
        found: dict[int, list[tuple[int, int]]] = {}
        columns = (table[name].to_pylist() for name in ("edit", "start_ms", "end_ms"))
        for video, edit, *span in zip(self._rows_of(table, path).tolist(), *columns, strict=True):
            if edit == "left_out":
                start, end = span
                found.setdefault(video, []).append((start, NO_END if end is None else end))
        return found

    @functools.cached_property
    def _is_searched(self) -> np.ndarray:
        """Videos whose rate does not tell which frame is on screen, bool (videos,)."""
        searched = np.zeros(len(self), bool)
        if "qc_variable_rate" in self.videos:
            searched |= self.videos["qc_variable_rate"].astype(bool)
        searched[self.interrupted] = True
        return searched

    def _is_cut(self, video: int, frame: int) -> bool:
        """Whether a stored frame and the one before it have left-out ones between them, or are the
        ends of a video with any."""
        edges = {edge for stretch in self.stretches(video) for edge in stretch}
        return video in self._left_out and frame in edges

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

    def _classes(self, task: str) -> int | None:
        """Number of classes of a task, as far as store.json says."""
        about = self.meta.get("tasks", {}).get(task)
        return None if about is None else len(about["classes"])

    def _table(self, name: str, kinds: Mapping, may_be_empty: Sequence[str] = ()) -> pa.Table:
        try:
            return tables.read_table(self.path / name, kinds, may_be_empty)
        except ValueError as error:
            raise self._damaged(name, error) from error

    def _schema_of(self, name: str) -> pa.Schema:
        try:
            return pq.read_schema(self.path / name)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception | str) -> UserError:
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
