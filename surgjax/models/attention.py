"""One function for softmax attention; the fastest exact form of the backend stands behind it.

GPU in bfloat16 or float16: cuDNN's fused kernel. Everywhere else: queries in blocks, so that the
full score matrix is never stored, neither forward nor for the gradient, which recomputes it from
the log-sum-exp (FlashAttention, arXiv 2205.14135, appendix B). Softmax statistics are float32.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BLOCK = 256  # queries at a time in the blockwise form


def attention(
    q: Float[Array, "b n heads hd"],
    k: Float[Array, "b s heads hd"],
    v: Float[Array, "b s heads hd"],
) -> Float[Array, "b n heads hd"]:
    """softmax(q k^T / sqrt(hd)) v for every head; any float dtype, the result has q's.

    The form is chosen while tracing, from the default backend and the dtype.
    """
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
    block: int = BLOCK,
) -> Float[Array, "b n heads hd"]:
    """`attention` with at most `block` rows of scores a head alive at a time."""
    n, heads_first = q.shape[1], lambda x: x.transpose(0, 2, 1, 3)
    q = heads_first(q) * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    count = -(-n // block)
    size = -(-n // count)
    # Padded queries cost little and are cut off again; their gradient is zero.
    q = jnp.pad(q, ((0, 0), (0, 0), (0, count * size - n), (0, 0)))
    q = q.reshape(*q.shape[:2], count, size, -1).transpose(2, 0, 1, 3, 4)
    out = _blocks(q, heads_first(k), heads_first(v))
    out = out.transpose(1, 2, 0, 3, 4).reshape(*q.shape[1:3], count * size, -1)
    return heads_first(out[:, :, :n])


def _scores(q, k):
    return jnp.einsum("bhnd,bhsd->bhns", q, k, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _blocks(q, k, v):
    return _forward(q, k, v)[0]


def _forward(q, k, v):
    def one(q):
        scores = _scores(q, k)
        top = scores.max(axis=-1, keepdims=True)
        weight = jnp.exp(scores - top)
        total = weight.sum(axis=-1, keepdims=True)
        out = jnp.einsum(
            "bhns,bhsd->bhnd", weight.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return (out / total).astype(q.dtype), top + jnp.log(total)

    out, log_total = jax.lax.map(one, q)
    return out, (q, k, v, out, log_total)


def _backward(saved, d_out):
    q, k, v, out, log_total = saved
    float32 = {"preferred_element_type": jnp.float32}

    def one(sums, block):
        d_k, d_v = sums
        q, out, log_total, d_out = block
        weight = jnp.exp(_scores(q, k) - log_total)
        inner = (out.astype(jnp.float32) * d_out).sum(axis=-1, keepdims=True)
        d_weight = jnp.einsum("bhnd,bhsd->bhns", d_out, v, **float32)
        d_scores = (weight * (d_weight - inner)).astype(q.dtype)
        d_v += jnp.einsum("bhns,bhnd->bhsd", weight.astype(d_out.dtype), d_out, **float32)
        d_k += jnp.einsum("bhns,bhnd->bhsd", d_scores, q, **float32)
        d_q = jnp.einsum("bhns,bhsd->bhnd", d_scores, k, **float32)
        return (d_k, d_v), d_q.astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    (d_k, d_v), d_q = jax.lax.scan(one, (zeros, zeros), (q, out, log_total, d_out))
    return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype)


_blocks.defvjp(_forward, _backward)
