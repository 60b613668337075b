import json

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from surgjax.benchmark import comparison, predictions
from surgjax.data import labelled
from surgjax.data.clip import decode_clip
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals import classification, features, knn, linear_probe
from surgjax.evals.model import Model

CLIP = ClipShape(4, 4, 32)


def thumbnails(video):
    """A small encoder: 8 x 8 thumbnails of the first and last frame."""
    small = video[:, [0, -1]].reshape(len(video), 2, 8, 4, 8, 4, 3).mean((3, 5))
    return small.reshape(len(video), -1).astype(np.float32)


def noise(video):
    """An encoder that knows nothing but is a function of its input."""
    seeds = video.reshape(len(video), -1).astype(np.int64).sum(1)
    return np.stack([np.random.default_rng(s).normal(size=16) for s in seeds]).astype(np.float32)


def model(**changes):
    given = {"encode": thumbnails, "random_encode": noise, "clip": CLIP, "used_cases": []}
    return Model(**(given | changes))


def test_clips_are_centred_on_labelled_frames(store):
    opened = open_store(store)
    clips = features.labelled_clips(opened, "phase", CLIP, every_s=0.5, split="official")
    phase = opened.labels("phase")
    assert len(clips) == 6 * 24  # 12 s of six videos
    for i in range(0, len(clips), 7):
        row = clips.rows[i]
        middle = int(row["start"]) + (CLIP.frames - 1) // 2 * 4
        assert opened.read_times(row["video"], [middle]) == [clips.t_ms[i]]
        at = (phase["video"] == row["video"]) & (phase["t_ms"] == clips.t_ms[i])
        assert phase["label"][at] == clips.label[i]
    gaps = np.diff(clips.t_ms)[np.diff(clips.rows["video"]) == 0]
    assert set(gaps) == {480, 520}  # half seconds in frames of 40 ms


def test_a_second_starts_where_its_stored_frame_does():
    rate = 30000 / 1001
    t_ms, following = [], 0
    for frame in range(round(rate * 120)):  # as frames are kept at 1 Hz, see data_prep/video.py
        if frame / rate + 0.001 >= following:
            t_ms.append(round(1000 * frame / rate))
            following = int(frame / rate + 0.001) + 1
    assert len(t_ms) == 120 and any(t % 1000 == 999 for t in t_ms)
    video, t_ms = np.repeat([0, 1], 120), np.tile(t_ms, 2)
    assert labelled.first_in_every(1.0, video, t_ms).all()
    every_other = labelled.first_in_every(2.0, video, t_ms)
    np.testing.assert_array_equal(np.flatnonzero(every_other), np.arange(0, 240, 2))


def test_a_second_whose_first_frame_has_no_label_has_a_clip_of_another(store, monkeypatch):
    opened = open_store(store)
    labels = opened.labels("phase")
    at = labels["t_ms"] % 1000 == 0
    unknown = labels | {"label": np.where(at, -1, labels["label"])}
    monkeypatch.setattr(type(opened), "labels", lambda *_: unknown)
    clips = features.labelled_clips(opened, "phase", CLIP, every_s=1.0, split="official")
    assert len(clips) == 6 * 12 and set(clips.t_ms % 1000) == {40}


def test_a_clip_may_end_with_its_labelled_frame(store):
    opened = open_store(store)
    options = {"every_s": 3.0, "split": "official", "anchor": "last"}
    clips = features.labelled_clips(opened, "phase", CLIP, **options)
    for row, t_ms in zip(clips.rows, clips.t_ms, strict=True):
        last = int(row["start"]) + (CLIP.frames - 1) * 4
        assert opened.read_times(row["video"], [last]) == [t_ms]


def test_features_are_those_of_single_clips_in_order_whatever_the_batch(store):
    opened = open_store(store)
    clips = features.labelled_clips(opened, "phase", CLIP, every_s=3.0, split="official")
    sizes = []

    def encode(video):
        sizes.append(len(video))
        return thumbnails(video)

    found = features.features(opened, clips, CLIP, {"a": encode, "b": noise}, batch_size=5)
    assert set(sizes) == {5}  # one shape, so one compilation
    expected = np.stack([decode_clip(opened, row, CLIP) for row in clips.rows])
    np.testing.assert_array_equal(found["a"], thumbnails(expected))
    np.testing.assert_array_equal(found["b"], noise(expected))


def test_mean_colour():
    video = np.zeros((2, 2, 4, 4, 3), np.uint8)
    video[1, :, :, :2, 0] = 255
    np.testing.assert_allclose(features.mean_colour(video), [[0, 0, 0], [0.5, 0, 0]])


@pytest.mark.parametrize("evaluation", ["knn", "linear_probe"])
def test_numbers_come_from_saved_predictions_beside_the_floors(store, tmp_path, capsys, evaluation):
    module = {"knn": knn, "linear_probe": linear_probe}[evaluation]
    evaluator = module.Evaluator(store=str(store), every_s=1.0)
    scalars = evaluator.run(model(), out=tmp_path, step=3)
    saved = json.loads((tmp_path / "metrics.json").read_text())
    table = predictions.read(tmp_path / "predictions.parquet")
    names = ["pretrained", "random", "mean_colour", "majority", "best_constant"]
    assert list(saved["models"]) == table.models == names
    assert set(table["split"]) == {"test"} and saved["step"] == 3
    assert sorted(set(table["video_id"])) == ["video05", "video06"] == saved["videos"]
    assert set(table["case"]) == {"synthetic/video05", "synthetic/video06"}
    np.testing.assert_allclose(table.probabilities.sum(1), 1, atol=1e-5)
    assert table.classes == saved["classes"]
    again = comparison.compare(tmp_path / "predictions.parquet")
    assert again["models"] == saved["models"]
    assert scalars["macro_f1"] == saved["models"]["pretrained"]["macro_f1_per_video"]["value"]
    assert scalars["macro_f1_best_constant"] >= scalars["macro_f1_majority"]
    assert all(np.isfinite(value) for value in scalars.values())
    printed = capsys.readouterr().out
    assert "pretrained minus random" in printed and "saw test cases: no" in printed
    assert (tmp_path / "floors.png").is_file() and (tmp_path / "ribbons.png").is_file()


def test_the_same_run_gives_the_same_files(store, tmp_path):
    evaluator = linear_probe.Evaluator(store=str(store), every_s=2.0)
    for name in ("a", "b"):
        evaluator.run(model(random_encode=None), out=tmp_path / name, step=0)
    for name in ("predictions.parquet", "metrics.json", "floors.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    "used, answer",
    [
        (None, "unknown"),
        ([], "no"),
        (["synthetic/video01"], "no"),
        (["synthetic/video01", "synthetic/video06"], "yes"),
    ],
)
def test_saw_test_is_told(store, tmp_path, used, answer):
    evaluator = knn.Evaluator(store=str(store), every_s=3.0)
    evaluator.run(model(used_cases=used, random_encode=None), out=tmp_path, step=0)
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert saved["saw_test"] == answer
    assert "random" not in saved["models"]


def test_neighbours_of_other_cases_only(store, tmp_path):
    def tell_video(video):  # features that single out each video of this store by its colours
        return np.concatenate([thumbnails(video)[:, :3], video.mean((1, 2, 3))], 1)

    with pytest.raises(UserError, match="neighbours is 0; expected at least 1"):
        knn.Evaluator(store=str(store), neighbours=0).run(model(), out=tmp_path, step=0)
    evaluator = knn.Evaluator(store=str(store), every_s=1.0, neighbours=1)
    evaluator.run(model(encode=tell_video), out=tmp_path, step=0)
    opened = open_store(store)
    clips = features.labelled_clips(opened, "phase", CLIP, every_s=1.0, split="official")
    values = features.features(opened, clips, CLIP, {"x": tell_video})["x"]
    table = predictions.read(tmp_path / "predictions.parquet")
    for video in ("video05", "video06"):
        own = clips.video_id == video
        pool = values[~own].astype(np.float64)
        scaled = (values - pool.mean(0)) / pool.std(0)
        fitted = KNeighborsClassifier(1, metric="cosine").fit(scaled[~own], clips.label[~own])
        rows = (table["model"] == "pretrained") & (table["video_id"] == video)
        np.testing.assert_array_equal(table.pred[rows], fitted.predict(scaled[own]))


def test_vote_by_hand():
    pool = np.array([[1, 0], [0.9, 0.1], [-1, 0], [0, -1]], np.float32)
    label = np.array([0, 1, 2, 2])
    found = knn.vote(np.array([[1.0, 0.0]], np.float32), pool, label, 3, 2)
    mean, deviation = pool.mean(0), pool.std(0)
    q, p = (np.array([[1.0, 0.0]]) - mean) / deviation, (pool - mean) / deviation
    cosine = (q @ p.T / np.linalg.norm(q) / np.linalg.norm(p, axis=1))[0]
    np.testing.assert_allclose(found[0, :2], cosine[:2] / cosine[:2].sum(), rtol=1e-5)
    assert found[0, 2] == 0
    constant = np.ones((4, 2), np.float32)  # no feature varies: all neighbours count alike
    np.testing.assert_allclose(knn.vote(constant[:1], constant, label, 3, 4), [[0.25, 0.25, 0.5]])


def test_probe_learns_what_is_there_and_chooses_on_validation():
    rng = np.random.default_rng(0)
    label = np.tile([0, 1, 3], 60)
    values = np.eye(4)[label] + 0.3 * rng.normal(size=(180, 4))
    part = np.repeat(["train", "val", "test"], 60)
    ids = np.array([f"{p}{i % 3}" for i, p in enumerate(part)])
    blank = np.zeros(180)
    clips = features.LabelledClips(
        blank, blank.astype(int), label, list("abcd"), ids, part, ids, ids
    )
    parts = {name: part == name for name in ("train", "val", "test")}
    probs, strength = linear_probe.probe(values.astype(np.float32), clips, parts)
    assert strength in linear_probe.STRENGTHS
    assert (probs.argmax(1) == label[part == "test"]).mean() > 0.9
    assert (probs[:, 2] == 0).all()  # a class that training never saw
    _, strength = linear_probe.probe(np.ones((180, 4), np.float32), clips, parts)
    assert strength == min(linear_probe.STRENGTHS)  # nothing to learn: the strongest penalty


def test_best_constant_is_the_best_of_all(store):
    label = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    video = np.array(["a", "a", "a", "b", "b", "b", "b", "c"])
    assert classification.best_constant(label, video, 3) == 1


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"task": "phases"}, "no task 'phases'; it has"),
        ({"split": "mine"}, "no split 'mine'; it has .'official'."),
        ({"every_s": 0.0}, "every_s"),
        ({"store": "/nowhere"}, "no store"),
    ],
)
def test_wrong_settings_are_one_line(store, tmp_path, changes, word):
    for module in (knn, linear_probe):
        with pytest.raises(UserError, match=word):
            module.Evaluator(**({"store": str(store)} | changes)).run(model(), out=tmp_path, step=0)
