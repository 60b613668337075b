"""A narrow transformer that fills in hidden tokens: the MAE decoder, and JEPA's predictor."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from surgjax.models import posemb
from surgjax.models.layers import (
    Block,
    LayerNorm,
    Linear,
    remat_policy,
    run_stack,
    stack,
    uniform_fan_in,
)


class TokenDecoder(nnx.Module):
    """Visible tokens in, a prediction of every hidden token out.

    Hidden tokens enter as one learnt vector plus their position from the fixed table. Inside,
    visible tokens come first, as in VideoMAE (arXiv 2203.12602, appendix).

    Args:
      inputs: width of the visible tokens. outputs: width of the predictions.
      width, depth, heads: of the blocks. grid: tokens of the whole clip in time, height, width.
      layer_norm_eps: of the blocks. norm_eps: of the final norm; 1e-5 in the public PyTorch class.
      embed_bias: a bias for the map into `width`, which VideoMAE lacks.
      positions, remat, unroll, drop_path, dtype: as in `VideoViT`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        heads: int,
        grid: tuple[int, int, int],
        positions: str = "sincos_1d",
        layer_norm_eps: float = 1e-6,
        norm_eps: float = 1e-5,
        embed_bias: bool = False,
        mlp_ratio: float = 4.0,
        remat: str = "none",
        unroll: int | bool = 1,
        drop_path: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, self.grid, self.positions = width, tuple(grid), positions
        self.remat, self.unroll, self.drop_path = remat, unroll, drop_path
        self.dtype = jnp.dtype(dtype)
        remat_policy(remat)  # an unknown name fails here
        torch_default = uniform_fan_in(inputs)
        bias = torch_default if embed_bias else None
        self.embed = Linear(inputs, width, kernel=torch_default, bias=bias, dtype=dtype, rngs=rngs)
        # The reference cuts its normal (deviation 0.02) at one deviation.
        token = 0.02 * jax.random.truncated_normal(rngs.params(), -1.0, 1.0, (1, 1, width))
        self.mask_token = nnx.Param(token)

        def make(rngs):
            return Block(
                width, heads, mlp_ratio=mlp_ratio, eps=layer_norm_eps, dtype=dtype, rngs=rngs
            )

        self.blocks = stack(make, depth, rngs)
        self.norm = LayerNorm(width, eps=norm_eps, dtype=dtype, rngs=rngs)
        self.head = Linear(width, outputs, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b k d"],
        keep: Int[Array, "b k"],
        hidden: Int[Array, "b m"],
        rng: jax.Array | None = None,
    ) -> Float[Array, "b m outputs"]:
        """Predictions for the tokens at positions `hidden`, given `x` at positions `keep`.

        `rng` is one key per sample for drop path, or None in evaluation.
        """
        table = jnp.asarray(posemb.table(self.positions, self.grid, self.width), self.dtype)
        visible = self.embed(x) + table[keep]
        masked = self.mask_token[...].astype(self.dtype) + table[hidden]
        x = run_stack(
            self.blocks,
            jnp.concatenate([visible, masked], axis=1),
            remat=self.remat,
            drop_path=self.drop_path,
            rng=rng,
            unroll=self.unroll,
        )
        return self.head(self.norm(x[:, keep.shape[1] :]))
