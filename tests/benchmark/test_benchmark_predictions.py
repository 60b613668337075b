"""Files of predictions, whoever wrote them: read whole, or refused by their first bad row."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgjax.benchmark import predictions
from surgjax.errors import UserError

CLASSES = ["cut", "sew", "rest"]


def outside(path, rows=6, classes=CLASSES, **columns):
    """A file as an outside program writes it, with types of its own."""
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), rows)
    table = {
        "video_id": pa.array(["a"] * (rows // 2) + ["b"] * (rows - rows // 2)),
        "t_ms": pa.array(np.tile(np.arange(rows // 2 + 1) * 1000, 2)[:rows], pa.int32()),
        "probabilities": pa.array(scores.tolist(), pa.list_(pa.float64())),
        "target": pa.array(rng.integers(0, 3, rows), pa.int16()),
    } | {name: pa.array(values) for name, values in columns.items()}
    table = pa.table({name: values for name, values in table.items() if len(values)})
    metadata = {"classes": json.dumps(classes)} if classes else {"other": "words"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return scores, table.column("target").to_numpy() if "target" in table.column_names else None


def test_a_file_of_another_program(tmp_path):
    scores, target = outside(tmp_path / "p.parquet", split=["test"] * 6)
    found = predictions.read(tmp_path / "p.parquet")
    np.testing.assert_allclose(found.probabilities, scores, rtol=1e-6)
    np.testing.assert_array_equal(found.target, target)
    np.testing.assert_array_equal(found.pred, scores.argmax(1))
    assert found.classes == CLASSES and found.models == [""] and len(found.of("")) == 6
    assert found["t_ms"].tolist()[:3] == [0, 1000, 2000] and set(found["split"]) == {"test"}


def test_classes_in_another_order_are_told_by_name(tmp_path):
    scores, target = outside(tmp_path / "p.parquet")
    wanted = ["rest", "cut", "sew"]
    found = predictions.read(tmp_path / "p.parquet", wanted)
    assert found.classes == wanted
    np.testing.assert_allclose(found.probabilities, scores[:, [2, 0, 1]], rtol=1e-6)
    assert [wanted[i] for i in found.target] == [CLASSES[i] for i in target]
    with pytest.raises(UserError, match="'rest' is none"):
        predictions.read(tmp_path / "p.parquet", ["cut", "sew", "hold"])


def test_several_classes_at_once_with_unknown_ones(tmp_path):
    target = np.array([[1, 0, np.nan], [0, 0, 1]], np.float32)
    scores = np.array([[0.9, 0.8, 0.7], [5, -2, 0]], np.float32)  # any scores rank
    columns = {"video_id": np.array(["a", "a"]), "clip_id": np.array(["x", "y"])}
    predictions.write(tmp_path / "p.parquet", columns, scores, target, CLASSES)
    found = predictions.read(tmp_path / "p.parquet")
    np.testing.assert_array_equal(found.target, target)
    np.testing.assert_array_equal(found.probabilities, scores)
    turned = predictions.read(tmp_path / "p.parquet", CLASSES[::-1])
    np.testing.assert_array_equal(turned.target, target[:, ::-1])


def test_any_list_of_numbers_will_do(tmp_path):
    """64-bit offsets as polars writes them, half precision, names as a dictionary."""
    scores, _ = outside(tmp_path / "p.parquet")
    expected = predictions.read(tmp_path / "p.parquet")
    for kind in (pa.large_list(pa.float64()), pa.list_(pa.float16()), pa.list_(pa.float32(), 3)):
        narrow = np.float16 if kind.value_type == pa.float16() else float
        rows = pa.array([row.astype(narrow) for row in scores], kind)
        names = pa.array(["a"] * 3 + ["b"] * 3).dictionary_encode()
        outside(tmp_path / "p.parquet", probabilities=rows, video_id=names)
        found = predictions.read(tmp_path / "p.parquet")
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-3)
        assert found["video_id"].tolist() == expected["video_id"].tolist()


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"t_ms": []}, "lacks t_ms and clip_id"),
        ({"target": []}, "lacks the columns target"),
        ({"t_ms": [0, 1, 1, 0, 1, 2]}, "two rows of video_id a, t_ms 1"),
        ({"target": [0, 1, 3, 0, 1, 2]}, r"row 2 \(a at 2000 ms\): target 3; expected 0 to 2"),
        ({"probabilities": [[0.5, 0.5, 0.0]] * 5 + [[0.5, 0.1, 0]]}, "row 5 .*sum to 0.6000"),
        ({"probabilities": [[1.0, 0, 0]] * 4 + [[np.nan, 1, 0]] * 2}, "row 4 .*no.* finite number"),
        ({"probabilities": [[1.0, 0, 0]] * 5 + [[1.0, 0]]}, "probabilities has"),
        ({"probabilities": [[1.0, 0]] * 6}, "2 probabilities a row for 3 classes"),
        ({"probabilities": [1.0] * 6}, "expected lists of numbers"),
        ({"probabilities": [["a", "b", "c"]] * 6}, "expected lists of numbers"),
        ({"probabilities": [[1.0, 0, 0]] * 5 + [None]}, "row 5: probabilities has 0 values"),
        ({"target": [0, 1, None, 0, 1, 2]}, "row 2 has no target"),
        ({"video_id": ["a", None, "a", "b", "b", "b"]}, "row 1 has no video_id"),
        ({"t_ms": [0.0, np.nan, 2, 0, 1, 2]}, "row 1 has no t_ms"),
        ({"t_ms": ["0", "1", "2", "0", "1", "2"]}, "t_ms is of type string"),
        ({"target": [[1.0, 0.5, 0.0]] * 6}, "target is not 1, 0 or NaN"),
    ],
)
def test_bad_rows_are_named(tmp_path, columns, message):
    outside(tmp_path / "p.parquet", **columns)
    with pytest.raises(UserError, match=message):
        predictions.read(tmp_path / "p.parquet")


@pytest.mark.parametrize("classes", [None, ["a", "a", "b"], "abc"])
def test_classes_must_be_named(tmp_path, classes):
    outside(tmp_path / "p.parquet", classes=classes)
    with pytest.raises(UserError, match="classes"):
        predictions.read(tmp_path / "p.parquet")
