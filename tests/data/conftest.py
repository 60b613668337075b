"""Stores written by hand from record.py alone, so that the reader is tested without data_prep."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
from array_record.python import array_record_module

from surgjax.data import record


def picture(video: int, frame: int, height: int, width: int) -> np.ndarray:
    """A frame whose colours tell which one it is: red the video, green the frame."""
    out = np.empty((height, width, 3), np.uint8)
    out[..., 0], out[..., 1] = 20 + 30 * video % 220, 10 + 3 * frame % 240
    out[..., 2] = np.linspace(0, 255, width, dtype=np.uint8)
    return out


def write_videos(path: Path, frames, fps=25.0, shards=(("x", 1 << 60),), **columns) -> None:
    """videos.parquet and store.json without any frames."""
    path.mkdir(parents=True, exist_ok=True)
    count = len(frames)
    frames = np.asarray(frames, np.int64)
    names = [f"video{i:02d}" for i in range(count)]
    table = {
        "video_id": names,
        "dataset": ["made"] * count,
        "case": [f"made/{name}" for name in names],
        "domain": ["laparoscopy"] * count,
        "procedure": ["cholecystectomy"] * count,
        "anatomy": ["gallbladder"] * count,
        "licence": ["CC0-1.0"] * count,
        "native_fps": np.full(count, 25.0),
        "stored_fps": np.broadcast_to(np.asarray(fps, np.float64), (count,)),
        "width": np.full(count, 64, np.int32),
        "height": np.full(count, 48, np.int32),
        "frames": frames,
        "first_record": np.concatenate([[0], np.cumsum(frames)[:-1]]).astype(np.int64),
    }
    table |= columns
    pq.write_table(pa.table(table), path / "videos.parquet")
    meta = {
        "schema_version": 1,
        "name": path.name,
        "settings": {"fps": "native", "frames_per_record": 1, "codec": "jpeg"},
        "shards": [{"file": name, "records": records} for name, records in shards],
    }
    (path / "store.json").write_text(json.dumps(meta))


def write_store(
    path: Path,
    frames=(40, 7, 25),
    *,
    fps=25.0,
    frames_per_record=1,
    records_per_shard=16,
    height=48,
    width=64,
    left_out=None,
    **columns,
) -> Path:
    """A store of recordings with that many frames; a video crosses shard ends. `left_out`: video ->
    spans (start_ms, end_ms or None) whose frames are not stored."""
    path.mkdir(parents=True, exist_ok=True)
    left_out, stored = left_out or {}, []
    records, first_record = [], []
    for video, count in enumerate(frames):
        first_record.append(len(records))
        spans = [(start, 1 << 60 if end is None else end) for start, end in left_out.get(video, ())]
        gone = lambda f: any(a <= round(f * 1000 / fps) < b for a, b in spans)  # noqa: B023, E731
        kept = [f for f in range(count) if not gone(f)]
        stored.append(len(kept))
        for first in range(0, len(kept), frames_per_record):
            inside = kept[first : first + frames_per_record]
            jpegs = [
                simplejpeg.encode_jpeg(picture(video, f, height, width), quality=95) for f in inside
            ]
            times = tuple(round(f * 1000 / fps) for f in inside)
            item = record.Record(f"video{video:02d}", first, times, tuple(jpegs))
            records.append(record.serialize(item))
    shards = []
    total = -(-len(records) // records_per_shard)
    for shard in range(total):
        name = record.SHARD_NAME.format(shard=shard, shards=total)
        part = records[shard * records_per_shard : (shard + 1) * records_per_shard]
        writer = array_record_module.ArrayRecordWriter(str(path / name), record.WRITER_OPTIONS)
        for item in part:
            writer.write(item)
        writer.close()
        digest = hashlib.sha256((path / name).read_bytes()).hexdigest()
        shards.append({"file": name, "records": len(part), "sha256": digest})
    columns = {"first_record": np.array(first_record, np.int64)} | columns
    write_videos(path, stored, fps=fps, **columns)
    if left_out:
        write_left_out(path, left_out)
    meta = json.loads((path / "store.json").read_text())
    meta["shards"], meta["settings"]["frames_per_record"] = shards, frames_per_record
    (path / "store.json").write_text(json.dumps(meta))
    return path


def write_left_out(path: Path, left_out: dict) -> None:
    """edits.parquet, with a covered box of the first video besides."""
    rows = [("video00", "covered", 0, None, "text", 0.1, 0.1, 0.2, 0.2)]
    for video, spans in left_out.items():
        rows += [(f"video{video:02d}", "left_out", *s, "text", *[None] * 4) for s in spans]
    schema = pa.schema([(n, pa.type_for_alias(t)) for n, t in record.EDIT_COLUMNS.items()])
    rows = [dict(zip(record.EDIT_COLUMNS, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path / "edits.parquet")


@pytest.fixture(scope="session")
def made_store(tmp_path_factory) -> Path:
    """Three videos of 40, 7 and 25 frames in shards of 16 records."""
    return write_store(tmp_path_factory.mktemp("stores") / "made")


@pytest.fixture(scope="session")
def make_store():
    return write_store


@pytest.fixture(scope="session")
def make_tables():
    return write_videos


@pytest.fixture(scope="session")
def colours_of():
    return picture


@pytest.fixture(scope="session")
def run_python():
    """Run code in a fresh interpreter; returns what it printed."""

    def run(code: str) -> str:
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
