"""Hugging Face's TimeSformer classes: `TimesformerModel` and `TimesformerForVideoClassification`.

Files of the bare model lack the `timesformer.` prefix. The released models attend in time, then in
space; the classes' other two kinds are refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from surgjax.errors import UserError
from surgjax.interop import public
from surgjax.interop.bert import norm_pair, pair
from surgjax.interop.keys import Flat, Row, Table
from surgjax.interop.timm import patches
from surgjax.interop.videomae import preprocessor
from surgjax.interop.vit import ACTIVATIONS, activation_of, one, refuse_unknown
from surgjax.models.layers import Linear
from surgjax.models.timesformer import TimeSformer
from surgjax.models.video_vit import Size

MODEL_TYPE = "timesformer"
WEIGHTS = "model.safetensors"
LICENCE = "unknown"  # of a folder that states none
CLASSES = ("TimesformerModel", "TimesformerForVideoClassification")
# Fields of config.json that must have these values for our networks to compute the same.
FIXED = {"attention_type": ["divided_space_time"], "qkv_bias": [True]}
LEFT_OUT = ("encoder/pool_norm/",)  # of the contrast, not of the tokens
# Fields of config.json that a folder may leave out: the public class's defaults.
DEFAULTS = {
    "image_size": 224,
    "patch_size": 16,
    "num_frames": 8,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}

_EMBEDDINGS, _LAYER, _BLOCKS = (
    "timesformer.embeddings",
    "timesformer.encoder.layer.{i}",
    "encoder/blocks",
)
TABLE = Table(
    rows=(
        Row("encoder/embed/kernel", f"{_EMBEDDINGS}.patch_embeddings.projection.weight", patches()),
        Row("encoder/embed/bias", f"{_EMBEDDINGS}.patch_embeddings.projection.bias"),
        Row("encoder/cls_token", f"{_EMBEDDINGS}.cls_token"),
        Row("encoder/positions", f"{_EMBEDDINGS}.position_embeddings"),
        Row("encoder/time_positions", f"{_EMBEDDINGS}.time_embeddings"),
        *norm_pair(f"{_BLOCKS}/time_norm", f"{_LAYER}.temporal_layernorm"),
        *pair(f"{_BLOCKS}/time_attention/qkv", f"{_LAYER}.temporal_attention.attention.qkv"),
        *pair(f"{_BLOCKS}/time_attention/out", f"{_LAYER}.temporal_attention.output.dense"),
        *pair(f"{_BLOCKS}/time_out", f"{_LAYER}.temporal_dense"),
        *norm_pair(f"{_BLOCKS}/norm1", f"{_LAYER}.layernorm_before"),
        *pair(f"{_BLOCKS}/attention/qkv", f"{_LAYER}.attention.attention.qkv"),
        *pair(f"{_BLOCKS}/attention/out", f"{_LAYER}.attention.output.dense"),
        *norm_pair(f"{_BLOCKS}/norm2", f"{_LAYER}.layernorm_after"),
        *pair(f"{_BLOCKS}/mlp/up", f"{_LAYER}.intermediate.dense"),
        *pair(f"{_BLOCKS}/mlp/down", f"{_LAYER}.output.dense"),
        *norm_pair("encoder/norm", "timesformer.layernorm"),
        *pair("head", "classifier"),
    ),
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, with or without the `timesformer.` prefix."""
    return any(name.endswith("embeddings.time_embeddings") for name in names)


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table."""
    bare = ("embeddings.", "encoder.layer.", "layernorm.")
    return {f"timesformer.{n}" if n.startswith(bare) else n: x for n, x in tensors.items()}


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """A note on the clips it was trained with.

    Raises UserError for a class or a field that our networks do not have.
    """
    refuse_unknown(config, source, " or ".join(CLASSES), **FIXED)
    frames, size = (config.get(n, DEFAULTS[n]) for n in ("num_frames", "image_size"))
    return [f"trained on {frames} frames of {one(size)} pixels"]


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Network -> (field of config.json, attention heads), which no tensor shape tells."""
    return {"encoder": ("num_attention_heads", config.get("num_attention_heads", 12))}


class Network(nnx.Module):
    """`TimesformerModel` or `TimesformerForVideoClassification`."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
        width = get("hidden_size")
        self.encoder = TimeSformer(
            Size(
                width,
                get("num_hidden_layers"),
                get("num_attention_heads"),
                mlp_ratio=get("intermediate_size") / width,
            ),
            get("num_frames"),
            one(get("image_size")),
            patch=one(get("patch_size")),
            has_pool=False,
            activation=ACTIVATIONS[get("hidden_act")],
            layer_norm_eps=get("layer_norm_eps"),
            rngs=rngs,
        )
        has_head = public.architecture(config) == "TimesformerForVideoClassification"
        classes = len(config["id2label"]) if "id2label" in config else 2
        self.head = Linear(width, classes, rngs=rngs) if has_head else None

    def __call__(self, pixel_values: Float[Array, "b t h w c"]) -> dict[str, Array]:
        tokens = self.encoder(pixel_values)
        if self.head is None:
            return {"last_hidden_state": tokens}
        return {"logits": self.head(tokens[:, 0])}


network = Network


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs. Raises UserError for another number of frames, which the class cannot take."""
    found = inputs["pixel_values"].shape[1]
    wanted = config.get("num_frames", DEFAULTS["num_frames"])
    if found != wanted:
        raise UserError(f"pixel_values hold {found} frames; expected {wanted}; choose as many")
    return dict(inputs)


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random clips."""
    frames, size = (config.get(n, DEFAULTS[n]) for n in ("num_frames", "image_size"))
    clips = rng.standard_normal((2, frames, one(size), one(size), 3))
    return {"pixel_values": clips.astype(np.float32)}


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """File name -> content: settings with which `TimesformerModel` computes the run's tokens.

    Raises UserError where a run's video transformer is none of this kind.
    """
    encoder = objective.encoder
    if not isinstance(encoder, TimeSformer) or not encoder.has_time:
        raise UserError(
            "a run's encoder attends to space and time at once, this format's in turn; expected "
            "--format=videomae or videomae_official"
        )
    if encoder.is_surgclip:
        raise UserError(
            "a run with objective.compat=surgclip computes what the package does and the public "
            "class does not; expected --format=surgclip"
        )
    frames, rows, _ = encoder.grid
    _, _, patch = encoder.patch
    config = {
        "architectures": ["TimesformerModel"],
        "model_type": MODEL_TYPE,
        **{field: value for field, (value,) in FIXED.items()},
        "num_frames": frames,
        "image_size": rows * patch,
        "patch_size": patch,
        "num_channels": 3,
        "hidden_act": activation_of(encoder),
        **public.sizes(encoder),
    }
    return {
        "config.json": config,
        "preprocessor_config.json": preprocessor(config["image_size"], objective.pixel_statistics),
    }


def ask(objective, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """What a run's encoder computes of the inputs of the public class, under its names."""
    return {"last_hidden_state": objective.encoder(inputs["pixel_values"])}


def usage(frames: int) -> str:
    """Code that loads an exported folder, for its card."""
    return f"""from transformers import AutoImageProcessor, TimesformerModel

processor = AutoImageProcessor.from_pretrained(folder)
model = TimesformerModel.from_pretrained(folder).eval()
clip = processor(list(frames), return_tensors="pt")  # {frames} RGB frames (height, width, 3), uint8
tokens = model(**clip).last_hidden_state  # the class token, then every patch's times"""
