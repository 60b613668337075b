"""`score`: every task and protocol, against scikit-learn and scipy on the same rows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
)

from surgjax.benchmark import predictions, score
from surgjax.benchmark.__main__ import main
from surgjax.data.decode import pictures
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError

PHASES = [f"phase{i}" for i in range(7)]
TRIPLETS = [f"{i},{v},{t}" for i in ("hook", "clipper") for v in ("cut", "null_verb") for t in "ab"]


def made(path, videos=8, frames=40, classes=PHASES, several=False, seed=0, **columns):
    """Predictions that are mostly right."""
    rng = np.random.default_rng(seed)
    n = videos * frames
    data = {
        "video_id": np.repeat([f"v{i}" for i in range(videos)], frames),
        "t_ms": np.tile(np.arange(frames) * 1000, videos),
    } | columns
    if several:
        target = (rng.random((n, len(classes))) < 0.2).astype(np.float32)
        scores = (0.5 * target + rng.random(target.shape)).astype(np.float32)
    else:
        target = np.tile(np.sort(rng.integers(0, len(classes), frames)), videos)
        scores = rng.dirichlet(np.ones(len(classes)), n) + np.eye(len(classes))[target] * 0.3
        scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    predictions.write(path, data, scores, target, classes)
    return predictions.read(path)


def test_phases(tmp_path):
    table = made(tmp_path / "p.parquet")
    result = score.score(tmp_path / "p.parquet", "phase", "strict")
    found = result["metrics"]
    right = table.pred == table.target
    by_video = [right[table["video_id"] == v].mean() for v in np.unique(table["video_id"])]
    assert found["image_accuracy"]["value"] == pytest.approx(
        accuracy_score(table.target, table.pred)
    )
    assert found["video_accuracy"]["value"] == pytest.approx(np.mean(by_video))
    low, high = found["video_accuracy"]["ci95"]
    assert low < np.mean(by_video) < high and result["videos"] == 8
    assert {"precision", "recall_pooled", "jaccard", "f1_pooled", "edit", "f1_10"} <= set(found)
    assert set(result["per_class"]) == set(PHASES)
    relaxed = score.score(tmp_path / "p.parquet", "phase", "relaxed_10s", dataset="cholec80")
    assert relaxed["metrics"]["image_accuracy"]["value"] > found["image_accuracy"]["value"]
    with pytest.raises(UserError, match="needs --dataset"):
        score.score(tmp_path / "p.parquet", "phase", "relaxed_10s")


def test_tools_and_criteria(tmp_path):
    table = made(tmp_path / "p.parquet", classes=["a", "b", "c"], several=True)
    each = [
        average_precision_score(table.target[:, i], table.probabilities[:, i]) for i in range(3)
    ]
    for task, protocol in (("tool", "frame_map"), ("cvs", "criteria_map")):
        result = score.score(tmp_path / "p.parquet", task, protocol)
        assert result["metrics"]["map"]["value"] == pytest.approx(np.mean(each))
        assert result["per_class"]["b"]["ap"] == pytest.approx(each[1])
        assert result["floors"]["chance_map"] == pytest.approx(table.target.mean(0).mean())


def test_triplets(tmp_path):
    table = made(tmp_path / "p.parquet", classes=TRIPLETS, several=True)
    both = {
        p: score.score(tmp_path / "p.parquet", "triplet", p) for p in score.PROTOCOLS["triplet"]
    }
    each = [
        average_precision_score(t, s)
        for t, s in zip(table.target.T, table.probabilities.T, strict=True)
    ]
    assert both["global_ap"]["metrics"]["ap_ivt"]["value"] == pytest.approx(np.mean(each))
    hook = table.target[:, :4].max(1), table.probabilities[:, :4].max(1)
    clipper = table.target[:, 4:].max(1), table.probabilities[:, 4:].max(1)
    expected = np.mean([average_precision_score(*hook), average_precision_score(*clipper)])
    assert both["global_ap"]["metrics"]["ap_i"]["value"] == pytest.approx(expected)
    for result in both.values():
        for name in ("ap_v", "ap_it", "ap_ivt", "top_5"):
            low, high = result["metrics"][name]["ci95"]
            assert low <= result["metrics"][name]["value"] <= high


def test_clips_and_their_views(tmp_path):
    clips = np.tile(np.repeat(np.arange(10), 4), 8)
    made(tmp_path / "p.parquet", clip_id=clips)
    table = predictions.read(tmp_path / "p.parquet")
    target = clips % 3
    predictions.write(
        tmp_path / "p.parquet",
        table.columns,
        table.probabilities[:, :3] / table.probabilities[:, :3].sum(1, keepdims=True),
        target,
        list("abc"),
    )
    table = predictions.read(tmp_path / "p.parquet")
    found = score.score(tmp_path / "p.parquet", "clip", "acc1")["metrics"]
    assert found["image_accuracy"]["value"] == pytest.approx((table.pred == target).mean())
    assert found["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(target, table.pred)
    )
    views = score.score(tmp_path / "p.parquet", "clip", "acc1_views")
    mean = table.probabilities.reshape(-1, 4, 3).mean(1).argmax(1)
    assert views["metrics"]["image_accuracy"]["value"] == pytest.approx(
        (mean == target[::4]).mean()
    )


def test_skill_and_boxes(tmp_path):
    rng = np.random.default_rng(0)
    value = rng.integers(8, 41, 320).astype(float)
    box = np.array([[0, 0, 2, 2]] * 320, float).tolist()
    half = np.array([[0, 0, 2, 1]] * 160 + [[np.nan] * 4] * 160, float).tolist()
    columns = {"value": value + rng.normal(0, 9, 320), "target_value": value}
    made(
        tmp_path / "p.parquet",
        classes=["novice", "expert"],
        **columns,
        target_boxes=box,
        boxes=half,
    )
    found = score.score(tmp_path / "p.parquet", "skill", "spearman")["metrics"]["spearman"]
    assert found["value"] == pytest.approx(spearmanr(columns["value"], value).statistic)
    assert score.score(tmp_path / "p.parquet", "skill", "class")["metrics"]["image_accuracy"]
    assert score.score(tmp_path / "p.parquet", "box", "miou")["metrics"]["miou"]["value"] == 0.25


def test_the_total_of_cvs_leaves_six_out(tmp_path):
    table = made(tmp_path / "p.parquet", classes=[str(i) for i in range(7)])
    result = score.score(tmp_path / "p.parquet", "cvs", "surgvista_total")
    kept = table.target < 6
    right = (table.pred == table.target)[kept].mean()
    assert result["metrics"]["image_accuracy"]["value"] == pytest.approx(right)
    each = [
        average_precision_score(table.target[kept] == i, table.probabilities[kept, i])
        for i in range(6)
    ]
    assert result["metrics"]["map"]["value"] == pytest.approx(np.mean(each))
    assert result["per_class"]["6"]["ap"] is None


def test_few_videos_give_their_values_in_place_of_an_interval(tmp_path, capsys):
    made(tmp_path / "p.parquet", videos=3)
    assert main(["score", str(tmp_path / "p.parquet"), "--task", "phase", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result)[:5] == ["task", "protocol", "videos", "saw_test", "metrics"]
    assert list(result)[5:] == ["per_class", "floors"]
    assert result["metrics"]["video_accuracy"]["ci95"] is None
    assert set(result["metrics"]["video_accuracy"]["by_video"]) == {"v0", "v1", "v2"}
    assert main(["score", str(tmp_path / "p.parquet"), "--task", "phase"]) == 0
    assert re.search(r"video_accuracy +0\.\d{3} \(too few videos\)", capsys.readouterr().out)


@pytest.mark.parametrize("task", ["tool", "clip"])
def test_classes_without_positives_are_named(tmp_path, capsys, task):
    table = made(tmp_path / "p.parquet", several=task == "tool")
    target = table.target % 4
    if task == "tool":
        target[:, 4:] = 0
    predictions.write(
        tmp_path / "p.parquet", table.columns, table.probabilities, target, table.classes
    )
    assert main(["score", str(tmp_path / "p.parquet"), "--task", task]) == 0
    text = capsys.readouterr().out
    assert text.endswith("never labelled, so null: phase4, phase5, phase6\n")
    if task == "tool":
        predictions.write(
            *(tmp_path / "p.parquet", table.columns, table.probabilities),
            *(np.zeros_like(target), table.classes),
        )
        assert main(["score", str(tmp_path / "p.parquet"), "--task", task]) == 0
        assert re.search(r"map +null\n", capsys.readouterr().out)  # and not for few videos


def test_a_collapsed_model_is_told(tmp_path):
    table = made(tmp_path / "p.parquet")
    one = np.eye(7, dtype=np.float32)[np.full(len(table), 2)]
    predictions.write(tmp_path / "p.parquet", table.columns, one, table.target, PHASES)
    beside = score.score(tmp_path / "p.parquet", "phase", "strict")["floors"]
    assert beside["collapsed"] is True and beside["prediction_entropy"] == 0


@pytest.mark.parametrize(
    "task, protocol, message",
    [
        ("phase", "lenient", "protocol 'lenient' of task 'phase'"),
        ("tool", "frame_map", "target is one class"),
        ("box", "miou", "needs the columns boxes"),
        ("skill", "spearman", "needs the columns value"),
        ("clip", "acc1_views", "needs the column clip_id"),
    ],
)
def test_files_that_lack_something(tmp_path, task, protocol, message):
    made(tmp_path / "p.parquet")
    with pytest.raises(UserError, match=message):
        score.score(tmp_path / "p.parquet", task, protocol)


def test_scoring_loads_no_jax(tmp_path):
    made(tmp_path / "p.parquet", videos=2)
    code = (
        "import sys; from surgjax.benchmark.__main__ import main;"
        f"main(['score', {str(tmp_path / 'p.parquet')!r}, '--task', 'phase']);"
        "assert not {'jax', 'torch', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def of_store(store, path, *, drop=0, shift=0, classes=None):
    """Perfect predictions of a store's phases, with wrong targets in the file."""
    opened = open_store(store)
    labels, about = opened.labels("phase"), opened.meta["tasks"]["phase"]
    names = classes or about["classes"]
    rows = np.flatnonzero(labels["video"] < 2)[drop:]
    order = [names.index(name) for name in about["classes"]]
    scores = np.eye(len(names), dtype=np.float32)[np.array(order)[labels["label"][rows]]]
    columns = {
        "video_id": opened.videos["video_id"].astype(str)[labels["video"][rows]],
        "t_ms": labels["t_ms"][rows] + shift,
    }
    predictions.write(path, columns, scores, np.zeros(len(rows), np.int64), names)


def test_the_truth_of_a_store(store, tmp_path, capsys):
    path = tmp_path / "p.parquet"
    of_store(store, path, classes=open_store(store).meta["tasks"]["phase"]["classes"][::-1])
    options = ["score", str(path), "--task", "phase", "--json"]
    assert main([*options, "--labels", str(store)]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found["image_accuracy"]["value"] == 1 and found["jaccard_pooled"]["value"] == 1
    assert main(options) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["image_accuracy"]["value"] < 0.9


def test_frames_whose_label_is_unknown_are_not_asked_for(store, tmp_path, monkeypatch):
    """Nor counted where they are predicted."""
    known = Store.labels

    def with_two_unknown(self, task):
        found = known(self, task)
        first = np.flatnonzero(found["video"] < 2)[:2]
        label = found["label"].copy()
        label[first] = -1
        return found | {"label": label}

    for drop in (0, 2, 3):
        of_store(store, tmp_path / f"{drop}.parquet", drop=drop)
    monkeypatch.setattr(Store, "labels", with_two_unknown)
    for drop in (0, 2):
        found = score.score(tmp_path / f"{drop}.parquet", "phase", "strict", labels=store)
        assert found["metrics"]["image_accuracy"]["value"] == 1
    with pytest.raises(UserError, match="lacks 1 of"):
        score.score(tmp_path / "3.parquet", "phase", "strict", labels=store)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"drop": 2}, "lacks 2 of .* labelled frames of its videos, video01 at 0 ms is the first"),
        ({"shift": 7}, "row 0: video01 has no phase label at 7 ms"),
        ({"classes": ["a", "b", "c", "d"]}, "has 4 classes, expected 4"),
    ],
)
def test_rows_that_do_not_fit_a_store(store, tmp_path, changes, message):
    if "classes" in changes:
        made(tmp_path / "p.parquet", classes=changes["classes"])
    else:
        of_store(store, tmp_path / "p.parquet", **changes)
    with pytest.raises(UserError, match=message):
        score.score(tmp_path / "p.parquet", "phase", "strict", labels=store)


def test_videos_that_a_store_does_not_have(store, tmp_path):
    classes = open_store(store).meta["tasks"]["phase"]["classes"]
    made(tmp_path / "p.parquet", classes=classes)
    with pytest.raises(UserError, match="names video 'v0', which"):
        score.score(tmp_path / "p.parquet", "phase", "strict", labels=store)


@pytest.mark.torch
def test_the_readme_shows_how_an_outside_model_is_scored(store, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- an outside model -->\n```python\n(.*?)```", readme, re.S)[1]
    assert len(code.splitlines()) < 40
    opened = open_store(store)
    labels, classes = opened.labels("phase"), opened.meta["tasks"]["phase"]["classes"]
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, len(classes))
    )
    frames = []
    for i in np.flatnonzero(labels["video"] < 1):
        frame = opened.frames_at(0, [labels["t_ms"][i]])
        picture = next(pictures(opened, 0, frame)).copy()
        frames.append(
            (opened.video_id(0), int(labels["t_ms"][i]), picture, int(labels["label"][i]))
        )
    monkeypatch.chdir(tmp_path)
    exec(code, {"model": model, "frames": frames, "classes": classes})
    result = score.score(Path("predictions.parquet"), "phase", "strict", labels=store)
    expected = predictions.read(Path("predictions.parquet"))
    right = (expected.pred == [target for *_, target in frames]).mean()
    assert result["metrics"]["image_accuracy"]["value"] == pytest.approx(right)


def test_other_models_of_the_file_are_floors(tmp_path):
    """As `finish` writes it: the model first, then floors; only their first number is taken."""
    for classes, several, task, metric in (
        (PHASES, False, "phase", "image_accuracy"),
        (PHASES, False, "clip", "image_accuracy"),
        (["a", "b"], True, "tool", "map"),
        (TRIPLETS, True, "triplet", "ap_i"),
    ):
        table = made(tmp_path / "p.parquet", classes=classes, several=several)
        rng = np.random.default_rng(1)
        noise = rng.dirichlet(np.ones(len(classes)), len(table)).astype(np.float32)
        columns = {name: np.tile(values, 2) for name, values in table.columns.items()}
        columns["model"] = np.repeat(["pretrained", "random"], len(table))
        both = np.concatenate([table.probabilities, noise]), np.concatenate([table.target] * 2)
        predictions.write(tmp_path / "two.parquet", columns, *both, classes)
        predictions.write(tmp_path / "one.parquet", table.columns, noise, table.target, classes)
        protocol = score.PROTOCOLS[task][0]
        found = score.score(tmp_path / "two.parquet", task, protocol)
        alone = score.score(tmp_path / "one.parquet", task, protocol)["metrics"]
        assert list(alone)[0] == metric
        assert found["floors"][f"random_{metric}"] == alone[metric]["value"]
        assert found["metrics"] == score.score(tmp_path / "p.parquet", task, protocol)["metrics"]


def test_cases_that_were_trained_on_are_refused_unless_asked_for(tmp_path, capsys):
    table = made(tmp_path / "p.parquet")
    values = table.columns, table.probabilities, table.target, table.classes
    predictions.write(tmp_path / "seen.parquet", *values, "yes")
    command = ["score", str(tmp_path / "seen.parquet"), "--task", "phase"]
    with pytest.raises(UserError, match="trained on these test cases.*--allow-seen"):
        main(command)
    assert main([*command, "--allow-seen"]) == 0
    assert "TRAINED on these test cases" in capsys.readouterr().out
    assert main([*command, "--allow-seen", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["saw_test"] == "yes"


def test_one_setting_is_scored_at_a_time(tmp_path):
    table = made(tmp_path / "p.parquet")
    names = np.repeat(["readme", "ours"], len(table))
    columns = {name: np.tile(values, 2) for name, values in table.columns.items()}
    twice = np.concatenate([table.probabilities, table.probabilities[::-1]])
    target = np.tile(table.target, 2)
    predictions.write(
        tmp_path / "two.parquet", columns | {"setting": names}, twice, target, table.classes
    )
    with pytest.raises(UserError, match="settings readme, ours; give one as --setting"):
        score.score(tmp_path / "two.parquet", "phase", "strict")
    found = score.score(tmp_path / "two.parquet", "phase", "strict", setting="readme")
    assert found == score.score(tmp_path / "p.parquet", "phase", "strict")
    other = score.score(tmp_path / "two.parquet", "phase", "strict", setting="ours")
    assert other["metrics"] != found["metrics"]
    draws = columns | {"setting": np.repeat("4 videos", len(names)), "draw": names == "ours"}
    draws["draw"] = draws["draw"].astype(np.int64)
    predictions.write(tmp_path / "draws.parquet", draws, twice, target, table.classes)
    with pytest.raises(UserError, match="several draws"):
        score.score(tmp_path / "draws.parquet", "phase", "strict")


def test_classes_that_are_not_counted(tmp_path):
    table = made(tmp_path / "p.parquet")
    kept = table.where(table.target != 3)
    result = score.score(tmp_path / "p.parquet", "phase", "strict", exclude=["phase3"])
    right = kept.pred == kept.target
    assert result["metrics"]["image_accuracy"]["value"] == pytest.approx(right.mean())
    per_video = [
        f1_score(kept.target[rows], kept.pred[rows], average="macro")
        for rows in (kept["video_id"] == v for v in np.unique(kept["video_id"]))
    ]
    found = result["metrics"]["macro_f1_per_video"]["value"]
    assert found == pytest.approx(np.mean(per_video), abs=1e-12)
    with pytest.raises(UserError, match="no class 'phase9' to leave out"):
        score.score(tmp_path / "p.parquet", "phase", "strict", exclude=["phase9"])
    made(tmp_path / "tools.parquet", several=True)
    with pytest.raises(UserError, match="has several classes a row"):
        score.score(tmp_path / "tools.parquet", "tool", "frame_map", exclude=["phase3"])


def test_clips_by_one_class_against_the_others(tmp_path):
    table = made(tmp_path / "p.parquet")
    found = score.score(tmp_path / "p.parquet", "clip", "acc1")
    each = [
        average_precision_score(table.target == c, table.probabilities[:, c])
        for c in np.unique(table.target)
    ]
    assert found["metrics"]["map"]["value"] == pytest.approx(np.mean(each))
    assert found["per_class"]["phase0"].keys() == {"recall", "f1", "ap", "chance"}
