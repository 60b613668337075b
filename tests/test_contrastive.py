"""Contrastive losses against float64 definitions written out pair by pair."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surgjax import contrastive
from surgjax.sharding import batch_sharding, make_mesh, on_mesh

OVERLAPS = contrastive.OVERLAPS


@pytest.fixture(scope="module")
def batch():
    """24 pairs of 5 videos whose spans nest and touch, with three captions that occur twice."""
    rng = np.random.default_rng(0)
    video, text = rng.normal(size=(2, 24, 8))
    unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)  # noqa: E731
    start = rng.integers(0, 6, 24) * 1000
    caption = np.arange(24)
    caption[[5, 9, 20]] = [2, 5, 11]
    pairs = {
        "caption": caption.astype(np.int32),
        "recording": rng.integers(0, 5, 24).astype(np.int32),
        "span": np.stack([start, start + rng.integers(1, 4, 24) * 1000], 1).astype(np.int32),
    }
    return unit(video), unit(text), pairs


def relation(pairs, i, j, overlap):
    """ "positive", "masked" or "negative" of one pair."""
    if pairs["caption"][i] == pairs["caption"][j]:
        return "positive"
    (a, b), (c, d) = pairs["span"][i], pairs["span"][j]
    meet = pairs["recording"][i] == pairs["recording"][j] and max(a, c) < min(b, d)
    return overlap if meet else "negative"


def info_nce(video, text, scale, pairs, overlap):
    """Cross-entropy of each row and each column with its own soft target."""
    logits, count = scale * video @ text.T, len(video)
    losses = []
    for table in (logits, logits.T):
        for i in range(count):
            kinds = [relation(pairs, i, j, overlap) for j in range(count)]
            kept = [j for j in range(count) if kinds[j] != "masked"]
            log_total = np.log(np.sum(np.exp(table[i][kept])))
            right = [table[i][j] - log_total for j in kept if kinds[j] == "positive"]
            losses.append(-np.mean(right))
    return np.mean(losses)


def sigmoid(video, text, scale, bias, pairs, overlap):
    logits, total = scale * video @ text.T + bias, 0.0
    for i, j in np.ndindex(logits.shape):
        kind = relation(pairs, i, j, overlap)
        if kind != "masked":
            total += np.log1p(np.exp(-logits[i, j] if kind == "positive" else logits[i, j]))
    return total / len(video)


def difference(function, arguments, at, step=1e-6):
    """Derivative of `function` with respect to one number of its arguments."""
    values = []
    for sign in (1, -1):
        moved = [np.array(a, np.float64) for a in arguments]
        moved[at[0]][at[1:]] += sign * step
        values.append(function(*moved))
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_loss_and_gradient_are_the_definitions(batch, name, overlap):
    video, text, pairs = batch
    numbers = [12.0] if name == "info_nce" else [9.0, -4.0]
    arguments = [video, text, *(np.float32(x) for x in numbers)]
    ours = partial(
        getattr(contrastive, name),
        pairs=jax.tree.map(jnp.asarray, pairs),
        overlap=overlap,
        slab=24 * 6,
    )
    exact = partial(globals()[name], pairs=pairs, overlap=overlap)
    argnums = tuple(range(len(arguments)))
    loss, grads = jax.jit(jax.value_and_grad(ours, argnums))(*arguments)
    assert float(loss) == pytest.approx(exact(*(a.astype(np.float64) for a in arguments)), rel=1e-6)
    places = [(0, 2, 1), (0, 17, 5), (1, 5, 0), (1, 9, 7), *((2 + i,) for i in range(len(numbers)))]
    for place in places:
        slope = difference(exact, arguments, place)
        assert float(grads[place[0]][place[1:]]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_the_three_rules_differ_and_slabs_do_not_matter(batch):
    video, text, pairs = jax.tree.map(jnp.asarray, batch)
    loss = lambda **named: float(contrastive.info_nce(video, text, jnp.float32(12), pairs, **named))  # noqa: E731
    values = [loss(overlap=overlap) for overlap in OVERLAPS]
    assert len({round(v, 3) for v in values}) == 3
    for slab in (1, 24 * 8, 24 * 10, 10**6):
        assert loss(slab=slab) == pytest.approx(values[0], rel=1e-6)


@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_eight_devices_equal_one(batch, name):
    video, text, pairs = batch
    numbers = [np.float32(12.0)] if name == "info_nce" else [np.float32(9.0), np.float32(-4.0)]
    argnums = tuple(range(2 + len(numbers)))
    loss = jax.value_and_grad(partial(getattr(contrastive, name), slab=24 * 2), argnums)
    one = jax.jit(loss)(video, text, *numbers, pairs)
    mesh = make_mesh()

    def on_eight(*arguments):
        with on_mesh(mesh):
            return loss(*arguments)

    rows = batch_sharding(mesh)
    placed = jax.device_put((video, text, pairs), rows)
    compiled = jax.jit(on_eight).lower(*placed[:2], *numbers, placed[2]).compile()
    eight = compiled(*placed[:2], *numbers, placed[2])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    # Embeddings are gathered before the slabs are walked, not in every one of them.
    loops = [part for part in compiled.as_text().split("\n\n") if "dynamic-slice" in part]
    gathers = [part for part in loops if "all-gather" in part and not part.startswith("ENTRY")]
    assert loops and not gathers


@pytest.mark.parametrize("name", ["info_nce", "sigmoid"])
def test_a_batch_of_65536_stays_below_a_gigabyte(name):
    """By XLA's account of loss and gradient, arguments and results included; nothing is run."""
    row = lambda *shape, kind=jnp.float32: jax.ShapeDtypeStruct((65536, *shape), kind)  # noqa: E731
    number = jax.ShapeDtypeStruct((), jnp.float32)
    whole = {"caption": row(kind=jnp.int32), "recording": row(kind=jnp.int32)}
    whole["span"] = row(2, kind=jnp.int32)
    numbers = [number] if name == "info_nce" else [number] * 2
    loss = jax.value_and_grad(getattr(contrastive, name), (0, 1, 2))
    used = jax.jit(loss).lower(row(256), row(256), *numbers, whole).compile().memory_analysis()
    parts = used.argument_size_in_bytes, used.output_size_in_bytes, used.temp_size_in_bytes
    assert sum(parts) < 1e9, parts


def test_same_video_rate():
    video = np.array([3, 1, 3, 3, 7, 1, 0, 9], np.int32)
    same = sum(video[i] == video[j] for i in range(8) for j in range(8) if i != j)
    assert float(contrastive.same_video_rate(jnp.asarray(video))) == pytest.approx(same / 56)
    assert float(contrastive.same_video_rate(jnp.zeros(65536, np.int32))) == 1.0
