"""Public folders loaded, asked and written again, against the public classes."""

import json

import numpy as np
import pytest
import safetensors.numpy

from surgjax import interop
from surgjax.errors import UserError
from surgjax.export import main, reexport
from surgjax.interop import public

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

TINY = dict(
    image_size=32,
    num_frames=4,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=40,
    layer_norm_eps=1e-6,
    decoder_num_attention_heads=2,
    decoder_hidden_size=16,
    decoder_num_hidden_layers=1,
    decoder_intermediate_size=24,
)
CLASSES = {
    "VideoMAEModel": dict(use_mean_pooling=False),
    "VideoMAEForPreTraining": dict(use_mean_pooling=False),
    "VideoMAEForVideoClassification": dict(use_mean_pooling=True, num_labels=3),
}


@pytest.fixture(params=CLASSES)
def folder(request, tmp_path):
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(**TINY, **CLASSES[request.param])
    model = getattr(transformers, request.param)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = "norm" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.1)
    model.save_pretrained(tmp_path / "public")
    return tmp_path / "public"


def test_outputs_are_the_public_class_s(folder):
    model = interop.load(folder)
    inputs = interop.find_format("videomae").example(model.config, np.random.default_rng(0))
    found, expected = model.apply(**inputs), public.reference(folder, model.config, inputs)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


def test_written_again_it_is_the_same_model(folder, tmp_path):
    out = tmp_path / "out"
    parity = reexport(folder, out)
    assert max(parity["max_abs_difference"].values()) < 1e-4
    before, after = (safetensors.numpy.load_file(f / "model.safetensors") for f in (folder, out))
    before = interop.find_format("videomae").canonical(before)
    assert set(before) <= set(after)
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name].view(np.uint32), tensor.view(np.uint32), name)
    config = json.loads((out / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    _, info = kind.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert interop.load(out).pretrained_on == ["unknown"]
    # an earlier export is replaced
    assert main([f"--from={folder}", f"--out={out}"]) == 0


def test_another_layout_of_the_same_network(folder, tmp_path):
    from surgjax.interop.files import read

    reexport(folder, tmp_path / "official", format="videomae_official")
    names = read(tmp_path / "official" / "checkpoint.pth").tensors
    assert "encoder.blocks.1.attn.qkv.weight" in names
    with pytest.raises(UserError, match="no place for '(en|de)coder/"):
        reexport(folder, tmp_path / "no", format="timm")


def test_wrong_inputs_are_told(folder):
    model = interop.load(folder)
    with pytest.raises(UserError, match="no input 'pixelvalues'.*pixel_values"):
        model.apply(pixelvalues=np.zeros(3))
    with pytest.raises(UserError, match="needs 'pixel_values' too"):
        model.apply()
    clip = np.zeros((2, 4, 32, 32, 3), np.float32)
    if model.config["architectures"][0] == "VideoMAEForPreTraining":
        mask = np.zeros((2, 8), bool)
        mask[0, :3] = mask[1, :4] = True
        with pytest.raises(UserError, match="hides 3 to 4 tokens"):
            model.apply(pixel_values=clip, bool_masked_pos=mask)
        with pytest.raises(UserError, match="needs bool_masked_pos"):
            model.apply(pixel_values=clip)
