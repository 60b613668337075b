"""Image transformers with a class token in timm's names: those of MAE, EndoSSL, EndoViT and others.

Such a file holds one network; files of MAE's pretraining also hold its decoder, which is left out.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from einops import rearrange

from surgjax.errors import UserError
from surgjax.interop.keys import Flat, Row, Table, Transform, renamed
from surgjax.interop.videomae_official import block_rows

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


TABLE = Table(
    rows=(
        Row("image_encoder/cls_token", "cls_token"),
        Row("image_encoder/positions", "pos_embed"),
        Row("image_encoder/embed/kernel", "patch_embed.proj.weight", patches()),
        Row("image_encoder/embed/bias", "patch_embed.proj.bias"),
        *block_rows("image_encoder/blocks", "blocks.{i}", [("qkv/bias", "qkv.bias")]),
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
    return renamed(tensors, _unwrapped)


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
