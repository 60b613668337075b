"""Clusters of clusters, and samples that are balanced over them (Vo et al. 2024, sections 3.2-3.3).

Level 1 clusters the points, each further level the centroids of the one below, every centroid once.
At each level the points nearest to their centroids are clustered anew, several times: dense
regions count less and less, and the centroids come to cover where points are, not how many.
A sample is then divided from the top down, as evenly as the sizes of the clusters allow.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from surgjax import kmeans
from surgjax.errors import UserError
from surgjax.files import whole

PICKS = ("nearest", "random")


@dataclass(frozen=True)
class Recipe:
    """How the levels are made.

    Attributes:
      clusters: of each level, from the points up; lowered to the number of inputs of a level.
      iterations: of every k-means.
      resampling: k-means runs of a level after the first one.
      sample_size: points taken of each cluster for such a run, one number a level; None takes
        half of the mean size. 1 or less means no resampling.
      resample: "nearest" to the centroid, or "random".
      init, products: of kmeans.fit.
    """

    clusters: tuple[int, ...] = (25_000, 5_000, 1_000)
    iterations: int = 50
    resampling: int = 10
    sample_size: tuple[int, ...] | None = None
    resample: str = "nearest"
    init: str = "kmeans++"
    products: str = "float32"
    seed: int = 0


def build(
    points: Float[np.ndarray, "n d"],
    recipe: Recipe,
    *,
    saved: Path | None = None,
    mesh: Mesh | None = None,
    say: Callable[[str], None] = lambda line: None,
    report: Callable[..., None] | None = None,
) -> list[kmeans.Clustering]:
    """The levels, lowest first; labels of level l are numbers of its centroids.

    Args:
      points: float32.
      saved: folder where every run is kept; what is there is not computed again. It must be of the
        same points and recipe.
      say: takes a line for people.
      report: as of kmeans.fit, with "level l of L, run r of R" before its arguments.

    Raises:
      UserError: as kmeans.fit; a kept file cannot be read.
    """
    levels = []
    for number, k in enumerate(recipe.clusters, 1):
        inputs = levels[-1].centroids if levels else points
        if k > len(inputs):
            say(f"level {number}: {k:,} clusters lowered to {len(inputs):,}, all there is to group")
        path = saved / f"level-{number}.npz" if saved else None
        levels.append(_level(inputs, number, min(k, len(inputs)), recipe, path, mesh, say, report))
        empty = int(
            np.sum(np.bincount(levels[-1].labels, minlength=len(levels[-1].centroids)) == 0)
        )
        say(
            f"level {number}: {len(inputs):,} in {len(levels[-1].centroids):,} clusters"
            + (f", {empty:,} of them empty" if empty else "")
            + f", inertia {levels[-1].inertia:.6g}"
        )
    return levels


def sample_size(recipe: Recipe, level: int, inputs: int, k: int) -> int:
    """Points of each cluster that a resampling run takes at `level`, counted from 1."""
    if recipe.sample_size is not None:
        return recipe.sample_size[level - 1]
    return int(0.5 * inputs / k + 0.5)


def nearest_members(
    labels: Int[np.ndarray, "n"], order_by: np.ndarray, most: int | Int[np.ndarray, "k"]
) -> Int[np.ndarray, "m"]:
    """Sorted numbers of the (at most) `most` members of each cluster that come first by `order_by`,
    by number where equal."""
    order = np.lexsort((order_by, labels))
    rank = _ranks(labels[order])
    most = most if np.isscalar(most) else most[labels[order]]
    return np.sort(order[rank < most])


def members(levels: list[kmeans.Clustering]) -> Int[np.ndarray, "n levels"]:
    """The cluster of every point at each level, int32."""
    found = [levels[0].labels]
    for level in levels[1:]:
        found.append(level.labels[found[-1]])
    return np.stack(found, axis=1).astype(np.int32)


def water_fill(
    capacity: Int[np.ndarray, "m"],
    parents: Int[np.ndarray, "m"],
    budgets: Int[np.ndarray, "p"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "m"]:
    """Divides each parent's budget over its children: equal quotas, but no child over its capacity.

    A parent's quotas sum to its budget, or to its children's capacity where that is less. What
    equal whole numbers leave over goes to children that are not full, one each, at random.

    Args:
      capacity, budgets: whole numbers from 0 on.
      parents: number of each child's parent, an index into budgets.
    """
    capacity, budgets = capacity.astype(np.int64), budgets.astype(np.int64)
    order = np.lexsort((capacity, parents))
    size, parent = capacity[order], parents[order]
    children = np.bincount(parent, minlength=len(budgets))
    rank = _ranks(parent)
    before = np.cumsum(size) - size  # capacity of all smaller children of the same parent
    before -= np.repeat(before[rank == 0], children[children > 0])
    left = children[parent] - rank
    # Smallest first: a child is full if giving as much to all larger ones keeps to the budget.
    full = before + left * size <= budgets[parent]
    quota = np.where(full, size, 0)
    spent = np.bincount(parent, weights=quota, minlength=len(budgets)).astype(np.int64)
    open_children = np.bincount(parent[~full], minlength=len(budgets))
    share, rest = np.divmod(budgets - spent, np.maximum(open_children, 1))
    quota[~full] = share[parent[~full]]
    # Those that are not full come first in a random order; the rest is less than their number.
    lucky = np.lexsort((rng.random(len(size)), full, parent))
    quota[lucky] += _ranks(parent[lucky]) < rest[parent[lucky]]
    quotas = np.empty_like(quota)
    quotas[order] = quota
    return quotas


def sample(
    levels: list[kmeans.Clustering],
    budget: int,
    *,
    pick: str = "nearest",
    copies: int = 1,
    seed: int = 0,
) -> Int[np.ndarray, "n"]:
    """Copies taken of every point, int64; they sum to `budget`, or to `copies` of everything.

    Args:
      pick: points of a lowest cluster "nearest" to its centroid come first, or "random" ones.
      copies: of one point at most.
    """
    rng = np.random.default_rng([seed, 1])
    sizes = [np.bincount(levels[0].labels, minlength=len(levels[0].centroids))]
    for level in levels[1:]:
        below = np.bincount(level.labels, weights=sizes[-1], minlength=len(level.centroids))
        sizes.append(below.astype(np.int64))
    quotas = np.array([budget], np.int64)
    above = [level.labels for level in levels[1:]] + [np.zeros(len(sizes[-1]), np.int64)]
    for size, parents in zip(sizes[::-1], above[::-1], strict=True):
        quotas = water_fill(copies * size, parents, quotas, rng)
    labels = levels[0].labels
    every, more = np.divmod(quotas, np.maximum(sizes[0], 1))
    taken = every[labels]
    order_by = levels[0].distances if pick == "nearest" else rng.random(len(labels))
    taken[nearest_members(labels, order_by, more)] += 1
    return taken


def effective_number(counts: np.ndarray) -> float:
    """exp(entropy) of the shares: as many equal clusters would be as even; 0 of nothing."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def _level(inputs, number, k, recipe, path, mesh, say, report) -> kmeans.Clustering:
    """One level: a plain k-means, then those of resampled inputs, each kept when it is done."""
    size = sample_size(recipe, number, len(inputs), k)
    runs = 1 + (recipe.resampling if size > 1 else 0)
    done, found = _read(path)
    if done == runs:
        return found
    if done:
        say(f"level {number}: goes on after run {done} of {runs}")
    placed = kmeans.place(inputs, mesh)
    for run in range(done, runs):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(recipe.seed), number), run)
        settings = {"iterations": recipe.iterations, "init": recipe.init}
        settings |= {"products": recipe.products, "mesh": placed.mesh, "key": key}
        if report is not None:
            where = f"level {number} of {len(recipe.clusters)}, run {run + 1} of {runs}"
            settings["report"] = lambda *what, where=where: report(where, *what)
        if run == 0:
            found = kmeans.fit(placed, k, **settings)
        else:
            order_by = found.distances
            if recipe.resample == "random":
                order_by = np.random.default_rng([recipe.seed, number, run]).random(len(inputs))
            union = nearest_members(found.labels, order_by, size)
            if len(union) < k:
                say(
                    f"level {number}: {size} points of each cluster are {len(union):,}, fewer than "
                    f"{k:,} clusters; no more resampling"
                )
                _keep(path, runs, found)
                break
            found = kmeans.assign(placed, kmeans.fit(inputs[union], k, **settings).centroids)
        _keep(path, run + 1, found)
    return found


def _keep(path: Path | None, done: int, found: kmeans.Clustering) -> None:
    if path is not None:
        with whole(path) as part, part.open("wb") as file:
            np.savez(file, done=done, **vars(found))


def _read(path: Path | None) -> tuple[int, kmeans.Clustering | None]:
    """(runs that are done, the last one's result)"""
    if path is None or not path.exists():
        return 0, None
    try:
        with path.open("rb") as file, np.load(file) as held:
            done = int(held["done"])
            return done, kmeans.Clustering(
                **{name: held[name] for name in ("centroids", "labels", "distances")}
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({str(error)[:80]}); delete it to compute this level again"
        ) from error


def _ranks(groups: np.ndarray) -> np.ndarray:
    """Place of every element in its run of equal neighbours: 0, 1, 2, ..."""
    first = np.ones(len(groups), bool)
    first[1:] = groups[1:] != groups[:-1]
    place = np.arange(len(groups))
    return place - np.maximum.accumulate(np.where(first, place, 0))
