"""Image transformers in the names of timm and of the original programs, told by tensor names alone.

One layout with small differences, which `canonical` takes away: ViT and MAE; DINOv2 (`ls1.gamma`,
`w12`); DINOv3 (no `pos_embed`, `storage_tokens`, `gamma_1`, `bias_mask`). What no tensor tells is
inferred: heads have 64 channels but for known exceptions, and eps is the family's.

Released surgical ones, as far as their programs tell (no file was at hand):
  EndoViT          `endovit.pth`, under "model": MAE's ViT-B/16, beside it the decoder, left out.
  EndoSSL          published as TensorFlow models. SurgVISTA's programs have a converted ViT-L/16
                   (`vit_large_patch16_224_surgery.pth`, under "model_state" with "model." before
                   the names, or bare): q, k and v apart, positions of the patches alone, eps 1e-5.
  SurgeNetXL DINO  v1 ViT-S and B/16 at 224, v2 ViT-S, B, L/14 and v3 ViT-S, B, L/16 at 336 pixels,
                   bare or under "teacher", "model" or "state_dict". Their v3 has no registers, a
                   key bias and eps 1e-6, and periods of its rotary positions rounded to bfloat16.
SurgeNetXL's other networks (CaFormer, ConvNeXt, PVT) are no image transformers of this kind.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from einops import rearrange

from surgjax.errors import UserError
from surgjax.interop import find_format
from surgjax.interop.keys import LINEAR, Flat, Row, Table, Transform, renamed, unwrapped
from surgjax.interop.videomae_official import block_rows

MODEL_TYPE = None  # no config.json of ours: told by its tensor names
LICENCE = "unknown"
WEIGHTS = "model.safetensors"
WRAPPERS = ("module.", "model.", "backbone.", "encoder.", "teacher.", "student.", "_orig_mod.")
# Tensor names -> those of the table; the first that matches counts.
SPELLINGS = (
    (r"(storage|register)_tokens", "reg_token"),
    (r"(blocks\.\d+)\.gamma_([12])", r"\1.ls\2.gamma"),
    (r"(blocks\.\d+\.mlp)\.(?:w1|fc1_g)\.(.*)", r"\1.gate.\2"),
    (r"(blocks\.\d+\.mlp)\.(?:w2|fc1_x)\.(.*)", r"\1.fc1.\2"),
    (r"(blocks\.\d+\.mlp)\.w3\.(.*)", r"\1.fc2.\2"),
)
# Heads that are not 64 channels wide: (family, width) -> heads.
HEADS = {("vit", 1280): 16, ("dinov3_vit", 4096): 32}
FORMATS = {
    "vit": "vit",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2_with_registers",
    "dinov3_vit": "dinov3",
}


def patches() -> Transform:
    """Conv2d weight (d, c, h, w) <-> kernel over flat patches, rows in (h, w, c) order."""

    def back(kernel: np.ndarray, _: int) -> list[np.ndarray]:
        side = math.isqrt(len(kernel) // 3)
        return [rearrange(kernel, "(h w c) d -> d c h w", h=side, w=side)]

    return Transform(lambda conv: rearrange(conv, "d c h w -> (h w c) d"), back)


_BLOCKS = "image_encoder/blocks"
TABLE = Table(
    rows=(
        Row("image_encoder/cls_token", "cls_token"),
        Row("image_encoder/positions", "pos_embed"),
        Row("image_encoder/registers", "reg_token"),
        Row("image_encoder/embed/kernel", "patch_embed.proj.weight", patches()),
        Row("image_encoder/embed/bias", "patch_embed.proj.bias"),
        *block_rows(
            _BLOCKS,
            "blocks.{i}",
            [("qkv/bias", "qkv.bias"), *((f"{c}_bias", f"{c}_bias") for c in "qkv")],
        ),
        Row(f"{_BLOCKS}/mlp/gate/kernel", "blocks.{i}.mlp.gate.weight", LINEAR),
        Row(f"{_BLOCKS}/mlp/gate/bias", "blocks.{i}.mlp.gate.bias"),
        *(Row(f"{_BLOCKS}/layer_scale{k}", f"blocks.{{i}}.ls{k}.gamma") for k in (1, 2)),
        Row("image_encoder/norm/scale", "norm.weight"),
        Row("image_encoder/norm/bias", "norm.bias"),
        Row("mask_token", "mask_token"),
        Row("head/kernel", "head.weight", LINEAR),
        Row("head/bias", "head.bias"),
    ),
    ignored={
        "decoder_*": "the decoder of MAE's pretraining",
        "head.*": "a head of pretraining",
        "fc_norm.*": "a classifier's head",
        "dino_head.*": "a head of pretraining",
        "ibot_head.*": "a head of pretraining",
    },
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, whatever wraps them."""
    names = {unwrapped(name, WRAPPERS) for name in names}
    has_qkv = names & {"blocks.0.attn.qkv.weight", "blocks.0.attn.q.weight"}
    is_video = "time_embed" in names  # TimeSformer; other video transformers have no class token
    return bool(has_qkv) and {"cls_token", "patch_embed.proj.weight"} <= names and not is_video


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table, with q, k, v joined and the parts of gated networks apart.

    Raises UserError where two tensors would get one name, and for rotary positions of other
    periods than DINOv3's.
    """
    made = renamed(tensors, _spelt)
    is_rotary = "pos_embed" not in made
    for name in [n for n in made if n.endswith(".attn.q.weight")]:
        block = name.removesuffix("q.weight")
        for kind in ("weight", "bias"):
            parts = [made.pop(f"{block}{c}.{kind}") for c in "qkv"]
            made[f"{block}qkv.{kind}"] = np.concatenate(parts)
    for name in [n for n in made if n.endswith(".mlp.w12.weight")]:
        _part_gate(made, name.removesuffix("w12.weight"), "w12")
    for name in [n for n in made if n.endswith(".mlp.fc1.weight")]:  # timm joins them too
        block = name.removesuffix("fc1.weight")
        down = made.get(f"{block}fc2.weight")
        if down is not None and len(made[name]) == 2 * down.shape[1]:
            _part_gate(made, block, "fc1")
    for name in [n for n in made if is_rotary and n.endswith(".attn.qkv.bias")]:
        _part_bias(made, name)
    if not is_rotary:
        made["pos_embed"] = _with_class_position(made["pos_embed"])
    elif "mask_token" in made:  # its own program has one axis less than the public class
        made["mask_token"] = made["mask_token"].reshape(1, 1, -1)
    periods = made.pop("rope_embed.periods", None)
    if periods is not None:
        expected = 100.0 ** (np.arange(len(periods)) / len(periods))
        if not np.allclose(np.asarray(periods, np.float64), expected, rtol=1e-2):
            raise UserError(
                "rope_embed.periods are not those of DINOv3 (from 1 towards 100); expected its "
                "rotary positions; use another checkpoint"
            )
    return made


def outside_names(tensors: Flat, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors of the table as timm names them, whose gated networks and scales differ by family."""
    is_rotary = "pos_embed" not in tensors
    made = dict(tensors)
    if is_rotary:
        names = {".ls1.gamma": ".gamma_1", ".ls2.gamma": ".gamma_2"}
        if any(".mlp.gate." in name for name in tensors):
            names |= {".mlp.gate.": ".mlp.fc1_g.", ".mlp.fc1.": ".mlp.fc1_x."}
        for mine, theirs in names.items():
            made = {name.replace(mine, theirs): tensor for name, tensor in made.items()}
        return made
    for name in [name for name in made if ".mlp.gate." in name]:
        up = name.replace(".gate.", ".fc1.")
        made[up] = np.concatenate([made.pop(name), made[up]])
    return made


def config_of(tensors: Flat) -> dict[str, Any]:
    """The config.json of the public class that computes the same, from shapes and names.

    Raises UserError where the number of heads cannot be inferred.
    """
    made = canonical(tensors)
    width, _, patch, _ = made["patch_embed.proj.weight"].shape
    depth = 1 + max(int(n.split(".")[1]) for n in made if n.startswith("blocks."))
    block, registers = "blocks.0", made.get("reg_token")
    is_gated = f"{block}.mlp.gate.weight" in made
    family = _family(made)
    heads = HEADS.get((family, width), width // 64)
    if not heads or width % heads:
        raise UserError(
            f"these weights have a width of {width}, for which the number of attention heads is "
            f"not known; expected a multiple of 64; give a folder with config.json"
        )
    positions = made.get("pos_embed")
    config = {
        "model_type": family,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "hidden_act": "silu" if is_gated and family == "dinov3_vit" else "gelu",
        "patch_size": patch,
        "image_size": 224 if positions is None else patch * math.isqrt(positions.shape[1] - 1),
        "layer_norm_eps": 1e-6,
        "num_channels": 3,
        "use_mask_token": "mask_token" in made and family != "vit",
    }
    hidden = made[f"{block}.mlp.fc1.weight"].shape[0]
    if registers is not None:
        config["num_register_tokens"] = registers.shape[1]
    if family == "vit":
        has_head = "head.weight" in made
        config["architectures"] = ["ViTForImageClassification" if has_head else "ViTModel"]
        config["num_labels"] = len(made["head.weight"]) if has_head else 2
        is_parted = any(name.endswith(".attn.q.weight") for name in tensors)
        config |= {
            "intermediate_size": hidden,
            "add_pooling_layer": False,
            "qkv_bias": f"{block}.attn.qkv.bias" in made,
            "layer_norm_eps": 1e-5 if is_parted else 1e-6,  # parted: SurgVISTA's EndoSSL
        }
    elif family == "dinov3_vit":
        config |= {
            "architectures": ["DINOv3ViTModel"],
            "intermediate_size": hidden,
            "use_gated_mlp": is_gated,
            "num_register_tokens": 0 if registers is None else registers.shape[1],
            "layer_norm_eps": 1e-6 if registers is None else 1e-5,  # none: SurgeNetXL's
        }
        fields = {"query_bias": "q", "key_bias": "k", "value_bias": "v"}
        config |= {f: f"{block}.attn.{c}_bias" in made for f, c in fields.items()}
    else:
        kind = "Dinov2Model" if registers is None else "Dinov2WithRegistersModel"
        # The public class computes a gated network's width from the ratio; 4 gives it back.
        ratio = 4 if is_gated else hidden // width
        config |= {"architectures": [kind], "mlp_ratio": ratio, "use_swiglu_ffn": is_gated}
    return config


def check_config(config: Mapping[str, Any], source: str) -> list[str]:
    """As of the public class that computes the same."""
    return _public(config).check_config(config, source)


def encoder_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `ImageViT` that computes the same; `config` is made by `config_of`."""
    return _public(config).encoder_arguments(config)


def network(config: Mapping[str, Any], *, rngs):
    """The network of the public class that computes the same."""
    return _public(config).network(config, rngs=rngs)


def example(config: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of the public class that computes the same."""
    return _public(config).example(config, rng)


def prepare(config: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As of the public class that computes the same."""
    return _public(config).prepare(config, inputs)


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Nothing: such files do not say how many attention heads there are."""
    return {}


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Raises UserError: a run has a video transformer, or a head that these classes lack."""
    raise UserError(
        "this format holds image transformers with their own heads, which no run trains; expected "
        "--format=videomae or videomae_official for a video encoder"
    )


def _public(config: Mapping[str, Any]):
    return find_format(FORMATS[config["model_type"]])


def _family(tensors: Flat) -> str:
    """The model_type of the public class, from names as in the table."""
    if "pos_embed" not in tensors:
        return "dinov3_vit"
    if "blocks.0.ls1.gamma" not in tensors:
        return "vit"
    return "dinov2_with_registers" if "reg_token" in tensors else "dinov2"


def _part_gate(tensors: dict[str, np.ndarray], block: str, joined: str) -> None:
    """Part a gated network's first map, in place: gate, then up."""
    for kind in ("weight", "bias"):
        gate, up = np.split(tensors.pop(f"{block}{joined}.{kind}"), 2)
        tensors[f"{block}gate.{kind}"], tensors[f"{block}fc1.{kind}"] = gate, up


def _part_bias(tensors: dict[str, np.ndarray], name: str) -> None:
    """Part a joined bias, in place. Official files mask that of the keys, which is then no bias."""
    bias = np.asarray(tensors.pop(name), np.float32)
    mask = tensors.pop(f"{name}_mask", None)
    if mask is not None:
        bias = np.where(np.asarray(mask) == 0, np.float32(0), bias)
    for letter, part in zip("qkv", np.split(bias, 3), strict=True):
        if letter != "k" or mask is None:
            tensors[name.replace("qkv.bias", f"{letter}_bias")] = part


def _with_class_position(positions: np.ndarray) -> np.ndarray:
    """(1, 1 + patches, d) positions; files with those of the patches alone add none to the class
    token."""
    patches = positions.shape[1]
    if math.isqrt(patches) ** 2 != patches or math.isqrt(patches - 1) ** 2 == patches - 1 > 0:
        return positions
    return np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)


def _spelt(name: str) -> str:
    name = unwrapped(name, WRAPPERS)
    for pattern, spelling in SPELLINGS:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, spelling, name)
    return name
