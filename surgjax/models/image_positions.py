"""Where a picture's patches lie: learned tables at another size, and rotations by place."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from surgjax.models.layers import Rotation


def resampled(
    table: Float[Array, "rows columns d"], grid: tuple[int, int], *, antialias: bool = False
) -> Float[Array, "h w d"]:
    """A table of positions on another grid, by PyTorch's bicubic interpolation; float32."""
    down, across = (
        jnp.asarray(bicubic(table.shape[axis], grid[axis], antialias)) for axis in (0, 1)
    )
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("hr,rcd,wc->hwd", down, table, across, precision=exact)


def bicubic(inputs: int, outputs: int, antialias: bool) -> Float[np.ndarray, "outputs inputs"]:
    """Weights of `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`; float32.

    Keys' cubic convolution (IEEE ASSP 29, 1981), places half a pixel from the border. PyTorch takes
    a = -0.75 and repeats the border; with `antialias` a = -0.5, a kernel as wide as an output pixel
    where the table shrinks, and weights that sum to one over what is inside.
    """
    scale = inputs / outputs
    reach = max(scale, 1.0) if antialias else 1.0
    weights = np.zeros((outputs, inputs))
    for row in range(outputs):
        centre = (row + 0.5) * scale - 0.5
        first, last = int(np.floor(centre - 2 * reach)), int(np.ceil(centre + 2 * reach))
        for place in range(first, last + 1):
            weight = _keys((place - centre) / reach, -0.5 if antialias else -0.75)
            if not antialias:
                weights[row, np.clip(place, 0, inputs - 1)] += weight
            elif 0 <= place < inputs:
                weights[row, place] = weight
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def half_rotation(
    grid: tuple[int, int], head_width: int, *, prefix: int, frames: int = 1, base: float = 100.0
) -> Rotation:
    """DINOv3's rotary positions (arXiv 2508.10104, section 3.2; its released code).

    A patch lies at the place of its centre, each axis from -1 to 1. Channel j of a head's first
    quarter turns by 2 pi row / base^(4j / head width), of its second quarter by that of the column;
    the second half of the channels holds the partners of the first. The first `prefix` tokens
    (class and registers) do not turn.

    Args:
      head_width: channels of one head, a multiple of 4.
      frames: pictures whose patches follow each other, each with the same places.
    """
    rows, columns = ((np.arange(n) + 0.5) / n * 2 - 1 for n in grid)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    places = np.tile(places, (frames, 1))
    frequency = base ** (-4 * np.arange(head_width // 4) / head_width)
    angles = (2 * np.pi * places[:, :, None] * frequency).reshape(len(places), -1)
    angles = np.concatenate([np.zeros((prefix, head_width // 2)), angles])[:, None]  # n 1 hd/2
    cosine, sine = (f(angles).astype(np.float32) for f in (np.cos, np.sin))

    def rotate(x: Float[Array, "b n heads hd"]) -> Float[Array, "b n heads hd"]:
        first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        turned = (first * cosine - second * sine, second * cosine + first * sine)
        return jnp.concatenate(turned, axis=-1).astype(x.dtype)

    return rotate


def _keys(x: float, a: float) -> float:
    """The cubic convolution kernel at distance x; 0 from 2 on."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0
