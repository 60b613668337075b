"""Protocols of the papers: their fields, lengths in epochs, and videos of one label end to end."""

import importlib
import json

import jax
import numpy as np
import pytest
import small_videos
from runs import SIZES  # noqa: F401 - the size "two blocks"
from test_config import load

from surgjax import build, config, sharding
from surgjax.benchmark import predictions
from surgjax.benchmark.__main__ import main as benchmark
from surgjax.complete import complete
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.features import ratings
from surgjax.sharding import make_mesh
from surgjax.state import flatten
from surgjax.train import train

FRAMES = ("", "linear", "attentive", "surgvista_triplet", "surgvista_frame")
VIDEOS = ("surgvista_clip", "surgrec", "surgrec_release")


@pytest.fixture(scope="module")
def skill_stores(tmp_path_factory):
    """Miniatures of JIGSAWS and AIxSuture."""
    made = {}
    for name in ("jigsaws", "aixsuture"):
        root = tmp_path_factory.mktemp(name)
        layout = importlib.import_module(f"layouts.{name}")
        layout.make(root / "root")
        arguments = ["--dataset", name, "--fps", str(layout.FPS), "--short-side", "48"]
        assert small_videos.shards(root / "root", root / "store", *arguments) == 0
        made[name] = root / "store"
    return made


def small(variant, store, **fields):
    cfg = load("finetune", variant, store)
    for path, value in fields.items():
        group, _, name = path.rpartition("__")
        (cfg[group] if group else cfg)[name] = value
    return cfg


@pytest.mark.parametrize("variant", [f"{v}{d}" for v in FRAMES + VIDEOS for d in ("", "+demo")])
def test_every_variant_is_whole_and_its_learner_has_a_shape(variant, store, skill_stores):
    cfg = load("finetune", variant, store)
    config.check(cfg)
    of_videos = variant.partition("+")[0] in VIDEOS
    assert cfg.data.unit == cfg.evals.trained_head.unit == ("video" if of_videos else "frame")
    assert all(block.task == cfg.objective.task for block in cfg.evals.values())
    if of_videos:
        cfg.data.stores, cfg.data.split = str(skill_stores["jigsaws"]), "louo_B"
        cfg.objective.task = "skill"
    else:
        cfg.objective.task = "instrument" if "triplet" in variant else "phase"
    cfg = complete(cfg)
    assert cfg.total_steps > cfg.optim.warmup_steps >= 0
    state = build.make_learner(cfg).abstract(make_mesh())
    if variant.startswith("surgrec_release"):
        assert set(flatten(state.params)) == {"head/classifier/kernel", "head/classifier/bias"}
        assert {"head/norm/scale", "encoder/embed/kernel"} <= set(flatten(state.frozen))


def test_what_the_papers_set(store):
    paper, release = load("finetune", "surgrec"), load("finetune", "surgrec_release")
    assert not paper.optim.frozen and release.optim.frozen
    release.optim.frozen = ""
    assert release.to_json() == paper.to_json()
    views = paper.evals.trained_head
    assert (views.segments, views.crops, paper.optim.peak_lr) == (5, 3, 5e-4 * 64 / 256)
    triplet = load("finetune", "surgvista_triplet")
    assert (triplet.objective.mixup, triplet.objective.cutmix, triplet.epochs) == (0, 0, 20)
    assert load("finetune", "surgvista_clip").data.stride == "spread"
    with pytest.raises(ValueError, match="unknown variant 'surgrek'; known: linear, .*surgrec"):
        load("finetune", "surgrek+demo")


def test_epochs_are_passes_over_frames_or_videos(store, skill_stores):
    opened = open_store(store)
    of_train = opened.videos["split_official"][opened.labels("phase")["video"]] == "train"
    frames = int(of_train.sum())
    cfg = complete(small("", store, epochs=3.0, warmup_epochs=0.5, batch_size=8))
    assert cfg.total_steps == round(3 * frames / 8)
    assert cfg.optim.warmup_steps == round(0.5 * frames / 8)
    cfg = complete(small("", store, epochs=3.0, warmup_epochs=0.0, batch_size=8, data__repeats=2))
    assert cfg.total_steps == round(3 * frames / 4)  # a batch has four different clips

    fields = dict(data__split="louo_B", objective__task="skill", batch_size=2, epochs=10.0)
    cfg = small("surgrec", skill_stores["jigsaws"], **fields, data__frames=4, data__stride="2")
    cfg = complete(cfg)
    assert cfg.total_steps == 10 * 4 / 2  # of two surgeons, two trials, two cameras each
    plan = build.open_data(cfg).plan
    rows = np.concatenate([plan.rows(step) for step in range(cfg.total_steps)])
    counts = np.bincount(rows["video"])
    assert sorted(counts[counts > 0]) == [10] * 4
    for epoch in rows["video"].reshape(10, 4):
        assert len(set(epoch)) == 4
    assert (rows["start"] >= 0).all()
    frames = plan.stores[0].frames[rows["video"]]
    assert (rows["start"] + 3 * 2 < frames).all() and len(set(rows["start"])) > 20
    again = np.concatenate([plan.rows(step) for step in range(5, 10)])
    np.testing.assert_array_equal(again, rows[10:20])  # a function of the step
    labels, skill = plan.extras(rows)["labels"], plan.stores[0].labels("skill")
    for row, columns in zip(rows, labels, strict=True):
        assert columns.argmax() == skill["label"][skill["video"] == row["video"]][0]


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(total_steps=5), "total_steps=5 and epochs=50; expected one of them above 0"),
        (dict(epochs=0.0), "total_steps=0 and epochs=0; expected one of them above 0"),
        (dict(epochs=-1.0), "total_steps=0 and epochs=-1"),
        (dict(optim__warmup_steps=3), "warmup_epochs=5 with epochs=50 and optim.warmup_steps=3"),
        (dict(epochs=0.0, total_steps=9), "warmup_epochs=5 with epochs=0"),
    ],
)
def test_two_lengths_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        config.check(small("", "somewhere", **fields))


def test_a_spread_clip_covers_the_video(skill_stores):
    opened = open_store(skill_stores["jigsaws"])  # of 90 and 180 frames
    strides = ClipShape(16, "spread", 32).strides(opened)
    assert sorted(set(strides)) == [90 // 16, 180 // 16]
    assert (15 * strides < opened.frames).all()
    assert (ClipShape(200, "spread", 32).strides(opened) == 1).all()  # ends are repeated


def test_videos_of_several_labels_are_refused(store):
    with pytest.raises(UserError, match="has more than one label; data.unit='video' is for"):
        build.open_data(complete(small("demo", store, data__unit="video")))
    with pytest.raises(UserError, match="data.unit is 'clip'; choose frame or video"):
        build.open_data(complete(small("demo", store, data__unit="clip")))


def test_without_a_rating_the_class_is_the_score(store):
    found = ratings(open_store(store), np.array([0, 1]), np.array([2, 0]))
    np.testing.assert_array_equal(found, [2.0, 0.0])


@pytest.mark.parametrize(
    "name, variant, split, score",
    [
        ("jigsaws", "surgrec_release+demo", "louo_B", {3 + 2 + 2 + 2 + 2 + 3}),
        ("aixsuture", "surgvista_clip+demo", "strict", {16.0, 47 / 3}),
    ],
)
def test_skill_from_segments(
    skill_stores, tmp_path, monkeypatch, capsys, name, variant, split, score
):
    found = jax.local_devices()[:1]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    store = skill_stores[name]
    cfg = small(
        variant,
        store,
        encoder__size="two blocks",
        data__size=32,
        data__split=split,
        objective__task="skill",
        batch_size=2,
        total_steps=2,
    )
    test = cfg.evals.trained_head
    test.store, test.split, test.task = str(store), split, "skill"
    test.segments = 5
    train(cfg, tmp_path)
    folder = tmp_path / "eval" / "trained_head"
    saved = json.loads((folder / "metrics.json").read_text())
    crops = 3 if "surgrec" in variant else 0
    assert f"mean of 5 clips spread over each video, crops: {crops}" in saved["protocol"]
    table = predictions.read(folder / "predictions.parquet")
    own = table.of("trained")
    assert set(np.round(own["target_value"], 4)) == set(np.round(list(score), 4))
    np.testing.assert_allclose(own["value"], own.probabilities @ [0, 1, 2], rtol=1e-5)
    opened = open_store(store)
    parts = dict(zip(opened.videos["video_id"], opened.videos[f"split_{split}"], strict=True))
    assert all(parts[video] == "test" for video in own["video_id"])
    capsys.readouterr()
    for protocol, key in (("class", "image_accuracy"), ("spearman", "spearman")):
        command = ["score", str(folder / "predictions.parquet"), "--task", "skill"]
        assert benchmark([*command, "--protocol", protocol, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert key in result["metrics"] and result["videos"] == len(own)
