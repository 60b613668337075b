"""Image transformers with a class token in timm's names: those of MAE, EndoSSL, EndoViT and others.

Such a file holds one network; files of MAE's pretraining also hold its decoder, which is left out.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from einops import rearrange

from surgjax.errors import UserError
from surgjax.interop.keys import LINEAR, Flat, Row, Table, Transform

MODEL_TYPE = None  # no config.json of ours: told by its tensor names
LICENCE = "unknown"
WEIGHTS = "model.safetensors"
WRAPPERS = ("module.", "model.", "backbone.", "encoder.", "_orig_mod.")


def patches(side: int = 16) -> Transform:
    """Conv2d weight (d, c, h, w) <-> kernel over flat patches, rows in (h, w, c) order."""
    return Transform(
        lambda conv: rearrange(conv, "d c h w -> (h w c) d"),
        lambda kernel, _: [rearrange(kernel, "(h w c) d -> d c h w", h=side, w=side)],
    )


def block_rows(ours: str, outside: str) -> tuple[Row, ...]:
    """Rows of a stack of transformer blocks; `outside` is the name of one layer, with `{i}`."""
    rows = []
    for norm in ("norm1", "norm2"):
        rows.append(Row(f"{ours}/{norm}/scale", f"{outside}.{norm}.weight"))
        rows.append(Row(f"{ours}/{norm}/bias", f"{outside}.{norm}.bias"))
    linears = {"attention/qkv": "attn.qkv", "attention/out": "attn.proj"}
    linears |= {"mlp/up": "mlp.fc1", "mlp/down": "mlp.fc2"}
    for mine, theirs in linears.items():
        rows.append(Row(f"{ours}/{mine}/kernel", f"{outside}.{theirs}.weight", LINEAR))
        rows.append(Row(f"{ours}/{mine}/bias", f"{outside}.{theirs}.bias"))
    return tuple(rows)


TABLE = Table(
    rows=(
        Row("image_encoder/cls_token", "cls_token"),
        Row("image_encoder/positions", "pos_embed"),
        Row("image_encoder/embed/kernel", "patch_embed.proj.weight", patches()),
        Row("image_encoder/embed/bias", "patch_embed.proj.bias"),
        *block_rows("image_encoder/blocks", "blocks.{i}"),
        Row("image_encoder/norm/scale", "norm.weight"),
        Row("image_encoder/norm/bias", "norm.bias"),
    ),
    ignored={
        "decoder_*": "the decoder of MAE's pretraining",
        "mask_token": "the decoder of MAE's pretraining",
        "head.*": "a classifier's head",
        "fc_norm.*": "a classifier's head",
    },
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, whatever wraps them."""
    names = {_unwrapped(name) for name in names}
    return {"cls_token", "pos_embed", "blocks.0.attn.qkv.bias"} <= names


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table. Raises UserError where two tensors would get one name."""
    made: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = _unwrapped(name)
        if short in made:
            raise UserError(
                f"two tensors of the file mean {short!r}, one of them {name!r}; expected one "
                f"model; keep one of them in the file"
            )
        made[short] = tensor
    return made


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Nothing: such folders do not say how many attention heads there are."""
    return {}


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Raises UserError: no objective trains an image transformer."""
    raise UserError(
        "a run's encoder is a video transformer and this format holds image transformers; "
        "expected --format=videomae or videomae_official"
    )


def _unwrapped(name: str) -> str:
    while True:
        short = name
        for wrapper in WRAPPERS:
            short = short.removeprefix(wrapper)
        if short == name:
            return name
        name = short
