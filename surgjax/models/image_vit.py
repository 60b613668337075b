"""The image transformer with a class token (ViT, arXiv 2010.11929; as in MAE, arXiv 2111.06377)."""

import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from surgjax.errors import UserError
from surgjax.models.layers import Block, LayerNorm, Linear, remat_policy, run_stack, stack
from surgjax.models.video_vit import size_of


class ImageViT(nnx.Module):
    """Tokens of pictures: the class token, then patches in raster order.

    Args:
      size: a name of `video_vit.SIZES`.
      image_size: of the pictures, which are square. patch: pixels a side.
      final_norm: a norm after the last block; MAE-style teachers are read without it.
      layer_norm_eps: of all norms.
      remat, unroll: see `layers.run_stack`.
      dtype: of the computation; parameters are float32.

    Raises:
      UserError: unknown name, or pictures that the patch does not divide.
    """

    def __init__(
        self,
        size: str,
        image_size: int,
        *,
        patch: int = 16,
        final_norm: bool = True,
        layer_norm_eps: float = 1e-6,
        remat: str = "none",
        unroll: int | bool = 1,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, depth, heads, *_ = size_of(size)
        if image_size < patch or image_size % patch:
            raise UserError(f"pictures of {image_size} pixels do not divide into {patch}-patches")
        self.patch, self.side = patch, image_size // patch
        self.remat, self.unroll = remat, unroll
        self.dtype = jnp.dtype(dtype)
        remat_policy(remat)  # an unknown name fails here
        self.embed = Linear(3 * patch**2, self.width, dtype=dtype, rngs=rngs)
        self.cls_token = nnx.Param(normal(0.02)(rngs.params(), (1, 1, self.width), jnp.float32))
        shape = (1, 1 + self.side**2, self.width)
        self.positions = nnx.Param(normal(0.02)(rngs.params(), shape, jnp.float32))

        def make(rngs):
            return Block(
                self.width, heads, eps=layer_norm_eps, qkv_bias="all", dtype=dtype, rngs=rngs
            )

        self.blocks = stack(make, depth, rngs)
        if final_norm:
            self.norm = LayerNorm(self.width, eps=layer_norm_eps, dtype=dtype, rngs=rngs)
        self.has_final_norm = final_norm

    def __call__(self, patches: Float[Array, "b n values"]) -> Float[Array, "b _ d"]:
        """(b, 1 + n, d) tokens of normalised pictures, cut by `video_vit.tubelets` (1, p, p)."""
        positions = self.positions[...].astype(self.dtype)
        x = self.embed(patches) + positions[:, 1:]
        first = self.cls_token[...].astype(self.dtype) + positions[:, :1]
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), x], axis=1)
        x = run_stack(self.blocks, x, remat=self.remat, unroll=self.unroll)
        return self.norm(x) if self.has_final_norm else x
