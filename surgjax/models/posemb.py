"""Fixed position tables: numpy in float64, cast to float32 once, never a parameter."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float

from surgjax.errors import UserError, nearest

Grid = tuple[int, int, int]


@lru_cache(maxsize=32)
def table(positions: str, grid: Grid, width: int) -> Float[np.ndarray, "n d"]:
    """The table named `positions` for a (t, h, w) grid in raster order; float32, read-only.

    Raises:
      UserError: unknown name.
    """
    if positions not in TABLES:
        raise UserError(
            f"encoder.positions is {positions!r}{nearest(positions, [*TABLES, 'rope_3d'])}; "
            f"choose one of {', '.join(TABLES)}, rope_3d"
        )
    values = TABLES[positions](grid, width).astype(np.float32)
    values.setflags(write=False)  # shared by every network of this shape
    return values


def sincos_1d(grid: Grid, width: int) -> Float[np.ndarray, "n d"]:
    """VideoMAE's table (its appendix, after "Attention is all you need" section 3.5), in float64.

    Position p counts tokens of the flattened grid; angle p / 10000^(2 floor(j/2) / d), sine in even
    channels and cosine in odd ones. The public PyTorch classes hold the same table.
    """
    position = np.arange(np.prod(grid), dtype=np.float64)[:, None]
    channel = np.arange(width)
    angle = position / 10000.0 ** (2 * (channel // 2) / width)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))


def sincos_3d(grid: Grid, width: int) -> Float[np.ndarray, "n d"]:
    """V-JEPA's table with equal shares for the axes (arXiv 2404.08471, section 3), in float64.

    Each axis (t, h, w) has 2 ceil(d/6) channels, [sines | cosines] with frequencies
    10000^(-i / ceil(d/6)); the three are concatenated and cut to d.
    """
    half = -(-width // 6)
    frequency = 10000.0 ** (-np.arange(half, dtype=np.float64) / half)
    axes = np.meshgrid(*(np.arange(extent, dtype=np.float64) for extent in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in axes]
    parts = [part for angle in angles for part in (np.sin(angle), np.cos(angle))]
    return np.concatenate(parts, axis=1)[:, :width]


def sincos_time_space(grid: Grid, width: int) -> Float[np.ndarray, "n d"]:
    """SurgVISTA's table (MVD's, arXiv 2212.04500), in float64.

    A quarter of the channels is for time, then equal shares of the rest for column and row; each
    axis is [sines | cosines] with frequencies 10000^(-i / half its channels).

    Raises:
      UserError: 16 does not divide the width.
    """
    if width % 16:
        raise UserError(
            f"encoder.positions is 'sincos_time_space', which needs widths that 16 divides; "
            f"this network has {width}"
        )
    time, row, column = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid), indexing="ij")
    parts = []
    for axis, channels in ((time, width // 4), (column, width * 3 // 8), (row, width * 3 // 8)):
        half = channels // 2
        angle = axis.reshape(-1, 1) * 10000.0 ** (-np.arange(half, dtype=np.float64) / half)
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, axis=1)


TABLES = {
    "sincos_1d": sincos_1d,
    "sincos_3d": sincos_3d,
    "sincos_time_space": sincos_time_space,
}
