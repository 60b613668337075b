import json
import re

import jax
import numpy as np
import pytest
from flax import nnx

from surgjax import objectives
from surgjax.errors import UserError
from surgjax.interop import find_format
from surgjax.interop.files import write_safetensors
from surgjax.interop.keys import from_ours, to_ours
from surgjax.interop.sources import init_params
from surgjax.state import flatten, split

FORMATS = ("videomae", "videomae_official")
CONFIG = {  # of the tiny model, as the public class would save it
    "model_type": "videomae",
    "architectures": ["VideoMAEForPreTraining"],
    "image_size": 32,
    "num_frames": 4,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "layer_norm_eps": 1e-6,
    "use_mean_pooling": False,
    "decoder_hidden_size": 96,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 384,
}


def write_folder(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    write_safetensors(folder / "model.safetensors", tensors, {})
    return folder


def assert_equal(tree, other):
    tree, other = flatten(tree), flatten(other)
    assert set(tree) == set(other)
    for path, value in tree.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value.view(np.uint32), other[path].view(np.uint32), path)


@pytest.fixture
def outside(tiny):
    """The tiny model under Hugging Face's names, both spellings of the biases."""
    return from_ours(find_format("videomae").TABLE, flatten(tiny[1]))


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip_is_bitwise(tiny, name):
    module, flat = find_format(name), flatten(tiny[1])
    back = to_ours(module.TABLE, module.canonical(from_ours(module.TABLE, flat))).params
    assert_equal(back, flat)


@pytest.mark.parametrize(
    "size, encoder_millions", [("S", 21.88), ("B", 86.23), ("L", 303.86), ("H", 631.61)]
)
def test_published_sizes_have_the_public_names_and_shapes(size, encoder_millions):
    """Names and shapes alone: zeros that take no memory stand for the parameters."""
    encoder = {"size": size}
    objective = nnx.eval_shape(
        lambda: objectives.build("mae", frames=16, size=224, encoder=encoder, rngs=nnx.Rngs(0))
    )
    hollow = lambda x: np.broadcast_to(np.float32(0), x.shape)  # noqa: E731
    flat = flatten(jax.tree.map(hollow, split(objective)[1]))
    config = find_format("videomae").json_files(objective, flat)["config.json"]
    sizes = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "H": (1280, 32, 16)}
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    assert tuple(config[name] for name in names) == sizes[size]
    assert config["intermediate_size"] == 4 * config["hidden_size"]
    count = sum(x.size for path, x in flat.items() if path.startswith("encoder/"))
    assert count / 1e6 == pytest.approx(encoder_millions, abs=0.01)
    if size != "B":
        return
    tensors = from_ours(find_format("videomae").TABLE, flat)
    assert len(tensors) == 250 + 2 * (12 + 4)  # models written with one spelling have 250
    assert tensors["videomae.embeddings.patch_embeddings.projection.weight"].shape == (
        768,
        3,
        2,
        16,
        16,
    )
    assert tensors["decoder.decoder_layers.3.intermediate.dense.weight"].shape == (1536, 384)
    assert tensors["encoder_to_decoder.weight"].shape == (384, 768)
    official = from_ours(find_format("videomae_official").TABLE, flat)
    assert official["encoder.blocks.11.attn.qkv.weight"].shape == (2304, 768)
    assert sum(x.size for x in official.values()) == 94_210_944


@pytest.mark.parametrize("spelling", ["both", "legacy", "new"])
def test_every_spelling_of_the_biases_is_read(tiny, shapes, outside, tmp_path, spelling):
    drop = {"both": "$^", "legacy": r"\.(query|value)\.bias$", "new": r"\.[qv]_bias$"}[spelling]
    kept = {name: x for name, x in outside.items() if not re.search(drop, name)}
    loaded = init_params(write_folder(tmp_path / "hf", kept), expected=shapes)
    assert_equal(loaded.params, tiny[1])
    assert loaded.missing == []


def test_bare_encoder_leaves_the_decoder_fresh(tiny, shapes, outside, tmp_path):
    bare = {n.removeprefix("videomae."): x for n, x in outside.items() if n.startswith("videomae.")}
    loaded = init_params(write_folder(tmp_path / "hf", bare), expected=shapes)
    assert_equal(loaded.params, {"encoder": tiny[1]["encoder"]})
    assert loaded.missing == sorted(p for p in flatten(tiny[1]) if p.startswith("decoder/"))
    assert "fresh: decoder (not in " in loaded.report()


def test_encoder_alone_can_be_wanted(tiny, shapes, outside, tmp_path):
    expected = {"encoder": shapes["encoder"], "head": {"kernel": (192, 7), "bias": (7,)}}
    loaded = init_params(write_folder(tmp_path / "hf", outside), expected=expected)
    assert_equal(loaded.params, {"encoder": tiny[1]["encoder"]})
    assert loaded.missing == ["head/bias", "head/kernel"]
    assert "left out: decoder" in loaded.report()


def test_of_a_classifier_the_head_is_left_out(tiny, shapes, outside, tmp_path):
    tensors = {
        n: x for n, x in outside.items() if n.startswith("videomae.") and ".layernorm." not in n
    }
    tensors |= {
        f"{n}.{p}": np.zeros(9, np.float32)
        for n in ("fc_norm", "classifier")
        for p in ("weight", "bias")
    }
    folder = write_folder(
        tmp_path / "hf", tensors, architectures=["VideoMAEForVideoClassification"]
    )
    with pytest.raises(UserError, match="lacks 'videomae.layernorm.weight'"):
        init_params(folder, expected=shapes)
    loaded = init_params(folder, expected=shapes, allow=["encoder/norm/*"])
    assert "left out: head (4 tensors)" in loaded.report()
    assert {"encoder/norm/bias", "encoder/norm/scale"} < set(loaded.missing)
    np.testing.assert_array_equal(
        loaded.params["encoder"]["blocks"]["attention"]["v_bias"],
        tiny[1]["encoder"]["blocks"]["attention"]["v_bias"],
    )


def test_a_key_bias_is_harmless(tiny, shapes, outside, tmp_path):
    """Some transformers releases give the key a bias; the softmax does not see it."""
    extra = {
        f"videomae.encoder.layer.{i}.attention.attention.key.bias": np.ones(192, np.float32)
        for i in range(4)
    }
    loaded = init_params(write_folder(tmp_path / "hf", outside | extra), expected=shapes)
    assert_equal(loaded.params, tiny[1])
    assert "cancels in the softmax" in loaded.report()


def test_wrong_family(shapes, outside, tmp_path):
    """One that nothing here reads, and one that has no network of a video autoencoder."""
    about = dict(model_type="convnext", architectures=["ConvNextModel"])
    folder = write_folder(tmp_path / "hf", outside, **about)
    unknown = r"looks like a 'convnext' model \(ConvNextModel\); expected .*videomae"
    with pytest.raises(UserError, match=unknown):
        init_params(folder, expected=shapes)
    folder = write_folder(tmp_path / "hf", outside, model_type="vit", architectures=["ViTModel"])
    with pytest.raises(UserError, match="looks like a 'vit' model.*expected one with decoder or"):
        init_params(folder, expected=shapes)


@pytest.mark.parametrize(
    "field, value",
    [("patch_size", 14), ("tubelet_size", 1), ("hidden_act", "gelu_new"), ("qkv_bias", False)],
)
def test_settings_our_networks_do_not_have(shapes, outside, tmp_path, field, value):
    folder = write_folder(tmp_path / "hf", outside, **{field: value})
    with pytest.raises(UserError, match=f"config.json has {field}=.*expected"):
        init_params(folder, expected=shapes)


@pytest.mark.parametrize("field", ["num_attention_heads", "decoder_num_attention_heads"])
def test_other_heads_of_the_same_width(shapes, outside, tmp_path, field):
    folder = write_folder(tmp_path / "hf", outside, **{field: 6})
    with pytest.raises(UserError, match=f"has {field}=6; expected 3"):
        init_params(folder, expected=shapes)


def test_other_size_names_the_field(shapes, outside, tmp_path, kit):
    folder = write_folder(tmp_path / "hf", outside)
    config = kit.CONFIG | {"encoder": {"size": "S"}}
    small = jax.tree.map(lambda x: x.shape, split(kit.build(config))[1])
    message = r"encoder.size found T \(width 192, 4 blocks\), expected S \(width 384, 12 blocks\)"
    with pytest.raises(UserError, match=message):
        init_params(folder, expected=small)
    config = kit.CONFIG | {"objective": {"name": "mae", "decoder_depth": 1}}
    shallow = jax.tree.map(lambda x: x.shape, split(kit.build(config))[1])
    with pytest.raises(
        UserError, match="decoder_depth found width 96, 2 blocks, expected width 96, 1"
    ):
        init_params(folder, expected=shallow)


def official_names(flat):
    """The tiny model under the official names, written down a second time without the table."""

    def block(ours, theirs):
        for i in range(flat[f"{ours}/norm1/scale"].shape[0]):
            at = lambda path: flat[f"{ours}/{path}"][i]  # noqa: B023, E731
            yield f"{theirs}.{i}.attn.qkv.weight", at("attention/qkv/kernel").T
            yield f"{theirs}.{i}.attn.q_bias", at("attention/q_bias")
            yield f"{theirs}.{i}.attn.v_bias", at("attention/v_bias")
            for mine, its in (
                ("attention/out", "attn.proj"),
                ("mlp/up", "mlp.fc1"),
                ("mlp/down", "mlp.fc2"),
            ):
                yield f"{theirs}.{i}.{its}.weight", at(f"{mine}/kernel").T
                yield f"{theirs}.{i}.{its}.bias", at(f"{mine}/bias")
            for norm in ("norm1", "norm2"):
                yield f"{theirs}.{i}.{norm}.weight", at(f"{norm}/scale")
                yield f"{theirs}.{i}.{norm}.bias", at(f"{norm}/bias")

    conv = flat["encoder/embed/kernel"].reshape(2, 16, 16, 3, -1).transpose(4, 3, 0, 1, 2)
    return {
        "encoder.patch_embed.proj.weight": conv,
        "encoder.patch_embed.proj.bias": flat["encoder/embed/bias"],
        **dict(block("encoder/blocks", "encoder.blocks")),
        "encoder.norm.weight": flat["encoder/norm/scale"],
        "encoder.norm.bias": flat["encoder/norm/bias"],
        "encoder_to_decoder.weight": flat["decoder/embed/kernel"].T,
        "mask_token": flat["decoder/mask_token"],
        **dict(block("decoder/blocks", "decoder.blocks")),
        "decoder.norm.weight": flat["decoder/norm/scale"],
        "decoder.norm.bias": flat["decoder/norm/bias"],
        "decoder.head.weight": flat["decoder/head/kernel"].T,
        "decoder.head.bias": flat["decoder/head/bias"],
    }


WRAPPINGS = {
    "as released": lambda n: n,
    "data parallel": lambda n: f"module.{n}",
    "backbone": lambda n: f"module.backbone.{n}",
    "compiled": lambda n: f"_orig_mod.module.{n}",
    "inner model": lambda n: f"model.{n}",
    "inside an encoder": lambda n: f"encoder.module.{n}",
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_official_layout_under_any_wrapping(tiny, shapes, tmp_path, wrapping):
    named = {WRAPPINGS[wrapping](n): x for n, x in official_names(flatten(tiny[1])).items()}
    write_safetensors(tmp_path / "checkpoint.safetensors", named, {})
    loaded = init_params(tmp_path / "checkpoint.safetensors", expected=shapes)
    assert_equal(loaded.params, tiny[1])
    assert loaded.provenance["licence"] == "CC-BY-NC-4.0"
    assert loaded.provenance["pretrained_on"] == ["unknown"]


@pytest.mark.parametrize("wrapping", ["as released", "data parallel", "backbone"])
def test_official_fine_tuning_file_is_an_encoder(tiny, shapes, tmp_path, wrapping):
    named = {
        WRAPPINGS[wrapping](n.removeprefix("encoder.")): x
        for n, x in official_names(flatten(tiny[1])).items()
        if n.startswith("encoder.")
    } | {"head.weight": np.zeros((7, 192), np.float32)}
    write_safetensors(tmp_path / "checkpoint.safetensors", named, {})
    loaded = init_params(tmp_path / "checkpoint.safetensors", expected=shapes, allow=["head.*"])
    assert_equal(loaded.params, {"encoder": tiny[1]["encoder"]})


def test_student_and_teacher_in_one_file(tiny, shapes, tmp_path):
    named = official_names(flatten(tiny[1]))
    both = {f"{who}.{n}": x for n, x in named.items() for who in ("student", "teacher")}
    write_safetensors(tmp_path / "checkpoint.safetensors", both, {})
    with pytest.raises(UserError, match="two tensors of the file mean"):
        init_params(tmp_path / "checkpoint.safetensors", expected=shapes)


@pytest.mark.torch
def test_released_pth(tiny, shapes, tmp_path):
    """The layout of surgrec_mae.pth: weights under `model`, the program's options beside them."""
    torch = pytest.importorskip("torch")
    from argparse import Namespace

    named = official_names(flatten(tiny[1]))
    model = {f"module.{n}": torch.from_numpy(x.copy()) for n, x in named.items()}
    content = {"model": model, "args": Namespace(mask_ratio=0.9), "epoch": 149}
    torch.save(content, tmp_path / "surgrec_mae.pth")
    loaded = init_params(tmp_path / "surgrec_mae.pth", expected=shapes)
    assert_equal(loaded.params, tiny[1])
    assert loaded.missing == [] and loaded.provenance["source"] == "surgrec_mae.pth"
