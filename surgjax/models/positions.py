"""How tokens know where they are: rows of a fixed table, or turned queries and keys."""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from surgjax.errors import UserError
from surgjax.models import posemb
from surgjax.models.layers import Rotation

ROPE_3D = "rope_3d"


def check(positions: str, grid: posemb.Grid, width: int, heads: int) -> None:
    """Raise UserError for an unknown name, or a width that cannot carry these positions."""
    if positions != ROPE_3D:
        posemb.table(positions, grid, width)
    elif width // heads < 6:
        raise UserError(
            f"encoder.positions is 'rope_3d', which needs attention heads of at least 6 channels; "
            f"this network has {width // heads}"
        )


def placed(
    x: Float[Array, "b n d"],
    tokens: Int[Array, "b n"] | None,
    *,
    positions: str,
    grid: posemb.Grid,
    heads: int,
) -> tuple[Float[Array, "b n d"], Rotation | None]:
    """Tokens with their positions, and the rotation that their attention needs, if any.

    Args:
      tokens: places in the flattened grid; None for all in their order.
      positions: a name of `posemb.TABLES`, whose rows are added, or "rope_3d".
    """
    width = x.shape[-1]
    if positions == ROPE_3D:
        tokens = np.arange(x.shape[1])[None] if tokens is None else tokens
        return x, rotation_3d(tokens, grid[1:], width // heads)
    table = jnp.asarray(posemb.table(positions, grid, width), x.dtype)
    return x + (table if tokens is None else table[tokens]), None


def rotation_3d(
    tokens: Int[Array | np.ndarray, "#b n"], places: tuple[int, int], width: int
) -> Rotation:
    """V-JEPA 2's rotary positions (arXiv 2506.09985, section 2.1; `modules.py` of its programs).

    Time, row and column turn 2 floor(width / 6) channels of a head each; the rest is left alone.
    Of an axis' a channels the pairs (0, 1), (2, 3), ... are turned, but channel j has the angle
    position * 10000^(-2 (j mod a/2) / a): the two channels of a pair have different angles, so
    this is no rotation. Public weights were trained so.

    Args:
      tokens: places in the flattened grid; their number in time is not bounded.
      places: tokens in height and width. width: of a head.
    """
    rows, columns = places
    per_frame = rows * columns
    axes = (tokens // per_frame, tokens % per_frame // columns, tokens % columns)
    each = 2 * (width // 6)
    half = jnp.asarray(10000.0 ** (-np.arange(each // 2) * 2 / each), jnp.float32)
    angles = [jnp.asarray(axis, jnp.float32)[..., None] * jnp.tile(half, 2) for axis in axes]
    angle = jnp.pad(jnp.concatenate(angles, axis=-1), ((0, 0), (0, 0), (0, width - 3 * each)))
    cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]  # (b n 1 hd)

    def rotate(x: Float[Array, "b n heads hd"]) -> Float[Array, "b n heads hd"]:
        # A product with a permutation: strided channels are slow to walk on every backend.
        turn = jnp.asarray(_turn(3 * each, width), x.dtype)
        turned = jnp.einsum("bnhi,ij->bnhj", x, turn, precision="highest")
        return (x * cos + turned * sin).astype(x.dtype)

    return rotate


@lru_cache
def _turn(turned: int, width: int) -> Float[np.ndarray, "hd hd"]:
    """The matrix of (x0, x1, x2, x3, ...) -> (-x1, x0, -x3, x2, ...) on the first channels."""
    matrix = np.zeros((width, width), np.float32)
    even = np.arange(0, turned, 2)
    matrix[even + 1, even], matrix[even, even + 1] = -1, 1
    matrix.setflags(write=False)
    return matrix
