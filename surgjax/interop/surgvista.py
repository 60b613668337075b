"""The layout of SurgVISTA's own programs: an encoder, and decoders of pixels and of features.

The names of the pixel decoder end with `_vid`, those of the feature decoder with `_img`. Their
files hold the fixed position tables as `pos_embed`, `pos_embed_img` and `pos_embed_vid`. They
must be those of `sincos_time_space`; fine-tuned files may hold learned ones, which our encoder does
not have. An export writes the tables too, computed in float64: equal to theirs within 1e-5, all
other tensors bit for bit. The weights themselves were not public when this was written.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from surgjax.errors import UserError
from surgjax.interop.keys import LINEAR, Flat, Row, Table, renamed, tubelet, unwrapped
from surgjax.interop.videomae_official import block_rows
from surgjax.models import posemb

MODEL_TYPE = None  # no config.json: told by its tensor names
LICENCE = "CC-BY-NC-ND-4.0"  # README of the release, which has no licence file
WEIGHTS = "checkpoint.pth"
POSITIONS = "sincos_time_space"
WRAPPERS = ("module.", "model.", "backbone.", "encoder.", "student.", "_orig_mod.")
# Our networks -> what their names end with.
DECODERS = {"decoder": "vid", "feature_decoder": "img"}


def _decoder_rows(ours: str, kind: str) -> tuple[Row, ...]:
    outside = f"decoder_{kind}"
    return (
        Row(f"{ours}/embed/kernel", f"down_{kind}.weight", LINEAR),
        Row(f"{ours}/embed/bias", f"down_{kind}.bias"),
        Row(f"{ours}/mask_token", f"mask_token_{kind}"),
        *block_rows(f"{ours}/blocks", f"{outside}.blocks.{{i}}"),
        Row(f"{ours}/norm/scale", f"{outside}.norm.weight"),
        Row(f"{ours}/norm/bias", f"{outside}.norm.bias"),
        Row(f"{ours}/head/kernel", f"{outside}.head.weight", LINEAR),
        Row(f"{ours}/head/bias", f"{outside}.head.bias"),
    )


TABLE = Table(
    rows=(
        Row("encoder/embed/kernel", "patch_embed.proj.weight", tubelet()),
        Row("encoder/embed/bias", "patch_embed.proj.bias"),
        *block_rows("encoder/blocks", "blocks.{i}"),
        Row("encoder/norm/scale", "norm.weight"),
        Row("encoder/norm/bias", "norm.bias"),
        *(row for ours, kind in DECODERS.items() for row in _decoder_rows(ours, kind)),
    ),
)


def recognises(names: Iterable[str]) -> bool:
    """True for tensor names of this layout, whatever wraps them; with or without the decoders."""
    wanted = {"pos_embed", "patch_embed.proj.weight", "blocks.0.attn.q_bias"}
    return wanted <= {unwrapped(name, WRAPPERS) for name in names}


def canonical(tensors: Flat) -> dict[str, np.ndarray]:
    """Names as in the table, without the position tables.

    Raises UserError for tables of other values, and where two tensors would get one name.
    """
    made = renamed(tensors, lambda name: unwrapped(name, WRAPPERS))
    for name in [name for name in made if name.startswith("pos_embed")]:
        table = np.asarray(made.pop(name), np.float32)
        if not _is_ours(table):
            raise UserError(
                f"{name!r} of shape {table.shape} is not the fixed table over time and space of "
                f"SurgVISTA's pretraining; expected its values, as our encoder has; fine-tuned "
                f"files with learned positions cannot be used"
            )
    return made


def json_files(objective, params: Flat) -> dict[str, dict[str, Any]]:
    """Such a file has no settings. Raises UserError where its programs lack our positions."""
    positions = objective.encoder.positions
    if positions != POSITIONS:
        raise UserError(
            f"encoder.positions={positions!r} cannot be exported as surgvista: its programs have "
            f"{POSITIONS!r}; train with it, or export as videomae"
        )
    return {}


def fixed_tensors(objective, params: Flat) -> dict[str, np.ndarray]:
    """The position tables, which are tensors in this layout and none of ours."""
    networks = {"encoder": "pos_embed"}
    networks |= {ours: f"pos_embed_{kind}" for ours, kind in DECODERS.items()}
    made = {}
    for ours, name in networks.items():
        if f"{ours}/embed/kernel" in params:
            width = params[f"{ours}/embed/kernel"].shape[1]
            made[name] = posemb.table(POSITIONS, objective.encoder.grid, width)[None]
    return made


def usage(frames: int) -> str:
    """Code that loads an exported file, for its card."""
    return """import torch

checkpoint = torch.load(folder + "/checkpoint.pth", weights_only=True)
model.load_state_dict(checkpoint["model"])  # PretrainMaskedVideoStudent of SurgVISTA's programs"""


def has_reference() -> bool:
    """No: those programs are no installable package to compare with."""
    return False


def heads(config: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Nothing: such files do not say how many attention heads there are."""
    return {}


def _is_ours(table: np.ndarray) -> bool:
    """Whether it is our table for any grid of so many tokens with square frames."""
    if table.ndim != 3 or len(table) != 1 or table.shape[2] % 16:
        return False
    tokens, width = table.shape[1:]
    sides = (side for side in range(1, tokens + 1) if tokens % side**2 == 0)
    grids = ((tokens // side**2, side, side) for side in sides)
    return any(
        np.allclose(posemb.table(POSITIONS, grid, width), table[0], rtol=0, atol=1e-4)
        for grid in grids
    )
