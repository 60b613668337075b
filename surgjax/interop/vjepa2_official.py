"""The layout of V-JEPA's own programs (`.pt`), which the released `surgrec_jepa.pt` shares.

Such a file keeps `encoder`, `predictor` and `target_encoder` side by side, and their tensors in
wrappers (`module.backbone.`). The target encoder, the average that is evaluated there, is taken
where the file has it; an export writes the average under both names. V-JEPA (1) files have the same
names and fixed positions, the table "sincos_3d": nothing in a file tells the two apart for sure.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from surgjax.errors import UserError
from surgjax.interop.keys import Flat, Row, Table, Transform, renamed, tubelet, unwrapped
from surgjax.interop.videomae_official import block_rows
from surgjax.interop.vjepa2 import affine, fitted, linear

__all__ = ["fitted"]

MODEL_TYPE = None  # no config.json: told by its tensor names
WEIGHTS = "checkpoint.pt"
LICENCE = "unknown"  # V-JEPA 2's releases are MIT, V-JEPA's CC-BY-NC-4.0; a file states none
POSITIONS = "rope_3d"
WRAPPERS = ("module.", "model.", "backbone.", "_orig_mod.", "student.", "teacher.")
WRAPPERS += ("encoder.", "target_encoder.", "predictor.")
BIAS = [("qkv/bias", "qkv.bias")]

TABLE = Table(
    rows=(
        Row("encoder/embed/kernel", "encoder.patch_embed.proj.weight", tubelet()),
        Row("encoder/embed/bias", "encoder.patch_embed.proj.bias"),
        *block_rows("encoder/blocks", "encoder.blocks.{i}", BIAS),
        *affine("encoder/norm", "encoder.norm"),
        *linear("predictor/embed", "predictor.predictor_embed"),
        # One list entry a token: one layer of ours.
        Row(
            "predictor/mask_token",
            "predictor.mask_tokens.{i}",
            Transform(lambda token: token[0], lambda token, _: [token[None]]),
        ),
        *block_rows("predictor/blocks", "predictor.predictor_blocks.{i}", BIAS),
        *affine("predictor/norm", "predictor.predictor_norm"),
        *linear("predictor/head", "predictor.predictor_proj"),
    ),
    ignored={
        "encoder.pos_embed": "a fixed table: V-JEPA 2 turns queries and keys, V-JEPA has sincos_3d",
        "predictor.predictor_pos_embed": "a fixed table, as encoder.pos_embed",
    },
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, whatever wraps them: one bias for q, k and v, and no
    class token, which image transformers of the same names have."""
    names = {unwrapped(name, WRAPPERS) for name in names}
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.bias"} <= names and not (
        {"cls_token", "attn_pool.latent"} & names
    )


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table; of encoder and target encoder, the latter where there are both.

    Raises UserError where two tensors would get one name.
    """
    if any(name.startswith("target_encoder.") for name in tensors):
        tensors = {name: x for name, x in tensors.items() if not name.startswith("encoder.")}

    def rename(name: str) -> str:
        short = unwrapped(name, WRAPPERS)
        part = "predictor" if short.startswith(("predictor_", "mask_tokens.")) else "encoder"
        return f"{part}.{short}"

    return renamed(tensors, rename)


def content(model: dict[str, Any], metadata: dict[str, str]) -> dict[str, Any]:
    """The file's parts, as the programs read them."""
    parts: dict[str, dict[str, Any]] = {"encoder": {}, "predictor": {}}
    for name, tensor in model.items():
        part, _, short = name.partition(".")
        parts[part][f"module.backbone.{short}"] = tensor
    held = {name: part for name, part in parts.items() if part}
    return held | {"target_encoder": parts["encoder"], **metadata}


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Such a file has no settings. Raises UserError where its programs lack our positions."""
    positions = objective.encoder.positions
    if positions not in ("rope_3d", "sincos_3d"):
        raise UserError(
            f"encoder.positions={positions!r} cannot be exported: V-JEPA's programs have "
            f"'rope_3d' or 'sincos_3d'; train with one of them to export"
        )
    return {}


def usage(frames: int) -> str:
    """Code that loads an exported file, for its card."""
    return """import torch

checkpoint = torch.load(folder + "/checkpoint.pt", weights_only=True)
weights = {k.removeprefix("module.backbone."): v for k, v in checkpoint["target_encoder"].items()}
encoder.load_state_dict(weights, strict=False)  # VisionTransformer of the V-JEPA 2 programs"""


def has_reference() -> bool:
    """No: those programs are no installable package to compare with."""
    return False
