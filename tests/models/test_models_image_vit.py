"""Equal numbers from Hugging Face's classes, on random weights of ViT-B size, through files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from surgjax import interop
from surgjax.errors import UserError
from surgjax.interop import find_format
from surgjax.interop.files import write_safetensors
from surgjax.interop.keys import from_ours
from surgjax.interop.sources import init_params
from surgjax.models.image_vit import ImageViT
from surgjax.models.video_vit import tubelets
from surgjax.state import flatten, rebuild, split


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(a public ViT-B, its tensors in timm's names, a file of these with others beside)"""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    config = transformers.ViTConfig(layer_norm_eps=1e-6, hidden_act="gelu")
    torch.manual_seed(0)
    peer = transformers.ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():  # its own start leaves biases and the class token at zero
        for name, parameter in peer.named_parameters():
            norm = "layernorm" in name and name.endswith("weight")
            parameter.normal_(1.0 if norm else 0.0, 0.1 if norm else 0.03)
    folder = tmp_path_factory.mktemp("base")
    peer.save_pretrained(folder)
    tensors = timm_names(safetensors.numpy.load_file(folder / "model.safetensors"))
    besides = {
        "decoder_embed.weight": np.zeros(3, np.float32),
        "head.bias": np.zeros(7, np.float32),
    }
    named = {f"module.{name}": x for name, x in (tensors | besides).items()}
    write_safetensors(folder / "vit.safetensors", named, {})
    return peer, tensors, folder / "vit.safetensors"


@pytest.mark.torch
@pytest.mark.parametrize("final_norm", [True, False])
def test_tokens_are_those_of_the_public_class(base, final_norm):
    torch = pytest.importorskip("torch")
    peer, tensors, file = base
    shape = lambda: ImageViT("B", 224, final_norm=final_norm, rngs=nnx.Rngs(0))  # noqa: E731
    graphdef, shapes = split(nnx.eval_shape(shape))
    wanted = {"image_encoder": jax.tree.map(lambda x: x.shape, shapes)}
    loaded = init_params(
        file, expected=wanted, allow=() if final_norm else ("image_encoder/norm/*",)
    )
    assert loaded.missing == []
    params = loaded.params["image_encoder"]
    pictures = np.random.default_rng(0).standard_normal((2, 224, 224, 3)).astype(np.float32)
    patches = tubelets(pictures[:, None], (1, 16, 16))
    found = jax.jit(lambda params, x: rebuild(graphdef, params)(x))(params, patches)
    with torch.no_grad():
        out = peer(
            torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()), output_hidden_states=True
        )
    expected = out.last_hidden_state if final_norm else out.hidden_states[-1]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    if final_norm:
        back = from_ours(find_format("timm").TABLE, flatten(loaded.params))
        assert set(back) == set(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(back[name].view(np.uint32), tensor.view(np.uint32), name)


@pytest.mark.torch
@pytest.mark.parametrize("depth", [2, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind, config",
    [
        ("Dinov2Model", dict(image_size=518)),
        ("DINOv3ViTModel", dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072)),
    ],
)
def test_dino_of_full_size_is_the_public_class(tmp_path, kind, config, depth):
    """ViT-B at 224 pixels; DINOv2's positions are resampled from 37 x 37. Slow: all layers."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    of_config = getattr(transformers, kind).config_class
    registers = dict(num_register_tokens=4) if kind == "DINOv3ViTModel" else {}
    sized = of_config(**config, **registers, num_hidden_layers=depth)
    peer = getattr(transformers, kind)(sized).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            scale = ("norm" in name and name.endswith("weight")) or "lambda1" in name
            parameter.normal_(1.0 if scale else 0.0, 0.1 if scale else 0.03)
    peer.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = peer(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    found = interop.load(tmp_path).apply(pixel_values=pixels)
    for name in ("last_hidden_state", "pooler_output"):
        np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-4)


def timm_names(theirs):
    """A saved ViTModel's tensors under timm's names, written down without the table."""
    made = {
        "cls_token": theirs["embeddings.cls_token"],
        "pos_embed": theirs["embeddings.position_embeddings"],
        "patch_embed.proj.weight": theirs["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": theirs["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": theirs["layernorm.weight"],
        "norm.bias": theirs["layernorm.bias"],
    }
    for i in range(12):
        old, new = f"encoder.layer.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            parts = [
                theirs[f"{old}.attention.attention.{p}.{kind}"] for p in ("query", "key", "value")
            ]
            made[f"{new}.attn.qkv.{kind}"] = np.concatenate(parts)
            made[f"{new}.attn.proj.{kind}"] = theirs[f"{old}.attention.output.dense.{kind}"]
            made[f"{new}.norm1.{kind}"] = theirs[f"{old}.layernorm_before.{kind}"]
            made[f"{new}.norm2.{kind}"] = theirs[f"{old}.layernorm_after.{kind}"]
            made[f"{new}.mlp.fc1.{kind}"] = theirs[f"{old}.intermediate.dense.{kind}"]
            made[f"{new}.mlp.fc2.{kind}"] = theirs[f"{old}.output.dense.{kind}"]
    return made


def test_patches_must_divide_the_picture():
    with pytest.raises(UserError, match="pictures of 50 pixels do not divide into 16-patches"):
        ImageViT("T", 50, rngs=nnx.Rngs(0))


def test_bad_arguments_are_told():
    with pytest.raises(UserError, match="'rotery'.*did you mean 'rotary'"):
        ImageViT("T", 48, positions="rotery", rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="expected a name, or .width, blocks, heads."):
        ImageViT((64, 2), 48, rngs=nnx.Rngs(0))
    vit = ImageViT((8, 1, 1), 32, positions="rotary", rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="rotary positions know whole pictures"):
        vit.encode(jnp.zeros((1, 4, 8)), keep=jnp.zeros((1, 2), jnp.int32))
