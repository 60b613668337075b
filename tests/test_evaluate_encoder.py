"""Evaluations of what is no run of its own: a run elsewhere, public models, files of features."""

import json
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest
import vocabularies
from ml_collections import ConfigDict
from runs import tiny

from surgjax import evaluate, export
from surgjax.benchmark import predictions, vectors
from surgjax.data.clip import decode_clip
from surgjax.data.plan import ROW
from surgjax.data.store import open_store
from surgjax.encoder import open_encoder
from surgjax.errors import REQUEUE, Stopped, UserError
from surgjax.evals import attentive_probe, features
from surgjax.main import main
from surgjax.train import train


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run of one step."""
    path = tmp_path_factory.mktemp("run") / "tiny"
    train(tiny(store, total_steps=1), path)
    return path


def asked(out, model, **fields):
    """A command of configs/benchmark.py; __ stands for a dot."""
    fields = {f"--config.{k.replace('__', '.')}={v}" for k, v in fields.items()}
    command = ["--mode=evaluate", "--config=configs/benchmark.py", f"--workdir={out}"]
    return main([*command, f"--config.init_from={model}", *fields])


def read(out, name):
    """(predictions, metrics.json) of an evaluation."""
    folder = out / "eval" / name
    metrics = json.loads((folder / "metrics.json").read_text())
    return predictions.read(folder / "predictions.parquet"), metrics


def some_clips(store, clip, count=3):
    rows = np.zeros(count, ROW)
    rows["video"], rows["start"] = np.arange(count), 40 * np.arange(count)
    return np.stack([decode_clip(open_store(store), row, clip) for row in rows])


# --- runs


def test_a_run_elsewhere_gives_its_own_numbers(store, trained, tmp_path):
    fields = {"evals__knn__store": store, "evals__knn__every_s": 3.0}
    assert asked(tmp_path / "out", trained, **fields) == 0
    config = ["--config=configs/surgrec_mae.py", f"--workdir={trained}", "--mode=evaluate"]
    fields = [f"--config.evals.knn.{field}" for field in (f"store={store}", "every_s=3")]
    assert main([*config, *fields]) == 0
    found, about = read(tmp_path / "out", "knn")
    assert about["saw_test"] == "no" and about["store"] == open_store(store).name
    assert about["encoder"]["model"] == "tiny, step 1" and about["step"] == 1
    assert about["encoder"]["licence"] == "Apache-2.0"
    own, before = read(trained, "knn")
    assert found.models == ["pretrained", "random", "mean_colour", "majority", "best_constant"]
    np.testing.assert_array_equal(found.probabilities, own.probabilities)
    assert before["models"] == about["models"] and "encoder" not in before
    assert not (tmp_path / "out" / "kept").exists() and not (trained / "kept").exists()
    assert not (tmp_path / "out" / "config.json").exists()  # no run


def test_a_stop_loses_no_finished_video(store, trained, tmp_path):
    fields = {"evals__linear_probe__store": store, "evals__linear_probe__batch_size": 1}
    fields["evals__linear_probe__every_s"] = 1.0
    assert asked(tmp_path / "whole", trained, **fields) == 0

    def stop_after_the_second_video():
        while (
            len(list((tmp_path / "out" / "kept").glob("*.npy"))) < 4
        ):  # of two encoders and colour
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should it come too late
    try:
        thread = threading.Thread(target=stop_after_the_second_video)
        thread.start()
        with pytest.raises(Stopped) as stop:
            asked(tmp_path / "out", trained, **fields)
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == REQUEUE and not (tmp_path / "out" / "eval").exists()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "kept").glob("*.npy")}
    assert 4 <= len(kept) < 18
    decoded = []
    whole = features.features

    def counted(store, clips, *others, **options):
        decoded.extend(clips.video_id)
        return whole(store, clips, *others, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgjax.evals.kept.features", counted)
        assert asked(tmp_path / "out", trained, **fields) == 0
    assert len(set(decoded)) == 6 - len(kept) // 3
    for name in ("predictions.parquet", "metrics.json"):
        files = (tmp_path / folder / "eval" / "linear_probe" / name for folder in ("out", "whole"))
        assert len({file.read_bytes() for file in files}) == 1


def test_an_attentive_probe_looks_at_the_tokens_of_a_run(store, trained, tmp_path, monkeypatch):
    models, run = [], attentive_probe.Evaluator.run

    def watched(self, model, **where):
        models.append(model)
        return run(self, model, **where)

    monkeypatch.setattr(attentive_probe.Evaluator, "run", watched)
    given = dict(store=store, every_s=2.0, depth=1, epochs=1, batch_size=4)
    fields = {f"evals__attentive_probe__{name}": value for name, value in given.items()}
    assert asked(tmp_path / "out", trained, seed=5, **fields) == 0
    table, saved = read(tmp_path / "out", "attentive_probe")
    assert table.models == ["pretrained", "random", "majority", "best_constant"]
    assert list(saved["models"]) == table.models and set(saved["chosen"]) == {*table.models[:2]}
    assert saved["clips_by_part"]["val"] and saved["saw_test"] == "no"
    assert "best of 12 rates and decays on validation cases" in saved["protocol"]
    assert "seed 5" in saved["protocol"] and not (tmp_path / "out" / "kept").exists()
    model, video = models[0], some_clips(store, models[0].clip, 4)
    for tokens, encode in (
        (model.tokens, model.encode),
        (model.random_tokens, model.random_encode),
    ):
        found = tokens(video)
        assert found.shape == (4, 8, 96) and found.dtype == np.float32
        np.testing.assert_allclose(found.mean(1), encode(video), atol=1e-6)


def test_identity_is_of_all_numbers_and_settings():
    params = {"a": {"kernel": np.zeros((2, 3)), "scale": np.float32(1)}, "b": np.ones(2)}
    one = evaluate.identity_of(params, {"heads": 3})
    assert one == evaluate.identity_of({"b": params["b"], "a": params["a"]}, {"heads": 3})
    assert one != evaluate.identity_of(params, {"heads": 6})
    other = params | {"b": np.array([1, 1 + 1e-9])}
    assert one != evaluate.identity_of(other, {"heads": 3})
    assert one != evaluate.identity_of(params | {"b": np.ones((2, 1))}, {"heads": 3})


# --- files of features


def test_features_of_elsewhere_give_the_numbers_of_their_encoder(store, trained, tmp_path):
    fields = {"evals__linear_probe__store": store, "evals__linear_probe__every_s": 1.0}
    asked(tmp_path / "a", trained, evals__vectors__store=store, **fields)
    file = tmp_path / "a" / "eval" / "vectors" / "features.parquet"
    about = vectors.read(file).about
    assert about["model"] == "tiny, step 1" and about["used_cases"]
    asked(tmp_path / "b", file, **fields)
    (first, _), (second, metrics) = (
        read(tmp_path / "a", "linear_probe"),
        read(tmp_path / "b", "linear_probe"),
    )
    np.testing.assert_array_equal(
        first.of("pretrained").probabilities, second.of("pretrained").probabilities
    )
    assert second.models == ["pretrained", "mean_colour", "majority", "best_constant"]
    assert metrics["saw_test"] == "no" and metrics["encoder"]["licence"] == "Apache-2.0"
    assert "used_cases" not in metrics["encoder"]
    with pytest.raises(UserError, match="the features lack"):  # every half second
        asked(tmp_path / "c", file, evals__linear_probe__store=store)


# --- public models


def tiny_videomae(transformers, kind, **more):
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.VideoMAEConfig(**sizes, image_size=32, num_frames=4, **more)
    return getattr(transformers, kind)(config).eval()


@pytest.mark.torch
def test_a_public_classifier_is_probed_and_tested(store, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    phases = open_store(store).meta["tasks"]["phase"]["classes"]
    names = {"id2label": dict(enumerate(phases)), "label2id": {n: i for i, n in enumerate(phases)}}
    model = tiny_videomae(transformers, "VideoMAEForVideoClassification", **names)
    model.save_pretrained(tmp_path / "public")
    fields = {f"evals__{name}__store": store for name in ("knn", "trained_head")}
    fields |= {f"evals__{name}__every_s": 3.0 for name in ("knn", "trained_head")}
    assert asked(tmp_path / "out", tmp_path / "public", data__stride=2, **fields) == 0
    table, about = read(tmp_path / "out", "knn")
    assert about["saw_test"] == "unknown" and about["encoder"]["family"] == "videomae"
    own = [table.of(name).probabilities for name in ("pretrained", "random")]
    assert np.abs(own[0] - own[1]).max() > 0.01  # the floor is another network

    told, _ = read(tmp_path / "out", "trained_head")
    told = told.of(told.models[0])
    opened = open_store(store)
    encoder = open_encoder(tmp_path / "public")
    clip = features.ClipShape(4, 2, 32)
    clips = features.labelled_clips(
        opened, "phase", clip, every_s=3.0, split="official", anchor="last"
    )
    row = clips.rows[clips.split == "test"][1]
    pixels = decode_clip(opened, row, clip).astype(np.float32) / 255
    mean, std = (np.array(encoder.about["pixels"][name]) for name in ("mean", "std"))
    given = torch.from_numpy(((pixels - mean) / std).astype(np.float32).transpose(0, 3, 1, 2))
    with torch.no_grad():
        expected = torch.softmax(model(given[None]).logits[0], 0).numpy()
    np.testing.assert_allclose(told.probabilities[1], expected, atol=1e-4)


@pytest.mark.torch
def test_equal_weights_with_other_heads_are_another_encoder(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tiny_videomae(transformers, "VideoMAEModel").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    cfg = ConfigDict({"seed": 0, "data": {"stride": "2"}})
    found = set()
    for heads in (2, 3):
        file.write_text(json.dumps(settings | {"num_attention_heads": heads}))
        model = evaluate._public(tmp_path, open_encoder(tmp_path), cfg, {}, lambda: None)
        found |= {model.identity, model.random_identity}
    assert len(found) == 4


@pytest.mark.parametrize("format", ["videomae_official", "videomae"])
@pytest.mark.torch
def test_a_program_s_own_file_is_the_run_it_came_from(store, trained, tmp_path, format):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    export.main([f"--run={trained}", f"--out={tmp_path / 'file'}", f"--format={format}"])
    path = tmp_path / "file"
    size = {}
    if format == "videomae_official":
        path, size = path / "checkpoint.pth", dict(frames=4, size=32)
    found, own = open_encoder(path, **size), open_encoder(trained)
    assert found.about["family"] == format and found.dim == own.dim == 96
    video = some_clips(store, own.clip)
    values = [np.asarray(jax.jit(one.apply)(one.params, video)) for one in (found, own)]
    np.testing.assert_allclose(*values, atol=2e-5)
    fresh = found.fresh(jax.random.key(5))  # not the run's seed
    assert jax.tree.map(np.shape, fresh) == jax.tree.map(np.shape, found.params)
    other = np.asarray(jax.jit(found.apply)(fresh, video))
    assert np.isfinite(other).all() and np.abs(other - values[0]).max() > 1e-3
    with pytest.raises(UserError, match="no class token|without a class token"):
        open_encoder(path, pool="cls", **size)


@pytest.mark.torch
def test_a_public_pair_of_towers_is_asked_in_words(store, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    text = dict(vocab_size=530, max_position_embeddings=16, eos_token_id=523, bos_token_id=522)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=sizes | text,
            vision_config=sizes | dict(image_size=32, patch_size=16),
            projection_dim=12,
        )
    ).eval()
    folder = vocabularies.byte_pairs(tmp_path / "public")
    model.save_pretrained(folder)
    encoder = open_encoder(folder, frames=2)
    assert (encoder.towers.family, encoder.towers.length) == ("clip", 16)
    video = some_clips(store, encoder.clip)
    mean, std = (np.array(encoder.about["pixels"][name]) for name in ("mean", "std"))
    pixels = ((video / 255.0 - mean) / std).astype(np.float32).reshape(-1, 32, 32, 3)
    ids = np.array([[522, 5, 6, 523, 523], [522, 7, 523, 523, 523]], np.int32)
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)
    given = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        words = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        out = model(pixel_values=given, **words)
    images = out.image_embeds.numpy().reshape(len(video), 2, 12).mean(1)
    found = jax.jit(encoder.towers.video)(encoder.params, video)
    np.testing.assert_allclose(found, images, atol=2e-5)
    found = jax.jit(encoder.towers.text)(encoder.params, ids, mask)
    np.testing.assert_allclose(found, out.text_embeds.numpy(), atol=2e-5)

    fields = {"evals__zero_shot__store": store, "evals__zero_shot__every_s": 3.0}
    assert asked(tmp_path / "out", folder, data__frames=2, **fields) == 0
    table, _ = read(tmp_path / "out", "zero_shot")
    assert table.models[:2] == ["pretrained", "random"] and table.saw_test == "unknown"


# --- mistakes


def test_mistakes_are_one_line(store, trained, tmp_path):
    with pytest.raises(UserError, match="trains nothing; .* or add --mode=evaluate"):
        main(["--config=configs/benchmark.py", f"--workdir={tmp_path}"])
    fields = {"evals__knn__store": store}
    for model, more, word in (
        ("", fields, "init_from is empty"),
        (tmp_path / "none", fields, "does not exist; expected a run"),
        (trained, {}, "no evaluation has a store"),
        (trained, fields | {"data__frames": 8}, "data.frames is 8, but .* made for 4"),
        (trained, fields | {"evals__knn__neighbors": 3}, "no field 'evals.knn.neighbors'"),
        (trained, fields | {"evals__knn__every_s": "x"}, "must be float"),
        (trained, {"evals__zero_shot__store": store}, "needs an objective with a text tower|text"),
        (trained, {"evals__trained_head__store": store}, "has no head for 'phase'"),
        (tmp_path / "f.parquet", fields, "cannot be read as features"),
    ):
        with pytest.raises(UserError, match=word):
            asked(tmp_path / "out", model, **more)


def test_draws_follow_the_config_s_seed(store, trained):
    from surgjax.main import _parse

    command = ["--mode=evaluate", "--config=configs/benchmark.py", "--workdir=x"]
    for extra, seed in (([], 3), (["--config.evals.few_shot.seed=5"], 5)):
        flags = _parse(
            [*command, "--config.seed=3", f"--config.evals.few_shot.store={store}", *extra]
        )
        evaluate._seed(flags.config)
        assert evaluate.make_evaluators(flags.config)["few_shot"].seed == seed
