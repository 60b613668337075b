"""SurgCLIP's released layout, and the numbers of the package `surgclip` where it is installed."""

import importlib.util
import json
import sys
import types

import numpy as np
import pytest

from surgjax import interop
from surgjax.errors import UserError
from surgjax.export import reexport
from surgjax.interop import find_format
from surgjax.interop.files import write_safetensors
from surgjax.interop.sources import init_params
from surgjax.state import flatten

WIDTH, LAYERS = 64, 2
VIT = dict(
    embed_dim=WIDTH,
    depth=LAYERS,
    num_heads=1,
    mlp_ratio=2,
    qkv_bias="True",
    drop_rate=0.0,
    attn_drop_rate=0.0,
    drop_path_rate=0.1,
    img_size=32,
    patch_size=16,
)
BERT = dict(
    vocab_size=40,
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=1,
    intermediate_size=96,
    max_position_embeddings=12,
)


def released(frames=16):
    """name -> tensor of a tiny model, written down without the table."""
    rng = np.random.default_rng(0)
    made = {}

    def linear(name, outputs, inputs):
        made[f"{name}.weight"] = rng.standard_normal((outputs, inputs)) * 0.1
        made[f"{name}.bias"] = rng.standard_normal(outputs) * 0.1

    def norm(name):
        made[f"{name}.weight"] = 1 + rng.standard_normal(WIDTH) * 0.1
        made[f"{name}.bias"] = rng.standard_normal(WIDTH) * 0.1

    vision, text = "vision_encoder.model", "text_encoder"
    made[f"{vision}.cls_token"] = rng.standard_normal((1, 1, WIDTH))
    made[f"{vision}.pos_embed"] = rng.standard_normal((1, 5, WIDTH))
    made[f"{vision}.time_embed"] = rng.standard_normal((1, frames, WIDTH))
    made[f"{vision}.patch_embed.proj.weight"] = rng.standard_normal((WIDTH, 3, 16, 16)) * 0.05
    made[f"{vision}.patch_embed.proj.bias"] = rng.standard_normal(WIDTH)
    for i in range(LAYERS):
        block, layer = f"{vision}.blocks.{i}", f"{text}.encoder.layer.{i}"
        for part in ("attn", "temporal_attn"):
            linear(f"{block}.{part}.qkv", 3 * WIDTH, WIDTH)
            linear(f"{block}.{part}.proj", WIDTH, WIDTH)
        for name in ("norm1", "temporal_norm1", "norm2"):
            norm(f"{block}.{name}")
        linear(f"{block}.temporal_fc", WIDTH, WIDTH)
        linear(f"{block}.mlp.fc1", 2 * WIDTH, WIDTH)
        linear(f"{block}.mlp.fc2", WIDTH, 2 * WIDTH)
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", WIDTH, WIDTH)
        linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", 96, WIDTH)
        linear(f"{layer}.output.dense", WIDTH, 96)
        norm(f"{layer}.output.LayerNorm")
    for name in (f"{vision}.norm", f"{vision}.pool_norm", "vision_layernorm"):
        norm(name)
    rows = {"word": 40, "position": 12, "token_type": 2}
    for name, count in rows.items():
        made[f"{text}.embeddings.{name}_embeddings.weight"] = rng.standard_normal((count, WIDTH))
    norm(f"{text}.embeddings.LayerNorm")
    linear("vision_proj", 24, WIDTH)
    linear("text_proj", 24, WIDTH)
    made["temp"] = np.array(0.07)
    return {name: x.astype(np.float32) for name, x in made.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("surgclip") / "surgclip_beta.safetensors"
    write_safetensors(path, released(), {})
    return path


@pytest.fixture(scope="module")
def model(file):
    return interop.load(file)


def examples(model):
    return find_format("surgclip").example(model.config, np.random.default_rng(0))


def test_settings_come_from_the_tensors(model):
    assert model.family == "surgclip" and model.licence == "unknown"
    vision = {"num_frames": 16, "image_size": 32, "patch_size": 16, "intermediate_size": 128}
    assert model.config | vision == model.config and model.config["projection_dim"] == 24
    text = {"vocab_size": 40, "max_position_embeddings": 12, "intermediate_size": 96}
    assert model.config["text_config"] | text == model.config["text_config"]
    assert "trained on 16 frames of 32 pixels" in model.notes


def test_similarity_is_the_mean_over_steps_of_unit_vectors(model):
    made = model.apply(**examples(model))
    weights = {n: x.astype(np.float64) for n, x in released().items()}

    def project(x, name):
        x = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    video = project(made["pooled_vision_embeds"], "vision_proj")
    text = project(made["text_embeds"][:, 0], "text_proj")
    expected = np.einsum("btc,nc->btn", video, text).mean(axis=1) / 0.07
    np.testing.assert_allclose(made["sim_v2t"], expected, atol=1e-4)
    np.testing.assert_allclose(made["sim_t2v"], expected.T, atol=1e-4)
    assert made["pooled_vision_embeds"].shape == (2, 16, WIDTH)
    assert made["vision_embeds"].shape == (2, 16, 5, WIDTH)


@pytest.mark.torch
def test_text_tower_is_a_bert_without_pooler(model):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertModel(transformers.BertConfig(**BERT), add_pooling_layer=False).eval()
    start = "text_encoder."
    named = {
        name.removeprefix(start): torch.from_numpy(x)
        for name, x in released().items()
        if name.startswith(start)
    }
    bert.load_state_dict(named)
    inputs = examples(model)
    with torch.no_grad():
        expected = bert(
            torch.from_numpy(inputs["input_ids"]),
            attention_mask=torch.from_numpy(inputs["attention_mask"]),
        ).last_hidden_state.numpy()
    np.testing.assert_allclose(model.apply(**inputs)["text_embeds"], expected, atol=1e-4)


@pytest.mark.torch
def test_written_again_it_is_one_flat_table(file, model, tmp_path):
    torch = pytest.importorskip("torch")
    assert reexport(file, tmp_path / "out") is None
    written = torch.load(tmp_path / "out" / "surgclip_beta.pth", weights_only=True)
    expected = released()
    assert set(written) == set(expected)
    for name, tensor in expected.items():
        found = written[name].numpy()
        assert found.shape == tensor.shape
        np.testing.assert_array_equal(found.view(np.uint32), tensor.view(np.uint32), name)
    again = interop.load(tmp_path / "out" / "surgclip_beta.pth")
    assert again.pretrained_on == ["unknown"]


def test_known_training_data_stays_known(file, tmp_path):
    """The layout has no place for it, so the card keeps it."""
    pytest.importorskip("torch")
    path = tmp_path / "known.safetensors"
    own = {"licence": "CC-BY-NC-SA-4.0", "pretrained_on": ["surglavi (train)"]}
    write_safetensors(path, released(), {"surgjax": json.dumps(own)})
    reexport(path, tmp_path / "out")
    again = interop.load(tmp_path / "out" / "surgclip_beta.pth")
    assert again.pretrained_on == ["surglavi (train)"] and again.licence == "CC-BY-NC-SA-4.0"


def test_towers_start_a_run(file, model):
    """A run with these towers finds them; older files name BERT's inside another module."""
    shapes = {part: params for part, params in model.params.items() if part.endswith("encoder")}
    shapes = {path: x.shape for path, x in flatten(shapes).items()}
    loaded = init_params(file, expected=shapes)
    assert loaded.missing == []
    old = {n.replace("text_encoder.", "text_encoder.bert."): x for n, x in released().items()}
    old["text_encoder.bert.embeddings.position_ids"] = np.arange(12)[None]
    write_safetensors(file.with_name("old.safetensors"), old, {})
    again = init_params(file.with_name("old.safetensors"), expected=shapes)
    for path, value in flatten(again.params).items():
        np.testing.assert_array_equal(value, flatten(loaded.params)[path])


def test_mistakes_are_one_line(model, tmp_path):
    few = {n: x for n, x in released().items() if "time_embed" not in n}
    write_safetensors(tmp_path / "few.safetensors", few, {})
    with pytest.raises(UserError, match="lacks 'vision_encoder.model.time_embed'.*complete"):
        interop.load(tmp_path / "few.safetensors")
    inputs = examples(model)
    with pytest.raises(UserError, match="input_ids holds 40; expected 0 to 39"):
        model.apply(**inputs | {"input_ids": np.full((1, 4), 40)})
    other = types.SimpleNamespace(encoder=object())
    with pytest.raises(UserError, match="compat='surgclip'"):
        find_format("surgclip").json_files(other, {})
    shorter = {n: x for n, x in released().items() if "vision_layernorm" not in n}
    made = find_format("surgclip").outside_names(shorter, {})
    assert set(made) == set(released()) and (made["vision_layernorm.weight"] == 1).all()
    same = types.SimpleNamespace(encoder=types.SimpleNamespace(is_surgclip=True))
    assert find_format("surgclip").json_files(same, {}) == {}


# The package leaves files open.
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A function that makes the package's own model, tiny, or as it is released."""
    spec = importlib.util.find_spec("surgclip")
    if spec is None:
        pytest.skip("the package surgclip is not installed")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    # The networks alone: what it imports at its top needs torchvision and old transformers.
    shell = types.ModuleType("surgclip")
    shell.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "surgclip", shell)
    from surgclip.config import get_config
    from surgclip.model import SurgCLIP

    def make(vit=VIT, bert=BERT, dim=24, **options):
        for name, fields in (("vit", vit), ("bert", bert)):
            (tmp_path / f"{name}.json").write_text(json.dumps(fields))
        config = transformers.BertConfig(**bert)
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
        towers = {
            "vision_encoder": {"config": str(tmp_path / "vit.json"), "d_model": vit["embed_dim"]},
            "text_encoder": {
                "config": str(tmp_path / "bert.json"),
                "pretrained": str(tmp_path / "bert"),
                "d_model": config.hidden_size,
            },
        }
        overrides = {"model": {"embed_dim": dim, **towers}, **options}
        return SurgCLIP(get_config("SurgCLIP-B", overrides), tokenizer=None).eval()

    return torch, make


def package_outputs(torch, peer, inputs):
    text = types.SimpleNamespace(
        input_ids=torch.from_numpy(inputs["input_ids"]),
        attention_mask=torch.from_numpy(inputs["attention_mask"]),
    )
    video = torch.from_numpy(inputs["video"].transpose(0, 1, 4, 2, 3).copy())
    with torch.no_grad():
        made = dict(zip(("sim_v2t", "sim_t2v"), peer(video, text), strict=True))
        names = ("vision_embeds", "pooled_vision_embeds")
        made |= zip(names, peer.encode_vision(video), strict=True)
        made |= zip(("text_embeds", "pooled_text_embeds"), peer.encode_text(text), strict=True)
    return {name: tensor.numpy() for name, tensor in made.items()}


@pytest.mark.torch
@unclosed
@pytest.mark.parametrize("frames", [16, 5, 1])
def test_numbers_of_the_package(package, model, frames):
    """On its weights, also for clips shorter than trained; what it loads is what we wrote."""
    torch, make = package
    peer = make()
    peer.load_state_dict({name: torch.from_numpy(x) for name, x in released().items()})
    inputs = examples(model)
    inputs["video"] = inputs["video"][:, :frames]
    expected, found = package_outputs(torch, peer, inputs), model.apply(**inputs)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


@pytest.mark.torch
@pytest.mark.slow
@unclosed
def test_numbers_of_the_package_at_its_size(package, tmp_path):
    torch, make = package
    torch.manual_seed(0)
    vit = VIT | dict(embed_dim=768, depth=12, num_heads=12, mlp_ratio=4, img_size=224)
    peer = make(vit, {}, 256)
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            is_norm = "norm" in name.lower() and name.endswith("weight")
            parameter.normal_(float(is_norm), 0.03) if name != "temp" else None
    torch.save(peer.state_dict(), tmp_path / "surgclip_beta.pth")
    model = interop.load(tmp_path / "surgclip_beta.pth")
    inputs = examples(model)
    inputs["video"] = inputs["video"][:1]
    expected, found = package_outputs(torch, peer, inputs), model.apply(**inputs)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)
