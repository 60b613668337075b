import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from surgjax.benchmark import comparison, pictures, predictions, report
from surgjax.errors import UserError

CLASSES = ["one", "two", "three"]


def columns_for(rng, skills):
    """Predictions of models that are right with the given probabilities, on the same clips."""
    label = np.repeat(np.tile([0, 1, 2], 10), 3)
    video = np.repeat(["v1", "v2", "v3", "v4", "v5"], len(label) // 5)
    count, probs = len(label), []
    for skill in skills.values():
        guess = np.where(rng.random(count) < skill, label, rng.integers(0, 3, count))
        probs.append(np.eye(3, dtype=np.float32)[guess])
    times = len(skills)
    columns = {
        "dataset": np.full(count * times, "d"),
        "split": np.full(count * times, "test"),
        "video_id": np.tile(video, times),
        "case": np.tile(np.char.add("d/", video), times),
        "t_ms": np.tile(np.arange(count) * 1000, times),
        "model": np.repeat(list(skills), count),
        "protocol": np.full(count * times, "made up"),
    }
    return columns, np.concatenate(probs), np.tile(label, times)


@pytest.fixture
def evaluated(tmp_path):
    rng = np.random.default_rng(0)
    columns, probs, target = columns_for(rng, {"pretrained": 0.8, "random": 0.4, "majority": 0.0})
    path = tmp_path / "eval" / "probe" / "predictions.parquet"
    predictions.write(path, columns, probs, target, CLASSES)
    result = comparison.compare(path)
    result |= {"evaluation": "probe", "classes": CLASSES, "saw_test": "no"}
    result |= {"protocol": "made up", "step": 7}
    predictions.write_json(path.parent / "metrics.json", result)
    pictures.save(pictures.plot_floors(result), path.parent / "floors.png")
    return tmp_path, path, columns, (probs, target), result


def test_predictions_come_back_as_written(evaluated):
    _, path, columns, (probs, target), _ = evaluated
    found = predictions.read(path)
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(found.probabilities, probs)
    np.testing.assert_array_equal(found.target, target)
    assert found.classes == CLASSES and found.models == ["pretrained", "random", "majority"]


def test_scores_come_from_the_file(evaluated):
    _, path, columns, (_, target), before = evaluated
    right = np.eye(3, dtype=np.float32)[target]
    predictions.write(path, columns, right, target, CLASSES)
    after = comparison.compare(path)
    assert before["models"]["pretrained"]["accuracy_pooled"] < 1
    for found in after["models"].values():
        assert found["macro_f1_per_video"]["value"] == found["macro_f1_pooled"] == 1
    assert before["differences"]["pretrained-random"]["low"] > 0
    assert after["differences"]["pretrained-random"]["high"] == 0
    assert "pretrained minus random" in comparison.text_table(before)


def test_damaged_or_incomplete_predictions_are_named(tmp_path):
    (tmp_path / "predictions.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as predictions"):
        predictions.read(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="of 1 classes"):
        empty = np.zeros((0, 2), np.float32)
        predictions.write(tmp_path / "p.parquet", {}, empty, np.zeros(0, int), ["a"])


def test_report_holds_everything_in_one_offline_file(evaluated):
    folder, *_ = evaluated
    lines = [{"step": s, "loss": 1 / s, "lr": 1e-3} for s in range(1, 9)]
    lines.append({"step": 9, "loss": "nan"})
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"step": 10, "lo'
    (folder / "metrics.jsonl").write_text(text)
    video = np.random.default_rng(0).integers(0, 255, (2, 3, 32, 32, 3), dtype=np.uint8)
    for step in (1, 5, 9):
        figure = pictures.plot_reconstruction(
            video, video // 2, 255 - video, titles=["a", "b"], step=step
        )
        pictures.save(figure, folder / "reconstruction" / f"step_{step:08d}.png")
    page = report.write_report(folder)
    text = page.read_text()
    assert page.stat().st_size < 5_000_000
    assert text.count("data:image/png;base64,") == 4  # floors, curves, first and last picture
    assert not re.findall(r"(src|href)=\"(?!data:)", text)
    assert "pretrained minus random" in text and "F1 three" in text
    assert cv2.imread(str(folder / "curves.png")).std() > 5
    first = page.read_bytes()
    assert report.write_report(folder).read_bytes() == first  # nothing of the page goes into it


def test_report_leaves_out_what_would_make_it_too_large(evaluated, monkeypatch):
    folder, *_ = evaluated
    monkeypatch.setattr(report, "MAX_BYTES", 20_000)
    text = report.write_report(folder).read_text()
    assert len(text) < 20_000 and "Left out for size" in text and "floors.png" in text


def test_report_of_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no metrics"):
        report.write_report(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        report.write_report(tmp_path / "missing")


def test_pictures_show_what_they_are_given(evaluated, tmp_path):
    _, path, *_ = evaluated
    figure = pictures.plot_ribbons(predictions.read(path))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    scores = [float(title.rsplit(" ", 1)[1]) for title in titles]
    assert len(titles) == 5 and scores == sorted(scores)  # worst first
    values = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    figure = pictures.plot_presence([("v", np.arange(3.0), values)], ["a", "b"], "tools")
    bars = [box for c in figure.axes[0].collections for box in c.get_paths()]
    assert len(bars) == 2  # one run of each
    first, again = (pictures.save(figure, tmp_path / f"{name}.png") for name in "ab")
    assert first.read_bytes() == again.read_bytes()


def test_curves_show_the_floor_beside_a_single_evaluation(tmp_path):
    line = {"step": 8, "knn/macro_f1": 0.5, "knn/macro_f1_random": 0.25}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (axis,) = [
        a for a in pictures.plot_curves(tmp_path / "metrics.jsonl").axes if "macro" in a.get_title()
    ]
    curve, floor = axis.get_lines()
    assert curve.get_marker() == "." and list(curve.get_ydata()) == [0.5]
    assert list(floor.get_ydata()) == [0.25, 0.25] and list(floor.get_xdata()) == [0, 1]


def test_curves_of_no_run(tmp_path):
    with pytest.raises(UserError, match="is this a run"):
        pictures.plot_curves(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no metrics yet"):
        pictures.plot_curves(tmp_path / "metrics.jsonl")


def test_room_loads_no_jax():
    names = "metrics, statistics, pictures, predictions, report"
    code = f"import sys; from surgjax.benchmark import {names}; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
