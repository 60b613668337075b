"""Hugging Face's DINOv3 class: `DINOv3ViTModel`.

Rotary positions are computed, not saved, and pictures of any size that the patch divides are taken.
In training the public class rescales these positions at random; here they are those of evaluation.
Files in the names of DINOv3's own programs and of timm are read through `timm`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from surgjax.errors import UserError
from surgjax.interop import vit
from surgjax.interop.dinov2 import masked_pictures, whole_patches
from surgjax.interop.keys import LINEAR, Flat, Row, Table
from surgjax.interop.vit import WEIGHTS, heads, json_files  # noqa: F401
from surgjax.models.image_model import ImageModel

MODEL_TYPE = "dinov3_vit"
LICENCE = "DINOv3 License"  # of all official releases; its terms follow the weights
DEFAULTS = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "image_size": 224,
    "patch_size": 16,
    "layerscale_value": 1.0,
    "num_register_tokens": 0,  # official releases have 4
}


def _block_rows(layer: str) -> tuple[Row, ...]:
    ours, attention = "image_encoder/blocks", f"{layer}.attention"
    qkv = tuple(f"{attention}.{letter}_proj.weight" for letter in "qkv")
    rows = [Row(f"{ours}/attention/qkv/kernel", qkv, LINEAR)]
    rows += [
        Row(f"{ours}/attention/{letter}_bias", f"{attention}.{letter}_proj.bias")
        for letter in "qkv"
    ]
    linears = {"attention/out": "attention.o_proj"}
    linears |= {f"mlp/{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    for mine, theirs in linears.items():
        rows.append(Row(f"{ours}/{mine}/kernel", f"{layer}.{theirs}.weight", LINEAR))
        rows.append(Row(f"{ours}/{mine}/bias", f"{layer}.{theirs}.bias"))
    for i in (1, 2):
        rows.append(Row(f"{ours}/norm{i}/scale", f"{layer}.norm{i}.weight"))
        rows.append(Row(f"{ours}/norm{i}/bias", f"{layer}.norm{i}.bias"))
        rows.append(Row(f"{ours}/layer_scale{i}", f"{layer}.layer_scale{i}.lambda1"))
    return tuple(rows)


TABLE = Table(
    rows=(
        *(r for r in vit.outer_rows("embeddings.patch_embeddings", "norm") if r.part != "head"),
        Row("image_encoder/registers", "embeddings.register_tokens"),
        *_block_rows("layer.{i}"),
    ),
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, those of transformers' own modules too."""
    names = {_bare(name) for name in names}
    return {"embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight"} <= names


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table; registers of which there are none carry nothing."""
    named = {_bare(name): tensor for name, tensor in tensors.items()}
    return {n: x for n, x in named.items() if n != "embeddings.register_tokens" or x.size}


def outside_names(tensors: Flat, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `canonical`: the class has registers even where there are none."""
    width = config.get("hidden_size", DEFAULTS["hidden_size"])
    none = {"embeddings.register_tokens": np.zeros((1, 0, width), np.float32)}
    return none | dict(tensors)


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Nothing to note. Raises UserError for a field that our networks do not have."""
    vit.refuse_unknown(
        config,
        source,
        "DINOv3ViTModel",
        rope_theta=[100.0],
        proj_bias=[True],
        mlp_bias=[True],
    )
    _biased(config)
    return []


def encoder_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `ImageViT` that computes what the public class does."""
    get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
    return vit.common_arguments(config, DEFAULTS) | {
        "positions": "rotary",
        "registers": get("num_register_tokens"),
        "qkv_bias": _biased(config),
        "layer_scale": float(get("layerscale_value")),
        "mlp_width": get("intermediate_size"),
        "gated_mlp": bool(config.get("use_gated_mlp", False)),
    }


def _biased(config: Mapping[str, Any]) -> str:
    """Which of q, k and v have a bias. Raises UserError for a choice our networks do not have."""
    fields = {"q": ("query_bias", True), "k": ("key_bias", False), "v": ("value_bias", True)}
    letters = "".join(c for c, (name, default) in fields.items() if config.get(name, default))
    if letters not in ("", "qv", "qkv"):
        raise UserError(
            f"config.json gives biases to {', '.join(letters)} alone; expected q and v, all three, "
            f"or none; use another checkpoint"
        )
    return letters or "none"


class Network(ImageModel):
    """`DINOv3ViTModel`."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        arguments = encoder_arguments(config)
        has_mask_token = config.get("use_mask_token", True)
        super().__init__(
            arguments,
            mask_token=(1, 1, arguments["size"][0]) if has_mask_token else None,
            is_pooled=True,
            rngs=rngs,
        )

    def __call__(
        self,
        pixel_values: Float[Array, "b h w c"],
        bool_masked_pos: Bool[Array, "b n"] | None = None,
    ) -> dict[str, Array]:
        return self.outputs(self.tokens(pixel_values, bool_masked_pos))


network = Network


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs. Raises UserError for pictures that the patch does not divide."""
    return whole_patches(inputs, vit.one(config.get("patch_size", DEFAULTS["patch_size"])))


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random pictures, wider than high, with masked patches."""
    patch = vit.one(config.get("patch_size", DEFAULTS["patch_size"]))
    return masked_pictures(config, rng, patch, vit.one(config.get("image_size", 224)))


def _bare(name: str) -> str:
    return name.removeprefix("model.") if name.startswith("model.layer.") else name
