"""Hugging Face's image classes: asked, written again, and told apart."""

import json

import numpy as np
import pytest
import safetensors.numpy

from surgjax import interop
from surgjax.errors import UserError
from surgjax.export import export, reexport
from surgjax.interop import find_format, public

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

TINY = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28)
VIT = dict(TINY, patch_size=7, intermediate_size=40, layer_norm_eps=1e-6)
DINOV2 = dict(TINY, patch_size=7, mlp_ratio=3)
DINOV3 = dict(TINY, patch_size=7, intermediate_size=40)
CASES = {
    "vit": ("ViTModel", VIT),
    "vit, no bias": ("ViTModel", dict(VIT, qkv_bias=False, hidden_act="gelu_new")),
    "vit, classifier": ("ViTForImageClassification", dict(VIT, num_labels=3)),
    "vit_mae": ("ViTMAEModel", dict(VIT, mask_ratio=0.6)),
    "dinov2": ("Dinov2Model", DINOV2),
    "dinov2, gated": ("Dinov2Model", dict(DINOV2, use_swiglu_ffn=True, use_mask_token=False)),
    "dinov2, classifier": ("Dinov2ForImageClassification", dict(DINOV2, num_labels=3)),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", dict(DINOV2, num_register_tokens=3)),
    "dinov2_with_registers, classifier": (
        "Dinov2WithRegistersForImageClassification",
        dict(DINOV2, num_labels=5),
    ),
    "dinov3": ("DINOv3ViTModel", dict(DINOV3, num_register_tokens=3)),
    "dinov3, gated": (
        "DINOv3ViTModel",
        dict(DINOV3, num_register_tokens=1, use_gated_mlp=True, hidden_act="silu"),
    ),
    "dinov3, all biases": ("DINOv3ViTModel", dict(DINOV3, key_bias=True)),
    "dinov3, no biases": ("DINOv3ViTModel", dict(DINOV3, query_bias=False, value_bias=False)),
}


def save(kind, config, folder, seed=0, **arguments):
    """A folder of the public class with random weights, no two of them alike."""
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    of_config = getattr(transformers, kind).config_class
    model = getattr(transformers, kind)(of_config(**config), **arguments).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = ("norm" in name and name.endswith("weight")) or "lambda1" in name
            parameter.normal_(1.0 if scale else 0.0, 0.1)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=CASES)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "model"
    save(*CASES[request.param], folder)
    return folder


def test_outputs_are_the_public_class_s_and_so_is_what_is_written_again(folder, tmp_path):
    model = interop.load(folder)
    inputs = find_format(model.family).example(model.config, np.random.default_rng(0))
    found, expected = model.apply(**inputs), public.reference(folder, model.config, inputs)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)

    parity = reexport(folder, tmp_path / "out")
    assert set(parity["max_abs_difference"]) == set(expected)
    files = (f / "model.safetensors" for f in (folder, tmp_path / "out"))
    before, after = map(safetensors.numpy.load_file, files)
    assert set(before) == set(after)
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name].view(np.uint32), tensor.view(np.uint32), name)
    kind = getattr(transformers, public.architecture(model.config))
    _, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_pictures_of_the_learned_size_need_no_mask(tmp_path):
    save(*CASES["dinov2_with_registers"], tmp_path)
    pixels = {"pixel_values": np.random.default_rng(1).random((1, 28, 28, 3)).astype(np.float32)}
    model = interop.load(tmp_path)
    expected = public.reference(tmp_path, model.config, pixels)
    for name, value in model.apply(**pixels).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)


def test_a_vit_without_its_pooler_is_loaded_without(tmp_path):
    save(*CASES["vit"], tmp_path, add_pooling_layer=False)
    model = interop.load(tmp_path)
    assert set(model.apply(pixel_values=np.zeros((1, 28, 28, 3), np.float32))) == {
        "last_hidden_state"
    }


@pytest.mark.parametrize("name", ["vit", "dinov2", "dinov2_with_registers", "dinov3"])
def test_tensors_alone_tell_the_family(name, tmp_path):
    from surgjax.interop.sources import open_outside

    save(*CASES[name], tmp_path)
    (tmp_path / "config.json").unlink()
    found = open_outside(tmp_path / "model.safetensors").module
    assert found.__name__ == f"surgjax.interop.{name}"


@pytest.mark.parametrize(
    "case, change, message",
    [
        ("vit", {"architectures": ["ViTForMaskedImageModeling"]}, "ViTModel or ViTForImageC"),
        ("vit", {"hidden_act": "relu"}, "hidden_act='relu'; expected 'gelu' or"),
        ("vit", {"image_size": [28, 14]}, r"image_size=\[28, 14\]; expected a square"),
        ("dinov3", {"rope_theta": 10.0}, "rope_theta=10.0; expected 100.0"),
        ("dinov3", {"query_bias": False}, "biases to v alone"),
        ("dinov3", {"num_register_tokens": 4}, r"image_encoder/registers found \(1, 3, 24\)"),
        ("dinov2", {"num_hidden_layers": 3}, "found width 24, 2 blocks, expected width 24, 3"),
        ("vit_mae", {"architectures": ["ViTMAEForPreTraining"]}, "does not read; expected ViTMAE"),
    ],
)
def test_settings_that_our_networks_lack_are_told(case, change, message, tmp_path):
    save(*CASES[case], tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        interop.load(tmp_path)


def test_pictures_of_the_wrong_size_are_told(tmp_path):
    save(*CASES["vit"], tmp_path / "vit")
    save(*CASES["dinov3"], tmp_path / "dinov3")
    pictures = np.zeros((1, 30, 28, 3), np.float32)
    with pytest.raises(UserError, match="30 x 28 pixels; this model has positions for 28 x 28"):
        interop.load(tmp_path / "vit").apply(pixel_values=pictures)
    with pytest.raises(UserError, match="30 x 28 pixels, which patches of 7 do not divide"):
        interop.load(tmp_path / "dinov3").apply(pixel_values=pictures)


@pytest.mark.parametrize("format", ["timm", "vit", "dinov2", "dinov3"])
def test_a_run_cannot_become_an_image_transformer(format, tiny_run, tmp_path):
    with pytest.raises(UserError, match="this format holds image transformers.*expected --format"):
        export(tiny_run, tmp_path / "out", format=format)
