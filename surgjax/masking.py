"""Which tokens a network sees: fixed counts, a pure function of (key, sample index)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, Shaped

from surgjax.errors import UserError


def sample_keys(rng: jax.Array, index: Integer[Array | np.ndarray, " b"]) -> jax.Array:
    """One key per sample, from its global index: equal on any number of hosts and devices."""
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(index)


def tube_counts(grid: tuple[int, int, int], ratio: float) -> tuple[int, int]:
    """(kept, masked) tokens of a clip: floor(ratio * h * w) places are masked in every time slot.

    Raises:
      UserError: the ratio leaves no token, or masks none.
    """
    times, height, width = grid
    masked = int(ratio * height * width + 1e-6)  # 0.29 * 100 is 28.999...
    if not 0 < masked < height * width:
        raise UserError(
            f"objective.mask_ratio is {ratio}, which masks {masked} of the {height * width} places "
            "of a frame; choose a ratio between 0 and 1 that keeps and masks at least one"
        )
    return times * (height * width - masked), times * masked


def tube(
    rng: jax.Array,
    index: Integer[Array | np.ndarray, " b"],
    grid: tuple[int, int, int],
    ratio: float,
) -> tuple[Int[Array, "b k"], Int[Array, "b m"]]:
    """A random set of places, masked in every time slot (VideoMAE, arXiv 2203.12602, section 3.2).

    Args:
      rng: the step's key.
      index: global index of each sample.
      grid: tokens in time, height, width.
      ratio: share of places masked; see `tube_counts`.

    Returns:
      Positions of the kept and of the masked tokens in the flattened grid, int32, ascending.
    """
    times, places = grid[0], grid[1] * grid[2]
    kept = tube_counts(grid, ratio)[0] // times

    def one(key):
        order = jnp.argsort(jax.random.uniform(key, (places,)))
        return jnp.sort(order[:kept]), jnp.sort(order[kept:])

    starts = places * np.arange(times, dtype=np.int32)[:, None]

    def over_time(order):
        return (order[:, None, :] + starts).reshape(len(order), -1).astype(jnp.int32)

    keep, masked = jax.vmap(one)(sample_keys(rng, index))
    return over_time(keep), over_time(masked)


def subset(
    rng: jax.Array, index: Integer[Array | np.ndarray, " b"], tokens: Int[Array, "b m"], count: int
) -> Int[Array, "b s"]:
    """`count` of each sample's tokens, uniform without replacement, in their old order."""

    def one(key, tokens):
        order = jnp.argsort(jax.random.uniform(key, tokens.shape))
        return tokens[jnp.sort(order[:count])]

    return jax.vmap(one)(sample_keys(rng, index), tokens)


def gather(
    x: Shaped[Array | np.ndarray, "b n c"], tokens: Int[Array, "b k"]
) -> Shaped[Array, "b k c"]:
    """The named tokens of each sample; the positions are distinct, ascending and within bounds."""

    def one(x, tokens):
        return (
            jnp.asarray(x)
            .at[tokens]
            .get(unique_indices=True, indices_are_sorted=True, mode="promise_in_bounds")
        )

    return jax.vmap(one)(x, tokens)
