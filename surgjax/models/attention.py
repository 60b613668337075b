"""One function for softmax attention; the fastest exact form of the backend stands behind it.

GPU in bfloat16 or float16: cuDNN's fused kernel. Everywhere else: queries in blocks, so that the
full score matrix is never stored, neither forward nor for the gradient, which recomputes it from
the log-sum-exp (FlashAttention, arXiv 2205.14135, appendix B). Softmax statistics are float32.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SCORES = 1_100_000  # of one block; near what the caches of two CPU cores hold
UNSEEN = -1e30  # added to a score: its weight is exactly zero


def attention(
    q: Float[Array, "b n heads hd"],
    k: Float[Array, "b s heads hd"],
    v: Float[Array, "b s heads hd"],
    mask: Bool[Array, "#b #heads #n #s"] | None = None,
) -> Float[Array, "b n heads hd"]:
    """softmax(q k^T / sqrt(hd)) v for every head; any float dtype, the result has q's.

    Where `mask` is False, a query does not see the key; its axes may have extent 1. Masks that
    differ between heads or queries are for short sequences: they store all scores. The form is
    chosen while tracing, from the default backend and the dtype.
    """
    if mask is not None and mask.shape[1:3] == (1, 1):
        seen = jnp.broadcast_to(mask[:, 0, 0], k.shape[:2])
        return blockwise(q, k, v, seen)
    if mask is not None:
        return jax.nn.dot_product_attention(q, k, v, mask=mask)
    if q.dtype in (jnp.bfloat16, jnp.float16) and has_cudnn():
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return blockwise(q, k, v)


@cache
def has_cudnn() -> bool:
    """Whether the default backend is a CUDA GPU for which JAX can emit cuDNN attention."""
    if jax.default_backend() != "gpu":
        return False
    probe = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)
    attend = partial(jax.nn.dot_product_attention, implementation="cudnn")
    try:
        jax.jit(attend).lower(probe, probe, probe)
    except (RuntimeError, ValueError, NotImplementedError):  # no cuDNN, or a card it does not serve
        return False
    return True


def blockwise(
    q: Float[Array, "b n heads hd"],
    k: Float[Array, "b s heads hd"],
    v: Float[Array, "b s heads hd"],
    seen: Bool[Array, "b s"] | None = None,
    *,
    scores: int = SCORES,
) -> Float[Array, "b n heads hd"]:
    """`attention` with about `scores` scores of a sample alive at a time, at least one query's.

    `seen` is False for keys that no query of the sample sees.
    """
    n, heads, width = q.shape[1:]
    q = q * jnp.asarray(width**-0.5, q.dtype)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    at_once = 1 if _too_many(heads * n * k.shape[2]) else heads
    count = -(-n // max(1, scores // (at_once * k.shape[2])))
    rows = -(-n // count)
    # Padded queries cost little and are cut off again; their gradient is zero.
    q = jnp.pad(q, ((0, 0), (0, 0), (0, count * rows - n), (0, 0)))
    q = q.reshape(-1, heads, count, rows, width)
    bias = None
    if seen is not None:
        bias = jnp.where(seen, 0.0, UNSEEN)[:, None].repeat(heads, axis=1)
    out = _blocks(q, k, v, bias).reshape(-1, heads, count * rows, width)
    return out.transpose(0, 2, 1, 3)[:, :n]


@jax.custom_vjp
def _blocks(q, k, v, bias):
    return _forward(q, k, v, bias)[0]


def _forward(q, k, v, bias):
    """q is (b, heads, blocks, rows, hd), k and v (b, heads, s, hd), bias (b, heads, s) or None."""

    def head(q, k, v, bias):
        ones = jnp.ones((k.shape[0], 1), jnp.float32)

        def block(q):
            scores = _dot("nd,sd->ns", q, k)
            if bias is not None:
                scores += bias
            top = scores.max(axis=-1, keepdims=True)
            weight = jnp.exp(scores - top)
            # XLA's CPU backend sums rows four times faster as a product.
            total = jnp.einsum("ns,so->no", weight, ones, precision="highest")
            out = _dot("ns,sd->nd", weight.astype(v.dtype), v) / total
            return out.astype(q.dtype), (top + jnp.log(total))[..., 0]

        return jax.lax.map(block, q)

    out, log_total = _over_heads(head)(q, k, v, bias)
    return out, (q, k, v, bias, out, log_total)


def _backward(saved, d_out):
    q, k, v, bias, out, log_total = saved
    inner = (out.astype(jnp.float32) * d_out).sum(axis=-1)

    def head(q, k, v, bias, log_total, d_out, inner):
        def block(sums, rows):
            # Transposed scores need one transposed product fewer.
            q, log_total, d_out, inner = rows
            scores = _dot("sd,nd->sn", k, q)
            if bias is not None:
                scores += bias[:, None]
            weight = jnp.exp(scores - log_total)
            d_scores = weight * (_dot("sd,nd->sn", v, d_out) - inner)
            d_scores = d_scores.astype(q.dtype)
            d_k = sums[0] + _dot("sn,nd->sd", d_scores, q)
            d_v = sums[1] + _dot("sn,nd->sd", weight.astype(d_out.dtype), d_out)
            return (d_k, d_v), _dot("sn,sd->nd", d_scores, k).astype(q.dtype)

        zeros = jnp.zeros(k.shape, jnp.float32)
        (d_k, d_v), d_q = jax.lax.scan(block, (zeros, zeros), (q, log_total, d_out, inner))
        return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype)

    d_q, d_k, d_v = _over_heads(head)(q, k, v, bias, log_total, d_out, inner)
    return d_q, d_k, d_v, jax.tree.map(jnp.zeros_like, bias)


def _dot(equation, a, b):
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _over_heads(f):
    """All heads at once; on a CPU one sample's or one head's after the other if scores are many.

    Products of a single head with many rows take half the time of those of all heads with few.
    """

    def each(q, k, *more):
        of_sample = q[0, ..., 0].size * k.shape[2]
        samples = _in_turn if _too_many(len(q) * of_sample) else jax.vmap
        heads = _in_turn if _too_many(of_sample) else jax.vmap
        return samples(heads(f))(q, k, *more)

    return each


def _in_turn(f):
    """`jax.vmap` that saves memory: one after the other."""
    return lambda *arrays: jax.lax.map(lambda row: f(*row), arrays)


def _too_many(scores: int) -> bool:
    """Whether a CPU's caches do not hold so many; other devices have the memory, not the loops."""
    return scores > SCORES and jax.default_backend() == "cpu"


_blocks.defvjp(_forward, _backward)
