"""predictions.parquet, features.parquet and a job's files of anybody's program."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mutations import odd_json, odd_parquet, odd_table, parquet

from surgjax import features
from surgjax.benchmark import curves, predictions, results, retrieval, score, vectors

CLASSES = ["preparation", "dissection", "closure"]


def told(**columns) -> pa.Table:
    about = {"classes": json.dumps(CLASSES), "saw_test": "no"}
    return pa.table(columns).replace_schema_metadata(about)


ROWS = {
    "video_id": ["a", "a", "a", "b", "b", "b"],
    "t_ms": [0, 1000, 2000, 0, 1000, 2000],
    "probabilities": pa.array([[0.5, 0.25, 0.25], [0, 0, 1.0]] * 3, pa.list_(pa.float32())),
}
PHASES = told(**ROWS, target=pa.array([0, 1, 2, 0, 1, 1], pa.int32()), case=["x"] * 6)
TOOLS = told(**ROWS, target=pa.array([[1, 0, math.nan]] * 6, pa.list_(pa.float32())))


def with_column(table: pa.Table, name: str, values) -> bytes:
    at = table.column_names.index(name)
    return parquet(table.set_column(at, name, pa.array(values)))


def of_phases(folder: Path, data: bytes) -> str:
    return one_file(folder, data, "phase", "strict")


def of_tools(folder: Path, data: bytes) -> str:
    return one_file(folder, data, "tool", "frame_map")


def one_file(folder: Path, data: bytes, task: str, protocol: str) -> str:
    file = folder / "predictions.parquet"
    file.write_bytes(data)
    found = predictions.read(file)
    table = pq.read_table(file)
    rows = table.to_pylist()
    assert len(found) == len(rows) and json.loads(table.schema.metadata[b"classes"]) is not None
    for row, video, probabilities, target in zip(
        rows, found["video_id"], found.probabilities, found.target, strict=True
    ):
        assert str(row["video_id"]) == video
        assert np.array_equal(np.float32(row["probabilities"]), probabilities)
        assert np.array_equal(np.float32(row["target"]), np.float32(target), equal_nan=True)
        assert len(probabilities) == len(found.classes)
    if found.target.ndim == 1:
        assert 0 <= found.target.min(initial=0) and found.target.max(initial=0) < len(found.classes)
    else:
        assert set(np.unique(found.target[~np.isnan(found.target)])) <= {0, 1}
    numbers = score.score(file, task, protocol)
    json.dumps(numbers, allow_nan=False)
    return "read"


def test_phases_are_read_as_written_and_scored_or_refused(for_all):
    endless = with_column(PHASES, "t_ms", [math.inf, 1, 2, 3, 4, 5])
    bytes_for_names = with_column(PHASES, "video_id", [b"\xff"] * 6)
    examples = [(endless,), (bytes_for_names,)]
    outcomes = for_all(of_phases, odd_parquet(PHASES), examples=examples)
    assert outcomes["read"] and len(outcomes) > 5


def test_tools_are_read_as_written_and_scored_or_refused(for_all):
    outcomes = for_all(of_tools, odd_parquet(TOOLS))
    assert outcomes["read"] and len(outcomes) > 5


VECTORS = pa.table(
    {
        "video_id": ["a", "a", "b"],
        "t_ms": [0, 1000, 0],
        "vector": pa.array([[0.5, 1.5], [2, 3], [4, 5]], pa.list_(pa.float32(), 2)),
    }
).replace_schema_metadata({"about": json.dumps({"model": "x", "used_cases": ["cholec80/video01"]})})


def features_of_frames(folder: Path, data: bytes) -> str:
    file = folder / "features.parquet"
    file.write_bytes(data)
    found = vectors.read(file)
    rows = pq.read_table(file).to_pylist()
    assert len(found) == len(rows)
    assert len(rows) == len(set(zip(found.video_id, found.t_ms, strict=True)))
    for row, video, t_ms, values in zip(
        rows, found.video_id, found.t_ms, found.values, strict=True
    ):
        assert (str(row["video_id"]), row["t_ms"]) == (video, t_ms)
        assert np.array_equal(np.float32(row["vector"]), values)
    assert np.isfinite(found.values).all()
    assert vectors.read_about(file) == found.about
    return "read"


def test_features_of_frames_are_read_as_written_or_refused(for_all):
    between = with_column(VECTORS, "t_ms", [0.25, 0.5, 1.0])  # the first two were one time, 0
    no_text = parquet(VECTORS, compression="none").replace(b"\x01\0\0\0b", b"\x01\0\0\0\xff")
    examples = [(between,), (no_text,)]
    outcomes = for_all(features_of_frames, odd_parquet(VECTORS), examples=examples)
    assert outcomes["read"] and len(outcomes) > 5


CLIPS = {"store": "s", "video_id": "a", "start_ms": 0, "end_ms": 500, "case": "s/a"}


def folder_of_features(folder: Path, meta: bytes, shard: bytes) -> str:
    (folder / features.META).write_bytes(meta)
    (folder / features.shard_name(0)).write_bytes(shard)
    found = features.read_features(folder, keep_held_out=True)
    rows = pq.read_table(folder / features.shard_name(0)).to_pylist()
    assert len(found.values) == len(rows) == json.loads(meta)["count"]
    for row, values in zip(rows, found.values, strict=True):
        assert np.array_equal(np.float32(row["feature"]), values)
    return "read"


def test_a_folder_of_features_is_read_as_written_or_refused(for_all):
    made = {
        name: pa.array([_value(name, kind)] * 3, kind) for name, kind in features.COLUMNS.items()
    }
    values = pa.array([[0.5, 1.0]] * 3, pa.list_(pa.float32(), 2))
    meta = odd_json({"dim": 2, "count": 3})
    table = pa.table(made | {"feature": values})
    long = (b'{"dim": 1099511627776, "count": 3}', parquet(table))
    outcomes = for_all(folder_of_features, meta, odd_parquet(table), examples=[long])
    assert outcomes["read"] and len(outcomes) > 5


def _value(name: str, kind: pa.DataType):
    return CLIPS.get(name, "x" if pa.types.is_string(kind) else False)


PAIRS = pa.table(
    {name: ["a", "a", "b"] if "id" in name or name == "model" else [0, 1, 2]
     for name in retrieval.COLUMNS}
    | {name: pa.array([[0.5, 1.0]] * 3, pa.list_(pa.float32())) for name in retrieval.EMBEDDINGS}
)  # fmt: skip


def embeddings(folder: Path, data: bytes) -> str:
    file = folder / "embeddings.parquet"
    file.write_bytes(data)
    found = retrieval.read_embeddings(file)
    rows = pq.read_table(file).to_pylist()
    for name, of in found.items():
        mine = [row for row in rows if row["model"] == name]
        for key in retrieval.EMBEDDINGS:
            assert np.array_equal(np.float32([row[key] for row in mine]), of[key])
            assert np.isfinite(of[key]).all()
    return "read"


def test_embeddings_are_read_as_written_or_refused(for_all):
    none = with_column(PAIRS, "video_embedding", [[0.5, 1.0], None, [1.0, 2.0]])
    outcomes = for_all(embeddings, odd_parquet(PAIRS), examples=[(none,)])
    assert outcomes["read"] and len(outcomes) > 3


JOB = {
    "suite": "synthetic", "tier": "strict", "model": "m", "entry": "e", "dataset": "d",
    "task": "t", "label": "l", "split": "test", "protocol": "p", "score_protocol": "strict",
    "seed": 0, "saw_test": "no", "licence": "MIT", "store": "s",
}  # fmt: skip
METRIC = {"value": 0.5, "ci95": [0.25, 0.75], "by_video": {"a": 0.5, "b": 0.5}}
SCORE = {"task": "phase", "protocol": "strict", "videos": 2, "metrics": {"accuracy": METRIC},
         "per_class": {}, "floors": {"majority": 0.25}}  # fmt: skip


def job(folder: Path, about: bytes, numbers: bytes) -> str:
    path = results.job_folder(folder, "m", "e", "t", "p", 0)
    path.mkdir(parents=True)
    (path / results.JOB).write_bytes(about)
    (path / results.SCORE).write_bytes(numbers)
    (found,) = results.read(folder)
    for name in results.FIELDS:
        value = getattr(found, name)
        assert type(value) is (int if name == "seed" else str), name
    assert found.score == json.loads(numbers)
    return "read"


def test_a_job_is_what_its_files_say_or_refused(for_all):
    odd = [(JOB | {"licence": ["MIT"]}, SCORE), (JOB | {"model": {}}, SCORE)]
    odd += [(JOB, SCORE | {"metrics": {"accuracy": {"value": "0.5"}}})]
    examples = [tuple(json.dumps(part).encode() for part in case) for case in odd]
    outcomes = for_all(job, odd_json(JOB), odd_json(SCORE), examples=examples)
    assert outcomes["read"] and len(outcomes) > 3


def sizes(folder: Path, data: bytes) -> str:
    file = folder / "sizes.csv"
    file.write_bytes(data)
    found = curves.read_sizes(file)
    for _, size in found.models.values():
        assert isinstance(size, str) or math.isfinite(size)
    return "read"


def test_sizes_of_a_curve(for_all):
    text = "model,series,hours\nm1,a,1.5\nm2,a,3\nm3,b,10\n"
    outcomes = for_all(sizes, odd_table(text), examples=[(text.replace("1.5", "nan").encode(),)])
    assert outcomes["read"] and len(outcomes) > 3
