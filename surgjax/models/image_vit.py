"""Image transformers with a class token: ViT (arXiv 2010.11929; as in MAE, arXiv 2111.06377),
DINOv2 (arXiv 2304.07193) and DINOv3 (arXiv 2508.10104)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from surgjax.errors import UserError, nearest
from surgjax.models.image_positions import half_rotation, resampled
from surgjax.models.layers import (
    Block,
    LayerNorm,
    Linear,
    QkvBias,
    Rotation,
    remat_policy,
    run_stack,
    stack,
)
from surgjax.models.video_vit import size_of

Grid = tuple[int, int]


class ImageViT(nnx.Module):
    """Tokens of pictures: the class token, registers, then patches in raster order.

    Args:
      size: a name of `video_vit.SIZES`, or (width, blocks, heads).
      image_size: of the square pictures that learned positions are for. patch: pixels a side.
      positions: "learned", resampled for pictures of another size, or "rotary" (DINOv3).
      antialias: of that resampling; DINOv2 with registers has it.
      registers: tokens beside the class token that stand for no place (arXiv 2309.16588).
      qkv_bias, layer_scale, activation, gated_mlp: as in `layers.Block`.
      mlp_width: of the hidden layer; by default four times the width.
      final_norm: a norm after the last block; MAE-style teachers are read without it.
      layer_norm_eps: of all norms.
      remat, unroll, drop_path: see `layers.run_stack`.
      dtype: of the computation; parameters are float32.

    Raises:
      UserError: unknown name, or pictures that the patch does not divide.
    """

    def __init__(
        self,
        size: str | Sequence[int],
        image_size: int,
        *,
        patch: int = 16,
        positions: str = "learned",
        antialias: bool = False,
        registers: int = 0,
        qkv_bias: QkvBias = "all",
        layer_scale: float | None = None,
        mlp_width: int | None = None,
        activation: str = "gelu",
        gated_mlp: bool = False,
        final_norm: bool = True,
        layer_norm_eps: float = 1e-6,
        remat: str = "none",
        unroll: int | bool = 1,
        drop_path: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, depth, heads = dimensions(size)
        if image_size < patch or image_size % patch:
            raise UserError(f"pictures of {image_size} pixels do not divide into {patch}-patches")
        if positions not in ("learned", "rotary"):
            hint = nearest(positions, ("learned", "rotary"))
            raise UserError(f"image positions are {positions!r}{hint}; choose learned or rotary")
        self.patch, self.side, self.prefix = patch, image_size // patch, 1 + registers
        self.is_rotary, self.antialias = positions == "rotary", antialias
        self.remat, self.unroll, self.drop_path = remat, unroll, drop_path
        self.dtype = jnp.dtype(dtype)
        remat_policy(remat)  # an unknown name fails here
        draw = lambda *shape: nnx.Param(normal(0.02)(rngs.params(), shape, jnp.float32))  # noqa: E731
        self.embed = Linear(3 * patch**2, self.width, dtype=dtype, rngs=rngs)
        self.cls_token = draw(1, 1, self.width)
        if registers:
            self.registers = draw(1, registers, self.width)
        if not self.is_rotary:
            self.positions = draw(1, 1 + self.side**2, self.width)

        def make(rngs):
            return Block(
                self.width,
                heads,
                mlp_ratio=(mlp_width or 4 * self.width) / self.width,
                eps=layer_norm_eps,
                qkv_bias=qkv_bias,
                layer_scale=layer_scale,
                activation=activation,
                gated_mlp=gated_mlp,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = stack(make, depth, rngs)
        if final_norm:
            self.norm = LayerNorm(self.width, eps=layer_norm_eps, dtype=dtype, rngs=rngs)
        self.has_final_norm = final_norm

    def __call__(
        self, patches: Float[Array, "b n values"], grid: Grid | None = None
    ) -> Float[Array, "b _ d"]:
        """(b, prefix + n, d) tokens of normalised pictures, cut by `video_vit.tubelets` (1, p, p).

        `grid` is rows and columns of patches, by default those of `image_size`.
        """
        return self.encode(self.embed(patches), grid)

    def encode(
        self,
        x: Float[Array, "b n d"],
        grid: Grid | None = None,
        keep: Int[Array, "b k"] | None = None,
        *,
        frames: int = 1,
        rng: jax.Array | None = None,
    ) -> Float[Array, "b _ d"]:
        """`__call__` for patches that are already embedded; with `keep`, those k alone are seen.

        Args:
          frames: pictures of one clip, whose patches follow each other and all see each other.
          rng: one key per sample for drop path, or None in evaluation.

        Raises:
          UserError: `keep` with rotary positions, which no public class has.
        """
        grid = grid or (self.side, self.side)
        first = self.cls_token[...].astype(self.dtype)
        if not self.is_rotary:
            positions = self.position_table(grid).astype(self.dtype)
            x = x + jnp.tile(positions[:, 1:], (1, frames, 1))
            first = first + positions[:, :1]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)
        prefix = [first]
        if self.prefix > 1:
            prefix.append(self.registers[...].astype(self.dtype))
        prefix = [jnp.broadcast_to(token, (len(x), *token.shape[1:])) for token in prefix]
        x = jnp.concatenate([*prefix, x], axis=1)
        x = run_stack(
            self.blocks,
            x,
            remat=self.remat,
            drop_path=self.drop_path,
            rng=rng,
            unroll=self.unroll,
            rotate=self._rotation(grid, keep, frames),
        )
        return self.norm(x) if self.has_final_norm else x

    def position_table(self, grid: Grid) -> Float[Array, "1 _ d"]:
        """Learned positions of the class token and of a grid of patches."""
        table = self.positions[...]
        if grid == (self.side, self.side):
            return table
        patches = table[0, 1:].reshape(self.side, self.side, self.width)
        patches = resampled(patches, grid, antialias=self.antialias)
        return jnp.concatenate([table[:, :1], patches.reshape(1, -1, self.width)], axis=1)

    def _rotation(self, grid: Grid, keep: Int[Array, "b k"] | None, frames: int) -> Rotation | None:
        if not self.is_rotary:
            return None
        if keep is not None:
            raise UserError("rotary positions know whole pictures; expected keep=None")
        head_width = self.width // self.blocks.attention.heads
        return half_rotation(grid, head_width, prefix=self.prefix, frames=frames)


def dimensions(size: str | Sequence[int]) -> tuple[int, int, int]:
    """(width, blocks, heads) of a name, or of three numbers.

    Raises:
      UserError: unknown name, or not three numbers.
    """
    if isinstance(size, str):
        width, depth, heads, *_ = size_of(size)
        return width, depth, heads
    if len(size) != 3:
        raise UserError(f"size is {tuple(size)}; expected a name, or (width, blocks, heads)")
    width, depth, heads = size
    return width, depth, heads
