"""Masks against a plain numpy version of each mode, written from the published rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surgjax import multiblock
from surgjax.errors import UserError
from surgjax.multiblock import Kind, MultiBlock

ASPECT = (0.75, 1.5)
SHORT, LONG = Kind(8, 0.15, 0.23, 0.48), Kind(2, 0.7, 0.0625, 0.7)
SMALL = (2, 6, 6)


def region(rng, grid, kind, size=None):
    """True where hidden, of one sample, flat; all blocks of one size, over all time."""
    times, height, width = grid
    h, w = size or block_size(rng, grid, kind)
    mask = np.zeros(grid, bool)
    for _ in range(kind.blocks):
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        mask[:, top : top + h, left : left + w] = True
    return mask.ravel()


def block_size(rng, grid, kind):
    _, height, width = grid
    places, aspect = int(height * width * kind.scale), rng.uniform(*ASPECT)
    return (
        min(height, round(np.sqrt(places * aspect))),
        min(width, round(np.sqrt(places / aspect))),
    )


def numpy_sample(rng, grid, kind, kept, predicted):
    """(context, targets) flags of one sample, truncated at random to fixed counts."""
    while True:
        hidden = region(rng, grid, kind)
        if hidden.sum() >= predicted and (~hidden).sum() >= kept:
            break
    made = np.zeros((2, hidden.size), bool)
    made[0, rng.choice(np.flatnonzero(~hidden), kept, replace=False)] = True
    made[1, rng.choice(np.flatnonzero(hidden), predicted, replace=False)] = True
    return made


def numpy_reference(rng, grid, kind, batch):
    """(context, targets) flags of a device's batch: one size, lowest of the fewest."""
    size, rows = block_size(rng, grid, kind), []
    for _ in range(batch):
        hidden = region(rng, grid, kind, size)
        while hidden.all():
            hidden = region(rng, grid, kind, size)
        rows.append(hidden)
    return truncated(np.array(rows))


def truncated(hidden):
    made = np.zeros((2, *hidden.shape), bool)
    for flags, members in zip(made, (~hidden, hidden), strict=True):
        fewest = members.sum(axis=1).min()
        for row, member in zip(flags, members, strict=True):
            row[np.flatnonzero(member)[:fewest]] = True
    return made


def flags(mask, tokens):
    """(context, targets) of ours as flags (2, ..., n)."""
    made = []
    for places, there in ((mask.keep, mask.seen), (mask.hidden, mask.asked)):
        places = np.asarray(places).reshape(-1, places.shape[-1])
        there = np.ones(places.shape, bool) if there is None else np.asarray(there)
        row = np.zeros((len(places), tokens), bool)
        np.put_along_axis(row, places, there.reshape(places.shape), axis=1)
        made.append(row)
    return np.array(made)


def assert_equally_often(found, expected, spread):
    """Shares (2, n) of two simulations; `spread` is the standard error of their difference."""
    assert np.abs(found - expected).max() < 5 * spread


@pytest.mark.parametrize("kind", [SHORT, LONG], ids=["short", "long"])
def test_every_place_as_often_as_in_numpy_truncated_at_random(kind):
    made = MultiBlock(SMALL, kind, ASPECT, None)
    kept, predicted = made.lengths
    samples, rng = 6000, np.random.default_rng(0)
    mask = jax.jit(made.draw)(jax.random.key(1), np.arange(samples, dtype=np.uint32))
    assert mask.keep.shape == (samples, kept) and mask.hidden.shape == (samples, predicted)
    for places in (mask.keep, mask.hidden):
        assert (np.diff(places, axis=1) > 0).all() and places.dtype == np.int32
    ours = flags(mask, 72)
    assert not (ours[0] & ours[1]).any()
    theirs = sum(numpy_sample(rng, SMALL, kind, kept, predicted) for _ in range(samples))
    assert_equally_often(ours.mean(axis=1), theirs / samples, np.sqrt(0.5 / samples))
    # No time is favoured, which is what truncating to the lowest places does.
    early, late = ours[0].reshape(samples, 2, 36).mean(axis=(0, 2))
    assert early == pytest.approx(late, rel=0.03)


def test_a_subset_is_uniform_over_members():
    member = jnp.array([0, 1, 1, 0, 1, 1, 0, 1], bool)
    noise = jax.random.uniform(jax.random.key(0), (4000, 8))
    chosen = np.asarray(jax.jit(jax.vmap(lambda x: multiblock.lowest(x, member, 2)))(noise))
    pairs, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(pairs) == 10 and (np.diff(chosen, axis=1) > 0).all() and member[chosen].all()
    assert np.abs(counts / 4000 - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 4000)


def test_a_mask_belongs_to_the_sample_not_to_its_row():
    draw = jax.jit(MultiBlock(SMALL, SHORT, ASPECT, None).draw)
    whole = draw(jax.random.key(2), np.array([7, 123456, 7, 9], np.uint32))
    alone = draw(jax.random.key(2), np.array([9, 1], np.uint32))
    for a, b in zip(whole[:2], alone[:2], strict=True):
        assert (a[0] == a[2]).all() and (a[1] != a[3]).any() and (b[0] == a[3]).all()


@pytest.fixture(scope="module")
def published():
    """Of the published programs' masks at 224 pixels, groups of 24, in one time slot.

    kind -> (untruncated flags, truncated flags), of the same draws: 400 groups one after the other.
    """
    keys = jax.random.split(jax.random.key(3), 400)
    index = np.arange(24, dtype=np.uint32)
    made = {}
    for kind in (SHORT, LONG):
        masks = []
        for group in (1, 24):
            draw = MultiBlock((1, 14, 14), kind, ASPECT, group).draw
            masks.append(flags(jax.jit(jax.vmap(lambda key: draw(key, index)))(keys), 196))  # noqa: B023
        made[kind] = masks
    return made


# Means of a simulation of the published collator, of the 1,568 tokens of 16 frames: context and
# targets, whole and truncated.
MEANS = {SHORT: ((584, 984), (362, 752)), LONG: ((296, 1272), (100, 1099))}


@pytest.mark.parametrize("kind", [SHORT, LONG], ids=["short", "long"])
def test_reference_keeps_the_lowest_of_the_fewest(kind, published):
    whole, cut = published[kind]
    assert (whole[0] == ~whole[1]).all() and whole.any(axis=2).all()
    for group in range(0, 400, 10):
        rows = slice(24 * group, 24 * (group + 1))
        assert (cut[:, rows] == truncated(whole[1, rows])).all()
    for found, expected in zip((whole, cut), MEANS[kind], strict=True):
        np.testing.assert_allclose(8 * found.sum(axis=2).mean(axis=1), expected, rtol=0.04)


@pytest.mark.parametrize("kind", [SHORT, LONG], ids=["short", "long"])
def test_reference_counts_and_places_as_in_numpy(kind):
    steps, batch, rng = 1500, 6, np.random.default_rng(1)
    made, index = MultiBlock(SMALL, kind, ASPECT, batch), np.arange(batch, dtype=np.uint32)
    draw = jax.jit(jax.vmap(lambda key: made.draw(key, index)))
    mask = draw(jax.random.split(jax.random.key(4), steps))
    for places in (mask.keep, mask.hidden):
        assert (np.diff(places, axis=-1) > 0).all()
    ours = flags(mask, 72)
    theirs = np.array([numpy_reference(rng, SMALL, kind, batch) for _ in range(steps)])
    theirs = theirs.transpose(1, 0, 2, 3).reshape(2, -1, 72)
    for found, expected in zip(ours, theirs, strict=True):
        a, b = (
            np.bincount(x.sum(axis=1)[::batch], minlength=73) / steps for x in (found, expected)
        )
        assert np.abs(a - b).max() < 5 * np.sqrt(0.5 / steps)  # steps share counts and sizes
    assert_equally_often(ours.mean(axis=1), theirs.mean(axis=1), np.sqrt(0.5 / steps))


def test_rows_must_divide_into_groups_and_few_rows_are_one():
    made = MultiBlock(SMALL, SHORT, ASPECT, 24)
    with pytest.raises(UserError, match="groups do not divide 30 rows; choose batch_size"):
        made.draw(jax.random.key(0), np.arange(30, dtype=np.uint32))
    mask = made.draw(jax.random.key(0), np.arange(3, dtype=np.uint32))
    assert len(set(np.asarray(mask.seen.sum(axis=1)))) == 1


def test_all_block_sizes_are_known():
    for grid, scale in (((8, 14, 14), 0.7), ((8, 16, 16), 0.15), ((1, 6, 6), 0.7)):
        kind, rng = Kind(1, scale, 0.1, 0.1), np.random.default_rng(0)
        drawn = {block_size(rng, grid, kind) for _ in range(20_000)}
        assert drawn == set(multiblock.block_sizes(grid, scale, ASPECT))


def of(**changes):
    return {"short": SHORT._asdict() | changes}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(masks="referense(batch=24)"), "choose 'sample' or 'reference.batch=24.'"),
        (dict(masks="reference(batch=0)"), "objective.masks is 'reference"),
        (dict(blocks=of(scael=0.1)), "no field 'scael' .did you mean 'scale'"),
        (dict(blocks={"long": dict(blocks=2)}), "objective.blocks.long must give blocks, scale"),
        (dict(blocks={}), "objective.blocks is empty"),
        (dict(blocks=of(scale=0.01)), "scale is 0.01, which leaves nothing to predict"),
        (dict(blocks=of(scale=0.99)), "all 6 x 6 places, which leaves no context"),
        (dict(blocks=of(scale=1.5)), "covers a share of the frame between 0 and 1"),
        (dict(blocks=of(keep=0.001)), "leaves no context of 72 tokens"),
        (dict(blocks=of(predict=0.001)), "leaves nothing to predict of 72 tokens"),
        (dict(blocks=of(keep=0.8)), "57 tokens of context and 34 to predict, which only 0.0%"),
        (dict(aspect=(1.5, 0.75)), "objective.aspect is"),
    ],
)
def test_masks_that_leave_nothing_are_the_users_error(arguments, message):
    arguments = dict(masks="sample", blocks=of(), aspect=ASPECT) | arguments
    with pytest.raises(UserError, match=message):
        multiblock.plan(SMALL, **arguments)
