"""What `import surgjax` offers, on a run of ours and on weights in the released layout."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import vocabularies
from flax import nnx
from PIL import Image
from runs import tiny

import surgjax
from surgjax import interop, sharding
from surgjax.checkpoint import read_params
from surgjax.data.tokenizers import word_pieces, write_word_pieces
from surgjax.errors import UserError
from surgjax.export import export
from surgjax.interop.files import write_safetensors
from surgjax.interop.keys import from_ours
from surgjax.models.surgclip import SurgCLIP
from surgjax.models.video_vit import SIZES, Size
from surgjax.state import flatten, split
from surgjax.train import train

SENTENCES = ["the hook cuts", "a clip is set", "water"]
TEXT = dict(family="bert", vocab_size=90, length=80, width=64, depth=1, heads=1)


def clip(count=4, side=40):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    text = dict(family="bert", vocab_size=150, length=24, width=32, depth=1, heads=2)
    objective = dict(name="clip", text=text, tokens=24, dim=16, tokenizer="captions")
    objective |= dict(temperature="log_scale", loss="sigmoid")
    folder = tmp_path_factory.mktemp("api") / "run"
    with pytest.MonkeyPatch.context() as patch:
        found = jax.local_devices()[:1]
        patch.setattr(sharding.jax, "devices", lambda: found)
        train(tiny(store, objective=objective, stop_at_step=1), folder)
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(folder, network, parameters) of a small model in the released layout."""
    folder = tmp_path_factory.mktemp("api") / "cache"
    make = lambda: SurgCLIP(  # noqa: E731
        frames=4,
        image_size=32,
        encoder=dict(size=Size(64, 2, 1), compat="surgclip"),
        text=TEXT,
        rngs=nnx.Rngs(0),
    )
    rng = np.random.default_rng(1)
    shapes = flatten(split(nnx.eval_shape(make))[1])
    params = {p: 0.1 * rng.standard_normal(x.shape, np.float32) for p, x in shapes.items()}
    params["temperature"] = np.float32(0.05)
    tensors = from_ours(interop.find_format("surgclip").TABLE, params)
    write_safetensors(folder / "surgclip_beta.safetensors", tensors, {})
    write_word_pieces(folder, word_pieces(SENTENCES, 60))
    return folder, make(), params


def test_a_run_of_ours(run):
    model, preprocess, tokenizer = surgjax.load(run)
    video = preprocess(clip())
    assert video.shape == (4, 32, 32, 3)
    words = tokenizer(SENTENCES)
    one, text = model.encode_video(video), model.encode_text(words)
    np.testing.assert_array_equal(model.encode_video(video[None]), one)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    params, meta = read_params(run)
    scale, bias = np.exp(params["logit_scale"]), params["logit_bias"]
    np.testing.assert_allclose(model(video, words), scale * one @ text.T + bias, rtol=1e-5)
    assert model.provenance["used_cases"] == meta["used_cases"]


def test_a_run_sees_what_its_evaluation_sees(run):
    """uint8 through the objective equals the preprocessor's floats through `encode_video`."""
    from surgjax import build
    from surgjax.state import rebuild

    model, preprocess, _ = surgjax.load(run)
    pixels = clip(side=32)  # no resizing
    learner = build.make_learner(build.read_config(run))
    encode = jax.jit(lambda params, x: rebuild(learner.graphdef, params).encode_video(x))
    np.testing.assert_allclose(
        model.encode_video(preprocess(pixels)), encode(model.params, pixels[None]), atol=1e-5
    )


def test_released_weights_answer_as_their_network(released, monkeypatch):
    folder, _, params = released
    model, preprocess, tokenizer = surgjax.load(folder)
    small = [Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC) for frame in clip()]
    video = preprocess(clip())
    np.testing.assert_allclose(video, np.stack(small) / np.float32(127.5) - 1, atol=1e-6)
    words = tokenizer(SENTENCES)
    assert words["ids"].shape == (3, 77)
    asked = interop.load(folder / "surgclip_beta.safetensors").apply(
        video=video[None], input_ids=words["ids"], attention_mask=words["mask"]
    )
    np.testing.assert_allclose(model(video, words), asked["sim_v2t"], atol=1e-4)
    assert model.provenance["licence"] == "unknown"
    assert surgjax.load(folder / "surgclip_beta.safetensors", num_frames=2)[1].num_frames == 2


def test_names_are_looked_up_in_the_cache_alone(tmp_path, monkeypatch):
    assert surgjax.available_models() == ["SurgCLIP-B"]
    monkeypatch.setenv("SURGCLIP_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="SurgCLIP-B is not at .*; get it once: hf download"):
        surgjax.load("SurgCLIP-B")


def test_what_is_no_such_model_is_told(run, released, tmp_path):
    folder, _, params = released
    with pytest.raises(UserError, match="is no run of the clip objective and holds 0 weight files"):
        surgjax.load(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        surgjax.load(tmp_path / "none.pth")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.safetensors").write_bytes((folder / "surgclip_beta.safetensors").read_bytes())
    with pytest.raises(UserError, match="expected tokenizer.json, or vocab.txt of the bert family"):
        surgjax.load(other)
    mae = tmp_path / "mae"
    (mae / "checkpoints").mkdir(parents=True)
    (mae / "config.json").write_text(json.dumps({"objective": {"name": "mae"}}))
    with pytest.raises(UserError, match="objective 'mae', which has no text tower"):
        surgjax.load(mae)
    model, _, _ = surgjax.load(folder)
    with pytest.raises(UserError, match="video has the shape .*channel last"):
        model.encode_video(np.zeros((1, 3, 4, 32, 32)))
    with pytest.raises(UserError, match="takes what the tokenizer returns"):
        model.encode_text(SENTENCES)


def test_importing_the_package_loads_nothing():
    code = "import sys, surgjax; assert 'VideoPreprocessor' in surgjax.__all__; "
    code += "assert not {'jax', 'flax', 'numpy'} & set(sys.modules); surgjax.VideoPreprocessor(); "
    code += "assert 'jax' not in sys.modules"
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        surgjax.nothing  # noqa: B018


@pytest.mark.torch
def test_a_run_in_the_released_form_becomes_released_weights(store, tmp_path, monkeypatch):
    """Trained, exported as the package's file, and asked again: equal logits."""
    pytest.importorskip("torch")
    found = jax.local_devices()[:1]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    monkeypatch.setitem(SIZES, "one head", Size(64, 1, 1))  # the file does not say how many
    text = dict(TEXT, vocab_size=150)
    objective = dict(name="clip", video="timesformer", compat="surgclip", text=text, dim=16)
    objective |= dict(tokenizer="captions")
    cfg = tiny(store, objective=objective, encoder__size="one head", stop_at_step=1)
    train(cfg, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", format="surgclip")  # its tokenizer too
    ours, _, tokenizer = surgjax.load(tmp_path / "run")
    theirs, preprocess, again = surgjax.load(tmp_path / "out")
    video, words = preprocess(clip()), tokenizer(SENTENCES)
    np.testing.assert_array_equal(words["ids"], again(SENTENCES)["ids"])
    np.testing.assert_allclose(ours(video, words), theirs(video, words), atol=1e-5)


def test_towers_of_a_run_become_public_folders(store, tmp_path, monkeypatch):
    """SurgCLIP-B's two networks as Hugging Face's classes, with the words of the run."""
    found = jax.local_devices()[:1]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    text = dict(TEXT, vocab_size=150, length=24)
    objective = dict(name="clip", video="timesformer", text=text, dim=16, tokens=24)
    cfg = tiny(store, objective=objective | dict(tokenizer="captions"), stop_at_step=1)
    train(cfg, tmp_path / "run")
    for name, kind in (("timesformer", "TimesformerModel"), ("bert", "BertModel")):
        parity = export(tmp_path / "run", tmp_path / name, format=name)
        assert parity is None or parity["max_abs_difference"]["last_hidden_state"] < 1e-4
        assert interop.load(tmp_path / name).config["architectures"] == [kind]
        if parity is not None:
            import transformers

            more = {"add_pooling_layer": False} if name == "bert" else {}
            of_kind = getattr(transformers, kind)
            _, info = of_kind.from_pretrained(tmp_path / name, output_loading_info=True, **more)
            assert not info["missing_keys"] and not info["unexpected_keys"]

    settings = json.loads((tmp_path / "timesformer" / "preprocessor_config.json").read_text())
    assert settings["image_mean"] == settings["image_std"] == [0.5] * 3  # SurgCLIP's colours

    model, _, tokenizer = surgjax.load(tmp_path / "run")
    words = tokenizer(SENTENCES)
    asked = interop.load(tmp_path / "bert").apply(
        input_ids=words["ids"], attention_mask=words["mask"]
    )
    params = flatten(read_params(tmp_path / "run")[0])
    made = asked["last_hidden_state"][:, 0] @ params["text_projection/kernel"]
    made += params["text_projection/bias"]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    np.testing.assert_allclose(made, model.encode_text(words), atol=1e-5)
    assert (tmp_path / "bert" / "vocab.txt").is_file()
    with pytest.raises(UserError, match="this one has one of the family bert; expected a run of"):
        export(tmp_path / "run", tmp_path / "clip", format="clip")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_text_towers_beside_a_video_vit_become_public_folders(store, tmp_path, monkeypatch, family):
    """With the map after them and the run's vocabulary: asked again, they give its vectors."""
    found = jax.local_devices()[:1]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    if family == "clip":
        words, own = vocabularies.byte_pairs(tmp_path / "words"), dict(vocab_size=530, eos=523)
    else:
        words, own = (
            vocabularies.sentence_pieces(tmp_path / "words", SENTENCES),
            dict(vocab_size=70),
        )
    text = dict(family=family, length=16, width=64, depth=2, heads=2) | own
    objective = dict(name="clip", text=text, dim=16, tokens=16, tokenizer=str(words))
    train(tiny(store, objective=objective, stop_at_step=1), tmp_path / "run")
    parity = export(tmp_path / "run", tmp_path / "out", format=family)
    pooled = "text_embeds" if family == "clip" else "pooler_output"
    if parity is not None:
        assert set(parity["max_abs_difference"]) == {"last_hidden_state", pooled}
        import transformers

        of_kind = getattr(transformers, interop.load(tmp_path / "out").config["architectures"][0])
        _, info = of_kind.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
    model, _, tokenizer = surgjax.load(tmp_path / "run")
    ids = tokenizer(SENTENCES)["ids"]
    made = interop.load(tmp_path / "out").apply(input_ids=ids)[pooled]
    made = made / np.linalg.norm(made, axis=1, keepdims=True)
    np.testing.assert_allclose(made, model.encode_text(tokenizer(SENTENCES)), atol=1e-5)
    assert {f.name for f in words.iterdir()} & {f.name for f in (tmp_path / "out").iterdir()}
