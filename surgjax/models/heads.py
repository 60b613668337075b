"""What turns a clip's tokens into class scores: mean pooling or attention, then one linear map."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import truncated_normal, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from surgjax.models.attention import attention
from surgjax.models.layers import Block, LayerNorm, Linear, Mlp, run_stack, stack


class MeanPool(nnx.Module):
    """Mean over the tokens, a norm, a linear map: VideoMAE's classifier (`fc_norm`, `head`).

    Args:
      norm: without it, the linear probe: the map alone.
      norm_eps: 1e-5 is what the public PyTorch class has.
      dropout: share of channels dropped before the map while training.
      init_scale: factor on the fresh kernel, 0.001 in VideoMAE's scripts.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        norm: bool = True,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        init_scale: float = 1e-3,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.has_norm, self.dropout = norm, dropout
        if norm:
            self.norm = LayerNorm(width, eps=norm_eps, dtype=dtype, rngs=rngs)
        self.classifier = _classifier(width, classes, init_scale, dtype, rngs)

    def __call__(
        self, tokens: Float[Array, "b n d"], rng: jax.Array | None = None
    ) -> Float[Array, "b classes"]:
        """`rng` is one key per sample for dropout, or None in evaluation."""
        x = tokens.mean(axis=1)
        x = self.norm(x) if self.has_norm else x
        if self.dropout and rng is not None:
            keep = lambda key: jax.random.bernoulli(key, 1 - self.dropout, x.shape[1:])  # noqa: E731
            x = jnp.where(jax.vmap(keep)(rng), x / (1 - self.dropout), 0).astype(x.dtype)
        return self.classifier(x).astype(jnp.float32)


class AttentivePool(nnx.Module):
    """V-JEPA 2's attentive probe (arXiv 2506.09985, appendix on probe-based evaluation).

    Self-attention blocks over all tokens, then one learnt query attends to the normed tokens, with
    a residual on the query alone and no map after the attention; then norm, MLP, linear map.

    Args:
      heads: of all attentions. depth: self-attention blocks (3 published; 0 is V-JEPA 1's probe).
      eps: of all norms; 1e-6 in the public PyTorch class.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        heads: int,
        depth: int = 3,
        eps: float = 1e-6,
        init_scale: float = 1.0,
        unroll: int | bool = 1,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        query = truncated_normal(0.02)(rngs.params(), (1, 1, width), jnp.float32)
        self.query = nnx.Param(query)
        self.depth, self.unroll = depth, unroll
        if depth:

            def make(rngs):
                return Block(width, heads, eps=eps, qkv_bias="all", dtype=dtype, rngs=rngs)

            self.blocks = stack(make, depth, rngs)
        self.cross = CrossBlock(width, heads, eps=eps, dtype=dtype, rngs=rngs)
        self.classifier = _classifier(width, classes, init_scale, dtype, rngs)
        self.dtype = jnp.dtype(dtype)

    def __call__(
        self, tokens: Float[Array, "b n d"], rng: jax.Array | None = None
    ) -> Float[Array, "b classes"]:
        """`rng` changes nothing: no part of this head is random."""
        return self.classifier(self.pool(tokens)).astype(jnp.float32)

    def pool(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        """What the linear map sees."""
        if self.depth:
            tokens = run_stack(self.blocks, tokens, unroll=self.unroll)
        query = self.query[...].astype(self.dtype)
        query = jnp.broadcast_to(query, (len(tokens), 1, query.shape[-1]))
        return self.cross(query, tokens)[:, 0]


class CrossBlock(nnx.Module):
    """query + attention(query, norm(tokens)), then x + mlp(norm(x)); the query is not normed."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        eps: float,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.q = Linear(width, width, dtype=dtype, rngs=rngs)
        self.kv = Linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=eps, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, 4 * width, dtype=dtype, rngs=rngs)
        self.heads = heads

    def __call__(
        self, query: Float[Array, "b q d"], tokens: Float[Array, "b n d"]
    ) -> Float[Array, "b q d"]:
        apart = lambda x: x.reshape(*x.shape[:2], self.heads, -1)  # noqa: E731
        k, v = jnp.split(self.kv(self.norm1(tokens)), 2, axis=-1)
        x = attention(apart(self.q(query)), apart(k), apart(v)).reshape(query.shape)
        x = query + x
        return x + self.mlp(self.norm2(x))


def _classifier(
    width: int, classes: int, init_scale: float, dtype: DTypeLike, rngs: nnx.Rngs
) -> Linear:
    kernel = truncated_normal(0.02 * init_scale)
    return Linear(width, classes, kernel=kernel, bias=zeros, dtype=dtype, rngs=rngs)
