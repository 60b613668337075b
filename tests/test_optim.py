"""Optimizer rules by path, against plain numpy and optax's own AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from surgjax.optim import AdamW, layer_scale, multiplier
from surgjax.state import flatten, unflatten

DEPTH = 3


def make_params():
    rng = np.random.default_rng(0)
    shapes = {
        "encoder/embed/kernel": (6, 4),
        "encoder/embed/bias": (4,),
        "encoder/blocks/mlp/up/kernel": (DEPTH, 4, 8),
        "encoder/blocks/norm1/scale": (DEPTH, 4),
        "encoder/norm/scale": (4,),
        "decoder/blocks/mlp/up/kernel": (2, 4, 8),
        "decoder/mask_token": (1, 1, 4),
    }
    return unflatten({k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()})


def make(**changes):
    options = {"peak_lr": 0.1, "total_steps": 10, "depth": DEPTH} | changes
    return AdamW(**options)


def run(optimizer, params, steps=3, scale=1.0):
    state = optimizer.init(params)
    for step in range(steps):
        grads = jax.tree.map(lambda p, s=step: scale * jnp.sin(p + s), params)
        step = jnp.int32(step)
        params, state, scalars = optimizer.update(grads, state, params, step, jnp.float32(1))
    return params, state, scalars


def test_equals_optax_adamw_with_masked_decay():
    params = make_params()
    optimizer = make(warmup_steps=2, weight_decay=0.3, final_lr=0.01)
    got, _, _ = run(optimizer, params)
    mask = unflatten({p: p.endswith("kernel") for p in flatten(params)})
    peer = optax.adamw(optimizer.lr, b1=0.9, b2=0.95, weight_decay=0.3, mask=mask)
    state, expected = peer.init(params), params
    for step in range(3):
        grads = jax.tree.map(lambda p, s=step: jnp.sin(p + s), expected)
        updates, state = peer.update(grads, state, expected)
        expected = optax.apply_updates(expected, updates)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_schedule_rises_linearly_and_falls_to_the_end_value():
    optimizer = make(peak_lr=1.0, warmup_steps=4, total_steps=10, final_lr=0.1)
    values = [float(optimizer.lr(jnp.int32(s))) for s in range(11)]
    np.testing.assert_allclose(values[:5], [0, 0.25, 0.5, 0.75, 1.0], atol=1e-6)
    expected = [0.1 + 0.45 * (1 + np.cos(np.pi * i / 6)) for i in range(7)]
    np.testing.assert_allclose(values[4:], expected, atol=1e-6)


def test_a_stretched_schedule_stops_early_and_starts_where_it_is_told():
    """V-JEPA: warm-up from a rate of its own, cosines of rate and decay planned for 1.25 runs."""
    stretched = dict(warmup_lr=0.2, warmup_steps=4, total_steps=16, schedule_stretch=1.25)
    optimizer = make(
        peak_lr=1.0, final_lr=0.1, weight_decay=0.04, final_weight_decay=0.4, **stretched
    )
    rates = [float(optimizer.lr(jnp.int32(s))) for s in range(17)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)
    expected = [0.1 + 0.45 * (1 + np.cos(np.pi * i / 16)) for i in range(13)]
    np.testing.assert_allclose(rates[4:], expected, atol=1e-6)
    decays = [float(optimizer.decay(jnp.int32(s))) for s in (0, 10, 20, 30)]
    np.testing.assert_allclose(decays, [0.04, 0.22, 0.4, 0.4], atol=1e-6)
    assert make(weight_decay=0.3).decay(jnp.int32(5)) == 0.3


def test_the_scheduled_decay_shrinks_kernels_alone():
    """Without a gradient, AdamW multiplies by 1 - rate x decay of the step."""
    optimizer = make(weight_decay=0.1, final_weight_decay=0.5, total_steps=4)
    moved, _, _ = run(optimizer, make_params(), scale=0.0)
    left = 1.0
    for step in range(3):
        rate = 0.05 * (1 + np.cos(np.pi * step / 4))
        left *= 1 - rate * (0.5 - 0.2 * (1 + np.cos(np.pi * step / 4)))
    for path, before in flatten(make_params()).items():
        expected = left * before if path.endswith("kernel") else before
        np.testing.assert_allclose(flatten(moved)[path], expected, rtol=1e-5)


def test_layer_decay_is_the_published_rule():
    assert layer_scale("encoder/embed/kernel", 0.5, 3) == 0.5**4
    assert layer_scale("encoder/blocks/0/mlp/up/kernel", 0.5, 3) == 0.5**3
    assert layer_scale("encoder/blocks/2/norm1/scale", 0.5, 3) == 0.5
    assert layer_scale("encoder/norm/scale", 0.5, 3) == 1
    assert layer_scale("head/kernel", 0.5, 3) == 1


def test_a_stacked_leaf_gets_one_factor_a_layer():
    got = multiplier("encoder/blocks/x/kernel", (3, 4, 8), lambda p: float(p.split("/")[2]))
    assert got.shape == (3, 1, 1) and got.ravel().tolist() == [0, 1, 2]


def test_frozen_layers_of_a_stack_stay_and_whole_leaves_are_found():
    optimizer = make(frozen=r"encoder/(embed|blocks/[01]/)", weight_decay=0.3)
    params = make_params()
    assert optimizer.is_frozen("encoder/embed/kernel", (6, 4))
    assert not optimizer.is_frozen("encoder/blocks/mlp/up/kernel", (3, 4, 8))
    moved, _, _ = run(optimizer, params)
    before, after = (flatten(t)["encoder/blocks/mlp/up/kernel"] for t in (params, moved))
    assert np.array_equal(before[:2], after[:2]) and not np.array_equal(before[2], after[2])


@pytest.mark.parametrize("loss, scale", [(np.nan, 1.0), (1.0, np.inf)])
def test_an_update_that_is_not_finite_moves_only_the_counters(loss, scale):
    optimizer, params = make(), make_params()
    params, state, _ = run(optimizer, params, steps=2)
    grads = jax.tree.map(lambda p: scale * jnp.ones_like(p), params)
    new, after, scalars = optimizer.update(grads, state, params, jnp.int32(2), jnp.float32(loss))
    assert all(map(np.array_equal, jax.tree.leaves(new), jax.tree.leaves(params)))
    same = zip(jax.tree.leaves(after["adam"]), jax.tree.leaves(state["adam"]), strict=True)
    assert all(np.array_equal(a, b) for a, b in same)
    assert int(after["skipped"]) == int(after["skipped_in_a_row"]) == 1
    fine = jax.tree.map(jnp.ones_like, params)
    _, last, _ = optimizer.update(fine, after, params, jnp.int32(3), jnp.float32(1))
    assert int(last["skipped"]) == 1 and int(last["skipped_in_a_row"]) == 0


def test_clipping_bounds_the_global_norm():
    grads = jax.tree.map(lambda p: 100 * p, make_params())
    params = make_params()
    clipped = make(clip_norm=1.0, weight_decay=0.0)
    _, state, scalars = clipped.update(
        grads, clipped.init(params), params, jnp.int32(0), jnp.float32(1)
    )
    norm = float(optax.tree.norm(state["adam"].mu)) / (1 - clipped.b1)
    assert norm == pytest.approx(1.0, rel=1e-4) and float(scalars["grad_norm"]) > 100
