"""The video transformer of VideoMAE: tubelets in, tokens out (arXiv 2203.12602, section 3)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from surgjax.errors import UserError, nearest
from surgjax.models.layers import (
    Block,
    LayerNorm,
    Linear,
    remat_policy,
    run_stack,
    stack,
    uniform_fan_in,
)
from surgjax.models.positions import check, placed


class Size(NamedTuple):
    """An encoder and its MAE decoder, where it has one."""

    width: int
    depth: int
    heads: int
    decoder_width: int = 0
    decoder_depth: int = 0
    decoder_heads: int = 0
    mlp_ratio: float = 4.0


SIZES = {
    "T": Size(192, 4, 3, 96, 2, 3),  # not published: for demonstrations at 96 pixels
    "S": Size(384, 12, 6, 192, 4, 3),
    "B": Size(768, 12, 12, 384, 4, 6),
    "L": Size(1024, 24, 16, 512, 12, 8),
    "H": Size(1280, 32, 16, 640, 12, 8),
}


def size_of(name: str | Size) -> Size:
    """The row of `SIZES` called `name`, or the size itself.

    Raises:
      UserError: unknown name.
    """
    if isinstance(name, Size):
        return name
    if name not in SIZES:
        raise UserError(
            f"encoder.size is {name!r}{nearest(name, SIZES)}; choose one of {', '.join(SIZES)}"
        )
    return SIZES[name]


def token_grid(frames: int, image_size: int, patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tokens in time, height and width of a clip.

    Raises:
      UserError: the patch does not divide the clip.
    """
    for field, extent, step in (("frames", frames, patch[0]), ("size", image_size, patch[1])):
        if extent < step or extent % step:
            lower = extent // step * step
            fits = f"{lower} or {lower + step}" if lower else f"{step}"
            raise UserError(
                f"data.{field} is {extent}, which patches of {step} do not divide; use {fits}"
            )
    return frames // patch[0], image_size // patch[1], image_size // patch[2]


def tubelets(
    video: Shaped[Array | np.ndarray, "b t h w c"], patch: tuple[int, int, int]
) -> Shaped[Array | np.ndarray, "b n values"]:
    """Cut a video into cubes in raster order; a cube's values run (time, row, column, channel)."""
    p0, p1, p2 = patch
    return rearrange(
        video, "b (t p0) (h p1) (w p2) c -> b (t h w) (p0 p1 p2 c)", p0=p0, p1=p1, p2=p2
    )


class VideoViT(nnx.Module):
    """Joint space-time transformer over tubelets.

    Args:
      size: a name of `SIZES`, or a size of another folder's.
      frames, image_size: of the clips, which are square.
      positions: a name of `posemb.TABLES` or "rope_3d"; the public PyTorch classes of VideoMAE have
        "sincos_1d", those of V-JEPA 2 "rope_3d".
      qkv_bias: as in `layers.Attention`; VideoMAE has "qv", V-JEPA "all".
      layer_norm_eps: of the blocks. norm_eps: of the final norm, by default the same.
      final_norm: a norm after the last block; fine-tuned networks have theirs after the mean.
      remat, unroll: see `layers.run_stack`. drop_path: of the last block, growing from 0.
      dtype: of the computation; parameters are float32.

    Raises:
      UserError: unknown name, or a clip that the patch does not divide.
    """

    def __init__(
        self,
        size: str | Size,
        frames: int,
        image_size: int,
        *,
        final_norm: bool = True,
        positions: str = "sincos_1d",
        qkv_bias: str = "qv",
        patch: tuple[int, int, int] = (2, 16, 16),
        layer_norm_eps: float = 1e-6,
        norm_eps: float | None = None,
        remat: str = "none",
        unroll: int | bool = 1,
        drop_path: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, depth, self.heads, *_, mlp_ratio = size_of(size)
        self.patch = tuple(patch)
        self.grid = token_grid(frames, image_size, self.patch)
        self.positions = positions
        self.remat, self.unroll, self.drop_path = remat, unroll, drop_path
        self.dtype = jnp.dtype(dtype)
        if qkv_bias not in ("qv", "all"):
            raise UserError(f"encoder.qkv_bias is {qkv_bias!r}; choose 'qv' or 'all'")
        check(positions, self.grid, self.width, self.heads)
        remat_policy(remat)
        values = self.patch[0] * self.patch[1] * self.patch[2] * 3
        torch_default = uniform_fan_in(values)
        self.embed = Linear(
            values, self.width, kernel=torch_default, bias=torch_default, dtype=dtype, rngs=rngs
        )

        def make(rngs):
            return Block(
                self.width,
                self.heads,
                mlp_ratio=mlp_ratio,
                eps=layer_norm_eps,
                qkv_bias=qkv_bias,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = stack(make, depth, rngs)
        self.has_final_norm = final_norm
        if final_norm:
            norm_eps = layer_norm_eps if norm_eps is None else norm_eps
            self.norm = LayerNorm(self.width, eps=norm_eps, dtype=dtype, rngs=rngs)

    def tubelets(
        self, video: Shaped[Array | np.ndarray, "b t h w c"]
    ) -> Shaped[Array | np.ndarray, "b n values"]:
        """The clip's cubes in raster order, flattened (time, row, column, channel)."""
        return tubelets(video, self.patch)

    def __call__(
        self,
        video: Float[Array | np.ndarray, "b t h w c"],
        keep: Int[Array, "b k"] | None = None,
        rng: jax.Array | None = None,
    ) -> Float[Array, "b _ d"]:
        """Tokens of a normalised video after the final norm; with `keep`, those k tokens alone.

        Other tokens are dropped before the embedding and cannot influence the result. `rng` is one
        key per sample for drop path, or None in evaluation.
        """
        cubes = jnp.asarray(self.tubelets(video))
        if keep is not None:
            cubes = jnp.take_along_axis(cubes, keep[:, :, None], axis=1)
        return self.encode_tubelets(cubes, keep, rng)

    def encode_tubelets(
        self,
        cubes: Float[Array, "b k values"],
        keep: Int[Array, "b k"] | None = None,
        rng: jax.Array | None = None,
        seen: Bool[Array, "b k"] | None = None,
    ) -> Float[Array, "b k d"]:
        """`__call__` for cubes that are already cut and chosen; `keep` says where they were.

        Cubes where `seen` is False fill up the rows: they influence no other token.
        """
        x, rotate = placed(
            self.embed(cubes),
            keep,
            positions=self.positions,
            grid=self.grid,
            heads=self.heads,
        )
        x = run_stack(
            self.blocks,
            x,
            remat=self.remat,
            drop_path=self.drop_path,
            rng=rng,
            unroll=self.unroll,
            rotate=rotate,
            mask=None if seen is None else seen[:, None, None],
        )
        return self.norm(x) if self.has_final_norm else x


def normalised(
    pixels: Float[Array, "b m values"],
) -> tuple[Float[Array, "b m values"], Float[Array, "b m 3"], Float[Array, "b m 3"]]:
    """Cubes with zero mean and unit deviation in each channel: VideoMAE's target; float32.

    The variance is the unbiased one, and 1e-6 is added to its root (reference implementation,
    `engine_for_pretraining.py`).

    Returns:
      The normalised values, the mean, and the divisor.
    """
    count = pixels.shape[-1] // 3
    # Sums by channel as products: XLA's CPU backend walks strided values slowly.
    each = np.tile(np.eye(3, dtype=np.float32), (count, 1))
    total = partial(jnp.einsum, "bmv,vc->bmc", precision="highest")
    mean = total(pixels, each) / count
    centred = pixels - jnp.tile(mean, count)
    std = jnp.sqrt(total(jnp.square(centred), each) / (count - 1)) + 1e-6
    return centred / jnp.tile(std, count), mean, std
