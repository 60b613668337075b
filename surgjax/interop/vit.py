"""Hugging Face's ViT classes: `ViTModel` and `ViTForImageClassification`.

DINO (v1) and supervised image transformers are released in them. `ViTModel` exists with and without
the pooler, which config.json does not say: the file decides. Other image families of Hugging Face
share the functions here.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from surgjax.errors import UserError
from surgjax.interop import public
from surgjax.interop.keys import LINEAR, Flat, Row, Table
from surgjax.interop.timm import patches
from surgjax.models.image_model import ImageModel
from surgjax.models.layers import ACTIVATIONS as FUNCTIONS

MODEL_TYPE = "vit"
WEIGHTS = "model.safetensors"
LICENCE = "unknown"  # of a folder that states none
# Fields of config.json that a folder may leave out: the public classes' defaults.
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "pooler_act": "tanh",
}
# Hugging Face's names of activations -> ours.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}


def block_rows(outside: str, norms: tuple[str, str], linears: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows of the blocks; `outside` is the name of one layer, with `{i}`.

    `norms` and `linears` are the names of what differs between families; the attention's are one.
    """
    ours, attention = "image_encoder/blocks", f"{outside}.attention.attention"
    linears = {"attention/out": "attention.output.dense", **linears}
    rows = []
    for kind, mine in (("weight", "kernel"), ("bias", "bias")):
        qkv = tuple(f"{attention}.{part}.{kind}" for part in ("query", "key", "value"))
        rows.append(Row(f"{ours}/attention/qkv/{mine}", qkv, LINEAR))
        rows += [
            Row(f"{ours}/{path}/{mine}", f"{outside}.{name}.{kind}", LINEAR)
            for path, name in linears.items()
        ]
    for mine, theirs in zip(("norm1", "norm2"), norms, strict=True):
        rows.append(Row(f"{ours}/{mine}/scale", f"{outside}.{theirs}.weight"))
        rows.append(Row(f"{ours}/{mine}/bias", f"{outside}.{theirs}.bias"))
    return tuple(rows)


def outer_rows(embed: str, norm: str) -> tuple[Row, ...]:
    """Rows of what is not in the blocks; `embed` and `norm` are names of modules."""
    return (
        Row("image_encoder/cls_token", "embeddings.cls_token"),
        Row("image_encoder/embed/kernel", f"{embed}.weight", patches()),
        Row("image_encoder/embed/bias", f"{embed}.bias"),
        Row("image_encoder/norm/scale", f"{norm}.weight"),
        Row("image_encoder/norm/bias", f"{norm}.bias"),
        Row("mask_token", "embeddings.mask_token"),
        Row("head/kernel", "classifier.weight", LINEAR),
        Row("head/bias", "classifier.bias"),
    )


TABLE = Table(
    rows=(
        *outer_rows("embeddings.patch_embeddings.projection", "layernorm"),
        Row("image_encoder/positions", "embeddings.position_embeddings"),
        *block_rows(
            "encoder.layer.{i}",
            ("layernorm_before", "layernorm_after"),
            {"mlp/up": "intermediate.dense", "mlp/down": "output.dense"},
        ),
        Row("image_pooler/kernel", "pooler.dense.weight", LINEAR),
        Row("image_pooler/bias", "pooler.dense.bias"),
    ),
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, with or without the `vit.` prefix."""
    return {
        "embeddings.position_embeddings",
        "encoder.layer.0.attention.attention.query.weight",
        "encoder.layer.0.layernorm_before.weight",
    } <= {name.removeprefix("vit.") for name in names}


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table: a classifier's file says `vit.` before the encoder's."""
    return {name.removeprefix("vit."): tensor for name, tensor in tensors.items()}


def outside_names(tensors: Flat, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `canonical`: tensors as the class that config.json names saves them."""
    return with_prefix(tensors, config, "vit")


def with_prefix(tensors: Flat, config: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    """Names with `prefix.` before the encoder's where the class has a head of its own."""
    if public.architecture(config).endswith("Model"):
        return dict(tensors)
    return {
        name if name.startswith("classifier.") else f"{prefix}.{name}": tensor
        for name, tensor in tensors.items()
    }


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Nothing to note. Raises UserError for a field that our networks do not have."""
    refuse_unknown(config, source, "ViTModel or ViTForImageClassification", pooler_act=["tanh"])
    return []


def refuse_unknown(config: Mapping[str, Any], source: str, classes: str, **allowed: list) -> None:
    """Raise UserError for a class other than `classes` or a field with another value than allowed.

    Fields that all image families share are checked too: channels, activation, square shapes.
    """
    if "architectures" in config and public.architecture(config) not in classes.split(" or "):
        raise UserError(
            f"{source} was saved by {public.architecture(config)}; expected {classes}; use a "
            f"folder of one of these"
        )
    allowed |= {"num_channels": [3], "hidden_act": list(ACTIVATIONS)}
    public.refuse_values(config, source, allowed)
    for field in ("image_size", "patch_size"):
        value = config.get(field, 0)
        if isinstance(value, list) and len(set(value)) != 1:
            raise UserError(
                f"{source}/config.json has {field}={value}; expected a square; use another "
                f"checkpoint"
            )


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Nothing: our network is built with the heads that config.json says."""
    return {}


def encoder_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `ImageViT` that computes what the public class does."""
    return common_arguments(config, DEFAULTS) | {
        "mlp_width": config.get("intermediate_size", DEFAULTS["intermediate_size"]),
        "qkv_bias": "all" if config.get("qkv_bias", True) else "none",
    }


def common_arguments(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says in the same words for all image families."""
    get = lambda name: config.get(name, defaults[name])  # noqa: E731
    size = (get("hidden_size"), get("num_hidden_layers"), get("num_attention_heads"))
    return {
        "size": size,
        "image_size": one(get("image_size")),
        "patch": one(get("patch_size")),
        "activation": ACTIVATIONS[get("hidden_act")],
        "layer_norm_eps": get("layer_norm_eps"),
    }


def activation_of(network: nnx.Module) -> str:
    """Hugging Face's name of what stands between the two maps of a network's blocks."""
    names = {FUNCTIONS[ours]: theirs for theirs, ours in ACTIVATIONS.items()}
    return names[network.blocks.mlp.activation]


def one(side: int | list[int]) -> int:
    """The side of a square that config.json may write as two numbers."""
    return side[0] if isinstance(side, list) else side


def classes(config: Mapping[str, Any]) -> int | None:
    """Classes of the head; None for a class without one."""
    if not public.architecture(config).endswith("ForImageClassification"):
        return None
    return len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)


def completed(config: Mapping[str, Any], tensors: Flat) -> dict[str, Any]:
    """config.json with what only the file tells: whether there is a pooler."""
    return {**config, "add_pooling_layer": "pooler.dense.weight" in canonical(tensors)}


class Network(ImageModel):
    """`ViTModel` or `ViTForImageClassification`."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        has_pooler = classes(config) is None and config.get("add_pooling_layer", True)
        width = config.get("hidden_size", DEFAULTS["hidden_size"])
        super().__init__(
            encoder_arguments(config),
            pooler=(config.get("pooler_output_size") or width) if has_pooler else None,
            classes=classes(config),
            rngs=rngs,
        )

    def __call__(self, pixel_values: Float[Array, "b h w c"]) -> dict[str, Array]:
        return self.outputs(self.tokens(pixel_values))


network = Network


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs. Raises UserError for pictures of another size, which the class refuses too."""
    side = one(config.get("image_size", DEFAULTS["image_size"]))
    found = tuple(inputs["pixel_values"].shape[1:3])
    if found != (side, side):
        raise UserError(
            f"pixel_values are {found[0]} x {found[1]} pixels; this model has positions for "
            f"{side} x {side} alone; resize the pictures"
        )
    return dict(inputs)


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random pictures."""
    side = one(config.get("image_size", DEFAULTS["image_size"]))
    return {"pixel_values": rng.standard_normal((2, side, side, 3)).astype(np.float32)}


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Raises UserError: a run has a video transformer, or a head that these classes lack."""
    raise UserError(
        "this format holds image transformers with their own heads, which no run trains; expected "
        "--format=videomae or videomae_official for a video encoder"
    )
