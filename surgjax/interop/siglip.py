"""Hugging Face's SigLIP classes, both towers or one: `SiglipModel`, `SiglipTextModel`,
`SiglipVisionModel`.

The text tower's head is our text projection. Files of one tower exist with and without the
`text_model.` or `vision_model.` prefix; an export writes it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from surgjax.interop import public
from surgjax.interop.bert import norm_pair, pair, text_fields
from surgjax.interop.clip import (
    IGNORED,
    TOWER_ROWS,
    check_towers,
    checked_text,
    of_kind,
    random_pictures,
    read,
    similarities,
    text_tower,
    tower_config,
    vision_tower,
    with_prefix,
)
from surgjax.interop.keys import LINEAR, Flat, Row, Table, Transform
from surgjax.interop.vit import one
from surgjax.models.layers import Linear

MODEL_TYPE = ("siglip", "siglip_text_model", "siglip_vision_model")
WEIGHTS = "model.safetensors"
LICENCE = "unknown"  # of a folder that states none
CLASSES = ("SiglipModel", "SiglipTextModel", "SiglipVisionModel")
FROM_RUN = ("text_encoder", "text_projection")
# Fields of config.json that a folder may leave out: the public class's defaults.
TEXT = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "projection_size": None,
    "eos_token_id": 1,  # not read: the last token counts
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
SCALAR = Transform(lambda x: x.reshape(()), lambda x, _: [x.reshape(1)])

_POOL, _HEAD = "image_encoder/head", "vision_model.head"
TABLE = Table(
    rows=(
        *TOWER_ROWS,
        Row("image_encoder/embed/bias", "vision_model.embeddings.patch_embedding.bias"),
        Row(f"{_POOL}/query", f"{_HEAD}.probe"),
        Row(f"{_POOL}/attention/qkv/kernel", f"{_HEAD}.attention.in_proj_weight", LINEAR),
        Row(f"{_POOL}/attention/qkv/bias", f"{_HEAD}.attention.in_proj_bias"),
        *pair(f"{_POOL}/attention/out", f"{_HEAD}.attention.out_proj"),
        *norm_pair(f"{_POOL}/norm", f"{_HEAD}.layernorm"),
        *pair(f"{_POOL}/mlp/up", f"{_HEAD}.mlp.fc1"),
        *pair(f"{_POOL}/mlp/down", f"{_HEAD}.mlp.fc2"),
        *pair("text_projection", "text_model.head"),
        Row("logit_scale", "logit_scale", SCALAR),
        Row("logit_bias", "logit_bias", SCALAR),
    ),
    ignored=IGNORED,
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, with or without the towers' prefixes."""
    names = {name.removeprefix("text_model.").removeprefix("vision_model.") for name in names}
    is_text = {"embeddings.token_embedding.weight", "head.weight"} <= names
    return is_text or "embeddings.patch_embedding.bias" in names


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table."""
    return with_prefix(tensors)


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Nothing to note. Raises UserError for a class or a field that our networks do not have."""
    check_towers(config, source, CLASSES, TEXT, VISION)
    return []


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Network -> (field of config.json, attention heads), which no tensor shape tells."""
    field = "num_attention_heads"
    text, vision = tower_config(config, "text", TEXT), tower_config(config, "vision", VISION)
    return {"text_encoder": (field, text[field]), "image_encoder": (field, vision[field])}


class TextNetwork(nnx.Module):
    """`SiglipTextModel`."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        fields = tower_config(config, "text", TEXT)
        self.text_encoder = text_tower("siglip", fields, rngs=rngs)
        width = self.text_encoder.width
        self.text_projection = Linear(width, fields["projection_size"] or width, rngs=rngs)

    def __call__(
        self,
        input_ids: Int[Array, "b n"],
        attention_mask: Bool[Array, "b n"] | None = None,
        position_ids: Int[Array, "#b n"] | None = None,
    ) -> dict[str, Array]:
        tokens, pooled = read(self.text_encoder, input_ids, attention_mask, position_ids)
        return {"last_hidden_state": tokens, "pooler_output": self.text_projection(pooled)}


class VisionNetwork(nnx.Module):
    """`SiglipVisionModel`."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        fields = tower_config(config, "vision", VISION)
        self.image_encoder = vision_tower("siglip", fields, rngs=rngs)
        self.is_pooled = fields["vision_use_head"]

    def __call__(self, pixel_values: Float[Array, "b h w c"]) -> dict[str, Array]:
        tokens = self.image_encoder(pixel_values)
        pooled = {"pooler_output": self.image_encoder.pool(tokens)} if self.is_pooled else {}
        return {"last_hidden_state": tokens} | pooled


class PairNetwork(nnx.Module):
    """`SiglipModel`: every picture against every sentence."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        text = TextNetwork(config, rngs=rngs)
        self.text_encoder, self.text_projection = text.text_encoder, text.text_projection
        self.image_encoder = VisionNetwork(config, rngs=rngs).image_encoder
        self.logit_scale = nnx.Param(jnp.float32(np.log(10)))
        self.logit_bias = nnx.Param(jnp.float32(-10))

    def __call__(
        self,
        input_ids: Int[Array, "m n"],
        pixel_values: Float[Array, "b h w c"],
        attention_mask: Bool[Array, "m n"] | None = None,
        position_ids: Int[Array, "#m n"] | None = None,
    ) -> dict[str, Array]:
        _, pooled = read(self.text_encoder, input_ids, attention_mask, position_ids)
        text = self.text_projection(pooled)
        image = self.image_encoder.encode(pixel_values)
        return similarities(text, image, self.logit_scale[...], self.logit_bias[...])


def network(config: Mapping[str, Any], *, rngs: nnx.Rngs) -> nnx.Module:
    """The network of the class that config.json names, or else of its model_type."""
    return of_kind(config, (TextNetwork, VisionNetwork, PairNetwork))(config, rngs=rngs)


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As CLIP's, with this family's defaults."""
    return checked_text(config, inputs, TEXT)


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random pictures and three sentences of full length, padded with 1 and without a mask."""
    text, vision = tower_config(config, "text", TEXT), tower_config(config, "vision", VISION)
    count = text["max_position_embeddings"]
    ids = rng.integers(2, text["vocab_size"], (3, count))
    ids[np.arange(count) >= np.array([[count], [count // 2], [2]])] = 1
    sentences = {"input_ids": ids.astype(np.int32)}
    pictures = random_pictures(one(vision["image_size"]), rng)
    return of_kind(config, (sentences, pictures, sentences | pictures))


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Settings with which `SiglipTextModel` computes a run's text vectors.

    Raises UserError for a run without a text tower of this kind.
    """
    config = {
        "architectures": ["SiglipTextModel"],
        "model_type": "siglip_text_model",
        **text_fields(public.text_tower_of(objective, "siglip")),
        "projection_size": params["text_projection/kernel"].shape[1],
    }
    return {"config.json": config}


def ask(objective, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """What a run's text tower computes of the inputs of the public class, under its names."""
    tokens, pooled = read(objective.text_encoder, **inputs)
    return {"last_hidden_state": tokens, "pooler_output": objective.text_projection(pooled)}


def usage(frames: int) -> str:
    """Code that loads an exported folder, for its card."""
    return """from transformers import SiglipTextModel, SiglipTokenizer

tokenizer = SiglipTokenizer.from_pretrained(folder)
model = SiglipTextModel.from_pretrained(folder).eval()
sentences = tokenizer(["the gallbladder is dissected"], return_tensors="pt", padding="max_length")
vectors = model(**sentences).pooler_output"""
