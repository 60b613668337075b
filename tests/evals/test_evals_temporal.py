"""Temporal heads learn what single frames do not show, from training videos alone."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from surgjax.benchmark import predictions
from surgjax.data.plan import ROW, ClipShape
from surgjax.errors import UserError
from surgjax.evals import temporal
from surgjax.evals.features import LabelledClips
from surgjax.evals.model import Model

SMALL = dict(stages=2, layers=4, depth=1, window=16, maps=16, dropout=0.1)


def counted(videos=10, frames=50, kind="one_of_n", seed=0):
    """Frames that are noise but for two marks; the class is the last mark so far."""
    draws = np.random.default_rng(seed)
    n = videos * frames
    values = draws.normal(size=(n, 6)).astype(np.float32)
    label = np.zeros(n, np.int64)
    for first in range(0, n, frames):
        for mark, at in enumerate(np.sort(draws.choice(np.arange(5, 35), 2, replace=False))):
            values[first + at, mark] += 12
            label[first + at : first + frames] += 1
    rows = np.zeros(n, ROW)
    rows["video"] = np.repeat(np.arange(videos), frames)
    part = np.repeat(np.where(np.arange(videos) < 6, "train", "test"), frames)
    ids = np.char.add("v", rows["video"].astype(str))
    if kind == "multi_label":
        label = (label[:, None] > np.arange(2)).astype(np.float32)
        label[::7, 1] = np.nan
    classes = ["none", "one", "two"] if kind == "one_of_n" else ["one", "two"]
    t_ms = np.tile(np.arange(frames) * 1000, videos)
    return values, LabelledClips(rows, t_ms, label, classes, ids, part, ids, ids)


def parts_of(clips, val=()):
    train = (clips.split == "train") & ~np.isin(clips.rows["video"], val)
    held = np.isin(clips.rows["video"], val)
    return {"train": train, "val": held, "test": clips.split == "test"}


@pytest.mark.parametrize("head", temporal.HEADS)
def test_a_head_learns_from_the_past_what_no_frame_shows(head):
    values, clips = counted()
    evaluator = temporal.Evaluator(store="", head=head, epochs=40, lr=1e-2, **SMALL)
    probs, epoch = evaluator.fit(values, clips, parts_of(clips))
    tested = clips.where(clips.split == "test")
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    assert epoch == 40 and (probs.argmax(1) == tested.label).mean() > 0.8
    # The future of a test video is in no answer: its last frames may be anything.
    changed = values.copy()
    late = (clips.split == "test") & (clips.t_ms >= 30_000)
    changed[late] = 0
    again, _ = evaluator.fit(changed, clips, parts_of(clips))
    early = tested.t_ms < 30_000
    np.testing.assert_array_equal(again[early], probs[early])
    assert np.abs(again - probs)[~early].max() > 1e-3


def test_several_labels_with_unknown_ones():
    values, clips = counted(kind="multi_label")
    evaluator = temporal.Evaluator(store="", epochs=40, lr=1e-2, **SMALL)
    probs, _ = evaluator.fit(values, clips, parts_of(clips))
    label = clips.label[clips.split == "test"]
    known = ~np.isnan(label)
    assert ((probs > 0.5) == (label > 0.5))[known].mean() > 0.8


def test_the_epoch_is_chosen_on_validation_videos_alone():
    values, clips = counted()
    evaluator = temporal.Evaluator(store="", epochs=6, lr=1e-2, **SMALL)
    parts = parts_of(clips, val=(4, 5))
    probs, epoch = evaluator.fit(values, clips, parts)
    shorter = temporal.Evaluator(store="", epochs=epoch, lr=1e-2, **SMALL)
    same, _ = shorter.fit(values, clips, parts | {"val": np.zeros(len(clips), bool)})
    np.testing.assert_array_equal(same, probs)
    other = clips.label.copy()
    other[parts["test"]] = 0  # test labels change nothing
    again = LabelledClips(**(clips.__dict__ | {"label": other}))
    np.testing.assert_array_equal(evaluator.fit(values, again, parts)[0], probs)


@pytest.mark.parametrize("kind", ["one_of_n", "multi_label"])
def test_the_loss_by_hand(kind):
    draws = np.random.default_rng(0)
    scores = draws.normal(size=(2, 5, 3)).astype(np.float32)
    target = np.eye(3, dtype=np.float32)[[0, 2, 2, 1, 1]]
    target[3:] = np.nan
    weight = np.array([1.0, 1.0, 3.0], np.float32)
    losses, changes = [], []
    for stage in scores.astype(np.float64):
        if kind == "one_of_n":
            logs = np.log(np.exp(stage) / np.exp(stage).sum(1, keepdims=True))
            own = [-logs[t, c] * weight[c] for t, c in enumerate([0, 2, 2])]
            losses.append(sum(own) / (1 + 3 + 3))
        else:
            p = 1 / (1 + np.exp(-stage))
            logs = np.log(p)
            known = np.where(target[:3] == 1, np.log(p[:3]), np.log(1 - p[:3]))
            losses.append(-known.mean())
        changes.append(np.minimum(np.square(logs[1:3] - logs[:2]), 16).mean())
    arrays = map(jnp.asarray, (scores, target, weight))
    found = temporal.loss_of(*arrays, kind, 0.15)
    np.testing.assert_allclose(found, np.mean(losses) + 0.15 * np.mean(changes), rtol=1e-5)


def test_weights_balance_the_classes():
    label = np.repeat([0, 1, 3], [10, 20, 70])
    np.testing.assert_allclose(temporal.balanced(label, 4), [2, 1, 1, 2 / 7], rtol=1e-6)


def test_videos_have_few_lengths():
    found = {temporal.filled_length(n) for n in range(1, 7000)}
    assert sorted(found) == [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096,
                             6144, 8192]  # fmt: skip
    assert all(n <= temporal.filled_length(n) < max(65, 1.5 * n) for n in range(1, 7000))


def thumbnails(video):
    small = video[:, [0, -1]].reshape(len(video), 2, 8, 4, 8, 4, 3).mean((3, 5))
    return small.reshape(len(video), -1).astype(np.float32)


@pytest.mark.parametrize("task", ["phase", "instrument"])
def test_numbers_stand_beside_the_same_head_on_a_random_encoder(store, tmp_path, task):
    model = Model(
        encode=thumbnails,
        random_encode=lambda video: thumbnails(255 - video),
        clip=ClipShape(4, 4, 32),
        used_cases=[],
    )
    evaluator = temporal.Evaluator(store=str(store), task=task, epochs=2, **SMALL)
    for name in ("a", "b") if task == "phase" else ("a",):
        scalars = evaluator.run(model, out=tmp_path / name, step=3)
    saved = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert saved["clips_by_part"]["val"] and "validation cases" in saved["protocol"]
    assert set(saved["epochs"]) == {"pretrained", "random", "mean_colour"}
    table = predictions.read(tmp_path / "a" / "predictions.parquet")
    assert set(saved["epochs"]) <= set(table.models) and set(table["split"]) == {"test"}
    assert all(np.isfinite(value) for value in scalars.values())
    for name in ("predictions.parquet", "metrics.json") if task == "phase" else ():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"head": "tcm"}, "head is 'tcm'.*did you mean 'tcn'"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"layers": 40}, "layers is 40; expected at most 16"),
        ({"lr": float("nan")}, "lr is nan; expected a rate above 0"),
        ({"split": "mine"}, "no split 'mine'"),
        ({"anchor": "first"}, "first"),
    ],
)
def test_wrong_settings_are_one_line(store, tmp_path, changes, word):
    model = Model(encode=thumbnails, clip=ClipShape(4, 4, 32))
    with pytest.raises(UserError, match=word):
        temporal.Evaluator(**({"store": str(store)} | changes)).run(model, out=tmp_path, step=0)
