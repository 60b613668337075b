"""Speed of surgjax.kmeans against scikit-learn and, where it is installed, faiss-cpu.

    python tests/benchmarks/kmeans.py [--points 100000] [--width 768] [--clusters 2000]
        [--iterations 5] [--repeats 3] [--data clumps normal] [--scaling]

All do Lloyd's algorithm for as many iterations from the same centroids, in this process, turn by
turn; the median counts. `clumps` are Gaussian clumps of very different sizes, `normal` is one
cloud. Goals: 2x scikit-learn, 0.7x faiss-cpu. Empty clusters, of which `clumps` makes a few, stay
empty here and get a point elsewhere, which lowers the inertia.

The kernels that OpenBLAS chose are printed. OPENBLAS_CORETYPE in the environment, or a processor
that an OpenBLAS does not know, can keep scikit-learn and faiss-cpu from AVX-512, at half their
speed or less, and does nothing to ours. With AVX-512 scikit-learn is about as quick as ours.

--scaling times iterations and rounds of seeding of ours alone at several sizes, fits
a * points * clusters * width + b * points * width, and tells how long surgjax.curate would take
with its defaults for 554,000 clips on this machine.
"""

import argparse
import importlib.util
import math
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from scipy.optimize import nnls
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from surgjax import hierarchy, kmeans  # noqa: E402

SCALING = [(n, k) for n in (25_000, 50_000, 100_000) for k in (500, 1000, 2000)]
CORPUS = 554_000, 768  # clips, and numbers of each
ROUNDS = 32  # of seeding


def points_of(kind: str, count: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((count, width), np.float32)
    if kind == "clumps":
        middles = 1.5 * rng.standard_normal((500, width), np.float32)
        share = 1 / np.arange(1, 501)
        points += middles[rng.choice(500, count, p=share / share.sum())]
    return points


def ours(points: np.ndarray, start: np.ndarray, iterations: int) -> np.ndarray:
    key = jax.random.key(0)
    return kmeans.fit(points, len(start), key=key, init=start, iterations=iterations).centroids


def scikit_learn(points: np.ndarray, start: np.ndarray, iterations: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged, as asked
        fitted = KMeans(
            len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
        ).fit(points)
    return fitted.cluster_centers_


def faiss(points: np.ndarray, start: np.ndarray, iterations: int) -> np.ndarray:
    import faiss

    job = faiss.Clustering(points.shape[1], len(start))
    job.niter, job.max_points_per_centroid, job.min_points_per_centroid = iterations, 2**30, 1
    faiss.copy_array_to_vector(start.ravel(), job.centroids)
    index = faiss.IndexFlatL2(points.shape[1])
    job.train(points, index)
    # faiss ends with centroids and gives no labels; the others' last assignment is done here too.
    index.reset()
    index.add(faiss.vector_to_array(job.centroids).reshape(start.shape))
    index.search(points, 1)
    return faiss.vector_to_array(job.centroids).reshape(start.shape)


def machine() -> str:
    """Processor, its cores and the kernels of OpenBLAS."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    kernels = sorted(
        f"{Path(lib['filepath']).parent.name} {lib['architecture']}"
        for lib in threadpool_info()
        if "architecture" in lib
    )
    return (
        f"{(names or [platform.machine()])[0]}, {len(os.sched_getaffinity(0))} cores, "
        f"{jax.default_backend()}, JAX {jax.__version__}, OpenBLAS of {', '.join(kernels)}"
    )


def seconds_of_iteration(placed: kmeans.Placed, start: np.ndarray, repeats: int) -> list[float]:
    times = []
    kmeans.fit(
        placed,
        len(start),
        key=jax.random.key(0),
        init=start,
        iterations=repeats + 1,
        report=lambda *what: times.append(time.perf_counter()),
    )
    return np.diff(times).tolist()  # the first iteration compiles


def seconds_of_round(placed: kmeans.Placed, k: int, repeats: int) -> list[float]:
    """Of seeding, with as many candidates as k clusters have."""
    settings = {"t": 2 + int(math.log(k)), "mesh": placed.mesh}
    key, taken = jax.random.key(0), []
    state = kmeans._first_seed(
        placed.tiles,
        placed.valid,
        placed.count,
        key,
        k=(repeats + 1) * ROUNDS + 1,
        mesh=placed.mesh,
    )
    for first in range(1, (repeats + 1) * ROUNDS, ROUNDS):
        began = time.perf_counter()
        state = kmeans._more_seeds(
            placed.tiles, placed.valid, state, first, first + ROUNDS, key, **settings
        )
        jax.block_until_ready(state)
        taken.append((time.perf_counter() - began) / ROUNDS)
    return taken[1:]


def seconds_of_curation(iteration, seed, recipe: hierarchy.Recipe, count: int) -> list[float]:
    """Of each level, where iteration(n, k) and seed(n) are seconds. An assignment counts as an
    iteration, and every cluster is taken to have the points that resampling wants: an upper bound.
    """
    levels = []
    for number, k in enumerate(recipe.clusters, 1):
        size = hierarchy.sample_size(recipe, number, count, k)
        some = min(size * k, count)
        plain, resampled = (
            (recipe.iterations + 1) * iteration(n, k) + (k - 1) * seed(n) for n in (count, some)
        )
        again = recipe.resampling if size > 1 else 0
        levels.append(plain + again * (resampled + iteration(count, k)))
        count = k
    return levels


def scaling(repeats: int) -> None:
    """Prints the table, the fit and what follows. The least of the times counts: other processes
    only add to it."""
    count, width = CORPUS
    points = points_of("clumps", max(n for n, _ in SCALING), width)
    print(machine())
    print("points clusters  s an iteration (least, median)  GFLOP/s  ms a round of seeding")
    work, least, rounds = [], [], []
    for n in sorted({n for n, _ in SCALING}):
        placed = kmeans.place(points[:n])
        rounds.append(min(seconds_of_round(placed, hierarchy.Recipe.clusters[0], repeats)))
        for k in (k for some, k in SCALING if some == n):
            taken = seconds_of_iteration(placed, points[:k], repeats)
            work.append((n * k * width, n * width))
            least.append(min(taken))
            print(
                f"{n:6d} {k:8d}  {least[-1]:8.3f} {statistics.median(taken):8.3f}  "
                f"{2 * n * k * width / least[-1] / 1e9:20.0f}  {1e3 * rounds[-1]:8.1f}",
                flush=True,
            )
    # Relative errors: else the largest size alone would count.
    (a, b), _ = nnls(np.array(work) / np.array(least)[:, None], np.ones(len(least)))
    error = np.abs(np.array(work) @ (a, b) / least - 1).max()
    per_number = rounds[-1] / (max(n for n, _ in SCALING) * width)
    print(
        f"an iteration: {a:.3g} s * points * clusters * width + {b:.3g} s * points * width, at "
        f"most {error:.0%} off; a round of seeding: {per_number:.3g} s * points * width"
    )
    recipe = hierarchy.Recipe()
    iteration = lambda n, k: (a * k + b) * n * width  # noqa: E731
    seed = lambda n: per_number * n * width  # noqa: E731
    k = recipe.clusters[0]
    n = kmeans.TILE * -(-k // kmeans.TILE)
    checked = min(seconds_of_iteration(kmeans.place(points[:n]), points[:k], repeats))
    print(
        f"check at {n} points, {k} clusters: {checked:.2f} s an iteration, "
        f"{checked / iteration(n, k):.2f} of the fit",
        flush=True,
    )
    print(
        f"{count} x {width}, {k} clusters: {iteration(count, k):.1f} s an iteration, "
        f"{seed(count) * (k - 1) / 3600:.2f} h to seed them"
    )
    for name, some in (("kmeans++", seed), ("random", lambda n: 0.0)):
        hours = [s / 3600 for s in seconds_of_curation(iteration, some, recipe, count)]
        print(
            f"surgjax.curate --init {name}, {recipe.iterations} iterations, {recipe.resampling} "
            f"resampled runs a level: {' + '.join(f'{h:.2f}' for h in hours)} = {sum(hours):.1f} h"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--clusters", type=int, default=2000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", nargs="*", default=["clumps", "normal"])
    parser.add_argument("--scaling", action="store_true")
    args = parser.parse_args()
    if args.scaling:
        scaling(args.repeats)
        return
    peers = {"surgjax": ours, "scikit-learn": scikit_learn}
    if importlib.util.find_spec("faiss"):
        peers["faiss"] = faiss
    for kind in args.data:
        points = points_of(kind, args.points, args.width)
        rng = np.random.default_rng(1)
        start = points[rng.choice(args.points, args.clusters, replace=False)].copy()
        ours(points, start, 1)  # compiles
        seconds, inertia = {name: [] for name in peers}, {}
        for _ in range(args.repeats):
            for name, run in peers.items():
                began = time.perf_counter()
                centroids = run(points, start, args.iterations)
                seconds[name].append(time.perf_counter() - began)
                if name not in inertia:
                    inertia[name] = kmeans.assign(points, centroids).inertia
        median = {name: statistics.median(taken) for name, taken in seconds.items()}
        work = 2 * args.points * args.width * args.clusters * (args.iterations + 1)
        print(
            f"{kind}: {args.points} x {args.width}, k = {args.clusters}, {args.iterations} "
            f"iterations, {machine()}"
        )
        for name in peers:
            print(
                f"  {name}: {median[name]:.2f} s, {work / median[name] / 1e9:.0f} GFLOP/s, "
                f"inertia {inertia[name]:.8g}, time {median[name] / median['surgjax']:.2f} of ours"
            )


if __name__ == "__main__":
    main()
