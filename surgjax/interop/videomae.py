"""Hugging Face's VideoMAE classes: `VideoMAEForPreTraining`; `VideoMAEModel` for an encoder alone.

Their files exist with two spellings of the query and value biases (`q_bias`, and `query.bias` since
transformers 5.5.1); some releases read only one of them, so an export writes both. The classes have
fixed one-dimensional positions, which are no tensors, and a decoder norm with eps 1e-5.
"""

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from surgjax import masking
from surgjax.errors import UserError
from surgjax.interop import public
from surgjax.interop.keys import LINEAR, Flat, Row, Table, tubelet
from surgjax.models.heads import MeanPool
from surgjax.models.token_decoder import TokenDecoder
from surgjax.models.video_vit import Size, VideoViT, normalised

MODEL_TYPE = "videomae"
WEIGHTS = "model.safetensors"
LICENCE = "unknown"  # of a folder that states none
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
Colours = tuple[Sequence[float], Sequence[float]]  # mean and deviation of the channels
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
# Fields of config.json that must have these values for our networks to compute the same.
FIXED = {
    "patch_size": 16,
    "tubelet_size": 2,
    "num_channels": 3,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


# Fields of config.json that a folder may leave out: the public class's defaults.
DEFAULTS = {
    "image_size": 224,
    "num_frames": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "use_mean_pooling": True,
    "decoder_num_attention_heads": 6,
    "decoder_hidden_size": 384,
    "decoder_num_hidden_layers": 4,
    "decoder_intermediate_size": 1536,
}


def block_rows(ours: str, outside: str) -> tuple[Row, ...]:
    """Rows of a stack of transformer blocks; `outside` is the name of one layer, with `{i}`."""
    attention = f"{outside}.attention.attention"
    qkv = tuple(f"{attention}.{part}.weight" for part in ("query", "key", "value"))
    rows = [Row(f"{ours}/attention/qkv/kernel", qkv, LINEAR)]
    for letter, part in (("q", "query"), ("v", "value")):
        name, new_name = f"{attention}.{letter}_bias", f"{attention}.{part}.bias"
        rows.append(Row(f"{ours}/attention/{letter}_bias", name, also=new_name))
    norms = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    linears = {"attention/out": "attention.output.dense"}
    linears |= {"mlp/up": "intermediate.dense", "mlp/down": "output.dense"}
    for mine, theirs in norms.items():
        rows.append(Row(f"{ours}/{mine}/scale", f"{outside}.{theirs}.weight"))
        rows.append(Row(f"{ours}/{mine}/bias", f"{outside}.{theirs}.bias"))
    for mine, theirs in linears.items():
        rows.append(Row(f"{ours}/{mine}/kernel", f"{outside}.{theirs}.weight", LINEAR))
        rows.append(Row(f"{ours}/{mine}/bias", f"{outside}.{theirs}.bias"))
    return tuple(rows)


_EMBED = "videomae.embeddings.patch_embeddings.projection"
TABLE = Table(
    rows=(
        Row("encoder/embed/kernel", f"{_EMBED}.weight", tubelet()),
        Row("encoder/embed/bias", f"{_EMBED}.bias"),
        *block_rows("encoder/blocks", "videomae.encoder.layer.{i}"),
        Row("encoder/norm/scale", "videomae.layernorm.weight"),
        Row("encoder/norm/bias", "videomae.layernorm.bias"),
        Row("decoder/embed/kernel", "encoder_to_decoder.weight", LINEAR),
        Row("decoder/mask_token", "mask_token"),
        *block_rows("decoder/blocks", "decoder.decoder_layers.{i}"),
        Row("decoder/norm/scale", "decoder.norm.weight"),
        Row("decoder/norm/bias", "decoder.norm.bias"),
        Row("decoder/head/kernel", "decoder.head.weight", LINEAR),
        Row("decoder/head/bias", "decoder.head.bias"),
        Row("head/norm/scale", "fc_norm.weight"),
        Row("head/norm/bias", "fc_norm.bias"),
        Row("head/classifier/kernel", "classifier.weight", LINEAR),
        Row("head/classifier/bias", "classifier.bias"),
    ),
    ignored={
        # Written by transformers 5.5.1 to 5.17: it shifts all scores of a query alike.
        "*.attention.attention.key.bias": "a key bias cancels in the softmax",
    },
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, with or without the `videomae.` prefix."""
    ends = [name.split("embeddings.", 1)[-1] for name in names if "embeddings." in name]
    return "patch_embeddings.projection.weight" in ends and "cls_token" not in ends


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table: files of the bare `VideoMAEModel` lack the `videomae.` prefix."""
    if any(name.startswith("videomae.") for name in tensors):
        return dict(tensors)
    bare = ("embeddings.", "encoder.layer.", "layernorm.")
    return {f"videomae.{n}" if n.startswith(bare) else n: x for n, x in tensors.items()}


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """Notes on what a folder's config.json has otherwise than our networks, without harm.

    Raises UserError for a field that makes the public class compute something else.
    """
    public.refuse_values(config, source, {name: [value] for name, value in FIXED.items()})
    if not config.get("qv_bias", config.get("qkv_bias", True)):
        raise UserError(
            f"{source}/config.json has qkv_bias=false; expected true, our networks have q and v "
            f"biases; use another checkpoint"
        )
    notes = []
    if "num_frames" in config and "image_size" in config:
        notes.append(f"trained on {config['num_frames']} frames of {config['image_size']} pixels")
    if config.get("norm_pix_loss") is False:
        notes.append("its decoder predicts plain pixels, ours normalised ones")
    return notes


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Network -> (field of config.json, attention heads), which no tensor shape tells."""
    return {
        "encoder": ("num_attention_heads", config.get("num_attention_heads", 12)),
        "decoder": ("decoder_num_attention_heads", config.get("decoder_num_attention_heads", 6)),
    }


class Network(nnx.Module):
    """`VideoMAEModel`, `VideoMAEForPreTraining` or `VideoMAEForVideoClassification`."""

    def __init__(self, config: Mapping[str, Any], *, rngs: nnx.Rngs):
        get = lambda name: config.get(name, DEFAULTS[name])  # noqa: E731
        kind, eps = public.architecture(config), get("layer_norm_eps")
        width, decoder_width = get("hidden_size"), get("decoder_hidden_size")
        size = Size(
            *(width, get("num_hidden_layers"), get("num_attention_heads")),
            *(decoder_width, get("decoder_num_hidden_layers")),
            get("decoder_num_attention_heads"),
            mlp_ratio=get("intermediate_size") / width,
        )
        pooled = get("use_mean_pooling")
        self.encoder = VideoViT(
            size,
            get("num_frames"),
            get("image_size"),
            layer_norm_eps=eps,
            final_norm=not pooled,
            rngs=rngs,
        )
        self.kind = kind
        if kind == "VideoMAEForPreTraining":
            self.decoder = TokenDecoder(
                width,
                self.encoder.embed.kernel.shape[0],
                width=decoder_width,
                depth=size.decoder_depth,
                heads=size.decoder_heads,
                grid=self.encoder.grid,
                layer_norm_eps=eps,
                mlp_ratio=get("decoder_intermediate_size") / decoder_width,
                rngs=rngs,
            )
        elif kind == "VideoMAEForVideoClassification":
            if not pooled:
                raise UserError(
                    "config.json has use_mean_pooling=false for a classifier, which then reads "
                    "one token; expected true; fine-tune with mean pooling"
                )
            self.head = MeanPool(width, len(config["id2label"]), rngs=rngs)

    def __call__(
        self,
        pixel_values: Float[Array, "b t h w c"],
        bool_masked_pos: tuple[Int[Array, "b k"], Int[Array, "b m"]] | None = None,
    ) -> dict[str, Array]:
        """`bool_masked_pos` as `prepare` makes it: positions kept, and positions hidden."""
        cubes = self.encoder.tubelets(pixel_values)
        if bool_masked_pos is None:
            tokens = self.encoder.encode_tubelets(cubes)
            if self.kind == "VideoMAEForVideoClassification":
                return {"logits": self.head(tokens)}
            return {"last_hidden_state": tokens}
        keep, hidden = bool_masked_pos
        tokens = self.encoder.encode_tubelets(masking.gather(cubes, keep), keep)
        if self.kind != "VideoMAEForPreTraining":
            return {"last_hidden_state": tokens}
        std, mean = (
            np.tile(np.float32(x), cubes.shape[-1] // 3) for x in (IMAGENET_STD, IMAGENET_MEAN)
        )
        target, _, _ = normalised(masking.gather(cubes, hidden) * std + mean)
        logits = self.decoder(tokens, keep, hidden)
        return {"logits": logits, "loss": jnp.square(logits - target).mean()}


network = Network


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs in which `bool_masked_pos` (b n), True where hidden, is (kept, hidden) positions.

    Raises:
      UserError: no mask for the pretraining class, or rows that hide different numbers.
    """
    mask = inputs.get("bool_masked_pos")
    if mask is None:
        if public.architecture(config) == "VideoMAEForPreTraining":
            raise UserError("VideoMAEForPreTraining needs bool_masked_pos, True where hidden")
        return dict(inputs)
    counts = mask.sum(axis=1)
    if (counts != counts[0]).any():
        raise UserError(
            f"bool_masked_pos hides {counts.min()} to {counts.max()} tokens; expected the same "
            f"number in every row, as in the public class"
        )
    order = np.argsort(mask, axis=1, kind="stable").astype(np.int32)
    kept = mask.shape[1] - int(counts[0])
    return {**inputs, "bool_masked_pos": (order[:, :kept], order[:, kept:])}


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two random clips, with a mask where the class needs one."""
    frames, size = (config.get(n, DEFAULTS[n]) for n in ("num_frames", "image_size"))
    inputs = {"pixel_values": rng.standard_normal((2, frames, size, size, 3)).astype(np.float32)}
    if public.architecture(config) == "VideoMAEForPreTraining":
        tokens = frames // 2 * (size // 16) ** 2
        order = np.argsort(rng.random((2, tokens)), axis=1)
        inputs["bool_masked_pos"] = order >= tokens // 4
    return inputs


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """File name -> content: settings with which the public class computes what `objective` does.

    Raises UserError where no public class does.
    """
    size = objective.encoder.grid[1] * objective.encoder.patch[1]
    return {
        "config.json": _config(objective, params),
        "preprocessor_config.json": preprocessor(size),
    }


def preprocessor(size: int, colours: Colours = IMAGENET) -> dict[str, Any]:
    """Settings of the public image processor that makes clips of `size` pixels as ours are."""
    settings = pixel_settings(size, resized=size, colours=colours)
    return {"image_processor_type": "VideoMAEImageProcessor", **settings}


def pixel_settings(size: int, *, resized: int, colours: Colours = IMAGENET) -> dict[str, Any]:
    """What public processors do to a picture: short side to `resized`, the middle `size`, then
    the (mean, deviation) of the channels taken away."""
    mean, deviation = colours
    return {
        "do_resize": True,
        "size": {"shortest_edge": resized},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),  # a class may have 0.5 for default, not what the weights saw
        "image_std": list(deviation),
    }


def usage(frames: int, has_head: bool = False) -> str:
    """Code that loads an exported folder, for its card; of a classifier or of an encoder."""
    if has_head:
        return f"""from transformers import AutoImageProcessor, VideoMAEForVideoClassification

processor = AutoImageProcessor.from_pretrained(folder)
model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
clip = processor(list(frames), return_tensors="pt")  # {frames} RGB frames (height, width, 3), uint8
scores = model(**clip).logits[0]  # model.config.id2label names them"""
    return f"""from transformers import AutoImageProcessor, VideoMAEModel

processor = AutoImageProcessor.from_pretrained(folder)
model = VideoMAEModel.from_pretrained(folder).eval()
clip = processor(list(frames), return_tensors="pt")  # {frames} RGB frames (height, width, 3), uint8
tokens = model(**clip).last_hidden_state  # (1, tokens, width); their mean describes the clip"""


def has_reference() -> bool:
    """Whether the public classes can be asked: PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def reference(folder: Path, video: np.ndarray, masked: np.ndarray | None) -> dict[str, np.ndarray]:
    """What the public classes compute from an exported folder.

    Args:
      video: uint8 (b t h w c), already of the model's size.
      masked: (b m) positions to predict, ascending; None for an encoder alone.

    Returns:
      tokens (b n d); with `masked` also logits (b m 1536) and the scalar loss; of a classifier
      logits (b classes) alone. float32.
    """
    import torch
    from transformers import (
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
        VideoMAEModel,
        utils,
    )

    utils.logging.disable_progress_bar()
    pixels = (video.astype(np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    pixels = torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3).copy())
    with torch.no_grad():
        config = json.loads((folder / "config.json").read_text())
        if public.architecture(config) == "VideoMAEForVideoClassification":
            classifier = VideoMAEForVideoClassification.from_pretrained(folder).eval()
            return {"logits": classifier(pixels).logits.numpy()}
        if masked is None:
            model = VideoMAEModel.from_pretrained(folder).eval()
            return {"tokens": model(pixels).last_hidden_state.numpy()}
        model = VideoMAEForPreTraining.from_pretrained(folder).eval()
        tokens = model.videomae(pixels).last_hidden_state
        hidden = np.zeros(tokens.shape[:2], bool)
        np.put_along_axis(hidden, masked, True, axis=1)
        out = model(pixels, bool_masked_pos=torch.from_numpy(hidden))
    made = {"tokens": tokens, "logits": out.logits, "loss": out.loss}
    return {name: tensor.numpy() for name, tensor in made.items()}


def labels(objective) -> dict[str, Any]:
    """Names of a classifier's columns; with several tasks, the task stands before the class."""
    several = len(objective.labels) > 1
    names = [
        f"{task}: {name}" if several else name
        for task, about in objective.labels.items()
        for name in about["classes"]
    ]
    kinds = {about["kind"] for about in objective.labels.values()}
    one = not several and kinds == {"one_of_n"}
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": f"{'single' if one else 'multi'}_label_classification",
    }


def _config(objective, params: Flat) -> dict[str, Any]:
    encoder = objective.encoder
    if not isinstance(encoder, VideoViT):
        raise UserError(
            f"this run's encoder is a {type(encoder).__name__} and the VideoMAE classes hold a "
            f"video ViT; expected --format=timesformer, or surgclip of a run with "
            f"objective.compat=surgclip"
        )
    if encoder.positions != "sincos_1d":
        raise UserError(
            f"encoder.positions={encoder.positions!r} cannot be exported: the VideoMAE classes "
            f"have fixed one-dimensional positions; expected 'sincos_1d'; train with it to export"
        )
    if encoder.patch != (2, 16, 16):
        raise UserError(f"patch {encoder.patch} cannot be exported; expected (2, 16, 16)")
    frames, height, _ = (n * p for n, p in zip(encoder.grid, encoder.patch, strict=True))
    config = {
        "architectures": ["VideoMAEModel"],
        "model_type": MODEL_TYPE,
        **FIXED,
        "image_size": height,
        "num_frames": frames,
        **public.sizes(encoder),
        "initializer_range": 0.02,
        "qkv_bias": True,  # transformers 4
        "qv_bias": True,  # transformers 5
        "use_mean_pooling": not encoder.has_final_norm,  # True drops the final norm
        "norm_pix_loss": True,
        "torch_dtype": "float32",
    }
    if "head/classifier/kernel" in params:
        config |= {"architectures": ["VideoMAEForVideoClassification"]} | labels(objective)
    if "decoder/mask_token" in params:
        decoder = objective.decoder
        config |= {
            "architectures": ["VideoMAEForPreTraining"],
            "decoder_hidden_size": decoder.width,
            "decoder_num_hidden_layers": params["decoder/blocks/norm1/scale"].shape[0],
            "decoder_num_attention_heads": decoder.blocks.attention.heads,
            "decoder_intermediate_size": params["decoder/blocks/mlp/up/bias"].shape[-1],
        }
    return config
