"""Attentive probes: a grid of heads learns as each would alone, and validation cases choose."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from small_videos import shards, write_video

from surgjax.benchmark import predictions
from surgjax.data.plan import ClipShape
from surgjax.data.store import open_store
from surgjax.encoder import open_encoder
from surgjax.errors import Stopped, UserError
from surgjax.evals import attentive_probe as probe
from surgjax.evals.features import labelled_clips
from surgjax.evals.linear_probe import parts_of, validation_score
from surgjax.evals.model import Model
from surgjax.main import main

CLIP = ClipShape(2, 4, 32)
# One that cannot learn, so that the choice is no matter of chance.
THREE = ((1e-9, 0.1), (2e-2, 0.01), probe.FIXED)


def patches(video):
    """Mean colours and their complements in patches of 16 pixels: tokens (b 8 6)."""
    share = video.reshape(len(video), 2, 2, 16, 2, 16, 3).mean((3, 5)).reshape(len(video), 8, 3)
    return (np.concatenate([share, 255 - share], axis=-1) / 255).astype(np.float32)


def model(**changes):
    return Model(**({"encode": None, "tokens": patches, "clip": CLIP, "used_cases": []} | changes))


def small(store, **changes):
    given = dict(every_s=1.0, depth=0, epochs=3, batch_size=8) | changes
    return probe.Evaluator(store=str(store), **given)


def labelled(store, task="phase"):
    clips = labelled_clips(open_store(store), task, CLIP, every_s=1.0, split="official")
    return clips, parts_of(clips, str(store), "official")


# --- the step


def torch_names(params):
    """The public class's names for the parameters of one head, and the linear map's."""
    cross, found = "cross_attention_layer", {"query_tokens": params["query"]}

    def put(name, linear, parts=("",)):
        kernels = np.split(linear["kernel"], len(parts), axis=-1)
        biases = np.split(linear["bias"], len(parts), axis=-1)
        for part, kernel, bias in zip(parts, kernels, biases, strict=True):
            found[f"{name.format(part)}.weight"], found[f"{name.format(part)}.bias"] = (
                kernel.T,
                bias,
            )

    def norms(name, block):
        for i in "12":
            norm = block[f"norm{i}"]
            found[f"{name}.layer_norm{i}.weight"] = norm["scale"]
            found[f"{name}.layer_norm{i}.bias"] = norm["bias"]

    own, only = params["cross"], jax.tree.map(lambda leaf: leaf[0], params["blocks"])
    first = "self_attention_layers.0"
    for name, block in ((cross, own), (first, only)):
        norms(name, block)
        put(f"{name}.mlp.fc1", block["mlp"]["up"])
        put(f"{name}.mlp.fc2", block["mlp"]["down"])
    put(f"{cross}.cross_attn.q_proj", own["q"])
    put(f"{cross}.cross_attn.{{}}_proj", own["kv"], "kv")
    put(f"{first}.self_attn.{{}}_proj", only["attention"]["qkv"], "qkv")
    put(f"{first}.self_attn.out_proj", only["attention"]["out"])
    put("linear", params["classifier"])
    return found


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["one_of_n", "multi_label"])
def test_steps_of_a_head_are_pytorch_s(kind):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.vjepa2.modeling_vjepa2")
    from transformers import VJEPA2Config

    width, classes, rate, decay = 128, 3, 1e-3, 5.0  # so strong that it is seen
    config = VJEPA2Config(hidden_size=width, num_attention_heads=2, num_pooler_layers=1)
    peer = modeling.VJEPA2AttentivePooler(config)
    peer.linear = torch.nn.Linear(width, classes)
    graphdef, heads = probe.start(width, classes, 1, 2, seed=3)
    one = lambda heads, g: jax.tree.map(lambda leaf: np.asarray(leaf[g]), heads[0])  # noqa: E731
    with torch.no_grad():
        theirs, ours = dict(peer.named_parameters()), torch_names(one(heads, 1))
        assert set(theirs) == set(ours)
        for name, value in ours.items():
            theirs[name].copy_(torch.from_numpy(value.copy()))
    adam = torch.optim.AdamW(peer.parameters(), lr=rate, weight_decay=decay)
    draws = np.random.default_rng(0)
    for step in range(2):
        tokens = draws.standard_normal((4, 5, width)).astype(np.float32)
        if kind == "one_of_n":
            label = draws.integers(0, classes, 4)
            target = np.eye(classes, dtype=np.float32)[label]
        else:
            target = draws.integers(0, 2, (4, classes)).astype(np.float32)
            target[1, step] = np.nan
        scores = peer.linear(peer(torch.from_numpy(tokens)))
        if kind == "one_of_n":
            expected = torch.nn.functional.cross_entropy(scores, torch.from_numpy(label))
        else:
            known = ~np.isnan(target)
            expected = torch.nn.functional.binary_cross_entropy_with_logits(
                scores[known], torch.from_numpy(target[known])
            )
        adam.zero_grad()
        expected.backward()
        adam.step()
        rates, decays = np.float32([0.1, rate]), np.float32([0.0, decay])
        heads, losses = probe.learn(graphdef, kind, heads, tokens, target, rates, decays)
        np.testing.assert_allclose(losses[1], expected.detach().numpy(), rtol=1e-5)
    for name, value in torch_names(one(heads, 1)).items():
        # Adam turns gradients that are rounding errors (of the keys' bias) into whole steps.
        if name.endswith("k_proj.bias"):
            continue
        np.testing.assert_allclose(value, theirs[name].detach().numpy(), atol=2e-5, err_msg=name)


# --- the choice


def test_the_best_on_validation_cases_answers_as_if_it_had_learnt_alone(store, monkeypatch):
    clips, parts = labelled(store)
    opened, evaluator = open_store(store), small(store)
    monkeypatch.setattr(probe, "GRID", THREE)
    probs, chosen = evaluator.fit(opened, clips, parts, model())
    swapped = parts | {"test": parts["val"]}  # what each head says of the validation cases
    alone = []
    for point in THREE:
        monkeypatch.setattr(probe, "GRID", (point,))
        monkeypatch.setattr(probe, "FIXED", point)
        judged, about = evaluator.fit(opened, clips, swapped, model())
        score = validation_score(judged, clips.where(parts["val"]))
        assert about == {"rate": point[0], "decay": point[1], "validation": score}
        alone.append(score)
    best = int(np.argmax(alone))
    rate, decay = THREE[best]
    assert best > 0 and chosen == {"rate": rate, "decay": decay, "validation": alone[best]}
    monkeypatch.setattr(probe, "FIXED", (rate, decay))
    none = parts | {"val": np.zeros(len(clips), bool)}
    same, about = evaluator.fit(opened, clips, none, model())
    np.testing.assert_allclose(same, probs, atol=1e-5)
    assert about == {"rate": rate, "decay": decay}
    # Labels of test cases are in nothing.
    other = clips.label.copy()
    other[parts["test"]] = 0
    monkeypatch.setattr(probe, "GRID", THREE)
    again = evaluator.fit(opened, replace(clips, label=other), parts, model())
    np.testing.assert_array_equal(again[0], probs)
    assert again[1] == chosen


def test_a_head_of_several_classes_that_fails_is_not_chosen(store, monkeypatch):
    clips, parts = labelled(store, "instrument")
    monkeypatch.setattr(probe, "GRID", ((np.nan, 0.1), (1e-9, 0.1)))
    probs, chosen = small(store, task="instrument", epochs=1).fit(
        open_store(store), clips, parts, model()
    )
    assert chosen["rate"] == 1e-9 and np.isfinite(probs).all()


# --- stops


def test_a_stopped_probe_goes_on_with_the_epoch_it_was_in(store, tmp_path):
    seen = []

    def counting(stop_after):
        def tokens(video):
            seen.append(len(video))
            if len(seen) > stop_after:
                raise Stopped("asked to", 75)
            return patches(video)

        seen.clear()
        return tokens

    evaluator = small(store, task="instrument", batch_size=4)
    floor = dict(random_tokens=lambda video: patches(255 - video), random_identity="weights 2")
    given = lambda stop, folder: model(  # noqa: E731
        tokens=counting(stop), identity="weights 1", kept=folder, **floor
    )
    evaluator.run(given(10**9, None), out=tmp_path / "whole", step=0)
    whole, _, parts = len(seen), *labelled(store, "instrument")
    epoch = parts["train"].sum() // 4
    assert whole == 1 + 3 * epoch + sum(-(-parts[part].sum() // 4) for part in ("val", "test"))
    with pytest.raises(Stopped):
        evaluator.run(given(1 + epoch + 2, tmp_path / "kept"), out=tmp_path / "out", step=0)
    assert len([*(tmp_path / "kept").glob("*.npz")]) == 1 and not (tmp_path / "out").exists()
    evaluator.run(given(10**9, tmp_path / "kept"), out=tmp_path / "out", step=0)
    assert len(seen) == whole - epoch  # the two steps of the second epoch are lost
    for name in ("predictions.parquet", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Other settings meet nothing of it.
    replace(evaluator, seed=1).run(given(10**9, tmp_path / "kept"), out=tmp_path / "b", step=0)
    assert len(seen) == whole


# --- whole evaluations; that of a run is in test_evaluate_encoder.py


@pytest.mark.torch
def test_a_public_model_s_tokens(store, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    shape = dict(image_size=32, patch_size=16)
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)

    def pixels(folder):
        encoder = open_encoder(folder, frames=4)
        mean, std = (np.float32(encoder.about["pixels"][name]) for name in ("mean", "std"))
        given = torch.from_numpy(((video / np.float32(255) - mean) / std).transpose(0, 1, 4, 2, 3))
        found = jax.jit(encoder.tokens)(encoder.params, video)
        assert found.dtype == np.float32
        return np.asarray(found), given

    config = transformers.VideoMAEConfig(**sizes, **shape, num_frames=4, use_mean_pooling=False)
    peer = transformers.VideoMAEModel(config).eval()
    peer.save_pretrained(tmp_path / "video")
    found, given = pixels(tmp_path / "video")
    with torch.no_grad():
        np.testing.assert_allclose(found, peer(given).last_hidden_state.numpy(), atol=1e-4)
    # Of pictures, the places of all frames, frame by frame and without class tokens.
    peer = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, **shape)).eval()
    peer.save_pretrained(tmp_path / "image")
    found, given = pixels(tmp_path / "image")
    with torch.no_grad():
        places = peer(given.flatten(0, 1)).last_hidden_state[:, 1:].numpy()
    np.testing.assert_allclose(found, places.reshape(2, 16, 24), atol=1e-4)

    given = dict(store=store, task="instrument", every_s=2.0, depth=0, epochs=1, random=False)
    fields = [f"--config.evals.attentive_probe.{name}={value}" for name, value in given.items()]
    command = ["--mode=evaluate", "--config=configs/benchmark.py", f"--workdir={tmp_path / 'out'}"]
    assert main([*command, f"--config.init_from={tmp_path / 'video'}", *fields]) == 0
    folder = tmp_path / "out" / "eval" / "attentive_probe"
    saved = json.loads((folder / "metrics.json").read_text())
    table = predictions.read(folder / "predictions.parquet")
    assert table.models == ["pretrained", "class_frequency"]
    assert saved["protocol"].startswith("0 blocks and a query") and saved["saw_test"] == "unknown"


def test_videos_of_one_label_without_validation_cases(tmp_path):
    labels, splits = ["video,start,end,label"], ["video,split"]
    for i in range(6):
        images = [np.full((48, 48, 3), 40 + 150 * (i % 2) + 3 * i + t, np.uint8) for t in range(10)]
        write_video(
            tmp_path / "films" / f"f{i}.mp4", 10, rate=5, images=images, width=48, height=48
        )
        labels.append(f"f{i},0,2,{'bright' if i % 2 else 'dark'}")
        splits.append(f"f{i},{'train' if i < 4 else 'test'}")
    (tmp_path / "films" / "labels.csv").write_text("\n".join(labels) + "\n")
    (tmp_path / "films" / "splits.csv").write_text("\n".join(splits) + "\n")
    shards(tmp_path / "films", tmp_path / "store", "--fps", "native")
    shown = []

    def tokens(video):
        shown.append(video)
        return patches(video)

    # Twelve clips to learn from: three batches an epoch, and one of the test's six.
    evaluator = small(
        *(tmp_path / "store",), task="label", unit="video", segments=3, epochs=20, batch_size=4
    )
    evaluator.run(model(tokens=tokens, clip=ClipShape(2, 1, 32)), out=tmp_path, step=0)
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert "no validation cases: rate 0.001, decay 0.1" in saved["protocol"]
    assert "mean of 3 clips spread over each video" in saved["protocol"]
    assert saved["chosen"] == {"pretrained": {"rate": 1e-3, "decay": 0.1}}
    table = predictions.read(tmp_path / "predictions.parquet").of("pretrained")
    assert sorted(table["video_id"]) == ["f4", "f5"] and (table.pred == table.target).all()
    assert len(shown) == 1 + 20 * 3 + 2
    epoch = np.concatenate(shown[1:4])
    assert len(np.unique(epoch.mean((1, 2, 3, 4)).round(1))) == 12  # each clip once


@pytest.mark.parametrize(
    "changes, given, word",
    [
        ({}, {"tokens": None}, "one vector a clip.*or use linear_probe"),
        ({"depth": -1}, {}, "depth is -1; expected at least 0"),
        ({"epochs": 0}, {}, "epochs is 0; expected at least 1"),
        ({"split": "mine"}, {}, "no split 'mine'"),
    ],
)
def test_wrong_settings_are_one_line(store, tmp_path, changes, given, word):
    with pytest.raises(UserError, match=word):
        small(store, **changes).run(model(**given), out=tmp_path, step=0)
