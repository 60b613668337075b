"""Exact k-means of many points on all devices; the distances of all pairs are never in memory.

Points lie in tiles of rows, spread over the mesh. A tile's products with the centroids give its
labels (|x - c|^2 = |x|^2 - 2 xc + |c|^2, whose first term changes no label), and its rows are added
up by label. Seeds are drawn as in greedy k-means++ (Arthur and Vassilvitskii 2007, section 2;
2 + ln k candidates a round as in scikit-learn). Draws depend on the key alone, not on the devices.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from surgjax.errors import UserError
from surgjax.sharding import make_mesh, to_host

TILE = 1024  # rows; their products with 25,000 centroids take 100 MB
BLOCK = 2048  # centroids on a CPU; their products with a tile take 8 MB and stay in its cache
AXES = ("data", "fsdp")
ROWS, WHOLE = P(AXES), P()
ROUNDS = 64  # of seeding between two reports
EXACT = lax.Precision.HIGHEST  # else an accelerator rounds the factors of float32 products
INITS, PRODUCTS = ("kmeans++", "random"), ("float32", "bfloat16")

Report = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True)
class Placed:
    """Points on the devices, less their mean: small differences keep their digits.

    Attributes:
      tiles: float32, rows of zeros at the end.
      valid: False for these.
      count: points.
      mean: float32.
    """

    tiles: Float[Array, "tiles rows d"]
    valid: Bool[Array, "tiles rows"]
    count: int
    mean: Float[np.ndarray, "d"]
    mesh: Mesh


@dataclass(frozen=True)
class Clustering:
    """Centroids and the nearest one of every point.

    Attributes:
      centroids: float32. One that no point is nearest to stays where it was.
      labels: int32; the lowest number where centroids are equally near.
      distances: squared Euclidean distance to the own centroid, float32.
    """

    centroids: Float[np.ndarray, "k d"]
    labels: Int[np.ndarray, "n"]
    distances: Float[np.ndarray, "n"]

    @property
    def inertia(self) -> float:
        """Sum of the squared distances."""
        return float(self.distances.sum(dtype=np.float64))


def fit(
    points: Float[np.ndarray, "n d"] | Placed,
    k: int,
    *,
    key: Key[Array, ""],
    iterations: int = 50,
    init: str | Float[np.ndarray, "k d"] = "kmeans++",
    products: str = "float32",
    mesh: Mesh | None = None,
    report: Report | None = None,
) -> Clustering:
    """Lloyd's algorithm for exactly `iterations` iterations, then one assignment.

    Args:
      points: float32.
      k: clusters; lowered to the number of points where that is less.
      init: "kmeans++", "random" (points without replacement) or the first centroids.
      products: "bfloat16" computes the products of an iteration in it, and the distances to the
        two centroids that come out nearest again in float32. The last assignment is exact.
      mesh: of surgjax.sharding; None takes all devices.
      report: called with what is done, how much of it, of how much, and the inertia if known.

    Raises:
      UserError: no points, points that are not finite, k below 1, unknown `init` or `products`.
    """
    if products not in PRODUCTS:
        raise UserError(f"products is {products!r}; expected one of {', '.join(PRODUCTS)}")
    if k < 1:
        raise UserError(f"k is {k}; expected at least one cluster")
    placed = points if isinstance(points, Placed) else place(points, mesh)
    centroids = _start(placed, min(k, placed.count), key, init, report)
    for iteration in range(iterations):
        centroids, inertia = _lloyd(
            placed.tiles, placed.valid, centroids, mesh=placed.mesh, products=products
        )
        inertia = float(inertia)  # waits, so that a stop is noticed at the iteration it falls in
        if report is not None:
            report("iteration", iteration + 1, iterations, inertia)
    return assign(placed, np.asarray(to_host(centroids)) + placed.mean)


def place(points: Float[np.ndarray, "n d"], mesh: Mesh | None = None) -> Placed:
    """Points on the devices of the mesh. Raises UserError for none, or for one not finite."""
    mesh = make_mesh() if mesh is None else mesh
    count, width = points.shape
    if not count:
        raise UserError("there are no points to cluster; expected at least one")
    mean = points.mean(0, dtype=np.float64).astype(np.float32)
    if not np.isfinite(mean).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
        raise UserError(f"point {row} is not finite; leave it out, or compute it again")
    # Tiles do not depend on the devices, so that neither do their sums.
    rows = 2 ** min(max(int(math.log2(count / 64)) if count >= 64 else 0, 4), int(math.log2(TILE)))
    tiles = -(-count // rows)
    # Nearly equal numbers of points share one compiled program.
    step = math.lcm(mesh.devices.size, 2 ** max(0, tiles.bit_length() - 5))
    tiles = -(-tiles // step) * step
    sharding = NamedSharding(mesh, ROWS)

    def piece(index: tuple[slice, ...]) -> Float[np.ndarray, "some rows d"]:
        first, end, _ = index[0].indices(tiles)
        held = np.zeros(((end - first) * rows, width), np.float32)
        own = points[first * rows : end * rows]
        np.subtract(own, mean, out=held[: len(own)])
        return held.reshape(-1, rows, width)

    valid = (np.arange(tiles * rows) < count).reshape(tiles, rows)
    return Placed(
        tiles=jax.make_array_from_callback((tiles, rows, width), sharding, piece),
        valid=jax.device_put(valid, sharding),
        count=count,
        mean=mean,
        mesh=mesh,
    )


def assign(
    points: Float[np.ndarray, "n d"] | Placed,
    centroids: Float[np.ndarray, "k d"],
    mesh: Mesh | None = None,
) -> Clustering:
    """The nearest centroid of every point, in float32."""
    placed = points if isinstance(points, Placed) else place(points, mesh)
    centroids = np.asarray(centroids, np.float32)
    labels, distances = to_host(_assign(placed.tiles, centroids - placed.mean, mesh=placed.mesh))
    rows = lambda x: np.asarray(x).reshape(-1)[: placed.count]  # noqa: E731
    return Clustering(centroids, rows(labels), rows(distances))


def seeds(
    placed: Placed, k: int, key: Key[Array, ""], report: Report | None = None
) -> Float[Array, "k d"]:
    """k points drawn by greedy k-means++, less the mean: a candidate's chance is its squared
    distance to the nearest seed so far, and the candidate that leaves the least sum is taken."""
    state = _first_seed(placed.tiles, placed.valid, placed.count, key, k=k, mesh=placed.mesh)
    candidates = 2 + int(math.log(k))
    for done in range(1, k, ROUNDS):
        end = min(done + ROUNDS, k)
        state = _more_seeds(
            placed.tiles, placed.valid, state, done, end, key, t=candidates, mesh=placed.mesh
        )
        jax.block_until_ready(state)
        if report is not None:
            report("seed", end, k, None)
    return state[0]


def _start(placed: Placed, k: int, key, init, report) -> Float[Array, "k d"]:
    if not isinstance(init, str):
        if init.shape != (k, len(placed.mean)):
            raise UserError(f"init is {init.shape}; expected {k} centroids of {len(placed.mean)}")
        return jnp.asarray(np.asarray(init, np.float32) - placed.mean)
    if init == "kmeans++":
        return seeds(placed, k, key, report)
    if init == "random":
        # A draw of the host: devices would shuffle all rows for it.
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        rows = jnp.asarray(np.sort(rng.choice(placed.count, k, replace=False)))
        return _take(placed.tiles, rows, mesh=placed.mesh)
    raise UserError(f"init is {init!r}; expected one of {', '.join(INITS)}")


def _half_norms(centroids):
    return 0.5 * (centroids * centroids).sum(1)


def _nearest_to(centroids, platform):
    """A function of a tile: (half the squared distance less half the point's norm, label) of its
    rows, the lowest label of equals."""
    half_norms = _half_norms(centroids)
    if platform == "cpu":
        return partial(_nearest_on_cpu, blocks=_blocks(centroids, half_norms))
    columns = centroids.T

    def nearest(tile):
        products = jnp.dot(tile, columns, precision=EXACT, preferred_element_type=jnp.float32)
        return _lowest(half_norms - products, 1)

    return nearest


def _blocks(centroids, half_norms):
    """(number of the first centroid, centroids, half norms) of blocks of equal length; half norms
    are infinite where a block is filled up."""
    k, width = centroids.shape
    count = -(-k // BLOCK)
    size = -(-k // count)
    more = count * size - k
    return (
        jnp.arange(count, dtype=jnp.int32) * size,
        jnp.pad(centroids, ((0, more), (0, 0))).reshape(count, size, width),
        jnp.pad(half_norms, (0, more), constant_values=jnp.inf).reshape(count, size),
    )


def _nearest_on_cpu(tile, blocks):
    def compare(best, block):
        first, centroids, half_norms = block
        # XLA's product for a CPU is quicker with a row for each centroid than for each point.
        products = jnp.einsum("kd,nd->kn", centroids, tile, precision=EXACT)
        score, label = _lowest(half_norms[:, None] - products, 0)
        nearer = score < best[0]
        return (jnp.where(nearer, score, best[0]), jnp.where(nearer, first + label, best[1])), None

    none = jnp.full(len(tile), jnp.inf, jnp.float32), jnp.zeros(len(tile), jnp.int32)
    return lax.scan(compare, none, blocks)[0]


def _lowest(score, axis):
    # Two plain reductions; the one that carries an index along is slower on a CPU.
    least = score.min(axis, keepdims=True)
    number = lax.broadcasted_iota(jnp.int32, score.shape, axis)
    label = jnp.where(score == least, number, score.shape[axis] - 1).min(axis)
    return least.squeeze(axis), label


def _nearest_checked(tile, columns, half_norms, centroids):
    """As `_nearest_to`, with products in bfloat16; the best two are compared again in float32."""
    products = jnp.dot(tile.astype(jnp.bfloat16), columns, preferred_element_type=jnp.float32)
    score = half_norms - products
    _, first = _lowest(score, 1)
    number = jnp.arange(score.shape[1], dtype=jnp.int32)
    _, second = _lowest(jnp.where(number == first[:, None], jnp.inf, score), 1)
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    exact = [half_norms[c] - (tile * centroids[c]).sum(1) for c in (low, high)]
    return jnp.minimum(*exact), jnp.where(exact[0] <= exact[1], low, high)


@partial(jax.jit, static_argnames=("mesh", "products"))
def _lloyd(tiles, valid, centroids, *, mesh, products):
    """(centroids after one iteration, inertia before it)."""

    def on_device(tiles, valid, centroids):
        if products == "bfloat16":
            half_norms, columns = _half_norms(centroids), centroids.T.astype(jnp.bfloat16)
            nearest = lambda tile: _nearest_checked(tile, columns, half_norms, centroids)  # noqa: E731
        else:
            nearest = _nearest_to(centroids, mesh.devices.flat[0].platform)

        def add(state, rows):
            (sums, counts), (tile, valid) = state, rows
            score, labels = nearest(tile)
            labels = jnp.where(valid, labels, len(centroids))  # outside: not added
            sums = sums.at[labels].add(tile, mode="drop")
            counts = counts.at[labels].add(1, mode="drop")
            return (sums, counts), jnp.where(valid, (tile * tile).sum(1) + 2 * score, 0).sum()

        # One tile's rows at a time: an update of all rows at once takes a CPU four times as long.
        nothing = jnp.zeros_like(centroids), jnp.zeros(len(centroids), jnp.int32)
        (sums, counts), inertia = lax.scan(add, nothing, (tiles, valid))
        return lax.psum((sums, counts, inertia.sum()), AXES)

    sums, counts, inertia = jax.shard_map(
        on_device, mesh=mesh, in_specs=(ROWS, ROWS, WHOLE), out_specs=WHOLE, check_vma=False
    )(tiles, valid, centroids)
    means = sums / jnp.maximum(counts, 1)[:, None]
    return jnp.where(counts[:, None] > 0, means, centroids), inertia


@partial(jax.jit, static_argnames="mesh")
def _assign(tiles, centroids, *, mesh):
    """(labels, squared distances) of every row, those of zeros included."""

    def on_device(tiles, centroids):
        nearest = _nearest_to(centroids, mesh.devices.flat[0].platform)

        def one(tile):
            _, labels = nearest(tile)
            return labels, ((tile - centroids[labels]) ** 2).sum(1)

        return lax.map(one, tiles)

    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(ROWS, WHOLE), out_specs=ROWS, check_vma=False
    )(tiles, centroids)


def _rows(tiles, index):
    """Inside shard_map: rows (t, d) of all points by number, on every device."""
    count, rows, _ = tiles.shape
    own = index // rows - lax.axis_index(AXES) * count
    mine = (own >= 0) & (own < count)
    found = tiles[jnp.clip(own, 0, count - 1), index % rows]
    return lax.psum(jnp.where(mine[:, None], found, 0), AXES)


@partial(jax.jit, static_argnames="mesh")
def _take(tiles, index, *, mesh):
    return jax.shard_map(
        _rows, mesh=mesh, in_specs=(ROWS, WHOLE), out_specs=WHOLE, check_vma=False
    )(tiles, index)


@partial(jax.jit, static_argnames=("k", "mesh"))
def _first_seed(tiles, valid, count, key, *, k, mesh):
    """(seeds (k, d), of which the first is set, squared distances to it)."""

    def on_device(tiles, valid, key):
        seed = _rows(tiles, jax.random.randint(jax.random.fold_in(key, 0), (1,), 0, count))
        distances = _distances(tiles, (tiles * tiles).sum(-1), seed)[..., 0] * valid
        return jnp.zeros((k, tiles.shape[-1])).at[0].set(seed[0]), distances

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(ROWS, ROWS, WHOLE),
        out_specs=(WHOLE, ROWS),
        check_vma=False,
    )(tiles, valid, key)


@partial(jax.jit, static_argnames=("t", "mesh"), donate_argnames="state")
def _more_seeds(tiles, valid, state, first, end, key, *, t, mesh):
    """`state` after the rounds `first` to `end` - 1 with t candidates each."""

    def on_device(tiles, valid, seeds, distances, first, end, key):
        norms = (tiles * tiles).sum(-1)

        def one_round(i, state):
            seeds, distances = state
            index = _draw(distances, valid, jax.random.fold_in(key, i), t)
            candidates = _rows(tiles, index)
            left = jnp.minimum(distances[..., None], _distances(tiles, norms, candidates))
            left = jnp.where(valid[..., None], left, 0)
            best = lax.all_gather(left.sum(1), AXES, tiled=True).sum(0).argmin()
            return seeds.at[i].set(candidates[best]), left[..., best]

        return lax.fori_loop(first, end, one_round, (seeds, distances))

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(ROWS, ROWS, WHOLE, ROWS, WHOLE, WHOLE, WHOLE),
        out_specs=(WHOLE, ROWS),
        check_vma=False,
    )(tiles, valid, *state, first, end, key)


def _distances(tiles, norms, centroids):
    """Squared distances (tiles, rows, t); exactly 0 where rounding would be all of it."""
    norms = norms[..., None] + (centroids * centroids).sum(1)
    products = jnp.dot(tiles.reshape(-1, tiles.shape[-1]), centroids.T, precision=EXACT)
    found = norms - 2 * products.reshape(norms.shape)
    return jnp.where(found > 1e-6 * norms, found, 0)


def _draw(distances, valid, key, t):
    """Numbers of t rows, with chances that are their distances; any rows where all are 0.

    Drawn in two stages, a tile and a row of it, so that single precision tells all rows apart.
    """
    weight = lax.all_gather(distances.sum(1), AXES, tiled=True)
    filled = lax.all_gather(valid.sum(1), AXES, tiled=True).astype(jnp.float32)
    nothing = weight.sum() <= 0
    stage = jax.random.uniform(key, (2, t))
    tile = _search(jnp.cumsum(jnp.where(nothing, filled, weight)), stage[0])
    own = jnp.where(nothing, valid.astype(jnp.float32), distances)
    inside = jnp.cumsum(_tile(own, tile), 1)
    row = jax.vmap(_search)(inside, stage[1])
    return tile * distances.shape[1] + row


def _tile(values, tile):
    """Inside shard_map: tiles (t, rows) of all tiles (tiles, rows) by number."""
    own = tile - lax.axis_index(AXES) * len(values)
    mine = (own >= 0) & (own < len(values))
    found = values[jnp.clip(own, 0, len(values) - 1)]
    return lax.psum(jnp.where(mine[:, None], found, 0), AXES)


def _search(sums, uniform):
    """The first place whose cumulative sum lies above uniform * total."""
    below = jnp.minimum(uniform * sums[-1], sums[-1] * (1 - 2e-7))
    return jnp.searchsorted(sums, below, side="right").clip(0, len(sums) - 1)
