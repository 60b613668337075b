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
            f"encoder.positions is {positions!r}{nearest(positions, TABLES)}; "
            f"choose one of {', '.join(TABLES)}"
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


TABLES = {"sincos_1d": sincos_1d, "sincos_3d": sincos_3d}
