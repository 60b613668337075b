"""The layout of the package `surgclip` 0.1.0 and of its released file `surgclip_beta.pth`.

One flat table of tensors, TimeSformer, BERT and two projections, which the package reads without
complaint when names are missing: an export has every name and nothing around the table.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from surgjax.errors import UserError
from surgjax.interop import bert
from surgjax.interop.bert import checked_ids, norm_pair, pair, tower_rows
from surgjax.interop.keys import Flat, Row, Table, renamed
from surgjax.interop.timm import patches
from surgjax.interop.videomae_official import block_rows
from surgjax.models.surgclip import SurgCLIP
from surgjax.models.video_vit import Size

MODEL_TYPE = None  # no config.json: told by its tensor names
WEIGHTS = "surgclip_beta.pth"
LICENCE = "unknown"  # the package says MIT; what the weights are under, their page must say

_MODEL, _BLOCK = "vision_encoder.model", "vision_encoder.model.blocks.{i}"
TABLE = Table(
    rows=(
        Row("encoder/embed/kernel", f"{_MODEL}.patch_embed.proj.weight", patches()),
        Row("encoder/embed/bias", f"{_MODEL}.patch_embed.proj.bias"),
        Row("encoder/cls_token", f"{_MODEL}.cls_token"),
        Row("encoder/positions", f"{_MODEL}.pos_embed"),
        Row("encoder/time_positions", f"{_MODEL}.time_embed"),
        *block_rows("encoder/blocks", _BLOCK, [("qkv/bias", "qkv.bias")]),
        *norm_pair("encoder/blocks/time_norm", f"{_BLOCK}.temporal_norm1"),
        *pair("encoder/blocks/time_attention/qkv", f"{_BLOCK}.temporal_attn.qkv"),
        *pair("encoder/blocks/time_attention/out", f"{_BLOCK}.temporal_attn.proj"),
        *pair("encoder/blocks/time_out", f"{_BLOCK}.temporal_fc"),
        *norm_pair("encoder/norm", f"{_MODEL}.norm"),
        *norm_pair("encoder/pool_norm", f"{_MODEL}.pool_norm"),
        *norm_pair("token_norm", "vision_layernorm"),
        *tower_rows("text_encoder."),
        *pair("video_projection", "vision_proj"),
        *pair("text_projection", "text_proj"),
        Row("temperature", "temp"),
    ),
    ignored={"*embeddings.position_ids": "positions count from 0"},
)


def content(model: dict[str, Any], metadata: dict[str, str]) -> dict[str, Any]:
    """A file is the tensors themselves, and has no place for anything else."""
    return model


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, whatever wraps them."""
    return any(name.endswith(f"{_MODEL}.pool_norm.weight") for name in names)


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table. Raises UserError where two tensors would get one name."""
    return renamed(
        tensors,
        lambda name: name.removeprefix("module.").replace("text_encoder.bert.", "text_encoder."),
    )


def outside_names(tensors: Flat, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors; a run that does without the norm of the tokens gets the one it starts with.

    Raises UserError for a part of the network: the package would not complain.
    """
    made = dict(tensors)
    width = tensors.get(f"{_MODEL}.norm.weight", np.zeros(0)).shape
    made.setdefault("vision_layernorm.weight", np.ones(width, np.float32))
    made.setdefault("vision_layernorm.bias", np.zeros(width, np.float32))
    lacking = {row.part for row in TABLE.rows if not row.is_stacked and row.names[0] not in made}
    if lacking:
        raise UserError(
            f"the surgclip layout holds both towers and their maps; found no "
            f"{', '.join(sorted(lacking))}; use another --format"
        )
    return made


def config_of(tensors: Flat) -> dict[str, Any]:
    """Settings that the tensors tell; heads have 64 channels, as in all of its parts."""
    found = canonical(tensors)
    text = "text_encoder"
    axes = {  # field -> (tensor, axis)
        "num_frames": (f"{_MODEL}.time_embed", 1),
        "patch_size": (f"{_MODEL}.patch_embed.proj.weight", 2),
        "hidden_size": (f"{_MODEL}.patch_embed.proj.weight", 0),
        "intermediate_size": (f"{_MODEL}.blocks.0.mlp.fc1.bias", 0),
        "projection_dim": ("vision_proj.bias", 0),
    }
    text_axes = {
        "vocab_size": (f"{text}.embeddings.word_embeddings.weight", 0),
        "hidden_size": (f"{text}.embeddings.word_embeddings.weight", 1),
        "max_position_embeddings": (f"{text}.embeddings.position_embeddings.weight", 0),
        "type_vocab_size": (f"{text}.embeddings.token_type_embeddings.weight", 0),
        "intermediate_size": (f"{text}.encoder.layer.0.intermediate.dense.bias", 0),
    }

    def fields(axes: Mapping[str, tuple[str, int]], layer_end: str) -> dict[str, Any]:
        made = {field: found[name].shape[axis] for field, (name, axis) in axes.items()}
        made["num_hidden_layers"] = sum(name.endswith(layer_end) for name in found)
        made["num_attention_heads"] = max(1, made["hidden_size"] // 64)
        return made

    try:
        places = found[f"{_MODEL}.pos_embed"].shape[1] - 1
        config = fields(axes, ".temporal_fc.bias")
        config["image_size"] = config["patch_size"] * round(places**0.5)
        config["text_config"] = fields(text_axes, ".intermediate.dense.bias")
    except KeyError as error:
        raise UserError(
            f"the file lacks {error}; expected the complete network of SurgCLIP; get the file again"
        ) from error
    return {"architectures": ["SurgCLIP"], **config}


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """A note on the clips it was trained with."""
    return [f"trained on {config['num_frames']} frames of {config['image_size']} pixels"]


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Nothing: such a file does not say how many attention heads there are."""
    return {}


class Network(SurgCLIP):
    """What the package's model computes, quirks included, under its words."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        text, width = {**bert.DEFAULTS, **config["text_config"]}, config["hidden_size"]
        size = Size(
            width,
            config["num_hidden_layers"],
            config["num_attention_heads"],
            mlp_ratio=config["intermediate_size"] / width,
        )
        super().__init__(
            frames=config["num_frames"],
            image_size=config["image_size"],
            encoder=dict(size=size, patch=config["patch_size"], compat="surgclip"),
            text=bert.tower_arguments(text),
            dim=config["projection_dim"],
            rngs=rngs,
        )

    def __call__(
        self,
        video: Float[Array, "b t h w c"],
        input_ids: Int[Array, "m n"],
        attention_mask: Bool[Array, "m n"] | None = None,
    ) -> dict[str, Array]:
        """Outputs of the package's model, `encode_vision` and `encode_text`; video channel-last."""
        steps = self.encoder.steps(video)
        pooled_video = self.encoder.pool(steps)
        words = self.text_encoder(input_ids, attention_mask)
        pooled_text = self.text_encoder.pool(words, input_ids)
        scores = self.similarity(self.project_video(pooled_video), self.project_text(pooled_text))
        return {
            "vision_embeds": self.token_norm(steps),
            "pooled_vision_embeds": pooled_video,
            "text_embeds": words,
            "pooled_text_embeds": pooled_text,
            "sim_v2t": scores,
            "sim_t2v": scores.T,
        }


network = Network


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with ids as int32 and masks as bool.

    Raises:
      UserError: an id the table does not have: the tokenizer of another model.
    """
    return checked_ids(inputs, {"input_ids": config["text_config"]["vocab_size"]})


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random clips and three sentences, whose second and third are padded."""
    side, text = config["image_size"], config["text_config"]
    count = min(12, text["max_position_embeddings"])
    mask = np.arange(count) < np.array([[count], [count - 2], [count // 2]])
    ids = rng.integers(1, text["vocab_size"], mask.shape) * mask
    video = rng.standard_normal((2, config["num_frames"], side, side, 3))
    return {
        "video": video.astype(np.float32),
        "input_ids": ids.astype(np.int32),
        "attention_mask": mask,
    }


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Such a file has no settings. Raises UserError where the package has another network."""
    if getattr(objective.encoder, "is_surgclip", False):
        return {}
    raise UserError(
        "a run's encoder is not the package's: expected a TimeSformer with "
        "encoder.compat='surgclip'; use another --format"
    )


def usage(frames: int) -> str:
    """Code that loads an exported file, for its card."""
    return f"""import surgclip, torch
from surgclip.config import get_config
from surgclip.model import SurgCLIP

config = get_config("SurgCLIP-B", overrides={{"num_frames": {frames}}})
model = SurgCLIP(config, surgclip.tokenizer.load_tokenizer(config)).eval()
model.load_state_dict(torch.load(folder + "/surgclip_beta.pth", weights_only=True))"""


def has_reference() -> bool:
    """No: the package needs its own versions of other libraries."""
    return False
