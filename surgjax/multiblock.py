"""Multi-block masks of V-JEPA (arXiv 2404.08471, section 3.1): context and targets of a clip.

A mask of one kind: a number of equal blocks lies at random places of the frame and reaches over the
clip's full time. Their union is to be predicted, the rest is the context. Two ways make equal rows
of masks of unequal size:

"sample", the default: everything is drawn for each sample. Of its context and of its targets a
fixed number of tokens is left, a uniform subset; a mask that has too few of either is drawn anew,
so a sample's mask is the published law on the condition that both are large enough. What may be cut
off does not depend on where a token lies, and lengths are known before the run.

"reference(batch=24)", the rule of the published programs, whose batch is that of one device: one
block size a step; of all contexts in a group of 24 rows the lowest places are left, as many as the
smallest one has, and likewise of the targets. Their numbers change with every step and group, so
rows are filled up to the largest possible lengths, and `seen` and `asked` say what is there.
Networks leave the filling out of attention and loss, which makes the numbers those of unequal
lengths, at two to three times the work.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from surgjax.errors import UserError, nearest
from surgjax.masking import sample_keys

Grid = tuple[int, int, int]
LEAST_ACCEPTED = 0.05  # share of drawn masks that must be large enough


class Kind(NamedTuple):
    """One kind of mask.

    Attributes:
      blocks: their number.
      scale: share of the frame that a block covers.
      keep, predict: shares of the clip's tokens left as context and as targets ("sample").
    """

    blocks: int
    scale: float
    keep: float
    predict: float


class Mask(NamedTuple):
    """Places in the flattened grid, ascending; int32.

    Attributes:
      keep, hidden: context and targets.
      seen, asked: which of them are there; None for all.
    """

    keep: Int[Array, "b k"]
    hidden: Int[Array, "b m"]
    seen: Bool[Array, "b k"] | None = None
    asked: Bool[Array, "b m"] | None = None


@dataclass(frozen=True)
class MultiBlock:
    """Masks of one kind for clips of one grid.

    Attributes:
      grid: tokens in time, height, width.
      kind: blocks and counts.
      aspect: smallest and largest height / width of a block; drawn uniformly between.
      group: rows that share counts ("reference"); None for "sample".
    """

    grid: Grid
    kind: Kind
    aspect: tuple[float, float]
    group: int | None

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens in a row of `keep` and of `hidden`: fixed, or the largest possible."""
        times, height, width = self.grid
        if self.group is None:
            tokens = times * height * width
            return int(self.kind.keep * tokens + 1e-6), int(self.kind.predict * tokens + 1e-6)
        sizes = block_sizes(self.grid, self.kind.scale, self.aspect)
        smallest, largest = (f(h * w for h, w in sizes) for f in (min, max))
        hidden = min(self.kind.blocks * largest, height * width - 1)
        return times * (height * width - smallest), times * hidden

    def draw(self, rng: jax.Array, index: Integer[Array | np.ndarray, " b"]) -> Mask:
        """The masks of a batch.

        Args:
          rng: of the step and the kind. index: global index of each sample.

        Raises:
          UserError: the rows do not divide into groups ("reference").
        """
        return self._sample(rng, index) if self.group is None else self._reference(rng, index)

    def _sample(self, rng: jax.Array, index: Integer[Array | np.ndarray, " b"]) -> Mask:
        kept, predicted = self.lengths

        def one(key):
            region_key, subset_key = jax.random.split(key)

            def attempt(state):
                number = state[0] + 1
                noise = jax.random.uniform(
                    jax.random.fold_in(region_key, number), (1 + 2 * self.kind.blocks,)
                )
                return number, self._region(noise[1:], self._size(noise[0]))

            def small(state):
                hidden = state[1].sum()
                return (hidden < predicted) | (state[1].size - hidden < kept)

            _, hidden = jax.lax.while_loop(small, attempt, (-1, self._nowhere()))
            noise = jax.random.uniform(subset_key, (2, hidden.size))
            return lowest(noise[0], ~hidden, kept), lowest(noise[1], hidden, predicted)

        return Mask(*jax.vmap(one)(sample_keys(rng, index)))

    def _reference(self, rng: jax.Array, index: Integer[Array | np.ndarray, " b"]) -> Mask:
        rows = len(index)
        group = min(self.group, rows)
        if rows % group:
            raise UserError(
                f"objective.masks is 'reference(batch={self.group})', whose groups do not divide "
                f"{rows} rows; choose batch_size / accumulation a multiple of {self.group}"
            )
        size_key, place_key = jax.random.split(rng)
        size = self._size(jax.random.uniform(size_key))

        def one(key):
            def attempt(state):
                number = state[0] + 1
                noise = jax.random.uniform(jax.random.fold_in(key, number), (2 * self.kind.blocks,))
                return number, self._region(noise, size)

            everywhere = ~self._nowhere()  # what must be drawn anew
            return jax.lax.while_loop(lambda state: state[1].all(), attempt, (-1, everywhere))[1]

        hidden = jax.vmap(one)(sample_keys(place_key, index))
        kept, predicted = self.lengths

        def cut(member, length):
            fewest = member.sum(axis=1).reshape(-1, group).min(axis=1).repeat(group)
            left = member & (jnp.cumsum(member, axis=1) <= fewest[:, None])
            places = jnp.argsort(~left, axis=1, stable=True)[:, :length]
            places = jnp.sort(places, axis=1).astype(jnp.int32)
            return places, jnp.take_along_axis(left, places, axis=1)

        keep, seen = cut(~hidden, kept)
        hide, asked = cut(hidden, predicted)
        return Mask(keep, hide, seen, asked)

    def _nowhere(self) -> Bool[Array, " n"]:
        times, height, width = self.grid
        return jnp.zeros(times * height * width, bool)

    def _size(self, noise: Float[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Height and width of a block, of a number in [0, 1)."""
        _, height, width = self.grid
        places, (low, high) = int(height * width * self.kind.scale), self.aspect
        aspect = low + (high - low) * noise
        rows = jnp.round(jnp.sqrt(places * aspect)).astype(jnp.int32)
        columns = jnp.round(jnp.sqrt(places / aspect)).astype(jnp.int32)
        return jnp.minimum(rows, height), jnp.minimum(columns, width)

    def _region(
        self, noise: Float[Array, " m"], size: tuple[Int[Array, ""], Int[Array, ""]]
    ) -> Bool[Array, " n"]:
        """True where a token is to be predicted, of two numbers in [0, 1) a block."""
        covered = []
        for part, extent, length in zip(noise.reshape(2, -1, 1), self.grid[1:], size, strict=True):
            first = jnp.floor(part * (extent - length + 1))
            place = np.arange(extent)
            covered.append((first <= place) & (place < first + length))
        union = (covered[0][:, :, None] & covered[1][:, None]).any(axis=0)
        return jnp.tile(union.ravel(), self.grid[0])


def plan(
    grid: Grid,
    masks: str,
    blocks: Mapping[str, Mapping[str, Any]],
    aspect: Sequence[float],
) -> dict[str, MultiBlock]:
    """The kinds of masks that a configuration asks for, by name, sorted.

    Args:
      masks: "sample" or "reference(batch=24)".
      blocks: name -> fields of `Kind`.

    Raises:
      UserError: unknown mode or field, or masks that leave no context or nothing to predict.
    """
    group = _group(masks)
    low, high = aspect
    if not 0 < low <= high:
        raise UserError(
            f"objective.aspect is {tuple(aspect)}; expected two numbers above 0, sorted"
        )
    if not blocks:
        raise UserError("objective.blocks is empty; expected at least one kind of mask")
    made = {}
    for name, fields in sorted(blocks.items()):
        field = f"objective.blocks.{name}"
        for given in fields:
            if given not in Kind._fields:
                raise UserError(
                    f"{field} has no field {given!r}{nearest(given, Kind._fields)}; "
                    f"expected {', '.join(Kind._fields)}"
                )
        if set(fields) != set(Kind._fields):
            raise UserError(f"{field} must give {', '.join(Kind._fields)}")
        made[name] = MultiBlock(tuple(grid), Kind(**fields), (float(low), float(high)), group)
        _check(made[name], field)
    return made


def block_sizes(grid: Grid, scale: float, aspect: tuple[float, float]) -> list[tuple[int, int]]:
    """Every (height, width) that a block can have, sorted."""
    _, height, width = grid
    places = int(height * width * scale)
    low, high = aspect
    half = np.arange(max(height, width) + 1) + 0.5
    # Between these values neither side changes.
    turns = np.concatenate([half**2 / max(places, 1), places / half**2, [low, high]])
    turns = np.unique(turns[(turns >= low) & (turns <= high)])
    inside = (turns[1:] + turns[:-1]) / 2 if len(turns) > 1 else turns
    rows, columns = np.round(np.sqrt(places * inside)), np.round(np.sqrt(places / inside))
    pairs = zip(np.minimum(rows, height), np.minimum(columns, width), strict=True)
    return sorted({(int(h), int(w)) for h, w in pairs})


def lowest(
    noise: Float[Array, " n"], member: Bool[Array, " n"], count: int
) -> Int[Array, " count"]:
    """The `count` members with the lowest numbers: uniform without replacement; ascending."""
    order = jnp.argsort(jnp.where(member, noise, 2.0))
    return jnp.sort(order[:count]).astype(jnp.int32)


def _group(masks: str) -> int | None:
    found = re.fullmatch(r"reference\(batch=([1-9]\d*)\)", masks)
    if masks != "sample" and not found:
        raise UserError(
            f"objective.masks is {masks!r}; choose 'sample' or 'reference(batch=24)', where 24 is "
            f"the number of rows that share their counts"
        )
    return int(found[1]) if found else None


@lru_cache(maxsize=64)
def _check(made: MultiBlock, field: str) -> None:
    """Raise UserError for masks that can leave no context or nothing to predict."""
    kind, (times, height, width) = made.kind, made.grid
    if kind.blocks < 1 or not 0 < kind.scale < 1:
        raise UserError(
            f"{field} has blocks={kind.blocks} and scale={kind.scale}; expected at least one block "
            f"that covers a share of the frame between 0 and 1"
        )
    sizes = block_sizes(made.grid, kind.scale, made.aspect)
    if not all(h and w for h, w in sizes):
        raise UserError(
            f"{field}.scale is {kind.scale}, which leaves nothing to predict on {height} x {width} "
            f"places; choose a larger one or larger data.size"
        )
    if (height, width) in sizes:
        raise UserError(
            f"{field}.scale is {kind.scale} and objective.aspect {made.aspect}: a block may cover "
            f"all {height} x {width} places, which leaves no context; choose a smaller scale"
        )
    kept, predicted = made.lengths
    if not kept or not predicted:
        left = "no context" if not kept else "nothing to predict"
        raise UserError(
            f"{field} has keep={kind.keep} and predict={kind.predict}, which leaves {left} of "
            f"{times * height * width} tokens; choose larger shares"
        )
    if made.group is not None:
        return
    share = _accepted(made)
    if share < LEAST_ACCEPTED:
        raise UserError(
            f"{field} asks for {kept} tokens of context and {predicted} to predict, which only "
            f"{share:.1%} of its masks have; choose a smaller keep or predict"
        )


def _accepted(made: MultiBlock, draws: int = 2000) -> float:
    """Share of masks that are large enough, in a seeded sample of them."""
    rng = np.random.default_rng(0)
    times, *extents = made.grid
    places = int(np.prod(extents) * made.kind.scale)
    aspect = rng.uniform(*made.aspect, draws)
    covered = []
    for extent, sides in zip(extents, (places * aspect, places / aspect), strict=True):
        length = np.minimum(np.round(np.sqrt(sides)), extent)[:, None, None]
        first = np.floor(rng.random((draws, made.kind.blocks, 1)) * (extent - length + 1))
        covered.append((first <= np.arange(extent)) & (np.arange(extent) < first + length))
    union = (covered[0][..., :, None] & covered[1][..., None, :]).any(axis=1)
    hidden = times * union.sum(axis=(1, 2))
    kept, predicted = made.lengths
    return float(((hidden >= predicted) & (times * int(np.prod(extents)) - hidden >= kept)).mean())
