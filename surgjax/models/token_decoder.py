"""A narrow transformer that fills in hidden tokens: the MAE decoder, and JEPA's predictor."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from surgjax.models.layers import (
    Block,
    LayerNorm,
    Linear,
    QkvBias,
    remat_policy,
    run_stack,
    stack,
    uniform_fan_in,
)
from surgjax.models.positions import check, placed


class TokenDecoder(nnx.Module):
    """Visible tokens in, a prediction of every hidden token out.

    Hidden tokens enter as one learnt vector and their position. Inside, visible tokens come first,
    as in VideoMAE (arXiv 2203.12602, appendix); V-JEPA 2 sorts them by position, which changes no
    number.

    Args:
      inputs: width of the visible tokens. outputs: width of the predictions.
      width, depth, heads: of the blocks. grid: tokens of the whole clip in time, height, width.
      layer_norm_eps: of the blocks. norm_eps: of the final norm; 1e-5 in the public PyTorch class.
      embed_bias: a bias for the map into `width`, which VideoMAE lacks.
      mask_tokens: learnt vectors to choose from; public weights of V-JEPA 2 hold ten.
      positions, qkv_bias, remat, unroll, drop_path, dtype: as in `VideoViT`.
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
        qkv_bias: QkvBias = "qv",
        mask_tokens: int = 1,
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
        self.width, self.heads, self.grid, self.positions = width, heads, tuple(grid), positions
        self.remat, self.unroll, self.drop_path = remat, unroll, drop_path
        self.dtype = jnp.dtype(dtype)
        remat_policy(remat)  # an unknown name fails here
        check(positions, self.grid, width, heads)
        torch_default = uniform_fan_in(inputs)
        bias = torch_default if embed_bias else None
        self.embed = Linear(inputs, width, kernel=torch_default, bias=bias, dtype=dtype, rngs=rngs)
        # The reference cuts its normal (deviation 0.02) at one deviation.
        token = 0.02 * jax.random.truncated_normal(
            rngs.params(), -1.0, 1.0, (mask_tokens, 1, width)
        )
        self.mask_token = nnx.Param(token)

        def make(rngs):
            return Block(
                width,
                heads,
                mlp_ratio=mlp_ratio,
                eps=layer_norm_eps,
                qkv_bias=qkv_bias,
                dtype=dtype,
                rngs=rngs,
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
        seen: Bool[Array, "b n"] | None = None,
        *,
        mask_token: int = 0,
    ) -> Float[Array, "b m outputs"]:
        """Predictions for the tokens at positions `hidden`, given `x` at positions `keep`.

        Args:
          rng: one key per sample for drop path, or None in evaluation.
          seen: False for tokens, visible then hidden, that only fill up the rows.
          mask_token: which of the learnt vectors stands for the hidden tokens.
        """
        masked = self.mask_token[mask_token].astype(self.dtype)
        masked = jnp.broadcast_to(masked, (*hidden.shape, self.width))
        x, rotate = placed(
            jnp.concatenate([self.embed(x), masked], axis=1),
            jnp.concatenate([keep, hidden], axis=1),
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
        return self.head(self.norm(x[:, keep.shape[1] :]))
