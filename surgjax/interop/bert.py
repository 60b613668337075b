"""Hugging Face's BERT classes: `BertModel`, `BertForMaskedLM` and `BertForPreTraining`.

Files exist with and without the `bert.` prefix, and old ones call a norm's scale and bias gamma and
beta. `BertModel` has a pooler unless it was built without, which config.json does not say: the file
decides.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from surgjax.errors import UserError
from surgjax.interop import public
from surgjax.interop.keys import LINEAR, Flat, Row, Table
from surgjax.interop.vit import ACTIVATIONS, activation_of, refuse_unknown
from surgjax.models.layers import ACTIVATIONS as FUNCTIONS
from surgjax.models.layers import LayerNorm, Linear
from surgjax.models.text import TextTransformer

MODEL_TYPE = "bert"
WEIGHTS = "model.safetensors"
LICENCE = "unknown"  # of a folder that states none
CLASSES = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
FROM_RUN = ("text_encoder",)
# Fields of config.json that must have these values for our networks to compute the same.
FIXED = {
    "position_embedding_type": ["absolute"],
    "is_decoder": [False],
    "add_cross_attention": [False],
    "tie_word_embeddings": [True],
}
# Fields of config.json that a folder may leave out: the public class's defaults.
DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}


def pair(ours: str, outside: str) -> tuple[Row, Row]:
    """Rows of a linear map: kernel and bias."""
    return (
        Row(f"{ours}/kernel", f"{outside}.weight", LINEAR),
        Row(f"{ours}/bias", f"{outside}.bias"),
    )


def norm_pair(ours: str, outside: str) -> tuple[Row, Row]:
    """Rows of a norm: scale and bias."""
    return Row(f"{ours}/scale", f"{outside}.weight"), Row(f"{ours}/bias", f"{outside}.bias")


def tower_rows(prefix: str) -> tuple[Row, ...]:
    """Rows of embeddings and blocks, whose names outside begin with `prefix`."""
    ours, layer = "text_encoder/blocks", f"{prefix}encoder.layer.{{i}}"
    embeddings = {
        "token_embedding": "word_embeddings",
        "positions": "position_embeddings",
        "type_embedding": "token_type_embeddings",
    }
    rows = [
        Row(f"text_encoder/{mine}", f"{prefix}embeddings.{theirs}.weight")
        for mine, theirs in embeddings.items()
    ]
    for mine, kind in (("kernel", "weight"), ("bias", "bias")):
        qkv = tuple(f"{layer}.attention.self.{part}.{kind}" for part in ("query", "key", "value"))
        rows.append(Row(f"{ours}/attention/qkv/{mine}", qkv, LINEAR))
    return (
        *rows,
        *norm_pair("text_encoder/norm", f"{prefix}embeddings.LayerNorm"),
        *pair(f"{ours}/attention/out", f"{layer}.attention.output.dense"),
        *norm_pair(f"{ours}/norm1", f"{layer}.attention.output.LayerNorm"),
        *pair(f"{ours}/mlp/up", f"{layer}.intermediate.dense"),
        *pair(f"{ours}/mlp/down", f"{layer}.output.dense"),
        *norm_pair(f"{ours}/norm2", f"{layer}.output.LayerNorm"),
    )


TABLE = Table(
    rows=(
        *tower_rows("bert."),
        *pair("text_pooler", "bert.pooler.dense"),
        *pair("word_head/map", "cls.predictions.transform.dense"),
        *norm_pair("word_head/norm", "cls.predictions.transform.LayerNorm"),
        Row("word_head/bias", "cls.predictions.bias"),
        *pair("next_head", "cls.seq_relationship"),
    ),
    ignored={
        "*embeddings.position_ids": "positions count from 0",
        "cls.predictions.decoder.weight": "tied to the word embeddings",
        "cls.predictions.decoder.bias": "tied to cls.predictions.bias",
    },
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, with or without the `bert.` prefix."""
    names = {name.removeprefix("bert.") for name in names}
    return {
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.attention.self.query.weight",
    } <= names


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table."""
    old = {".gamma": ".weight", ".beta": ".bias"}
    bare = ("embeddings.", "encoder.layer.", "pooler.")
    made = {}
    for name, tensor in tensors.items():
        stem, dot, last = name.rpartition(".")
        name = stem + old.get(dot + last, dot + last)
        made[f"bert.{name}" if name.startswith(bare) else name] = tensor
    return made


def completed(config: Mapping[str, Any], tensors: Flat) -> dict[str, Any]:
    """config.json with what only the file tells: whether there is a pooler."""
    return {**config, "add_pooling_layer": "bert.pooler.dense.weight" in canonical(tensors)}


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Nothing to note. Raises UserError for a class or a field that our networks do not have."""
    refuse_unknown(config, source, " or ".join(CLASSES), **FIXED)
    return []


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Network -> (field of config.json, attention heads), which no tensor shape tells."""
    return {"text_encoder": ("num_attention_heads", config.get("num_attention_heads", 12))}


def tower_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `TextTransformer` that config.json describes."""
    get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
    return {
        "family": "bert",
        "vocab_size": get("vocab_size"),
        "length": get("max_position_embeddings"),
        "width": get("hidden_size"),
        "depth": get("num_hidden_layers"),
        "heads": get("num_attention_heads"),
        "mlp_ratio": get("intermediate_size") / get("hidden_size"),
        "activation": ACTIVATIONS[get("hidden_act")],
        "layer_norm_eps": get("layer_norm_eps"),
        "token_types": get("type_vocab_size"),
    }


class Network(nnx.Module):
    """`BertModel`, `BertForMaskedLM` or `BertForPreTraining`."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        self.kind = public.architecture(config)
        self.text_encoder = TextTransformer(**tower_arguments(config), rngs=rngs)
        width = self.text_encoder.width
        has_pooler = self.kind != "BertForMaskedLM" and config.get("add_pooling_layer", True)
        self.text_pooler = Linear(width, width, rngs=rngs) if has_pooler else None
        has_head = self.kind in ("BertForMaskedLM", "BertForPreTraining")
        self.word_head = WordHead(config, rngs=rngs) if has_head else None
        self.next_head = Linear(width, 2, rngs=rngs) if has_head and has_pooler else None

    def __call__(
        self,
        input_ids: Int[Array, "b n"],
        attention_mask: Bool[Array, "b n"] | None = None,
        token_type_ids: Int[Array, "b n"] | None = None,
        position_ids: Int[Array, "#b n"] | None = None,
    ) -> dict[str, Array]:
        tokens = self.text_encoder(
            input_ids, attention_mask, token_types=token_type_ids, positions=position_ids
        )
        pooled = {}
        if self.text_pooler is not None:
            pooled["pooler_output"] = jnp.tanh(self.text_pooler(tokens[:, 0]))
        if self.word_head is None:
            return {"last_hidden_state": tokens} | pooled
        logits = self.word_head(tokens, self.text_encoder.token_embedding[...])
        if self.next_head is None:
            return {"logits": logits}
        follows = self.next_head(pooled["pooler_output"])
        return {"prediction_logits": logits, "seq_relationship_logits": follows}


network = Network


class WordHead(nnx.Module):
    """Scores of all words at every place: a map, a norm, a product with the word embeddings."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
        width = get("hidden_size")
        self.map = Linear(width, width, rngs=rngs)
        self.norm = LayerNorm(width, eps=get("layer_norm_eps"), rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((get("vocab_size"),), jnp.float32))
        self.activation = FUNCTIONS[ACTIVATIONS[get("hidden_act")]]

    def __call__(
        self, tokens: Float[Array, "b n d"], embedding: Float[Array, "words d"]
    ) -> Float[Array, "b n words"]:
        return self.norm(self.activation(self.map(tokens))) @ embedding.T + self.bias[...]


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with ids as int32 and masks as bool.

    Raises:
      UserError: an id the tables do not have: the tokenizer of another model.
    """
    get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
    rows = {
        "input_ids": get("vocab_size"),
        "token_type_ids": get("type_vocab_size"),
        "position_ids": get("max_position_embeddings"),
    }
    return checked_ids(inputs, rows)


def checked_ids(inputs: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Any]:
    """Inputs with ids as int32 and masks as bool; `rows` are the sizes of the tables.

    Raises UserError for an id that its table does not have.
    """
    made = dict(inputs)
    for name in rows.keys() & inputs.keys():
        ids = inputs[name]
        if ids.size and not 0 <= ids.min() <= ids.max() < rows[name]:
            wrong = ids.max() if ids.max() >= rows[name] else ids.min()
            raise UserError(
                f"{name} holds {wrong}; expected 0 to {rows[name] - 1}; use the tokenizer of this "
                f"model"
            )
        made[name] = ids.astype(np.int32)
    if "attention_mask" in inputs:
        made["attention_mask"] = inputs["attention_mask"].astype(bool)
    return made


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two sentences of random words, the second padded, each with a second part."""
    get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
    count = min(12, get("max_position_embeddings"))
    ids = rng.integers(1, get("vocab_size"), (2, count), np.int32)
    mask = np.arange(count) < np.array([[count], [count - count // 3]])
    types = (np.arange(count) > count // 2) & mask & (get("type_vocab_size") > 1)
    return {
        "input_ids": np.where(mask, ids, get("pad_token_id") or 0).astype(np.int32),
        "attention_mask": mask,
        "token_type_ids": types.astype(np.int32),
    }


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """File name -> content: settings with which `BertModel` computes a run's text tokens.

    Raises UserError for a run without a text tower of this kind.
    """
    tower = public.text_tower_of(objective, MODEL_TYPE)
    config = {
        "architectures": ["BertModel"],
        "model_type": MODEL_TYPE,
        "type_vocab_size": tower.type_embedding.shape[0],
        "pad_token_id": 0,
        **text_fields(tower),
    }
    return {"config.json": config}


def text_fields(tower: TextTransformer) -> dict[str, Any]:
    """What config.json says of a run's text tower in the same words for all families."""
    return {
        "vocab_size": tower.vocab_size,
        "max_position_embeddings": tower.length,
        "hidden_act": activation_of(tower),
        **public.sizes(tower),
    }


def ask(objective, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """What a run's text tower computes of the inputs of the public class, under its names."""
    tokens = objective.text_encoder(
        inputs["input_ids"], inputs["attention_mask"], token_types=inputs["token_type_ids"]
    )
    return {"last_hidden_state": tokens}


def usage(frames: int) -> str:
    """Code that loads an exported folder, for its card."""
    return """from transformers import AutoTokenizer, BertModel

tokenizer = AutoTokenizer.from_pretrained(folder)
model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
sentences = tokenizer(["the gallbladder is dissected"], return_tensors="pt", padding=True)
vectors = model(**sentences).last_hidden_state[:, 0]"""
