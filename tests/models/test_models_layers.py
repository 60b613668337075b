import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from surgjax.errors import UserError
from surgjax.models.layers import Attention, Block, LayerNorm, Linear, Mlp, run_stack, stack
from surgjax.traced import cost

WIDTH, HEADS, DEPTH = 16, 2, 3


@pytest.fixture(scope="module")
def blocks():
    return stack(lambda rngs: Block(WIDTH, HEADS, eps=1e-6, rngs=rngs), DEPTH, nnx.Rngs(0))


@pytest.fixture(scope="module")
def x():
    x = np.random.default_rng(0).standard_normal((4, 5, WIDTH))
    return jnp.asarray(x, jnp.float32)


def test_stacked_blocks_hold_one_leaf_a_parameter_and_start_differently(blocks):
    leaves = jax.tree.leaves(nnx.state(blocks))
    assert len(leaves) == 13 and all(leaf.shape[0] == DEPTH for leaf in leaves)
    assert isinstance(blocks.mlp.up.kernel, nnx.Param)
    kernel = blocks.mlp.up.kernel[...]
    assert not (kernel[0] == kernel[1]).all()


def test_xavier_bound_covers_the_fused_qkv_kernel_as_one_matrix():
    attention = Attention(192, 3, rngs=nnx.Rngs(0))
    kernel = np.asarray(attention.qkv.kernel[...])
    bound = np.sqrt(6 / (192 + 3 * 192))
    assert kernel.shape == (192, 576)
    assert 0.999 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)


def test_only_q_and_v_have_a_bias():
    attention = Attention(WIDTH, HEADS, rngs=nnx.Rngs(0))
    names = {path[0] for path, _ in nnx.to_flat_state(nnx.state(attention))}
    assert names == {"qkv", "q_bias", "v_bias", "out"}
    assert not hasattr(attention.qkv, "bias")


def test_layer_norm_against_float64(x):
    norm = LayerNorm(WIDTH, eps=1e-3, rngs=nnx.Rngs(0))
    norm.scale[...] = jnp.linspace(0.5, 2, WIDTH)
    norm.bias[...] = jnp.linspace(-1, 1, WIDTH)
    wide = np.asarray(x, np.float64)
    mean, variance = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
    expected = (wide - mean) / np.sqrt(variance + 1e-3) * np.linspace(0.5, 2, WIDTH)
    np.testing.assert_allclose(norm(x), expected + np.linspace(-1, 1, WIDTH), atol=1e-5)


def gradients(f, *args):
    """Gradients of a scalar made from `f` by a fixed random projection."""
    out = jax.eval_shape(f, *args)
    probe = np.random.default_rng(5).standard_normal(out.shape).astype(np.float32)
    return jax.jit(jax.grad(lambda *a: (f(*a) * probe).sum(), tuple(range(len(args)))))(*args)


def test_parts_have_the_gradients_of_their_formulas(x):
    """Hand-written backward passes agree with automatic ones of the plain formulas."""

    def plain_norm(x, scale, bias):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * scale + bias

    def plain_mlp(x, up, up_bias, down, down_bias):
        hidden = x @ up + up_bias
        hidden = 0.5 * hidden * (1 + jax.lax.erf(hidden / np.sqrt(2)))
        return hidden @ down + down_bias

    norm, mlp = LayerNorm(WIDTH, eps=1e-6, rngs=nnx.Rngs(0)), Mlp(WIDTH, 24, rngs=nnx.Rngs(1))

    def with_params(module, tree, *args):
        graphdef, state = nnx.split(module)
        nnx.replace_by_pure_dict(state, tree)
        return nnx.merge(graphdef, state)(*args)

    def our_norm(x, scale, bias):
        return with_params(norm, {"scale": scale, "bias": bias}, x)

    def our_mlp(x, up, up_bias, down, down_bias):
        up, down = {"kernel": up, "bias": up_bias}, {"kernel": down, "bias": down_bias}
        return with_params(mlp, {"up": up, "down": down}, x)

    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    for ours, plain, args in (
        (our_norm, plain_norm, (x, draw(WIDTH), draw(WIDTH))),
        (our_mlp, plain_mlp, (x, draw(WIDTH, 24), draw(24), draw(24, WIDTH), draw(WIDTH))),
    ):
        np.testing.assert_allclose(ours(*args), plain(*args), rtol=1e-4, atol=1e-5)
        for found, expected in zip(gradients(ours, *args), gradients(plain, *args), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"remat": "full"}, {"remat": "dots"}, {"unroll": True}])
def test_recomputation_and_unrolling_change_no_gradient(blocks, x, options):
    graphdef, state = nnx.split(blocks)

    def grads(**options):
        loss = lambda state: jnp.sin(run_stack(nnx.merge(graphdef, state), x, **options)).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(state)

    for found, expected in zip(
        jax.tree.leaves(grads(**options)), jax.tree.leaves(grads()), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_the_backward_pass_recomputes(blocks, x):
    graphdef, state = nnx.split(blocks)

    def flops(remat: str) -> float:
        loss = lambda state: run_stack(nnx.merge(graphdef, state), x, remat=remat).sum()  # noqa: E731
        return cost(jax.make_jaxpr(jax.grad(loss))(state)).flops

    batch, tokens, width = x.shape
    depth = len(jax.tree.leaves(state)[0])
    attention = 4 * batch * tokens**2 * width * depth  # its two products, forward
    linear = 24 * batch * tokens * width**2 * depth
    assert flops("dots") - flops("none") == pytest.approx(attention, rel=0.1)  # and its row sums
    assert flops("full") > flops("dots") + linear / 2


def test_an_unknown_remat_policy_is_the_users_error(blocks, x):
    with pytest.raises(UserError, match="did you mean 'dots'"):
        run_stack(blocks, x, remat="dot")


def test_heads_that_do_not_divide_the_width_are_the_users_error():
    with pytest.raises(UserError, match="heads"):
        Attention(16, 3, rngs=nnx.Rngs(0))


def test_drop_path_follows_the_sample(blocks, x):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(4))
    run = jax.jit(lambda x, keys: run_stack(blocks, x, drop_path=0.9, rng=keys))
    dropped, order = run(x, keys), np.array([2, 0, 3, 1])
    np.testing.assert_allclose(run(x[order], keys[order]), dropped[order], atol=1e-5)
    assert not np.allclose(run(x, keys[order]), dropped)


def test_drop_path_keeps_the_mean_of_a_branch(blocks):
    from surgjax.models.layers import _branch_multipliers

    keys = jax.random.split(jax.random.key(1), 20_000)
    factors = np.asarray(_branch_multipliers(keys, np.array([0.0, 0.25], np.float32)))
    assert factors.shape == (2, 2, 20_000, 1, 1)
    assert (factors[0] == 1).all()
    assert set(np.unique(factors[1]).round(5)) == {0, np.float32(1.33333)}
    assert factors[1].mean(axis=1).ravel() == pytest.approx([1, 1], abs=0.02)


def test_bfloat16_computes_low_and_keeps_parameters_float32(x):
    block = Block(WIDTH, HEADS, eps=1e-6, dtype="bfloat16", rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(block))} == {jnp.dtype("float32")}
    assert block(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_linear_on_any_number_of_leading_axes(x):
    linear = Linear(WIDTH, 3, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(linear(x)[1, 2], linear(x[1, 2]), atol=1e-6)


def test_gated_mlp_and_layer_scale_against_their_formulas(x):
    mlp = Mlp(WIDTH, 24, activation="silu", gated=True, rngs=nnx.Rngs(0))
    gate, up, down = (
        np.asarray(getattr(mlp, name).kernel[...], np.float64) for name in ("gate", "up", "down")
    )
    wide = np.asarray(x, np.float64)
    gates = wide @ gate
    expected = (gates / (1 + np.exp(-gates)) * (wide @ up)) @ down
    np.testing.assert_allclose(mlp(x), expected, atol=1e-5)

    block = Block(WIDTH, HEADS, eps=1e-6, layer_scale=0.5, rngs=nnx.Rngs(0))
    plain = Block(WIDTH, HEADS, eps=1e-6, rngs=nnx.Rngs(0))
    middle = x + 0.5 * plain.attention(plain.norm1(x))
    expected = middle + 0.5 * plain.mlp(plain.norm2(middle))
    np.testing.assert_allclose(block(x), expected, atol=1e-5)


def test_rotation_turns_queries_and_keys_alike(x):
    """Flipping the sign of both leaves every product as it was; of one of them, it does not."""
    attention = Attention(WIDTH, HEADS, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(attention(x, rotate=lambda q: -q), attention(x), atol=1e-6)
    by_place = np.where(np.arange(x.shape[1]) % 2, 1.0, -1.0).astype(np.float32)
    turned = attention(x, rotate=lambda q: q * by_place[:, None, None])
    assert np.abs(turned - attention(x)).max() > 1e-2
