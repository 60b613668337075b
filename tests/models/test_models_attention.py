import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from surgjax.models.attention import attention, blockwise


def inputs(n, s, *, heads=2, width=8, batch=2, seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    shapes = [(batch, n, heads, width), (batch, s, heads, width), (batch, s, heads, width)]
    return [(rng.standard_normal(shape) * scale).astype(np.float32) for shape in shapes]


def dense(q, k, v):
    """Textbook attention in float64, one head and sample at a time."""
    out = np.empty(q.shape)
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        scores = q[b, :, h].astype(np.float64) @ k[b, :, h].T.astype(np.float64)
        weight = np.exp(scores / np.sqrt(q.shape[-1]))
        out[b, :, h] = weight / weight.sum(axis=1, keepdims=True) @ v[b, :, h]
    return out


def traceable_dense(q, k, v):
    scores = jnp.einsum("bnhd,bshd->bhns", q, k) / np.sqrt(q.shape[-1])
    return jnp.einsum("bhns,bshd->bnhd", jax.nn.softmax(scores), v)


# Blocks with and without a remainder, of one row, and of more than all.
@pytest.mark.parametrize("n, s, scores", [(12, 12, 96), (13, 13, 130), (7, 11, 1), (5, 9, 9999)])
def test_blockwise_equals_textbook_attention_and_its_gradient(n, s, scores):
    q, k, v = inputs(n, s)
    out = jax.jit(lambda *qkv: blockwise(*qkv, scores=scores))(q, k, v)
    np.testing.assert_allclose(out, dense(q, k, v), atol=2e-6)

    probe = np.random.default_rng(9).standard_normal(out.shape).astype(np.float32)
    ours = jax.jit(jax.grad(lambda *x: (blockwise(*x, scores=scores) * probe).sum(), (0, 1, 2)))
    with jax.enable_x64(True):
        exact = jax.grad(lambda *x: (traceable_dense(*x) * probe).sum(), (0, 1, 2))(
            *(x.astype(np.float64) for x in (q, k, v))
        )
    for found, expected in zip(ours(q, k, v), exact, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_mask_hides_keys():
    q, k, v = inputs(5, 7)
    mask = np.ones((2, 1, 1, 7), bool)
    mask[0, ..., 4:] = False
    out = attention(*map(jnp.asarray, (q, k, v, mask)))
    shorter = dense(q[:1], k[:1, :4], v[:1, :4])
    np.testing.assert_allclose(out, np.concatenate([shorter, dense(q, k, v)[1:]]), atol=2e-6)


def test_hidden_keys_are_as_if_they_were_not_there():
    """Values and gradients of rows of unequal length, in blocks with a remainder."""
    q, k, v = inputs(5, 7)
    seen = np.ones((2, 7), bool)
    seen[0, [1, 5, 6]] = False
    probe = np.random.default_rng(9).standard_normal(q.shape).astype(np.float32)

    def outcome(q, k, v):
        return (blockwise(q, k, v, jnp.asarray(seen), scores=30) * probe).sum()

    found = jax.jit(jax.grad(outcome, (0, 1, 2)))(q, k, v)
    for sample in range(2):
        rows, keys = slice(sample, sample + 1), np.flatnonzero(seen[sample])
        plain = jax.grad(lambda *x: (traceable_dense(*x) * probe[rows]).sum(), (0, 1, 2))  # noqa: B023
        alone = plain(q[rows], k[rows][:, keys], v[rows][:, keys])
        np.testing.assert_allclose(found[0][rows], alone[0], atol=1e-5)
        for with_hidden, without in zip(found[1:], alone[1:], strict=True):
            np.testing.assert_allclose(with_hidden[rows][:, keys], without, atol=1e-5)
            assert not with_hidden[rows][:, ~seen[sample]].any()


def test_large_scores_do_not_overflow():
    q, k, v = inputs(6, 6, scale=60.0)
    out, grads = jax.value_and_grad(lambda *x: attention(*x).sum(), (0, 1, 2))(q, k, v)
    assert np.isfinite(out) and all(np.isfinite(g).all() for g in grads)


def test_bfloat16_keeps_its_dtype_and_float32_statistics():
    q, k, v = inputs(300, 300, scale=1.0)
    low = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out = attention(*low)
    assert out.dtype == jnp.bfloat16
    exact = dense(*(np.asarray(x, np.float32) for x in low))
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=0.01)


def test_the_full_score_matrix_never_exists():
    """Nothing computed in 1568-token attention or its gradient has n * n elements a head."""
    tokens, heads = 1568, 6
    shape = jax.ShapeDtypeStruct((1, tokens, heads, 64), jnp.float32)
    step = jax.grad(lambda q, k, v: attention(q, k, v).sum(), (0, 1, 2))
    largest = max(largest_results(jax.make_jaxpr(step)(shape, shape, shape).jaxpr))
    assert largest <= tokens * tokens * heads / 10


def largest_results(jaxpr):
    for equation in jaxpr.eqns:
        yield from (var.aval.size for var in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from largest_results(inner)
