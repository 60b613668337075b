"""Curation: quotas against brute force, known imbalance, stopping, files, messages."""

import json
import os
import signal
from itertools import pairwise

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgjax import curate, hierarchy, kmeans
from surgjax.errors import REQUEUE, Stopped, UserError
from surgjax.features import read_features, shard_name, write_shard
from surgjax.hierarchy import Recipe, effective_number, sample, water_fill

SMALL = ["--clusters", "24,8,4", "--iterations", "5", "--resampling", "2", "--sample-size", "4"]


def columns(count, first=0, datasets=("lap", "eye"), held_out=()):
    rows = np.arange(first, first + count)
    dataset = [datasets[0] if row % 4 else datasets[-1] for row in rows]
    return {
        "store": ["main"] * count,
        "video_id": [f"v{row // 10:03}" for row in rows],
        "start_ms": rows % 10 * 1000,
        "end_ms": rows % 10 * 1000 + 1000,
        "case": [f"{name}/v{row // 10:03}" for name, row in zip(dataset, rows, strict=True)],
        "dataset": dataset,
        "held_out": [bool(row in held_out) for row in rows],
    }


def write_features(folder, values, shards=2, **more):
    """A folder as surgjax.embed writes it."""
    ends = np.linspace(0, len(values), shards + 1).astype(int)
    for shard, (first, end) in enumerate(pairwise(ends)):
        part = columns(end - first, first, **more)
        write_shard(folder / shard_name(shard), part, values[first:end])
    meta = {"model": "test", "dim": values.shape[1], "count": len(values), "stores": {"main": {}}}
    (folder / "features.json").write_text(json.dumps(meta))
    return folder


def clumps(counts, width=16, seed=0):
    """Clumps far apart; (points float32, clump of each), shuffled."""
    rng = np.random.default_rng(seed)
    middle = 6 * np.eye(len(counts), width)
    clump = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    points = middle[clump] + 0.7 * rng.normal(size=(len(clump), width))
    return points.astype(np.float32), clump


@pytest.fixture
def features(tmp_path):
    return write_features(tmp_path / "features", clumps([240, 40, 15, 5])[0], held_out={3, 77})


def rows_of(path):
    return pq.read_table(path).to_pylist()


def fill_slowly(capacity, budget):
    """Sorted quotas, one at a time to the child that has least and is not full."""
    quota = np.zeros(len(capacity), int)
    while budget and (quota < capacity).any():
        quota[np.flatnonzero(quota < capacity)[quota[quota < capacity].argmin()]] += 1
        budget -= 1
    return quota


def test_quotas_of_a_thousand_random_trees():
    rng = np.random.default_rng(0)
    for draw in range(1000):
        parents = rng.integers(0, rng.integers(1, 6), rng.integers(1, 25))
        capacity = rng.integers(0, rng.choice([2, 6, 40]), len(parents))
        if draw % 7 == 0:
            capacity[:] = capacity[0]  # all of one size
        budgets = rng.integers(0, 60, parents.max() + 2)  # the last parent has no children
        quota = water_fill(capacity, parents, budgets, rng)
        assert (quota >= 0).all() and (quota <= capacity).all()
        for parent, budget in enumerate(budgets):
            own = parents == parent
            assert quota[own].sum() == min(budget, capacity[own].sum())
            slowly = fill_slowly(capacity[own], budget)
            # Which children get the remainder is drawn; how many get what is not.
            np.testing.assert_array_equal(np.sort(quota[own]), np.sort(slowly))
            # A child that is full below the others' level is full in both.
            low = slowly < slowly.max(initial=0)
            np.testing.assert_array_equal(
                quota[own][low & (slowly == capacity[own])], slowly[low & (slowly == capacity[own])]
            )


def test_the_remainder_goes_to_anyone():
    got = np.zeros(4)
    rng = np.random.default_rng(0)
    for _ in range(400):
        got += water_fill(np.array([1, 9, 9, 9]), np.zeros(4, int), np.array([9]), rng)
    # 1 is full, 8 are left for three: 2 or 3 each.
    assert got[0] == 400 and (np.abs(got[1:] / 400 - 8 / 3) < 0.1).all()


def random_tree(rng):
    levels, count = [], int(rng.integers(1, 60))
    for k in sorted(rng.integers(1, 20, rng.integers(1, 4)), reverse=True):
        labels = rng.integers(0, k, count).astype(np.int32)
        distances = rng.integers(0, 5, count).astype(np.float32)
        levels.append(kmeans.Clustering(np.zeros((k, 2), np.float32), labels, distances))
        count = int(k)
    return levels


def test_samples_of_random_trees_are_exact_and_nearest_first():
    rng = np.random.default_rng(1)
    for draw in range(300):
        levels = random_tree(rng)
        labels, distances = levels[0].labels, levels[0].distances
        copies, budget = int(rng.integers(1, 4)), int(rng.integers(0, 150))
        taken = sample(levels, budget, copies=copies, seed=draw)
        assert taken.sum() == min(budget, copies * len(labels))
        assert taken.max(initial=0) <= copies
        for leaf in np.unique(labels):
            own = np.flatnonzero(labels == leaf)
            order = own[np.lexsort((own, distances[own]))]
            assert (np.diff(taken[order]) <= 0).all() and np.ptp(taken[order]) <= 1
        other = sample(levels, budget, copies=copies, seed=draw, pick="random")
        np.testing.assert_array_equal(
            np.bincount(labels, weights=taken), np.bincount(labels, weights=other)
        )
        np.testing.assert_array_equal(taken, sample(levels, budget, copies=copies, seed=draw))


def test_clusters_above_are_as_even_as_their_sizes_allow():
    """The top level gets what brute force gives it; so does each cluster from its own quota."""
    rng = np.random.default_rng(2)
    for draw in range(100):
        levels = random_tree(rng)
        budget = int(rng.integers(0, 70))
        taken = sample(levels, budget, seed=draw)
        cluster = hierarchy.members(levels)
        top = len(levels[-1].centroids)
        size = np.bincount(cluster[:, -1], minlength=top)
        quota = np.bincount(cluster[:, -1], weights=taken, minlength=top)
        np.testing.assert_array_equal(np.sort(quota), np.sort(fill_slowly(size, budget)))


def test_known_imbalance_comes_out_nearly_even():
    """90, 9, 0.9 and 0.1 % of 4,000 points, of which 150 are taken."""
    counts = np.array([3600, 360, 36, 4])
    points, clump = clumps(counts)
    recipe = Recipe((48, 12, 4), iterations=6, resampling=1)
    levels = hierarchy.build(points, recipe)
    of_clumps = lambda taken: np.bincount(clump, weights=taken, minlength=4)  # noqa: E731
    balanced = of_clumps(sample(levels, 150))
    plain = of_clumps(curate.choose(len(points), 150, seed=0))
    best = effective_number(fill_slowly(counts, 150))
    assert 3.2 < best < 3.3
    assert effective_number(balanced) > 0.95 * best
    assert effective_number(plain) < 1.6
    assert balanced[3] == 4 and balanced[2] >= 30


def test_resampling_moves_centroids_to_where_points_are_rare():
    points, _ = clumps([3600, 360, 36, 4])
    in_dense = {}
    for runs in (0, 3):
        level = hierarchy.build(points, Recipe((48,), iterations=6, resampling=runs))[0]
        nearest = kmeans.assign(level.centroids, 6 * np.eye(4, 16, dtype=np.float32)).labels
        in_dense[runs] = int((nearest == 0).sum())
    assert in_dense[3] < in_dense[0] - 3


def test_hierarchy_clusters_centroids_and_keeps_the_empty():
    points = np.repeat(np.eye(3, 4, dtype=np.float32), 20, axis=0)  # three different points
    said = []
    recipe = Recipe((5, 4, 2), iterations=3, resampling=3, sample_size=(1, 1, 1))
    levels = hierarchy.build(points, recipe, say=said.append)
    assert [len(level.centroids) for level in levels] == [5, 4, 2]
    assert len(levels[1].labels) == 5 and len(levels[2].labels) == 4
    assert "2 of them empty" in said[0]
    taken = sample(levels, 10)
    assert taken.sum() == 10 and hierarchy.members(levels).shape == (60, 3)
    again = kmeans.assign(levels[0].centroids, levels[1].centroids)
    np.testing.assert_array_equal(again.labels, levels[1].labels)


def test_every_run_draws_anew(monkeypatch):
    fit, keys = kmeans.fit, []
    monkeypatch.setattr(
        kmeans, "fit", lambda *x, key, **y: keys.append(key) or fit(*x, key=key, **y)
    )
    points = clumps([60, 20])[0]
    hierarchy.build(points, Recipe((8, 2), iterations=1, resampling=2, sample_size=(4, 2)))
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == len(keys) == 6


def test_too_few_samples_end_the_resampling():
    # 20 points, 9 clusters, of which at most 4 can have members.
    points = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    said = []
    recipe = Recipe((9,), iterations=2, resampling=2, sample_size=(2,))
    levels = hierarchy.build(points, recipe, say=said.append)
    assert "2 points of each cluster are 8, fewer than 9 clusters" in said[0]
    assert len(levels[0].centroids) == 9


def test_automatic_sample_sizes_are_half_the_mean():
    recipe = Recipe()
    inputs = (554_000, 25_000, 5_000)
    sizes = [
        hierarchy.sample_size(recipe, level, n, k)
        for level, n, k in zip((1, 2, 3), inputs, recipe.clusters, strict=True)
    ]
    assert sizes == [11, 3, 3]


def test_baselines():
    dataset = np.array(["a"] * 70 + ["b"] * 25 + ["c"] * 5)
    taken = curate.choose(dataset, 10, seed=0)
    assert sorted(np.unique(dataset[taken > 0], return_counts=True)[1]) in ([3, 7], [1, 2, 7])
    assert taken.sum() == 10 == curate.choose(100, 10, seed=0).sum()
    assert (curate.choose(100, 10, seed=0) != curate.choose(100, 10, seed=1)).any()
    assert curate.choose(dataset, 100, seed=0).sum() == 100


def test_the_command_writes_everything(features, tmp_path, capsys):
    out = tmp_path / "out"
    assert curate.main([str(features), "--out", str(out), *SMALL, "--budget", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "298 clips" in printed and "2 clips of held-out cases left out" in printed
    clips, clusters = (pq.read_table(out / f"{name}.parquet") for name in ("clips", "clusters"))
    assert clips.column_names == ["store", "video_id", "start_ms", "end_ms", "weight"]
    assert clips["weight"].type == pa.float64() and set(clips["weight"].to_pylist()) == {1.0}
    assert clips.num_rows == 60 and clusters.num_rows == 298
    result = json.loads((out / "curation.json").read_text())
    assert (result["clips"], result["held_out"], result["taken"]) == (298, 2, 60)
    # Everything again from the tables alone.
    chosen = {(row["video_id"], row["start_ms"]) for row in clips.to_pylist()}
    held = {("v000", 3000), ("v007", 7000)}
    everything = clusters.to_pylist()
    assert not held & {(row["video_id"], row["start_ms"]) for row in everything}
    for level, figures in enumerate(result["levels"], 1):
        labels = np.array([row[f"level_{level}"] for row in everything])
        taken = np.array([(row["video_id"], row["start_ms"]) in chosen for row in everything])
        for name, part in (("all", labels), ("taken", labels[taken])):
            share = np.bincount(part) / len(part)
            entropy = -sum(p * np.log(p) for p in share if p)
            assert figures["effective_clusters"][name] == pytest.approx(np.exp(entropy))
        even = figures["effective_clusters"]
        assert even["taken"] > max(even["all"], even["random"], even["source_proportional"])
    assert result["datasets"]["lap"]["clips"] + result["datasets"]["eye"]["clips"] == 298
    assert sum(row["copies"] for row in result["datasets"].values()) == 60
    assert (out / "curation.png").read_bytes()[:4] == b"\x89PNG"


def test_held_out_cases_can_be_kept(features, tmp_path):
    out = tmp_path / "out"
    arguments = [str(features), "--out", str(out), "--method", "random", "--budget", "1"]
    curate.main([*arguments, "--keep-held-out"])
    assert len(rows_of(out / "clips.parquet")) == 300
    curate.main(arguments)
    assert len(rows_of(out / "clips.parquet")) == 298


def test_another_budget_clusters_nothing_again(features, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = [str(features), "--out", str(out), *SMALL]
    curate.main([*command, "--budget", "30"])
    monkeypatch.setattr(kmeans, "fit", None)
    curate.main([*command, "--budget", "700", "--copies", "3", "--pick", "random"])
    weights = [row["weight"] for row in rows_of(out / "clips.parquet")]
    assert sum(weights) == 700 and set(weights) == {1.0, 2.0, 3.0}
    curate.main([*command, "--budget", "5000", "--copies", "2"])  # more than there is
    assert [row["weight"] for row in rows_of(out / "clips.parquet")] == [2.0] * 298


def test_a_stopped_run_continues_to_the_same_files(features, tmp_path, monkeypatch):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    command = [str(features), *SMALL, "--normalise", "--seed", "3"]
    curate.main([*command, "--out", str(straight)])
    keep, kept = hierarchy._keep, []

    def keep_and_stop(path, done, found):
        keep(path, done, found)
        kept.append((path.name, done))
        if len(kept) in (2, 5):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(hierarchy, "_keep", keep_and_stop)
    for _ in range(2):
        with pytest.raises(Stopped) as stop:
            curate.main([*command, "--out", str(stopped)])
        assert stop.value.code == REQUEUE
        assert not (stopped / "curation.json").exists()
    curate.main([*command, "--out", str(stopped)])
    assert kept == [(f"level-{level}.npz", run) for level in (1, 2, 3) for run in (1, 2, 3)]
    for name in curate.FILES - {"levels"}:
        assert (stopped / name).read_bytes() == (straight / name).read_bytes()


def test_normalised_features_have_length_one(tmp_path, capsys):
    values = clumps([30, 20])[0]
    values[4] = 0
    folder = write_features(tmp_path / "features", values * np.arange(1, 51)[:, None])
    command = [str(folder), "--clusters", "4", "--iterations", "3", "--resampling", "0"]
    curate.main([*command, "--out", str(tmp_path / "out"), "--normalise"])
    assert "1 features are all zeros" in capsys.readouterr().out
    with np.load(tmp_path / "out" / "levels" / "level-1.npz") as held:
        assert np.linalg.norm(held["centroids"], axis=1).max() <= 1 + 1e-6


def mistakes(features, tmp_path):
    out = str(tmp_path / "out")
    return {
        "does not": ([str(tmp_path / "none"), "--out", out], "features.json cannot be read"),
        "budget": ([str(features), "--out", out, "--budget", "-1"], "--budget is -1"),
        "fraction": ([str(features), "--out", out, "--budget", "2.5"], "whole number of clips"),
        "nothing": ([str(features), "--out", out, "--budget", "0.001"], "less than one clip"),
        "order": ([str(features), "--out", out, "--clusters", "5,50"], "numbers that fall"),
        "words": ([str(features), "--out", out, "--clusters", "5,x"], "'5,x' is not whole"),
        "sizes": ([str(features), "--out", out, *SMALL, "--sample-size", "3,3"], "for 3 levels"),
        "size": ([str(features), "--out", out, "--sample-size", "half"], "nor auto"),
        "iterations": ([str(features), "--out", out, "--iterations", "0"], "--iterations is 0"),
        "copies": ([str(features), "--out", out, "--copies", "0"], "--copies is 0"),
        "option": ([str(features), "--out", out, "--cluster", "5", "--budgt", "1"], "--budget"),
    }


@pytest.mark.parametrize(
    "which",
    "does not,budget,fraction,nothing,order,words,sizes,size,iterations,copies,option".split(","),
)
def test_mistakes_are_one_line(which, features, tmp_path):
    arguments, message = mistakes(features, tmp_path)[which]
    with pytest.raises(UserError) as error:
        curate.main(arguments)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_other_folders_are_left_alone(features, tmp_path):
    out = tmp_path / "out"
    command = [str(features), "--out", str(out)]
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="thesis.txt"):
        curate.main(command)
    (out / "thesis.txt").unlink()
    curate.main([*command, *SMALL])
    with pytest.raises(UserError, match="iterations 5 and this command 6"):
        curate.main([*command, *SMALL, "--iterations", "6"])
    with pytest.raises(UserError, match="holds a hierarchical curation, not a random"):
        curate.main([*command, "--method", "random"])
    with pytest.raises(UserError, match="are of other features"):
        other = write_features(tmp_path / "other", clumps([298, 40])[0])
        curate.main([str(other), "--out", str(out), *SMALL])
    (out / "levels" / "level-2.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="level-2.npz cannot be read"):
        curate.main([*command, *SMALL])


def test_features_are_read_as_they_were_written(tmp_path):
    values = np.random.default_rng(0).normal(size=(9000, 3)).astype(np.float32)
    folder = write_features(tmp_path, values, shards=2, held_out={0, 4500, 8999})
    found = read_features(folder)
    keep = ~np.isin(np.arange(9000), [0, 4500, 8999])
    np.testing.assert_array_equal(found.values, values[keep])
    assert found.held_out == 3 and found.values.dtype == np.float32
    wanted = {name: np.array(column)[keep].tolist() for name, column in columns(9000).items()}
    assert found.clips.drop_columns("held_out").to_pydict() == {
        name: column for name, column in wanted.items() if name != "held_out"
    }
    assert len(read_features(folder, keep_held_out=True).values) == 9000


def test_a_shard_refuses_what_does_not_fit(tmp_path):
    values = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="expected"):
        write_shard(tmp_path / "a", {"store": ["x"] * 3}, values)
    with pytest.raises(ValueError, match="3 features"):
        write_shard(tmp_path / "a", columns(4), values)
    values[1, 1] = np.nan
    with pytest.raises(UserError, match="row 1, clip main:v000 at 1000 ms: the feature is not fin"):
        write_shard(tmp_path / "a", columns(3), values)
    assert not list(tmp_path.iterdir())


def damage_missing(folder):
    (folder / shard_name(0)).unlink()
    return "features-00000.parquet is missing"


def damage_count(folder):
    (folder / shard_name(1)).unlink()
    return "holds 5 clips and features.json counts 10"


def damage_half(folder):
    path = folder / shard_name(1)
    path.write_bytes(path.read_bytes()[:-100])
    return "features-00001.parquet cannot be read"


def damage_meta(folder):
    (folder / "features.json").write_text("{}")
    return "no dim and count"


def damage_width(folder):
    write_shard(folder / shard_name(1), columns(5), np.ones((5, 7), np.float32))
    return "column feature is fixed_size_list"


def damage_type(folder):
    _rewrite(folder, "start_ms", pa.array(range(5), pa.int32()))
    return "column start_ms is int32; expected int64"


def damage_column(folder):
    path = folder / shard_name(1)
    pq.write_table(pq.read_table(path).drop_columns("case"), path)
    return "column case is nothing"


def damage_nan(folder):
    values = np.ones((5, 4), np.float32)
    values[2, 1] = np.inf
    flat = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 4)
    _rewrite(folder, "feature", flat)
    return "features-00001.parquet, row 2, clip main:v000 at 7000 ms: the feature is not finite"


def damage_empty(folder):
    _rewrite(folder, "case", pa.array(["a", None, "b", "c", "d"]))
    return "column case has empty values"


def damage_held_out(folder):
    for shard in (0, 1):
        write_shard(folder / shard_name(shard), columns(5, held_out=set(range(5))), np.ones((5, 4)))
    return "all 10 clips"


def _rewrite(folder, name, column):
    path = folder / shard_name(1)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


@pytest.mark.parametrize(
    "damage", [f for name, f in list(globals().items()) if name.startswith("damage_")]
)
def test_damaged_features_are_named(damage, tmp_path):
    write_features(tmp_path, np.ones((10, 4), np.float32))
    message = damage(tmp_path)
    with pytest.raises(UserError) as error:
        read_features(tmp_path)
    assert message in str(error.value)
