"""Hugging Face's DINOv2 classes: `Dinov2Model` and `Dinov2ForImageClassification`.

`dinov2_with_registers` shares this file. Pictures of any size that the patch divides are taken:
positions are resampled as the classes do. Files in the names of DINOv2's own programs and of timm
are read through `timm`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from surgjax.errors import UserError
from surgjax.interop import vit
from surgjax.interop.keys import Flat, Row, Table
from surgjax.interop.vit import WEIGHTS, heads, json_files  # noqa: F401
from surgjax.models.image_model import ImageModel

MODEL_TYPE = "dinov2"
LICENCE = "unknown"  # of a folder that states none
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "layerscale_value": 1.0,
}

_LAYER = "encoder.layer.{i}"
TABLE = Table(
    rows=(
        *vit.outer_rows("embeddings.patch_embeddings.projection", "layernorm"),
        Row("image_encoder/positions", "embeddings.position_embeddings"),
        Row("image_encoder/registers", "embeddings.register_tokens"),
        *vit.block_rows(
            _LAYER,
            ("norm1", "norm2"),
            {"mlp/gate": "mlp.gate", "mlp/up": "mlp.fc1", "mlp/down": "mlp.fc2"},
        ),
        Row("image_encoder/blocks/layer_scale1", f"{_LAYER}.layer_scale1.lambda1"),
        Row("image_encoder/blocks/layer_scale2", f"{_LAYER}.layer_scale2.lambda1"),
    ),
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout without registers, whatever class saved them."""
    names = {_bare(name) for name in names}
    return {
        "embeddings.position_embeddings",
        "encoder.layer.0.layer_scale1.lambda1",
    } <= names and "embeddings.register_tokens" not in names


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table: without a classifier's prefix, gate and up of a gated MLP apart.

    The giant model's file holds these two as one tensor, `weights_in`.
    """
    made = {}
    for name, tensor in tensors.items():
        name = _bare(name).replace(".mlp.weights_out.", ".mlp.fc2.")
        if ".mlp.weights_in." in name:
            gate, up = np.split(tensor, 2)
            made[name.replace("weights_in", "gate")] = gate
            made[name.replace("weights_in", "fc1")] = up
        else:
            made[name] = tensor
    return made


def outside_names(tensors: Flat, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `canonical`: tensors as the class that config.json names saves them."""
    made = dict(tensors)
    for name in [name for name in made if ".mlp.gate." in name]:
        up = name.replace("gate", "fc1")
        joined = np.concatenate([made.pop(name), made.pop(up)])
        made[name.replace("gate", "weights_in")] = joined
        down = name.replace("gate", "fc2")
        made[name.replace("gate", "weights_out")] = made.pop(down)
    return vit.with_prefix(made, config, config["model_type"])


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Nothing to note. Raises UserError for a field that our networks do not have."""
    kind = "Dinov2WithRegisters" if "registers" in config.get("model_type", "") else "Dinov2"
    vit.refuse_unknown(config, source, f"{kind}Model or {kind}ForImageClassification")
    return []


def encoder_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `ImageViT` that computes what the public class does."""
    get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
    has_registers = "registers" in config["model_type"]
    width = int(get("hidden_size") * get("mlp_ratio"))
    is_gated = bool(config.get("use_swiglu_ffn", False))
    made = vit.common_arguments(config, DEFAULTS) | {
        "registers": config.get("num_register_tokens", 4) if has_registers else 0,
        "antialias": has_registers,
        "qkv_bias": "all" if config.get("qkv_bias", True) else "none",
        "layer_scale": float(get("layerscale_value")),
        # Two thirds of the width, as a multiple of eight: a third map costs as much as that third.
        "mlp_width": (int(width * 2 / 3) + 7) // 8 * 8 if is_gated else width,
        "gated_mlp": is_gated,
    }
    return made | {"activation": "silu"} if is_gated else made


class Network(ImageModel):
    """`Dinov2Model`, `Dinov2ForImageClassification`, or either with registers."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        arguments = encoder_arguments(config)
        super().__init__(
            arguments,
            mask_token=(1, arguments["size"][0]) if config.get("use_mask_token", True) else None,
            is_pooled=True,
            classes=vit.classes(config),
            head_sees_mean=True,
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


def whole_patches(inputs: Mapping[str, Any], patch: int) -> dict[str, Any]:
    """The inputs. Raises UserError for pictures with a rest beside the patches."""
    height, width = inputs["pixel_values"].shape[1:3]
    if height < patch or width < patch or height % patch or width % patch:
        raise UserError(
            f"pixel_values are {height} x {width} pixels, which patches of {patch} do not divide; "
            f"resize the pictures"
        )
    return dict(inputs)


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random pictures wider than positions were learned for; masked where the class can."""
    patch = vit.one(config.get("patch_size", DEFAULTS["patch_size"]))
    return masked_pictures(config, rng, patch, vit.one(config.get("image_size", 224)))


def masked_pictures(
    config: Mapping[str, Any], rng: np.random.Generator, patch: int, side: int
) -> dict[str, np.ndarray]:
    """Two random pictures one patch wider than `side`, with a mask for a class without a head."""
    rows, columns = side // patch, side // patch + 1
    shape = (2, rows * patch, columns * patch, 3)
    inputs = {"pixel_values": rng.standard_normal(shape).astype(np.float32)}
    if vit.classes(config) is None and config.get("use_mask_token", True):
        inputs["bool_masked_pos"] = rng.random((2, rows * columns)) < 0.4
    return inputs


def _bare(name: str) -> str:
    return name.removeprefix("dinov2.").removeprefix("dinov2_with_registers.")
