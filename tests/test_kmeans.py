"""k-means against float64 numpy and scikit-learn, on one device and on eight."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp
from sklearn.cluster import KMeans, kmeans_plusplus

from surgjax import kmeans
from surgjax.errors import UserError
from surgjax.sharding import make_mesh

KEY = jax.random.key(0)


def mixture(counts, width=12, spread=0.6, seed=0, offset=0.0):
    """Gaussian clumps of these sizes; (points float32, clump of each)."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(len(counts), width)) * 3
    clump = np.repeat(np.arange(len(counts)), counts)
    points = middle[clump] + spread * rng.normal(size=(len(clump), width)) + offset
    order = rng.permutation(len(clump))
    return points[order].astype(np.float32), clump[order]


def lloyd(points, centroids, iterations):
    """The textbook in float64: (centroids, labels, squared distances)."""
    points, centroids = points.astype(np.float64), centroids.astype(np.float64)
    for iteration in range(iterations + 1):
        squared = ((points[:, None] - centroids[None]) ** 2).sum(-1)
        labels = squared.argmin(1)
        if iteration == iterations:
            return centroids, labels, squared.min(1)
        for k in range(len(centroids)):
            if (labels == k).any():
                centroids[k] = points[labels == k].mean(0)


def one_device():
    devices = np.array(jax.devices()[:1]).reshape(1, 1)
    return Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


@pytest.mark.parametrize("products", kmeans.PRODUCTS)
def test_equals_the_textbook_in_float64(products):
    # The mean is far from 0 and one centroid from everything: digits are kept, and so is it.
    points, _ = mixture([150] * 7, offset=300.0)
    start = points[:20].copy()
    start[7] += 1000
    found = kmeans.fit(points, 20, key=KEY, init=start, iterations=8, products=products)
    centroids, labels, squared = lloyd(points, start, 8)
    assert not (labels == 7).any()
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.centroids, centroids, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.distances, squared, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found.centroids[7], start[7])


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_the_nearest_of_several_blocks_of_centroids(platform):
    """Those of both platforms run on any: equals in different blocks, and points in the middle,
    where the filling of the last block would be nearest."""
    k = 2 * kmeans.BLOCK + 1
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(k, 6)).astype(np.float32)
    centroids += 2 * np.sign(centroids)  # none in the middle
    centroids[kmeans.BLOCK + 500 :: 700] = centroids[3:9:2]
    points = np.concatenate([0.1 * rng.normal(size=(50, 6)), 1.01 * centroids[:100]])
    squared = cdist(points.astype(np.float32), centroids, "sqeuclidean")
    assert (np.sum(squared == squared.min(1, keepdims=True), axis=1) > 1).any()

    @jax.jit
    def nearest(points, centroids):
        return kmeans._nearest_to(centroids, platform)(points)

    score, labels = nearest(points.astype(np.float32), centroids)
    np.testing.assert_array_equal(labels, squared.argmin(1))
    half_norms = 0.5 * (points**2).sum(1)
    np.testing.assert_allclose(score + half_norms, squared.min(1) / 2, rtol=1e-4, atol=1e-4)


def test_an_iteration_with_several_blocks_of_centroids():
    points, _ = mixture([300] * 7)
    start = points[: kmeans.BLOCK + 1]
    found = kmeans.fit(points, len(start), key=KEY, init=start + 0.01, iterations=1)
    squared = cdist(points, start + 0.01, "sqeuclidean")
    labels = squared.argmin(1)
    sums = np.zeros((len(start), points.shape[1]))
    np.add.at(sums, labels, points)
    counts = np.bincount(labels, minlength=len(start))[:, None]
    means = np.where(counts > 0, sums / np.maximum(counts, 1), start + 0.01)
    np.testing.assert_allclose(found.centroids, means, rtol=0, atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 6, 25])
def test_inertia_equals_that_of_scikit_learn(iterations):
    points, _ = mixture([300, 200, 100, 50])
    start = points[:16]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged, as asked
        theirs = KMeans(16, init=start, n_init=1, max_iter=iterations, tol=0).fit(points)
    ours = kmeans.fit(points, 16, key=KEY, init=start, iterations=iterations)
    assert abs(ours.inertia / theirs.inertia_ - 1) < 1e-4


def test_the_reported_inertia_is_that_before_the_iteration():
    points, _ = mixture([200, 100])
    start, seen = points[:5], []
    kmeans.fit(points, 5, key=KEY, init=start, iterations=3, report=lambda *what: seen.append(what))
    assert [what[:3] for what in seen] == [("iteration", i, 3) for i in (1, 2, 3)]
    for iteration, *_, inertia in seen:
        assert iteration == "iteration" and inertia > 0
    for done, (_, _, _, inertia) in enumerate(seen):
        np.testing.assert_allclose(inertia, lloyd(points, start, done)[2].sum(), rtol=1e-4)


def test_seeds_are_as_good_as_those_of_scikit_learn():
    """Sums left by 40 seedings each are of one distribution, and not that of random points."""
    points, _ = mixture([2000, 600, 200, 20, 10, 5, 5, 3, 3, 2, 1, 1], spread=0.4)
    placed = kmeans.place(points)
    left = {"ours": [], "theirs": [], "random": []}
    for draw in range(40):
        ours = np.asarray(kmeans.seeds(placed, 12, jax.random.key(draw))) + placed.mean
        theirs = kmeans_plusplus(points, 12, random_state=draw)[0]
        plain = points[np.random.default_rng(draw).choice(len(points), 12, replace=False)]
        for name, seeds in (("ours", ours), ("theirs", theirs), ("random", plain)):
            left[name].append(lloyd(points, seeds, 0)[2].sum())
    assert ks_2samp(left["ours"], left["theirs"]).pvalue > 0.05
    assert ks_2samp(left["ours"], left["random"]).pvalue < 1e-6


def test_points_are_found_by_their_number():
    points, _ = mixture([3000, 1500])
    placed = kmeans.place(points)
    rows = np.array([0, 31, 32, 1999, 4499])
    taken = np.asarray(kmeans._take(placed.tiles, jnp.asarray(rows), mesh=placed.mesh))
    np.testing.assert_allclose(taken + placed.mean, points[rows], atol=1e-6)


def test_candidates_are_drawn_by_their_squared_distance():
    """Draws against the chances they should have, rows of the padding included: those have none."""
    rng = np.random.default_rng(0)
    placed = kmeans.place(rng.normal(size=(100, 3)).astype(np.float32))
    tiles, rows = placed.valid.shape
    weight = np.zeros(tiles * rows, np.float32)
    weight[:100] = rng.random(100) ** 4
    weight[:30] = 0
    draw = jax.jit(
        jax.shard_map(
            lambda w, v: kmeans._draw(w, v, KEY, 20_000),
            mesh=placed.mesh,
            in_specs=(kmeans.ROWS, kmeans.ROWS),
            out_specs=kmeans.WHOLE,
            check_vma=False,
        )
    )
    sharding = NamedSharding(placed.mesh, kmeans.ROWS)
    weights = jax.device_put(weight.reshape(tiles, rows), sharding)
    counts = np.bincount(np.asarray(draw(weights, placed.valid)), minlength=len(weight))
    expected = 20_000 * weight / weight.sum()
    assert not counts[weight == 0].any()
    some = expected > 5
    chi_square = ((counts - expected)[some] ** 2 / expected[some]).sum()
    assert chi_square < some.sum() + 4 * np.sqrt(2 * some.sum())
    # Nothing left to draw by: any point, none of the padding.
    counts = np.bincount(np.asarray(draw(0 * weights, placed.valid)), minlength=len(weight))
    assert (counts[:100] > 0).all() and not counts[100:].any()


@pytest.mark.parametrize("init", kmeans.INITS)
def test_one_device_and_eight_agree(init):
    points, _ = mixture([700, 200, 99])
    eight, one = make_mesh(), one_device()
    assert eight.devices.size == 8
    made = [
        kmeans.fit(points, 24, key=KEY, init=init, iterations=6, mesh=mesh) for mesh in (eight, one)
    ]
    np.testing.assert_allclose(made[0].centroids, made[1].centroids, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(made[0].labels, made[1].labels)
    other = kmeans.fit(points, 24, key=jax.random.key(1), init=init, iterations=6, mesh=eight)
    assert np.abs(other.centroids - made[0].centroids).max() > 0.1


def test_bfloat16_products_change_few_labels():
    """Only where the nearest centroid is none of the two that bfloat16 finds nearest."""
    points, _ = mixture([500, 300, 200], width=32)
    start = points[:30]
    seen = {name: [] for name in kmeans.PRODUCTS}
    for name in kmeans.PRODUCTS:
        report = lambda *what, name=name: seen[name].append(what[3])  # noqa: E731
        kmeans.fit(points, 30, key=KEY, init=start, iterations=10, products=name, report=report)
    first, rounded = seen["float32"][0], seen["bfloat16"][0]
    assert first <= rounded * (1 + 1e-6) and rounded < first * (1 + 1e-3)
    assert abs(seen["bfloat16"][-1] / seen["float32"][-1] - 1) < 0.01


def test_more_clusters_than_points_and_equal_points():
    points = np.array([[0, 0], [0, 0], [3, 4]], np.float32)
    found = kmeans.fit(points, 5, key=KEY, iterations=3)
    assert found.centroids.shape == (3, 2)
    np.testing.assert_allclose(found.distances, 0, atol=1e-10)
    assert found.labels[0] == found.labels[1] != found.labels[2]
    same = kmeans.fit(np.full((40, 2), 7.5, np.float32), 4, key=KEY, iterations=3)
    assert not same.labels.any() and same.inertia == 0  # the lowest number of equally near ones
    np.testing.assert_array_equal(same.centroids, np.full((4, 2), 7.5))


def test_distances_are_exact_where_the_expansion_would_lose_them():
    rng = np.random.default_rng(0)
    points = (1e4 + 1e-2 * rng.normal(size=(64, 4))).astype(np.float32)
    found = kmeans.assign(points, points[:8])
    squared = ((points[:, None].astype(np.float64) - points[None, :8]) ** 2).sum(-1)
    assert (found.distances >= 0).all() and not found.distances[:8].any()
    np.testing.assert_allclose(found.distances, squared.min(1), rtol=1e-4, atol=1e-9)


def test_the_distances_of_all_pairs_are_never_in_memory():
    count, width, k = 2**17, 32, 4096
    mesh = make_mesh()
    sharding = NamedSharding(mesh, kmeans.ROWS)
    shape = lambda dtype, *more: jax.ShapeDtypeStruct(  # noqa: E731
        (count // kmeans.TILE, kmeans.TILE, *more), dtype, sharding=sharding
    )
    centroids = jax.ShapeDtypeStruct((k, width), jnp.float32)
    program = kmeans._lloyd.lower(
        shape(jnp.float32, width), shape(jnp.bool_), centroids, mesh=mesh, products="float32"
    ).compile()
    of_a_device = 4 * count * k // mesh.devices.size
    assert program.memory_analysis().temp_size_in_bytes < of_a_device / 4


@pytest.mark.parametrize(
    "points, settings, message",
    [
        (np.zeros((0, 3), np.float32), {}, "no points"),
        (np.array([[0, 1], [np.nan, 1]], np.float32), {}, "point 1 is not finite"),
        (np.array([[np.inf, 1], [0, 1]], np.float32), {}, "point 0 is not finite"),
        (np.zeros((3, 2), np.float32), {"k": 0}, "k is 0"),
        (np.zeros((3, 2), np.float32), {"init": "kmeans"}, "kmeans++, random"),
        (np.zeros((3, 2), np.float32), {"init": np.zeros((3, 2), np.float32)}, "expected 2"),
        (np.zeros((3, 2), np.float32), {"products": "float16"}, "float32, bfloat16"),
    ],
)
def test_bad_input_is_named(points, settings, message):
    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        kmeans.fit(points, **{"k": 2, "key": KEY, **settings})
