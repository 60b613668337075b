import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surgjax import masking
from surgjax.errors import UserError

GRID = (8, 14, 14)


# The counts that the reference implementation's `int(ratio * 196)` gives.
@pytest.mark.parametrize(
    "ratio, kept, masked", [(0.75, 392, 1176), (0.85, 240, 1328), (0.9, 160, 1408)]
)
def test_tube_counts_are_those_of_videomae(ratio, kept, masked):
    assert masking.tube_counts(GRID, ratio) == (kept, masked)
    keep, hidden = masking.tube(jax.random.key(0), jnp.arange(2), GRID, ratio)
    assert keep.shape == (2, kept) and hidden.shape == (2, masked)
    assert keep.dtype == hidden.dtype == jnp.int32


def test_binary_rounding_does_not_lose_a_place():
    assert masking.tube_counts((1, 10, 10), 0.29) == (71, 29)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, 0.001])
def test_a_ratio_that_hides_all_or_nothing_is_the_users_error(ratio):
    with pytest.raises(UserError, match="mask_ratio"):
        masking.tube_counts(GRID, ratio)


def test_kept_and_masked_split_the_grid_into_tubes_in_raster_order():
    keep, hidden = map(np.asarray, masking.tube(jax.random.key(1), jnp.arange(3), GRID, 0.9))
    for kept, masked in zip(keep, hidden, strict=True):
        assert (np.diff(kept) > 0).all() and (np.diff(masked) > 0).all()
        assert sorted([*kept, *masked]) == list(range(8 * 196))
        places = kept.reshape(8, -1) - 196 * np.arange(8)[:, None]
        assert (places == places[0]).all()


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_a_mask_belongs_to_the_sample_not_to_its_row(dtype):
    draw = jax.jit(lambda index: masking.tube(jax.random.key(2), index, GRID, 0.9)[0])
    whole = draw(np.array([7, 123456, 7, 9], dtype))
    assert (whole[0] == whole[2]).all()
    assert (whole[1] != whole[3]).any()
    assert (draw(np.array([9, 1], dtype))[0] == whole[3]).all()


def test_every_place_is_masked_equally_often():
    grid, ratio, samples = (1, 4, 5), 0.6, 4000
    hidden = masking.tube(jax.random.key(3), jnp.arange(samples), grid, ratio)[1]
    share = np.bincount(np.asarray(hidden).ravel(), minlength=20) / samples
    assert np.abs(share - ratio).max() < 5 * np.sqrt(ratio * (1 - ratio) / samples)


def test_a_subset_is_uniform_and_keeps_the_order():
    tokens = jnp.tile(jnp.array([3, 5, 8, 13, 21], jnp.int32), (3000, 1))
    chosen = np.asarray(masking.subset(jax.random.key(4), jnp.arange(3000), tokens, 2))
    assert (np.diff(chosen, axis=1) > 0).all()
    pairs, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(pairs) == 10
    assert np.abs(counts / 3000 - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 3000)


def test_gather_takes_each_samples_own_tokens():
    x = np.arange(2 * 6 * 3).reshape(2, 6, 3)
    tokens = np.array([[0, 4], [1, 5]], np.int32)
    expected = np.stack([x[0, [0, 4]], x[1, [1, 5]]])
    assert (np.asarray(masking.gather(jnp.asarray(x), jnp.asarray(tokens))) == expected).all()
