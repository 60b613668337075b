"""A store with one file damaged or odd: verify finds it, and readers say one line or the truth."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_videos as make
from hypothesis import strategies as st
from mutations import damaged, odd_json, odd_parquet, parquet

from data_prep import corpus, verify
from surgjax.data import captioned, clip_list, decode, labelled, leakage, record
from surgjax.data.plan import ClipShape, Plan
from surgjax.data.store import Store, open_store

CLIP = ClipShape(4, 1, 32)
LABELS = "video,start,end,label\na,0,1,one\na,1,2,two\nb,0,1.2,two\nc,0,3,one\n"
SPLITS = "video,split,case\na,train,p1\nb,test,p2\nc,train,p3\n"
CAPTIONS = """video_id,start_ms,end_ms,level,text
a,0,2000,fine,cut it
b,100,1000,mid,clip
c,0,3000,coarse,all
"""
CLIPS = "video_id,start_ms,end_ms\na,0,2000\nb,0,1200\n"


def small_store(folder: Path, codec: str) -> Path:
    root, out = folder / "root", folder / codec
    for name, frames in (("a", 50), ("b", 30), ("c", 75)):
        make.write_video(root / f"{name}.mp4", frames)
    for name, text in {
        "labels": LABELS,
        "splits": SPLITS,
        "captions": CAPTIONS,
        "clips": CLIPS,
    }.items():
        (root / f"{name}.csv").write_text(text)
    options = ["--short-side", "48", "--fps", "5", "--codec", codec]
    assert make.shards(root, out, *options) == 0
    return out


@pytest.fixture(scope="module", params=["jpeg", "x264"])
def whole(request, tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("store"), request.param)


def changed(folder: Path, whole: str, name: str, data: bytes) -> Path:
    path = folder / "store"
    shutil.copytree(whole, path)
    (path / name).write_bytes(data)
    return path


def all_that_is_read(path: Path) -> str:
    """Every reader of a store's tables; asserts that what they say is possible."""
    store = open_store(path)
    assert (store.frames >= 0).all() and len({store.video_id(i) for i in range(len(store))}) == len(
        store
    )
    masks, report = leakage.usable_videos([store])
    for video in np.flatnonzero(masks[0]):
        row = {name: store.videos[name][video] for name in store.split_columns}
        assert set(row.values()) <= {"train", None} and store.videos["case"][video]
    leakage.held_out_cases([store])
    assert Plan([store], masks, CLIP, 2, 0).rows(3).shape == (2,)
    for task in store.meta["tasks"]:
        about = labelled.task_labels([store], task)
        of = store.labels(task)
        assert 0 <= of["video"].min(initial=0) and of["video"].max(initial=0) < len(store)
        if "label" in of:
            assert of["label"].max(initial=0) < len(about[task]["classes"])
        labelled.LabelledPlan([store], masks, CLIP, 2, 0, tasks=about).rows(1)
    if store.has_captions:
        chosen = captioned.choose(store, masks[0], captioned.Captions())
        assert all(isinstance(text, str) for text in chosen.text)
        assert (chosen.span_ms[:, 0] < chosen.span_ms[:, 1]).all()
    found = corpus.read([store])
    assert np.isfinite(corpus.table(found)["all"]["hours"])
    corpus.repeated(found)
    store.stretches(0)
    return "read"


def pictures_of(store: Store) -> list[bytes]:
    """Frames of every video; of a video that cannot be read what was raised."""
    found = []
    for video in range(len(store)):
        try:
            made = decode.pictures(store, video, range(int(store.frames[video])))
            found.append(b"".join(picture.tobytes() for picture in made))
        except decode.UNREADABLE:
            found.append(b"")
    store.close()
    return found


def with_other_bytes(folder: Path, whole: str, name: str, data: bytes) -> str:
    path = changed(folder, whole, name, data)
    is_same = data == (Path(whole) / name).read_bytes()
    damage = list(verify.check_store(path))
    assert bool(damage) != is_same, damage
    try:
        said = all_that_is_read(path)
    finally:
        if name.startswith("surgjax-train"):
            expected = pictures_of(open_store(whole))
            for ours, right in zip(pictures_of(open_store(path)), expected, strict=True):
                assert ours in (b"", right)
    return "damage found" if damage else said


def test_a_changed_byte_of_any_file_is_found(for_all, whole):
    meta = json.loads((whole / "store.json").read_text())
    names = [*meta["tables"], meta["shards"][0]["file"]]
    cases = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), damaged((whole / name).read_bytes()))
    )
    outcomes = for_all(other_bytes, st.just(str(whole)), cases)
    assert outcomes["damage found"] and outcomes["read"]


def other_bytes(folder: Path, whole: str, case: tuple[str, bytes]) -> str:
    return with_other_bytes(folder, whole, *case)


def described_otherwise(folder: Path, whole: str, data: bytes) -> str:
    path = changed(folder, whole, "store.json", data)
    list(verify.check_store(path))
    return all_that_is_read(path)


def test_a_changed_store_json_is_read_soundly_or_refused(for_all, whole):
    about = json.loads((whole / "store.json").read_text())
    odd = [about | {"settings": []}, about | {"tasks": {"label": {}}}, about | {"sources": [[]]}]
    examples = [(str(whole), json.dumps(one).encode()) for one in odd]
    outcomes = for_all(described_otherwise, st.just(str(whole)), odd_json(about), examples=examples)
    assert outcomes["read"] and len(outcomes) > 5


def other_table(folder: Path, whole: str, case: tuple[str, bytes]) -> str:
    name, data = case
    path = changed(folder, whole, name, data)
    about = json.loads((path / "store.json").read_text())
    about["tables"][name] = verify.tables.sha256(path / name)
    (path / "store.json").write_text(json.dumps(about))
    list(verify.check_store(path))
    return all_that_is_read(path)


@pytest.mark.parametrize("whole", ["jpeg"], indirect=True)
def test_tables_of_other_types_and_values_are_read_soundly_or_refused(for_all, whole):
    edits = pa.table({name: pa.nulls(2, kind) for name, kind in _kinds(record.EDIT_COLUMNS)})
    for name, values in {
        "video_id": ["a", "c"],
        "edit": ["left_out"] * 2,
        "start_ms": [200, 1000],
    }.items():
        at = edits.column_names.index(name)
        edits = edits.set_column(at, name, pa.array(values, edits.schema.field(at).type))
    same = pa.table(
        {"case": ["own/p1"], "same_as": ["x/p2"], "held_out": [False], "evidence": ["0.9"]}
    )
    named = {name: pq.read_table(whole / name) for name in tables_of(whole)}
    named |= {"edits.parquet": edits, "same_cases.parquet": same}
    cases = st.one_of(
        *(st.tuples(st.just(name), odd_parquet(table)) for name, table in sorted(named.items()))
    )
    table = named["labels/label.parquet"]
    label = pa.array([7] * len(table), pa.int32())  # of two classes
    odd = [table.set_column(2, "label", label)]
    odd += [table.set_column(1, "t_ms", pa.array(range(len(table)), pa.int64()))]  # of no frame
    examples = [(str(whole), ("labels/label.parquet", parquet(one))) for one in odd]
    outcomes = for_all(other_table, st.just(str(whole)), cases, examples=examples)
    assert outcomes["read"] and len(outcomes) > 5


def tables_of(store: Path) -> list[str]:
    return ["videos.parquet", "labels/label.parquet", "captions.parquet", "clips.parquet"]


def _kinds(columns):
    return [(name, pa.type_for_alias(kind)) for name, kind in columns.items()]


def listed_clips(folder: Path, whole: str, data: bytes) -> str:
    file = folder / "clips.parquet"
    file.write_bytes(data)
    store = open_store(whole)
    (spans,) = clip_list.read_clip_list(file, [store])
    rows = [row for row in pq.read_table(file).to_pylist() if float(row["weight"]) > 0]
    assert [store.video_id(video) for video in spans["video"]] == [
        row["video_id"] if isinstance(row["video_id"], str) else row["video_id"].decode()
        for row in rows
    ]
    assert (spans["first"] >= 0).all() and (spans["end"] <= store.frames[spans["video"]]).all()
    return "read"


@pytest.mark.parametrize("whole", ["jpeg"], indirect=True)
def test_lists_of_clips(for_all, whole):
    name = open_store(whole).name
    table = pa.table(
        {
            "store": [name] * 3,
            "video_id": ["a", "a", "c"],
            "start_ms": [0, 500, 0],
            "end_ms": [500, 2000, 3000],
            "weight": [1.0, 0.5, 0.0],
        }
    )
    outcomes = for_all(listed_clips, st.just(str(whole)), odd_parquet(table))
    assert outcomes["read"] and len(outcomes) > 3


RECORD = record.Record("video/a", 8, (0, 40, 80), (b"one" * 9, b"two" * 9, b""))


def a_record(folder: Path, data: bytes) -> str:
    try:
        found = record.parse(data)
    except ValueError:
        return "no record"
    again = record.parse(record.serialize(found))
    assert found == again and len(found.t_ms) == len(found.frames) > 0
    return "read"


def test_records(for_all):
    untimed = record.serialize(dataclasses.replace(RECORD, t_ms=(0,)))
    outcomes = for_all(a_record, damaged(record.serialize(RECORD)), examples=[(untimed,)])
    assert outcomes["read"] and outcomes["no record"]


def a_block(folder: Path, packets: list[bytes]) -> str:
    try:
        found = decode.decode_block(packets, range(len(packets)))
    except ValueError as error:
        return str(error)
    assert len(found) == len(packets)
    return "read"


@pytest.mark.parametrize("whole", ["x264"], indirect=True)
def test_packets(for_all, whole):
    store = open_store(whole)
    packets = next(store.records(0, [0]))[0].frames
    store.close()
    some = st.tuples(
        *(damaged(packet) if i < 3 else st.just(packet) for i, packet in enumerate(packets))
    )
    outcomes = for_all(a_block, some)
    assert outcomes["read"] and len(outcomes) > 2


def a_jpeg(folder: Path, whole: str, data: bytes) -> str:
    """One picture of a store, whose record is sound and whose JPEG is not."""
    store = open_store(whole)
    store.records = lambda video, frames: iter([(record.Record("a", 0, (0,), (data,)), 0)])
    try:
        (picture,) = list(decode.pictures(store, 0, [0]))
    except ValueError:
        return "no picture"
    assert picture.shape == (store.videos["height"][0], store.videos["width"][0], 3)
    return "read"


@pytest.mark.parametrize("whole", ["jpeg"], indirect=True)
def test_jpegs(for_all, whole):
    store = open_store(whole)
    data = store.read(0, [0])[0]
    store.close()
    at = data.index(b"\xff\xc0") + 5  # height and width, 65535 at most
    sizes = st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\1\xff\xff", data[at : at + 4]])
    lying = sizes.map(lambda size: data[:at] + size + data[at + 4 :])
    huge = (str(whole), data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    outcomes = for_all(a_jpeg, st.just(str(whole)), damaged(data) | lying, examples=[huge])
    assert outcomes["read"] and outcomes["no picture"]
