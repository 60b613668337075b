"""The layout of VideoMAE's own programs (`.pth`), which the released `surgrec_mae.pth` shares.

A pretraining file names its networks `encoder.` and `decoder.`; a fine-tuning file is an encoder
without that prefix, beside `fc_norm.` and `head.`. Programs wrap the names further; the wrappers
are taken off before the table is read.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from surgjax.errors import UserError
from surgjax.interop.keys import LINEAR, Flat, Row, Table, renamed, tubelet

MODEL_TYPE = None  # no config.json: told by its tensor names
LICENCE = "CC-BY-NC-4.0"  # of the releases in this layout; such a file states none itself
WEIGHTS = "checkpoint.pth"
WRAPPERS = ("module.", "model.", "backbone.", "student.", "teacher.", "_orig_mod.")
BIASES = (("q_bias", "q_bias"), ("v_bias", "v_bias"))
# A bare encoder, as fine-tuning programs write it.
_BARE = ("patch_embed.", "blocks.", "norm.", "pos_embed")


def block_rows(
    ours: str, outside: str, biases: Sequence[tuple[str, str]] = BIASES
) -> tuple[Row, ...]:
    """Rows of a stack of transformer blocks; `outside` is the name of one layer, with `{i}`.

    `biases` names those of the attention: pairs of ours and theirs.
    """
    rows = [Row(f"{ours}/attention/qkv/kernel", f"{outside}.attn.qkv.weight", LINEAR)]
    rows += [Row(f"{ours}/attention/{a}", f"{outside}.attn.{b}") for a, b in biases]
    for norm in ("norm1", "norm2"):
        rows.append(Row(f"{ours}/{norm}/scale", f"{outside}.{norm}.weight"))
        rows.append(Row(f"{ours}/{norm}/bias", f"{outside}.{norm}.bias"))
    linears = {"attention/out": "attn.proj", "mlp/up": "mlp.fc1", "mlp/down": "mlp.fc2"}
    for mine, theirs in linears.items():
        rows.append(Row(f"{ours}/{mine}/kernel", f"{outside}.{theirs}.weight", LINEAR))
        rows.append(Row(f"{ours}/{mine}/bias", f"{outside}.{theirs}.bias"))
    return tuple(rows)


TABLE = Table(
    rows=(
        Row("encoder/embed/kernel", "encoder.patch_embed.proj.weight", tubelet()),
        Row("encoder/embed/bias", "encoder.patch_embed.proj.bias"),
        *block_rows("encoder/blocks", "encoder.blocks.{i}"),
        Row("encoder/norm/scale", "encoder.norm.weight"),
        Row("encoder/norm/bias", "encoder.norm.bias"),
        Row("decoder/embed/kernel", "encoder_to_decoder.weight", LINEAR),
        Row("decoder/mask_token", "mask_token"),
        *block_rows("decoder/blocks", "decoder.blocks.{i}"),
        Row("decoder/norm/scale", "decoder.norm.weight"),
        Row("decoder/norm/bias", "decoder.norm.bias"),
        Row("decoder/head/kernel", "decoder.head.weight", LINEAR),
        Row("decoder/head/bias", "decoder.head.bias"),
        Row("head/norm/scale", "fc_norm.weight"),
        Row("head/norm/bias", "fc_norm.bias"),
        Row("head/classifier/kernel", "head.weight", LINEAR),
        Row("head/classifier/bias", "head.bias"),
    ),
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, whatever wraps them: a q_bias beside the embedding."""
    names = list(names)
    return any(name.endswith("patch_embed.proj.weight") for name in names) and any(
        name.endswith("blocks.0.attn.q_bias") for name in names
    )


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table. Raises UserError where two tensors would get one name."""

    def rename(name: str) -> str:
        short = _unwrapped(name)
        return f"encoder.{short}" if short.startswith(_BARE) else short

    return renamed(tensors, rename)


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Such a file has no settings. Raises UserError where its programs lack our positions."""
    positions = objective.encoder.positions
    if positions != "sincos_1d":
        raise UserError(
            f"encoder.positions={positions!r} cannot be exported: VideoMAE's programs have "
            f" fixed one-dimensional positions; expected 'sincos_1d'; train with it to export"
        )
    return {}


def usage(frames: int) -> str:
    """Code that loads an exported file, for its card."""
    return """import torch

checkpoint = torch.load(folder + "/checkpoint.pth", weights_only=True)
model.load_state_dict(checkpoint["model"])  # PretrainVisionTransformer of the VideoMAE programs"""


def has_reference() -> bool:
    """No: those programs are no installable package to compare with."""
    return False


def _unwrapped(name: str) -> str:
    """`module.backbone.encoder.x` -> `encoder.x`, as `encoder.encoder.x` and `encoder.module.x`."""
    while True:
        inner = name.removeprefix("encoder.")
        wrapped = inner != name and inner.startswith(("encoder.", "decoder.", *WRAPPERS))
        short = inner if wrapped else name
        for wrapper in WRAPPERS:
            short = short.removeprefix(wrapper)
        if short == name:
            return name
        name = short
