"""Numbers of few-shot learning by setting, and files of features."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, f1_score

from surgjax.benchmark import comparison, few_shot, predictions, vectors
from surgjax.errors import UserError

VIDEOS, FRAMES, DRAWS = 8, 20, 4


def made(path, *, better=0.0, several=False, drop=None):
    """Two models, two settings, four draws of each; the first model is right more often."""
    rng = np.random.default_rng(0)
    video = np.repeat([f"v{i}" for i in range(VIDEOS)], FRAMES)
    label = rng.integers(0, 3, len(video))
    rows = {name: [] for name in ("model", "setting", "draw", "video_id", "t_ms")}
    probs, target = [], []
    for model, right in (("pretrained", 0.5 + better), ("random", 0.5)):
        for setting in ("2 videos", "16 videos"):
            for draw in range(DRAWS):
                if (model, draw) == drop:
                    continue
                told = np.where(rng.random(len(label)) < right, label, (label + 1) % 3)
                rows["model"] += [model] * len(label)
                rows["setting"] += [setting] * len(label)
                rows["draw"] += [draw] * len(label)
                rows["video_id"] += video.tolist()
                rows["t_ms"] += list(range(len(label)))
                probs.append(0.1 + 0.7 * np.eye(3)[told])
                target.append(np.eye(3)[label] if several else label)
    columns = {name: np.array(values) for name, values in rows.items()}
    target = np.concatenate(target)
    predictions.write(path, columns, np.concatenate(probs), target, list("abc"), "no")
    return predictions.read(path)


def test_values_are_means_over_draws(tmp_path):
    table = made(tmp_path / "p.parquet", better=0.2)
    result = few_shot.score(tmp_path / "p.parquet")
    assert result["metric"] == "macro_f1_per_video" and result["clips"] == VIDEOS * FRAMES
    assert result["settings"] == [
        {"name": "2 videos", "size": 2.0, "draws": DRAWS},
        {"name": "16 videos", "size": 16.0, "draws": DRAWS},
    ]
    values = {}
    for model in ("pretrained", "random"):
        for setting in ("2 videos", "16 videos"):
            own = table.where((table["model"] == model) & (table["setting"] == setting))
            each = []
            for draw in range(DRAWS):
                for video in result["videos"]:
                    rows = own.where((own["draw"] == draw) & (own["video_id"] == video))
                    each.append(f1_score(rows.target, rows.pred, average="macro"))
            found = result["models"][model][setting]["macro_f1_per_video"]
            assert found["value"] == pytest.approx(np.mean(each))
            assert found["low"] < found["value"] < found["high"]
            assert (found["seeds"], found["videos"]) == (DRAWS, VIDEOS)
            values[model, setting] = found["value"]
            right = (own.target == own.pred).mean()
            accuracy = result["models"][model][setting]["accuracy_per_video"]["value"]
            assert accuracy == pytest.approx(right)
    for setting, gain in result["differences"]["pretrained-random"].items():
        expected = values["pretrained", setting] - values["random", setting]
        assert gain["value"] == pytest.approx(expected) and gain["low"] > 0
    text = few_shot.text_table(result)
    assert "16 videos (4 x)" in text and f"{values['random', '16 videos']:.3f} [" in text


def test_several_classes_a_row(tmp_path):
    table = made(tmp_path / "p.parquet", better=0.3, several=True)
    result = few_shot.score(tmp_path / "p.parquet")
    own = table.where((table["model"] == "random") & (table["setting"] == "2 videos"))
    each = [
        comparison.compare_table(own.where(own["draw"] == d), "d")["models"]["random"]["map_pooled"]
        for d in range(DRAWS)
    ]
    found = result["models"]["random"]["2 videos"]["map_pooled"]
    assert found["value"] == pytest.approx(np.mean([one["value"] for one in each]))
    assert found["low"] < found["value"] < found["high"] and found["seeds"] == DRAWS
    assert result["differences"]["pretrained-random"]["2 videos"]["low"] > 0


def test_resampled_average_precision_is_that_of_repeated_frames(tmp_path, monkeypatch):
    table = made(tmp_path / "p.parquet", several=True)
    own = table.where((table["model"] == "random") & (table["setting"] == "2 videos"))
    own = own.where(own["draw"] == 0)
    own.target[3:30, 1] = np.nan
    monkeypatch.setattr(comparison, "RESAMPLES", 5)
    found = comparison.resampled_map(own, seed=3)
    names = np.unique(own["video_id"])
    draws = np.random.default_rng(3).integers(len(names), size=(5, len(names)))
    for value, chosen in zip(found, draws, strict=True):
        rows = np.concatenate([np.flatnonzero(own["video_id"] == names[v]) for v in chosen])
        each = []
        for c in range(3):
            known = rows[~np.isnan(own.target[rows, c])]
            each.append(average_precision_score(own.target[known, c], own.probabilities[known, c]))
        assert value == pytest.approx(np.mean(each))


def test_an_interval_of_one_draw_is_that_of_its_videos(tmp_path):
    table = made(tmp_path / "p.parquet")
    one = table.where(table["draw"] == 0)
    columns = {name: one[name] for name in ("model", "setting", "draw", "video_id", "t_ms")}
    values = one.probabilities, one.target
    predictions.write(tmp_path / "one.parquet", columns, *values, table.classes)
    found = few_shot.score(tmp_path / "one.parquet")["models"]["random"]["2 videos"]
    alone = one.where((one["model"] == "random") & (one["setting"] == "2 videos"))
    expected = comparison.compare_table(alone, "one")["models"]["random"]
    for key in ("macro_f1_per_video", "accuracy_per_video"):
        assert found[key]["value"] == pytest.approx(expected[key]["value"])
        np.testing.assert_allclose(found[key]["low"], expected[key]["low"], atol=0.02)


def test_what_does_not_fit_is_named(tmp_path):
    table = made(tmp_path / "p.parquet", drop=("random", 3))
    with pytest.raises(UserError, match="4 and 3 draws of one setting"):
        few_shot.score(tmp_path / "p.parquet")
    columns = {name: table[name] for name in ("model", "draw", "video_id", "t_ms", "setting")}
    last = ~((columns["video_id"] == "v7") & (columns["draw"] == 2))
    columns = {name: values[last] for name, values in columns.items()}
    values = table.probabilities[last], table.target[last]
    predictions.write(tmp_path / "q.parquet", columns, *values, table.classes)
    with pytest.raises(UserError, match="draw 2, was tested on other videos"):
        few_shot.score(tmp_path / "q.parquet")
    del columns["draw"]
    columns["clip_id"] = np.arange(len(values[0]))
    predictions.write(tmp_path / "r.parquet", columns, *values, table.classes)
    with pytest.raises(UserError, match="lacks the column draw"):
        few_shot.score(tmp_path / "r.parquet")


# --- features.parquet


def test_features_are_read_as_written_by_us_or_others(tmp_path):
    video, t_ms = np.array(["a", "a", "b"]), np.array([0, 40, 0])
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    for name in ("one", "two"):
        about = {"model": "m", "pretrained_on": ["x"]}
        vectors.write(tmp_path / f"{name}.parquet", video, t_ms, values, about)
    found = vectors.read(tmp_path / "one.parquet")
    assert found.video_id.tolist() == ["a", "a", "b"] and found.about["model"] == "m"
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(found.t_ms, t_ms)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    plain = pa.table({"video_id": video, "t_ms": t_ms, "vector": values.astype(float).tolist()})
    pq.write_table(plain, tmp_path / "plain.parquet")  # lists of any length, float64, no metadata
    again = vectors.read(tmp_path / "plain.parquet")
    np.testing.assert_array_equal(again.values, values)
    assert again.about == {}


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda t: t.drop_columns(["t_ms"]), "lacks the columns t_ms"),
        (lambda t: t.set_column(2, "vector", pa.array([1.0, 2.0, 3.0])), "type double; expected"),
        (
            lambda t: t.set_column(2, "vector", pa.array([[1.0], [2.0, 3.0], [1.0]])),
            "row 1: vector has 2 values",
        ),
        (
            lambda t: t.set_column(2, "vector", pa.array([[1.0], [float("nan")], [1.0]])),
            r"row 1 \(a at 40 ms\): the vector is not finite",
        ),
        (lambda t: t.set_column(1, "t_ms", pa.array([0, 0, 0])), "two rows of a at 0 ms"),
        (lambda t: t.set_column(1, "t_ms", pa.array([0, None, 0])), "row 1 has no t_ms"),
        (lambda t: t[:0], "holds no vectors"),
        (lambda t: t.replace_schema_metadata({"about": "{"}), "is no JSON"),
        (lambda t: t.replace_schema_metadata({"about": "[1]"}), "expected a JSON object"),
        (lambda t: t.replace_schema_metadata({"about": '{"licence": 3}'}), "licence of `about`"),
        (
            lambda t: t.replace_schema_metadata({"about": '{"used_cases": "cholec80/1"}'}),
            "used_cases of `about` .* expected a list of names",
        ),
    ],
)
def test_bad_features_are_one_line(tmp_path, change, word):
    columns = {"video_id": ["a", "a", "b"], "t_ms": [0, 40, 0], "vector": [[1.0], [2.0], [3.0]]}
    pq.write_table(change(pa.table(columns)), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=word):
        vectors.read(tmp_path / "f.parquet")
    with pytest.raises(UserError, match="cannot be read as features"):
        vectors.read(tmp_path / "none.parquet")
