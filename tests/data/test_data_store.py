import json
import pickle
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from surgjax.data import store as store_module
from surgjax.data.store import open_store
from surgjax.errors import UserError


def shows(jpeg, picture):
    return np.abs(simplejpeg.decode_jpeg(jpeg).astype(int) - picture).mean() < 3


@pytest.mark.parametrize("frames_per_record", [1, 6])
def test_every_frame_is_where_the_tables_say(tmp_path, make_store, colours_of, frames_per_record):
    path = make_store(tmp_path / "s", frames_per_record=frames_per_record, records_per_shard=5)
    store = open_store(path)
    assert len(store) == 3 and store.frames.tolist() == [40, 7, 25]
    for video, count in enumerate((40, 7, 25)):
        jpegs = store.read(video, range(count))
        for frame, jpeg in enumerate(jpegs):
            assert shows(jpeg, colours_of(video, frame, 48, 64))
        assert store.read_times(video, range(count)) == [f * 40 for f in range(count)]
    assert shows(store.read(2, [24, 0, 24])[0], colours_of(2, 24, 48, 64))
    with pytest.raises(IndexError, match="frame 7 of video01"):
        store.read(1, [7])
    store.close()
    assert store.read(0, [3]) == open_store(path).read(0, [3])


def test_neighbouring_frames_of_a_record_are_read_once(tmp_path, make_store, monkeypatch):
    store = open_store(make_store(tmp_path / "s", frames_per_record=8))
    reads = []
    read_record = store_module.Store._read_record
    monkeypatch.setattr(
        store_module.Store, "_read_record", lambda s, n: reads.append(n) or read_record(s, n)
    )
    store.read(0, range(4, 20))
    assert reads == [0, 1, 2]


def test_readers_are_bounded_and_belong_to_a_thread(made_store, monkeypatch, colours_of):
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 2)
    store = open_store(made_store)
    wrong = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for frame in rng.integers(40, size=100):
            if not shows(store.read(0, [frame])[0], colours_of(0, int(frame), 48, 64)):
                wrong.append(frame)
        if len(store._local.readers) > 2:
            wrong.append("open")
        store.close()

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


def test_a_store_travels_by_pickle(made_store):
    store = open_store(made_store)
    before = store.read(1, [2])
    assert pickle.loads(pickle.dumps(store)).read(1, [2]) == before


def test_frames_by_time_with_a_rate_that_varies(tmp_path, make_store, monkeypatch):
    times = np.cumsum(np.random.default_rng(0).integers(1, 90, size=40)).tolist()
    store = open_store(make_store(tmp_path / "s", frames=(40,), fps=25.0))
    reads = []
    monkeypatch.setattr(
        store, "read_times", lambda v, frames: reads.extend(frames) or [times[f] for f in frames]
    )
    assert store.frames_at(0, times).tolist() == list(range(40))
    assert len(reads) < 40 * 7
    for gone in (-5, times[3] + 1, times[-1] + 1000):
        if gone not in times:
            with pytest.raises(UserError, match="no stored frame"):
                store.frames_at(0, [gone])


def test_labels(tmp_path, make_store):
    path = make_store(tmp_path / "s")
    (path / "labels").mkdir()
    ids = ["video02", "video00", "video02"]
    times = pa.array([0, 40, 80], pa.int64())
    phase = {"video_id": ids, "t_ms": times, "label": pa.array([1, 0, 2], pa.int32())}
    pq.write_table(pa.table(phase), path / "labels" / "phase.parquet")
    tools = pa.array([[0, 1], [1, 0], [1, 1]], pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"video_id": ids, "t_ms": times, "values": tools}),
        path / "labels" / "instrument.parquet",
    )
    store = open_store(path)
    phase = store.labels("phase")
    assert phase["video"].tolist() == [2, 0, 2] and phase["label"].tolist() == [1, 0, 2]
    assert store.frames_at(2, phase["t_ms"][[0, 2]]).tolist() == [0, 2]
    assert store.labels("instrument")["values"].tolist() == [[0, 1], [1, 0], [1, 1]]
    with pytest.raises(UserError, match="no labels of task 'step'.*instrument.*phase"):
        store.labels("step")


def change_meta(**changes):
    def change(path):
        meta = json.loads((path / "store.json").read_text()) | changes
        (path / "store.json").write_text(json.dumps(meta))

    return change


def drop_column(path):
    table = pq.read_table(path / "videos.parquet").drop_columns(["case"])
    pq.write_table(table, path / "videos.parquet")


def no_videos(path):
    pq.write_table(pq.read_table(path / "videos.parquet").slice(0, 0), path / "videos.parquet")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda p: [f.unlink() for f in p.iterdir()] and p.rmdir(), "does not exist"),
        (lambda p: (p / "store.json").unlink(), "store.json is missing"),
        (lambda p: (p / "videos.parquet").unlink(), "videos.parquet is missing"),
        (lambda p: (p / "store.json").write_text("{"), "store.json is damaged"),
        (lambda p: (p / "store.json").write_text("[]"), "store.json is damaged"),
        (lambda p: (p / "store.json").write_text('{"schema_version": 1}'), "lacks settings"),
        (change_meta(schema_version=2), "schema 2.*up to 1; upgrade"),
        (change_meta(shards=[]), "inconsistent"),
        (lambda p: (p / "videos.parquet").write_bytes(b"PAR1"), "cannot be read.*verify"),
        (drop_column, "lacks the columns case"),
        (no_videos, "is empty"),
    ],
)
def test_what_is_no_store_is_refused_in_one_line(tmp_path, make_store, damage, message):
    path = make_store(tmp_path / "s", frames=(3,))
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        open_store(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_shard_names_itself(tmp_path, make_store):
    path = make_store(tmp_path / "s", frames=(3,))
    store = open_store(path)
    next(path.glob("*array_record*")).unlink()
    with pytest.raises(UserError, match="00000-of-00001 is missing.*verify"):
        store.read(0, [0])


def test_a_record_of_another_video_is_not_taken(tmp_path, make_store):
    first_record = np.array([0, 39, 47], np.int64)  # video01 begins at 40
    path = make_store(tmp_path / "s", first_record=first_record)
    with pytest.raises(ValueError, match="record of video00 frame 39 where video01 frame 0"):
        open_store(path).read(1, [0])


MEASURE = """
import sys, time
import numpy as np
from surgjax.data.store import open_store
from surgjax.data.leakage import usable_videos
from surgjax.data.plan import ClipShape, Plan
start = time.perf_counter()
store = open_store({path!r})
opened = time.perf_counter() - start
masks, report = usable_videos([store])
plan = Plan([store], masks, ClipShape(16, 4, 224), 1024, seed=0)
planned = time.perf_counter() - start
rows = []
for step in range(5):
    begin = time.perf_counter()
    plan.rows(10**5 + step)
    rows.append(time.perf_counter() - begin)
assert "jax" not in sys.modules
# not getrusage, whose peak a child takes over from the process that started it
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) / 1024
print(opened, planned, np.median(rows), peak, int(store.frames.sum()))
"""


@pytest.mark.parametrize(
    "videos, frames",
    [
        (20_000, 10_000),
        pytest.param(1_700_000, 126, marks=pytest.mark.slow),
    ],
)
def test_200_million_frames_open_within_memory(tmp_path, make_tables, run_python, videos, frames):
    ids = pa.array(np.char.add("case/video", np.arange(videos).astype(str)))
    split = np.where(np.arange(videos) % 50 == 0, "test", "train")
    shards = [
        (f"surgjax-train.array_record-{i:05d}-of-20000", 10_000)
        for i in range(-(-videos * frames // 10_000))
    ]
    make_tables(
        tmp_path / "big",
        np.full(videos, frames),
        shards=shards,
        video_id=ids,
        case=pa.array(np.char.add("big/", np.arange(videos).astype(str))),
        split_official=pa.array(split),
    )
    printed = run_python(MEASURE.format(path=str(tmp_path / "big")))
    opened, planned, rows, peak, total = map(float, printed.split())
    print(f"{videos} videos: open {opened:.2f} s, plan {planned:.2f} s, rows {rows * 1e3:.1f} ms")
    print(f"peak memory {peak:.0f} MB")
    assert total >= 200e6 and peak < 1536
