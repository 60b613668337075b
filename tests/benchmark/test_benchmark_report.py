import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from finished_jobs import finished

from surgjax.benchmark import (
    comparison,
    few_shot,
    pictures,
    predictions,
    report,
    ribbons,
    score,
    vectors,
)
from surgjax.benchmark.__main__ import main
from surgjax.data.store import open_store
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


class Page(HTMLParser):
    """What a page shows, links to and would fetch."""

    def __init__(self):
        super().__init__()
        self.alts, self.links, self.names, self.sources, self.headings = [], [], [], [], []
        self.tag = ""

    def handle_starttag(self, tag, attrs):
        attrs, self.tag = dict(attrs), tag
        self.names += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.sources += [attrs["src"]] if "src" in attrs else []
        self.alts += [attrs["alt"]] if tag == "img" else []

    def handle_data(self, data):
        if self.tag in ("h2", "h3") and data.strip():
            self.headings.append(data)


def parsed(path):
    """The page, checked to need nothing from outside."""
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    outside = re.sub(r'"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+"', '""', text)
    assert not re.search(r"https?:|//|url\(|@import|<script|<link|<iframe", outside)
    found = Page()
    found.feed(text)
    assert all(source.startswith("data:image/") for source in found.sources)
    assert len(found.alts) == len(found.sources) and all(found.alts)
    assert found.links and {link.removeprefix("#") for link in found.links} <= set(found.names)
    assert "viewport" in text and "prefers-color-scheme: dark" in text and "@media print" in text
    return found


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
    text, found = page.read_text(), parsed(page)
    # floors and what the report draws of predictions, curves, first and last reconstruction
    assert len(found.alts) == 1 + 3 + 1 + 2 and "probe: confusion matrices" in found.alts
    assert "pretrained minus random" in text and "F1 three" in text
    assert cv2.imread(str(folder / "curves.png")).std() > 5
    first = page.read_bytes()
    assert report.write_report(folder).read_bytes() == first  # nothing of the page goes into it


def test_report_leaves_out_what_would_make_it_too_large(evaluated, monkeypatch):
    folder, *_ = evaluated
    monkeypatch.setattr(report, "MAX_BYTES", 18_000)
    text = report.write_report(folder).read_text()
    assert len(text) < 18_000 and "Left out for size" in text and "confusion.png" in text


def test_report_of_results(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(score, "RESAMPLES", 50)
    out, page = tmp_path / "results", tmp_path / "page"
    finished(store, out, "tiny-A", right=0.5)
    finished(store, out, "tiny-A", right=0.5, seed=1)
    finished(store, out, "tiny-E", right=2.0, saw_test="yes")
    assert main(["report", str(out), "--out", str(page), "--title", "a <b>"]) == 0
    assert str(page / "report.html") in capsys.readouterr().out
    found = parsed(page / "report.html")
    assert found.headings[0].startswith("synthetic, tier strict, finetune")
    assert found.headings[1:] == [
        *("tiny-A", "tiny-A: synthetic_phase, phase, finetune"),
        *("tiny-E", "tiny-E: synthetic_phase, phase, finetune"),
    ]
    kinds = [alt.split(":")[0] for alt in found.alts]
    each = ["Truth, prediction, error, confidence over time", "Confusion matrices"]
    each += ["Each class with its interval", "Reliability diagram"]
    assert kinds == ["Heat table", "Scaling curves", *each, *each]
    text = (page / "report.html").read_text()
    assert "<title>a &lt;b&gt;</title>" in text and "model saw test cases: yes" in text
    told = json.loads(next(out.glob("tiny-E/*/*/*/seed0/score.json")).read_text())
    accuracy, floors = told["metrics"]["image_accuracy"], told["floors"]
    shown = "{:.3f} [{:.3f}, {:.3f}]".format(accuracy["value"], *accuracy["ci95"])
    assert f"<td>{shown}</td>" in text  # of seed 0 alone
    assert f"<td>{floors['best_constant_image_accuracy']:.3f}</td>" in text
    drawn = sorted(path.suffix for path in (page / "report_pictures").rglob("*.*"))
    assert drawn == [".csv"] * 10 + [".png"] * 10 + [".svg"] * 10
    assert not list(out.rglob("*.png"))  # nothing is added to results, which `verify` checks


def test_report_of_predictions_and_features(evaluated, store, monkeypatch):
    folder, path, *_ = evaluated
    monkeypatch.setattr(score, "RESAMPLES", 50)
    opened, rng = open_store(store), np.random.default_rng(0)
    video = [opened.video_id(v) for v in range(len(opened)) for _ in range(2)]
    t_ms = np.tile(opened.read_times(0, [0, 5]), len(opened))
    of_frames = folder / "features.parquet"
    values = rng.normal(size=(len(video), 4)).astype(np.float32)
    vectors.write(of_frames, np.array(video), t_ms, values, {"model": "x"})
    out = folder / "page"
    arguments = ["report", str(path), str(of_frames), "--out", str(out)]
    assert main([*arguments, "--task", "clip", "--stores", str(store)]) == 0
    found = parsed(out / "report.html")
    assert found.headings == ["probe/predictions.parquet: clip, acc1", "Features: features.parquet"]
    assert len(found.alts) == 4 + 2
    names = {path.name for path in (out / "report_pictures").rglob("*.csv")}
    assert names >= {"embedding.csv", "neighbours.csv", "confusion.csv"}
    with pytest.raises(UserError, match="--stores"):
        main(["report", str(of_frames), "--out", str(out)])
    (folder / "odd.txt").write_text("x")
    with pytest.raises(UserError, match="no Parquet file"):
        main(["report", str(folder / "odd.txt"), "--out", str(out)])


def test_report_of_few_shot_learning(tmp_path):
    rng = np.random.default_rng(0)
    parts = [columns_for(rng, {"pretrained": skill, "random": 0.4}) for skill in (0.5, 0.6, 0.9)]
    columns = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    probs, target = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    size = len(parts[0][2])
    columns["setting"] = np.repeat(["1 videos", "1 videos", "4 videos"], size)
    columns["draw"] = np.repeat([0, 1, 0], size)
    path = tmp_path / "eval" / "few_shot" / "predictions.parquet"
    predictions.write(path, columns, probs, target, CLASSES)
    about = {"evaluation": "few_shot", "protocol": "p", "saw_test": "no", "step": 3}
    predictions.write_json(path.parent / "metrics.json", about | few_shot.score(path))
    found = parsed(report.write_report(tmp_path))
    assert found.headings == ["few shot"] and found.alts == ["few shot: few-shot curve"]
    saved = next(tmp_path.rglob("few_shot.csv")).read_text().splitlines()
    assert len(saved) == 1 + 2 * 2 and saved[1].startswith("pretrained,1 videos,2,")
    one = parsed(report.write_report(path, tmp_path / "one" / "report.html"))
    assert [alt.split(":")[0] for alt in one.alts] == ["Few-shot curve"]


def test_report_of_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no metrics"):
        report.write_report(tmp_path)
    with pytest.raises(UserError, match="is no folder and no file"):
        report.write_report(tmp_path / "missing")


def test_pictures_show_what_they_are_given(evaluated, tmp_path):
    _, path, *_ = evaluated
    figure = ribbons.plot_ribbons(predictions.read(path))[0]
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    scores = [float(title.rsplit(" ", 1)[1]) for title in titles]
    assert len(titles) == 5 and scores == sorted(scores)  # worst first
    values = np.array([[1, 0], [1, 1], [0, 0]], np.float32)
    figure = ribbons.plot_presence([("v", np.arange(3.0), values)], ["a", "b"], "tools")
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
    names = "metrics, statistics, pictures, predictions, report, embedding"
    code = f"import sys; from surgjax.benchmark import {names}; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
