"""Hugging Face's V-JEPA 2 classes: `VJEPA2Model` and `VJEPA2ForVideoClassification`.

Their predictor takes mask token 1 of those it holds (1 modulo their number), while training at one
frame rate, the public programs' and ours, only ever uses token 0. An export therefore holds the one
trained token, which 1 modulo 1 names; a run that starts from a file with several takes token 0.
The classes show the predictor tokens of an encoder that saw the whole clip; in training the encoder
sees the context alone.
"""

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from surgjax.errors import UserError
from surgjax.interop import public
from surgjax.interop.keys import LINEAR, Flat, Row, Table, Transform, from_ours, tubelet
from surgjax.interop.videomae import IMAGENET_MEAN, IMAGENET_STD, labels, pixel_settings
from surgjax.models.heads import AttentivePool
from surgjax.models.token_decoder import TokenDecoder
from surgjax.models.video_vit import Size, VideoViT
from surgjax.state import flatten, split

MODEL_TYPE = "vjepa2"
WEIGHTS = "model.safetensors"
LICENCE = "unknown"  # of a folder that states none; the public ones are MIT
POSITIONS = "rope_3d"
CLASSIFIER = "VJEPA2ForVideoClassification"
# Fields of config.json that must have these values for our networks to compute the same.
FIXED = {
    "patch_size": 16,
    "tubelet_size": 2,
    "in_chans": 3,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "attention_probs_dropout_prob": 0.0,
}
# Fields of config.json that a folder may leave out: the public class's defaults.
DEFAULTS = {
    "crop_size": 256,
    "frames_per_clip": 64,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-6,
    "num_pooler_layers": 3,
    "pred_hidden_size": 384,
    "pred_num_attention_heads": 12,
    "pred_num_hidden_layers": 12,
    "pred_num_mask_tokens": 10,
    "pred_mlp_ratio": 4.0,
}
# Of a file whose run had no predictor: the classes hold one all the same.
NO_PREDICTOR = {
    "pred_hidden_size": 12,
    "pred_num_attention_heads": 1,
    "pred_num_hidden_layers": 1,
    "pred_num_mask_tokens": 1,
    "pred_mlp_ratio": 1.0,
}
MASK_TOKENS = Transform(lambda tokens: tokens[:, 0], lambda tokens, _: [tokens[:, None]])


def block_rows(
    ours: str,
    outside: str,
    *,
    norms: tuple[str, str] = ("norm1", "norm2"),
    qkv: tuple[str, ...] = ("attention.query", "attention.key", "attention.value"),
    out: str = "attention.proj",
) -> tuple[Row, ...]:
    """Rows of a stack of transformer blocks; `outside` is the name of one layer, with `{i}`."""
    rows = linear(f"{ours}/attention/qkv", *(f"{outside}.{name}" for name in qkv))
    for mine, theirs in zip(("norm1", "norm2"), norms, strict=True):
        rows += affine(f"{ours}/{mine}", f"{outside}.{theirs}")
    for mine, theirs in {"attention/out": out, "mlp/up": "mlp.fc1", "mlp/down": "mlp.fc2"}.items():
        rows += linear(f"{ours}/{mine}", f"{outside}.{theirs}")
    return tuple(rows)


def linear(ours: str, *outside: str) -> list[Row]:
    """Rows of a linear map with bias, made of one or several of theirs."""
    return [
        Row(f"{ours}/{mine}", tuple(f"{name}.{theirs}" for name in outside), LINEAR)
        for mine, theirs in (("kernel", "weight"), ("bias", "bias"))
    ]


def affine(ours: str, outside: str) -> list[Row]:
    """Rows of a layer norm."""
    return [Row(f"{ours}/scale", f"{outside}.weight"), Row(f"{ours}/bias", f"{outside}.bias")]


_CROSS = "pooler.cross_attention_layer"
TABLE = Table(
    rows=(
        Row("encoder/embed/kernel", "encoder.embeddings.patch_embeddings.proj.weight", tubelet()),
        Row("encoder/embed/bias", "encoder.embeddings.patch_embeddings.proj.bias"),
        *block_rows("encoder/blocks", "encoder.layer.{i}"),
        *affine("encoder/norm", "encoder.layernorm"),
        *linear("predictor/embed", "predictor.embeddings.predictor_embeddings"),
        Row("predictor/mask_token", "predictor.embeddings.mask_tokens", MASK_TOKENS),
        *block_rows("predictor/blocks", "predictor.layer.{i}"),
        *affine("predictor/norm", "predictor.layernorm"),
        *linear("predictor/head", "predictor.proj"),
        Row("head/query", "pooler.query_tokens"),
        *block_rows(
            "head/blocks",
            "pooler.self_attention_layers.{i}",
            norms=("layer_norm1", "layer_norm2"),
            qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            out="self_attn.out_proj",
        ),
        *affine("head/cross/norm1", f"{_CROSS}.layer_norm1"),
        *linear("head/cross/q", f"{_CROSS}.cross_attn.q_proj"),
        *linear("head/cross/kv", *(f"{_CROSS}.cross_attn.{n}_proj" for n in "kv")),
        *affine("head/cross/norm2", f"{_CROSS}.layer_norm2"),
        *linear("head/cross/mlp/up", f"{_CROSS}.mlp.fc1"),
        *linear("head/cross/mlp/down", f"{_CROSS}.mlp.fc2"),
        *linear("head/classifier", "classifier"),
    ),
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, with or without the `vjepa2.` prefix."""
    return any(name.endswith("encoder.embeddings.patch_embeddings.proj.weight") for name in names)


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table: without the prefix that the classifier's files have."""
    return {name.removeprefix("vjepa2."): x for name, x in tensors.items()}


def outside_names(tensors: Flat, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors as the class that config.json names saves them; a predictor where there was none.

    A fine-tuned run has lost its predictor, which the classes hold all the same: one of zeros.
    """
    made = dict(tensors)
    if not any(name.startswith("predictor.") for name in made):
        shapes = flatten(
            split(nnx.eval_shape(lambda: _predictor(config, (1, 1, 1), nnx.Rngs(0))))[1]
        )
        zeros = {f"predictor/{path}": np.zeros(x.shape, np.float32) for path, x in shapes.items()}
        made |= from_ours(TABLE, zeros)
    if public.architecture(config) != CLASSIFIER:
        return made
    inner = ("encoder.", "predictor.")
    return {f"vjepa2.{n}" if n.startswith(inner) else n: x for n, x in made.items()}


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Notes on what a folder's config.json has otherwise than our networks, without harm.

    Raises UserError for a field that makes the public class compute something else.
    """
    public.refuse_values(config, source, {name: [value] for name, value in FIXED.items()})
    frames, size = (config.get(n, DEFAULTS[n]) for n in ("frames_per_clip", "crop_size"))
    return [f"trained on {frames} frames of {size} pixels"]


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Network -> (field of config.json, attention heads), which no tensor shape tells."""
    fields = {"encoder": "num_attention_heads", "predictor": "pred_num_attention_heads"}
    return {part: (name, config.get(name, DEFAULTS[name])) for part, name in fields.items()}


def fitted(params: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Take mask token 0, the trained one, where a network wants one and the file has several.

    Changes `params`; returns notes.
    """
    name = "predictor/mask_token"
    if name not in params or len(params[name]) == shapes[name][0] or shapes[name][0] != 1:
        return []
    held = len(params[name])
    params[name] = params[name][:1]
    return [f"mask token 0 of {held} taken, the one that training at one frame rate uses"]


class Network(nnx.Module):
    """`VJEPA2Model`, or `VJEPA2ForVideoClassification`, which does not ask its predictor."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
        width, eps, heads = get("hidden_size"), get("layer_norm_eps"), get("num_attention_heads")
        ratio = int(width * get("mlp_ratio")) / width  # the class cuts where we round
        size = Size(width, get("num_hidden_layers"), heads, 0, 0, 0, mlp_ratio=ratio)
        self.encoder = VideoViT(
            size,
            max(get("frames_per_clip"), 2),
            get("crop_size"),
            positions=POSITIONS,
            qkv_bias="all",
            layer_norm_eps=eps,
            rngs=rngs,
        )
        self.predictor = _predictor(config, self.encoder.grid, rngs)
        self.mask_token = 1 % get("pred_num_mask_tokens")
        self.classifies = public.architecture(config) == CLASSIFIER
        if self.classifies:
            self.head = AttentivePool(
                width,
                len(config.get("id2label") or (0, 1)),  # two are the class's default
                heads=heads,
                depth=get("num_pooler_layers"),
                eps=eps,
                rngs=rngs,
            )

    def __call__(
        self,
        pixel_values_videos: Float[Array, "b t h w c"],
        context_mask: list[Int[Array, "b k"]] | None = None,
        target_mask: list[Int[Array, "b m"]] | None = None,
    ) -> dict[str, Array]:
        """Masks are lists of one array of positions; without them the predictor gets all tokens and
        tells them all. Its outputs are named `predictor_output.<name>`."""
        video = jnp.asarray(pixel_values_videos)
        video = jnp.repeat(video, 2, axis=1) if video.shape[1] == 1 else video
        tokens = self.encoder(video[:, : video.shape[1] // 2 * 2])
        if self.classifies:
            return {"logits": self.head(tokens)}
        every = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape[:2])
        keep, hidden = (mask[0] if mask else every for mask in (context_mask, target_mask))
        visible = jnp.take_along_axis(tokens, keep[:, :, None], axis=1)
        predicted = self.predictor(visible, keep, hidden, mask_token=self.mask_token)
        return {
            "last_hidden_state": tokens,
            "masked_hidden_state": visible,
            "predictor_output.last_hidden_state": predicted,
            "predictor_output.target_hidden_state": jnp.take_along_axis(
                tokens, hidden[:, :, None], axis=1
            ),
        }


network = Network


def _predictor(
    config: Mapping[str, Any], grid: tuple[int, int, int], rngs: nnx.Rngs
) -> TokenDecoder:
    get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
    width, inner, eps = get("hidden_size"), get("pred_hidden_size"), get("layer_norm_eps")
    return TokenDecoder(
        width,
        width,
        width=inner,
        depth=get("pred_num_hidden_layers"),
        heads=get("pred_num_attention_heads"),
        grid=grid,
        positions=POSITIONS,
        qkv_bias="all",
        mask_tokens=get("pred_num_mask_tokens"),
        mlp_ratio=int(inner * get("pred_mlp_ratio")) / inner,
        layer_norm_eps=eps,
        norm_eps=eps,
        embed_bias=True,
        rngs=rngs,
    )


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with masks as the network takes them.

    Raises:
      UserError: one mask without the other, several masks, or positions beyond the clip.
    """
    masks = [inputs.get(name) for name in ("context_mask", "target_mask")]
    if (masks[0] is None) != (masks[1] is None):
        raise UserError("context_mask and target_mask belong together; give both or neither")
    if masks[0] is None:
        return dict(inputs)
    frames, height, width = inputs["pixel_values_videos"].shape[1:4]
    tokens = max(frames // 2, 1) * (height // 16) * (width // 16)
    for name, mask in zip(("context_mask", "target_mask"), masks, strict=True):
        if not isinstance(mask, (list, tuple)) or len(mask) != 1:
            raise UserError(f"{name} must be a list of one array (b k) of token positions")
        if mask[0].size and not 0 <= mask[0].min() <= mask[0].max() < tokens:
            raise UserError(f"{name} names positions outside the clip's {tokens} tokens")
    made = {
        name: [mask[0].astype(np.int32)]
        for name, mask in zip(("context_mask", "target_mask"), masks, strict=True)
    }
    return {**inputs, **made}


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Two random clips, with a context and targets where the class takes them."""
    frames, size = (config.get(n, DEFAULTS[n]) for n in ("frames_per_clip", "crop_size"))
    clips = rng.standard_normal((2, frames, size, size, 3)).astype(np.float32)
    inputs: dict[str, Any] = {"pixel_values_videos": clips}
    if public.architecture(config) != CLASSIFIER:
        tokens = max(frames // 2, 1) * (size // 16) ** 2
        order = np.argsort(rng.random((2, tokens)), axis=1)
        kept = max(1, tokens // 3)
        inputs["context_mask"] = [np.sort(order[:, :kept], axis=1)]
        inputs["target_mask"] = [order[:, kept : 2 * kept + 1]]
    return inputs


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """File name -> content: settings with which the public class computes what `objective` does.

    Raises UserError where no public class does.
    """
    encoder = objective.encoder
    if encoder.positions != POSITIONS:
        raise UserError(
            f"encoder.positions={encoder.positions!r} cannot be exported: the V-JEPA 2 classes "
            f"turn queries and keys; expected 'rope_3d'; train with it to export"
        )
    for path, field in (
        ("encoder/blocks/attention/qkv/bias", "encoder.qkv_bias='qv', but the classes have 'all'"),
        ("encoder/norm/scale", "objective.head='mean_pool', but the classes keep the final norm"),
    ):
        if path not in params:
            raise UserError(f"{field}: this run cannot be exported so; choose another --format")
    frames, size, _ = (n * p for n, p in zip(encoder.grid, encoder.patch, strict=True))
    depth = lambda part: params[f"{part}/blocks/norm1/scale"].shape[0]  # noqa: E731
    ratio = lambda part: params[f"{part}/blocks/mlp/up/bias"].shape[-1]  # noqa: E731
    config = {
        "architectures": ["VJEPA2Model"],
        "model_type": MODEL_TYPE,
        **FIXED,
        "crop_size": size,
        "frames_per_clip": frames,
        "hidden_size": encoder.width,
        "num_hidden_layers": depth("encoder"),
        "num_attention_heads": encoder.heads,
        "mlp_ratio": ratio("encoder") / encoder.width,
        "layer_norm_eps": encoder.blocks.norm1.eps,
        "drop_path_rate": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "num_pooler_layers": 3,
        **NO_PREDICTOR,
        "pred_zero_init_mask_tokens": True,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    if "predictor/mask_token" in params:
        predictor = objective.predictor
        config |= {
            "pred_hidden_size": predictor.width,
            "pred_num_attention_heads": predictor.heads,
            "pred_num_hidden_layers": depth("predictor"),
            "pred_num_mask_tokens": params["predictor/mask_token"].shape[0],
            "pred_mlp_ratio": ratio("predictor") / predictor.width,
        }
    if "head/query" in params:
        config |= {"architectures": [CLASSIFIER], "num_pooler_layers": depth("head")}
        config |= labels(objective)
    return {"config.json": config, "video_preprocessor_config.json": _processor(size)}


def _processor(size: int) -> dict[str, Any]:
    resized = int(size * 256 / 224)  # what the class computes from crop_size, whatever is written
    return {
        "video_processor_type": "VJEPA2VideoProcessor",
        **pixel_settings(size, resized=resized),
    }


def usage(frames: int, has_head: bool = False) -> str:
    """Code that loads an exported folder, for its card; of a classifier or of an encoder."""
    kind = CLASSIFIER if has_head else "VJEPA2Model"
    result = """tokens = model(**clip, skip_predictor=True).last_hidden_state  # (1, tokens, width)
# The predictor (model(**clip).predictor_output) holds the one mask token that was trained."""
    if has_head:
        result = "scores = model(**clip).logits[0]  # model.config.id2label names them"
    return f"""from transformers import AutoVideoProcessor, {kind}

processor = AutoVideoProcessor.from_pretrained(folder)
model = {kind}.from_pretrained(folder).eval()
clip = processor(frames, return_tensors="pt")  # {frames} RGB frames, (t, height, width, 3) uint8
{result}"""


def has_reference() -> bool:
    """Whether the public classes can be asked: PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def reference(folder: Path, video: np.ndarray, masked: np.ndarray | None) -> dict[str, np.ndarray]:
    """What the public class computes from an exported folder.

    Args:
      video: uint8 (b t h w c), already of the model's size.
      masked: not used; the predictor is asked for all tokens.

    Returns:
      tokens and predictions (b n d), of a classifier logits (b classes) alone. float32.
    """
    pixels = (video.astype(np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    config = json.loads((folder / "config.json").read_text())
    out = public.reference(folder, config, {"pixel_values_videos": pixels})
    names = {
        "tokens": "last_hidden_state",
        "predictions": "predictor_output.last_hidden_state",
        "logits": "logits",
    }
    return {mine: out[theirs] for mine, theirs in names.items() if theirs in out}
