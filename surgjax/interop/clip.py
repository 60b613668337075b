"""Hugging Face's CLIP classes, both towers or one: `CLIPModel`, `CLIPTextModel`, `CLIPVisionModel`.

The towers exist with projection too (`...WithProjection`), and their files with and without the
`text_model.` or `vision_model.` prefix (transformers 5 leaves it out, 4 does not read such files);
an export writes it. Files in the names of OpenAI's program and of open_clip are read as well.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from surgjax.errors import UserError
from surgjax.interop import public
from surgjax.interop.bert import checked_ids, norm_pair, pair, text_fields
from surgjax.interop.keys import LINEAR, Flat, Row, Table, renamed
from surgjax.interop.timm import patches
from surgjax.interop.vit import ACTIVATIONS, one, refuse_unknown
from surgjax.models.clip_vision import ClipVision
from surgjax.models.layers import Linear
from surgjax.models.text import LEGACY_EOS, TextTransformer
from surgjax.models.video_vit import Size

MODEL_TYPE = ("clip", "clip_text_model", "clip_vision_model")
WEIGHTS = "model.safetensors"
LICENCE = "unknown"  # of a folder that states none; OpenAI's and open_clip's programs are MIT
CLASSES = ("CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection")
CLASSES += ("CLIPVisionModel", "CLIPVisionModelWithProjection")
FROM_RUN = ("text_encoder", "text_projection")
# Fields of config.json that a folder may leave out: the public class's defaults.
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
    "pad_token_id": 1,
    "eos_token_id": 49407,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
}


def block_rows(ours: str, outside: str) -> tuple[Row, ...]:
    """Rows of a tower's blocks; `outside` is the name of one layer, with `{i}`."""
    rows = []
    for mine, kind in (("kernel", "weight"), ("bias", "bias")):
        qkv = tuple(f"{outside}.self_attn.{letter}_proj.{kind}" for letter in "qkv")
        rows.append(Row(f"{ours}/attention/qkv/{mine}", qkv, LINEAR))
    return (
        *rows,
        *pair(f"{ours}/attention/out", f"{outside}.self_attn.out_proj"),
        *norm_pair(f"{ours}/norm1", f"{outside}.layer_norm1"),
        *norm_pair(f"{ours}/norm2", f"{outside}.layer_norm2"),
        *pair(f"{ours}/mlp/up", f"{outside}.mlp.fc1"),
        *pair(f"{ours}/mlp/down", f"{outside}.mlp.fc2"),
    )


# What CLIP and SigLIP say alike.
TOWER_ROWS = (
    Row("text_encoder/token_embedding", "text_model.embeddings.token_embedding.weight"),
    Row("text_encoder/positions", "text_model.embeddings.position_embedding.weight"),
    *block_rows("text_encoder/blocks", "text_model.encoder.layers.{i}"),
    *norm_pair("text_encoder/norm", "text_model.final_layer_norm"),
    Row("image_encoder/embed/kernel", "vision_model.embeddings.patch_embedding.weight", patches()),
    Row("image_encoder/positions", "vision_model.embeddings.position_embedding.weight"),
    *block_rows("image_encoder/blocks", "vision_model.encoder.layers.{i}"),
    *norm_pair("image_encoder/norm", "vision_model.post_layernorm"),
)
IGNORED = {"*embeddings.position_ids": "positions count from 0"}
TABLE = Table(
    rows=(
        *TOWER_ROWS,
        Row("image_encoder/cls_token", "vision_model.embeddings.class_embedding"),
        *norm_pair("image_encoder/pre_norm", "vision_model.pre_layrnorm"),  # their spelling
        Row("text_projection/kernel", "text_projection.weight", LINEAR),
        Row("image_projection/kernel", "visual_projection.weight", LINEAR),
        Row("logit_scale", "logit_scale"),
    ),
    ignored=IGNORED
    | {
        name: "a size, which the tensors tell too"
        for name in ("input_resolution", "context_length", "vocab_size")
    },
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout or of OpenAI's and open_clip's."""
    names = set(names)
    if _is_open_clip(names):
        return True
    bare = {name.removeprefix("text_model.").removeprefix("vision_model.") for name in names}
    is_text = "final_layer_norm.weight" in bare and "embeddings.token_embedding.weight" in bare
    is_siglip = {"text_model.head.weight", "head.weight"} & names
    return "embeddings.class_embedding" in bare or (is_text and not is_siglip)


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table. Raises UserError where two tensors would get one name."""
    if _is_open_clip(tensors):
        return _from_open_clip(tensors)
    return with_prefix(tensors)


def with_prefix(tensors: Flat) -> dict[str, np.ndarray]:
    """The names of a tower that was saved alone, with the prefix it has beside the other one."""
    text = "embeddings.token_embedding.weight" in tensors
    if not text and "embeddings.patch_embedding.weight" not in tensors:
        return dict(tensors)
    prefix = "text_model" if text else "vision_model"
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def config_of(tensors: Flat) -> dict[str, Any]:
    """Settings of a file in OpenAI's names; its scalars say that it is one of theirs.

    Raises:
      UserError: another file without config.json: no tensor tells which GELU it was trained with.
    """
    if not _is_open_clip(tensors) or "input_resolution" not in tensors:
        raise UserError(
            "the file does not say which GELU its network was trained with (OpenAI's quick_gelu, "
            "or gelu); expected config.json beside it with model_type, text_config and "
            "vision_config of a CLIPModel; write one, and name the file model.safetensors or "
            "pytorch_model.bin"
        )
    found = _from_open_clip(tensors)
    embeddings = "{}_model.embeddings.{}_embedding.weight"

    def size(name: str, axis: int = 0) -> int:
        return found[name].shape[axis]

    def fields(tower: str, width: int) -> dict[str, Any]:
        norms = (n for n in found if n.startswith(f"{tower}_model.encoder.layers."))
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": sum(name.endswith("layer_norm1.bias") for name in norms),
            "num_attention_heads": width // 64,
            "hidden_act": "quick_gelu",
            "projection_dim": size("text_projection.weight"),
        }

    try:
        words = size(embeddings.format("text", "token"))
        text = fields("text", size(embeddings.format("text", "token"), 1))
        text["vocab_size"], text["eos_token_id"] = words, words - 1
        text["max_position_embeddings"] = size(embeddings.format("text", "position"))
        vision = fields("vision", size(embeddings.format("vision", "patch")))
        vision["patch_size"] = size(embeddings.format("vision", "patch"), 2)
        places = size(embeddings.format("vision", "position")) - 1
        vision["image_size"] = vision["patch_size"] * math.isqrt(places)
    except KeyError as error:
        raise UserError(
            f"the file lacks {error}; expected the complete network of CLIP; get the file again"
        ) from error
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": text["projection_dim"],
        "text_config": text,
        "vision_config": vision,
    }


def tower_config(config: Mapping[str, Any], tower: str, defaults: Mapping) -> dict[str, Any]:
    """All fields of one tower ("text" or "vision"), from a config of both or of it alone.

    Old folders repeat a tower's fields under another name, which then counts (as in transformers).
    """
    if f"{tower}_config" in config or config.get("model_type") in ("clip", "siglip"):
        given = config.get(f"{tower}_config_dict") or config.get(f"{tower}_config") or {}
    else:
        given = config
    return {**defaults, **given}


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Nothing to note. Raises UserError for a class or a field that our networks do not have."""
    check_towers(config, source, CLASSES, TEXT, VISION)
    return []


def check_towers(
    config: Mapping[str, Any], source: str, classes: tuple[str, ...], text: Mapping, vision: Mapping
) -> None:
    """Raise UserError for a class not in `classes`, or for settings no tower of ours has."""
    refuse_unknown({"architectures": classes, **config}, source, " or ".join(classes))
    for tower, defaults in (("text", text), ("vision", vision)):
        fields = tower_config(config, tower, defaults)
        fields.pop("architectures", None)
        refuse_unknown(fields, source, "")


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Network -> (field of config.json, attention heads), which no tensor shape tells."""
    field = "num_attention_heads"
    text, vision = tower_config(config, "text", TEXT), tower_config(config, "vision", VISION)
    return {"text_encoder": (field, text[field]), "image_encoder": (field, vision[field])}


def text_tower(family: str, config: Mapping[str, Any], *, rngs: nnx.Rngs) -> TextTransformer:
    """The text transformer that the fields of a text config describe."""
    eos = config["eos_token_id"]
    return TextTransformer(
        family,
        vocab_size=config["vocab_size"],
        length=config["max_position_embeddings"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        activation=ACTIVATIONS[config["hidden_act"]],
        layer_norm_eps=config["layer_norm_eps"],
        eos=eos,
        rngs=rngs,
    )


def vision_tower(family: str, config: Mapping[str, Any], *, rngs: nnx.Rngs) -> ClipVision:
    """The picture tower that the fields of a vision config describe."""
    width = config["hidden_size"]
    return ClipVision(
        family,
        one(config["image_size"]),
        size=Size(
            width,
            config["num_hidden_layers"],
            config["num_attention_heads"],
            mlp_ratio=config["intermediate_size"] / width,
        ),
        patch=one(config["patch_size"]),
        activation=ACTIVATIONS[config["hidden_act"]],
        layer_norm_eps=config["layer_norm_eps"],
        has_pool=config.get("vision_use_head", True),
        rngs=rngs,
    )


class TextNetwork(nnx.Module):
    """`CLIPTextModel`, or with projection."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        fields = tower_config(config, "text", TEXT)
        self.text_encoder = text_tower("clip", fields, rngs=rngs)
        has_map = public.architecture(config).endswith("WithProjection")
        width = self.text_encoder.width
        self.text_projection = _projection(width, fields, rngs) if has_map else None

    def __call__(
        self,
        input_ids: Int[Array, "b n"],
        attention_mask: Bool[Array, "b n"] | None = None,
        position_ids: Int[Array, "#b n"] | None = None,
    ) -> dict[str, Array]:
        tokens, pooled = read(self.text_encoder, input_ids, attention_mask, position_ids)
        if self.text_projection is None:
            return {"last_hidden_state": tokens, "pooler_output": pooled}
        return {"last_hidden_state": tokens, "text_embeds": self.text_projection(pooled)}


class VisionNetwork(nnx.Module):
    """`CLIPVisionModel`, or with projection."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        fields = tower_config(config, "vision", VISION)
        self.image_encoder = vision_tower("clip", fields, rngs=rngs)
        has_map = public.architecture(config).endswith("WithProjection")
        width = self.image_encoder.width
        self.image_projection = _projection(width, fields, rngs) if has_map else None

    def __call__(self, pixel_values: Float[Array, "b h w c"]) -> dict[str, Array]:
        tokens = self.image_encoder(pixel_values)
        pooled = self.image_encoder.pool(tokens)
        if self.image_projection is None:
            return {"last_hidden_state": tokens, "pooler_output": pooled}
        return {"last_hidden_state": tokens, "image_embeds": self.image_projection(pooled)}


class PairNetwork(nnx.Module):
    """`CLIPModel`: every picture against every sentence."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        self.text_encoder = text_tower("clip", tower_config(config, "text", TEXT), rngs=rngs)
        self.image_encoder = vision_tower("clip", tower_config(config, "vision", VISION), rngs=rngs)
        fields = {"projection_dim": 512, **config}
        self.text_projection = _projection(self.text_encoder.width, fields, rngs)
        self.image_projection = _projection(self.image_encoder.width, fields, rngs)
        self.logit_scale = nnx.Param(jnp.float32(config.get("logit_scale_init_value", 2.6592)))

    def __call__(
        self,
        input_ids: Int[Array, "m n"],
        pixel_values: Float[Array, "b h w c"],
        attention_mask: Bool[Array, "m n"] | None = None,
        position_ids: Int[Array, "#m n"] | None = None,
    ) -> dict[str, Array]:
        _, pooled = read(self.text_encoder, input_ids, attention_mask, position_ids)
        text = self.text_projection(pooled)
        image = self.image_projection(self.image_encoder.encode(pixel_values))
        return similarities(text, image, self.logit_scale[...])


def read(
    tower: TextTransformer,
    input_ids: Int[Array, "m n"],
    attention_mask: Bool[Array, "m n"] | None = None,
    position_ids: Int[Array, "#m n"] | None = None,
) -> tuple[Float[Array, "m n d"], Float[Array, "m d"]]:
    """(tokens, one vector a sentence) of a text tower."""
    tokens = tower(input_ids, attention_mask, positions=position_ids)
    return tokens, tower.pool(tokens, input_ids)


def similarities(
    text: Float[Array, "m e"],
    image: Float[Array, "b e"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""] | float = 0.0,
) -> dict[str, Array]:
    """Outputs of both public pair classes: vectors of length 1, and exp(scale) cosine + bias."""
    text, image = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (text, image))
    logits = jnp.exp(logit_scale) * (image @ text.T) + logit_bias
    return {
        "text_embeds": text,
        "image_embeds": image,
        "logits_per_image": logits,
        "logits_per_text": logits.T,
    }


def network(config: Mapping[str, Any], *, rngs: nnx.Rngs) -> nnx.Module:
    """The network of the class that config.json names, or else of its model_type."""
    return of_kind(config, (TextNetwork, VisionNetwork, PairNetwork))(config, rngs=rngs)


def of_kind(config: Mapping[str, Any], kinds: tuple) -> Any:
    """The first, second or third of `kinds`, for a text tower, a picture tower, or both."""
    named = public.architecture(config) + config.get("model_type", "")
    return kinds[0] if "ext" in named else kinds[1] if "ision" in named else kinds[2]


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with ids as int32 and masks as bool.

    Raises:
      UserError: an id the tables do not have: the tokenizer of another model.
    """
    return checked_text(config, inputs, TEXT)


def checked_text(
    config: Mapping[str, Any], inputs: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """`prepare` of a family whose text tower has these defaults."""
    text = tower_config(config, "text", defaults)
    return checked_ids(
        inputs,
        {"input_ids": text["vocab_size"], "position_ids": text["max_position_embeddings"]},
    )


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random pictures and three sentences, whose second and third are padded."""
    text, vision = tower_config(config, "text", TEXT), tower_config(config, "vision", VISION)
    count = min(12, text["max_position_embeddings"])
    words, eos = text["vocab_size"], text["eos_token_id"]
    end = words - 1 if eos == LEGACY_EOS else min(eos, words - 1)
    mask = np.arange(count) < np.array([[count], [count - 2], [count // 2]])
    ids = np.where(mask, rng.integers(0, end, mask.shape), text["pad_token_id"])
    ids[np.arange(3), mask.sum(axis=1) - 1] = end
    sentences = {"input_ids": ids.astype(np.int32), "attention_mask": mask}
    pictures = random_pictures(one(vision["image_size"]), rng)
    return of_kind(config, (sentences, pictures, sentences | pictures))


def random_pictures(side: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two pictures as `pixel_values`."""
    return {"pixel_values": rng.standard_normal((2, side, side, 3)).astype(np.float32)}


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Settings with which `CLIPTextModelWithProjection` computes a run's text vectors.

    Raises UserError for a run without a text tower of this kind.
    """
    tower = public.text_tower_of(objective, "clip")
    config = {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        **text_fields(tower),
        "projection_dim": params["text_projection/kernel"].shape[1],
        "bos_token_id": None,  # the class's default is an id of OpenAI's vocabulary
        "eos_token_id": tower.eos,
    }
    return {"config.json": config}


def ask(objective, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """What a run's text tower computes of the inputs of the public class, under its names."""
    tokens, pooled = read(objective.text_encoder, **inputs)
    return {"last_hidden_state": tokens, "text_embeds": objective.text_projection(pooled)}


def usage(frames: int) -> str:
    """Code that loads an exported folder, for its card."""
    return """from transformers import CLIPTextModelWithProjection, CLIPTokenizerFast

tokenizer = CLIPTokenizerFast.from_pretrained(folder)
model = CLIPTextModelWithProjection.from_pretrained(folder).eval()
sentences = tokenizer(["the gallbladder is dissected"], return_tensors="pt", padding=True)
vectors = model(**sentences).text_embeds"""


def _projection(width: int, config: Mapping[str, Any], rngs: nnx.Rngs) -> Linear:
    return Linear(width, config["projection_dim"], bias=None, rngs=rngs)


def _is_open_clip(names: Iterable[str]) -> bool:
    return any(name.endswith("visual.class_embedding") for name in names)


def _from_open_clip(tensors: Flat) -> dict[str, np.ndarray]:
    """Tensors of OpenAI's and open_clip's programs in the spelling of the table.

    Theirs has q, k and v in one tensor and the projections transposed.
    """
    words = {
        "visual.conv1.": "vision_model.embeddings.patch_embedding.",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "visual.transformer.resblocks.": "vision_model.encoder.layers.",
        "visual.proj": "visual_projection.weight",
        "token_embedding.": "text_model.embeddings.token_embedding.",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.": "text_model.final_layer_norm.",
        "transformer.resblocks.": "text_model.encoder.layers.",
        "text_projection": "text_projection.weight",
    }
    inside = {
        ".ln_1.": ".layer_norm1.",
        ".ln_2.": ".layer_norm2.",
        ".attn.out_proj.": ".self_attn.out_proj.",
        ".mlp.c_fc.": ".mlp.fc1.",
        ".mlp.c_proj.": ".mlp.fc2.",
    }

    def rename(name: str) -> str:
        for wrapper in ("module.", "_orig_mod.", "text."):
            name = name.removeprefix(wrapper)
        for theirs, ours in words.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
                break
        for theirs, ours in inside.items():
            name = name.replace(theirs, ours)
        return name

    made: dict[str, np.ndarray] = {}
    for name, tensor in renamed(tensors, rename).items():
        if ".attn.in_proj_" in name:
            for letter, part in zip("qkv", np.split(tensor, 3), strict=True):
                stem, kind = name.split(".attn.in_proj_")
                made[f"{stem}.self_attn.{letter}_proj.{kind}"] = part
        else:
            is_map = name in ("visual_projection.weight", "text_projection.weight")
            made[name] = tensor.T if is_map else tensor
    return made
