"""Speed of surgjax.kmeans against scikit-learn and, where it is installed, faiss-cpu.

    python tests/benchmarks/kmeans.py [--points 100000] [--width 768] [--clusters 2000]
        [--iterations 5] [--repeats 3] [--data clumps normal]

All do Lloyd's algorithm for as many iterations from the same centroids, in this process, turn by
turn; the median counts. `clumps` are Gaussian clumps of very different sizes, `normal` is one
cloud. Goals: 2x scikit-learn, 0.7x faiss-cpu. Empty clusters, of which `clumps` makes a few, stay
empty here and get a point elsewhere, which lowers the inertia.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from sklearn.cluster import KMeans

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from surgjax import kmeans  # noqa: E402


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--clusters", type=int, default=2000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", nargs="*", default=["clumps", "normal"])
    args = parser.parse_args()
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
            f"iterations, {len(os.sched_getaffinity(0))} cores, {jax.default_backend()}"
        )
        for name in peers:
            print(
                f"  {name}: {median[name]:.2f} s, {work / median[name] / 1e9:.0f} GFLOP/s, "
                f"inertia {inertia[name]:.8g}, time {median[name] / median['surgjax']:.2f} of ours"
            )


if __name__ == "__main__":
    main()
