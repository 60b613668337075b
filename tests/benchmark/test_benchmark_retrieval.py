"""Retrieval numbers against loops over every pair, and chance against shuffling."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from surgjax.benchmark import retrieval
from surgjax.errors import UserError

TEXTS = ["cut", "clip", "cut", "hold", "rinse", "clip", "cut", "look", "pull", "burn"]


def columns():
    count = len(TEXTS)
    return {
        "dataset": np.full(count, "made"),
        "split": np.full(count, "test"),
        "video_id": np.array([f"v{i % 3}" for i in range(count)]),
        "case": np.array([f"made/v{i % 3}" for i in range(count)]),
        "caption_id": np.array([f"c{i}" for i in range(count)]),
        "level": np.array(["fine", "mid"] * (count // 2)),
        "text": np.array(TEXTS),
        "start_ms": np.zeros(count, np.int64),
        "end_ms": np.full(count, 1000),
        "protocol": np.full(count, "by hand"),
    }


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    video, text = rng.normal(size=(2, len(TEXTS), 6)).astype(np.float32)
    text = np.stack([text[TEXTS.index(word)] for word in TEXTS])  # equal texts, equal embeddings
    far = rng.normal(size=(2, len(TEXTS), 3)).astype(np.float32)
    same = np.ones((len(TEXTS), 2), np.float32)
    path = tmp_path / "embeddings.parquet"
    models = {"pretrained": (video, text), "random": tuple(far), "collapsed": (same, same)}
    retrieval.write_embeddings(path, columns(), models)
    return path, video, text


def rank(similar, wrong, right):
    """One plus the wrong items that are at least as similar as the best right one."""
    best = max(similar[j] for j in right)
    return 1 + sum(similar[j] >= best for j in wrong)


def test_ranks_are_those_of_a_loop(file):
    path, video, text = file
    result = retrieval.score(path)
    similar = video.astype(np.float64) @ text.astype(np.float64).T
    rows = range(len(TEXTS))
    words = list(dict.fromkeys(TEXTS))
    expected = {"text_to_video": [], "video_to_text": []}
    for i in rows:
        right = [j for j in rows if TEXTS[j] == TEXTS[i]]
        wrong = [j for j in rows if TEXTS[j] != TEXTS[i]]
        expected["text_to_video"].append(rank(similar[:, i], wrong, right))
        by_word = [similar[i, TEXTS.index(word)] for word in words]
        at = words.index(TEXTS[i])
        expected["video_to_text"].append(rank(by_word, set(range(len(words))) - {at}, [at]))
    found = result["groups"]["all"]
    assert (found["pairs"], found["texts"]) == (10, 7)
    for direction, ranks in expected.items():
        row = found["models"]["pretrained"][direction]
        for k in retrieval.RECALLS:
            assert row[f"recall_{k}"] == pytest.approx(np.mean(np.array(ranks) <= k))
        assert row["median_rank"] == np.median(ranks)
        hits = [np.mean([ranks[i] <= 5 for i in rows if i % 3 == v]) for v in range(3)]
        each = row["recall_5_per_video"]
        assert each["value"] == pytest.approx(np.mean(hits)) and not each["reliable"]
        assert each["low"] <= each["value"] <= each["high"]


def test_a_model_that_maps_all_to_one_point_finds_nothing(file):
    row = retrieval.score(file[0])["groups"]["all"]["models"]["collapsed"]
    assert row["text_to_video"]["recall_1"] == 0 and row["video_to_text"]["median_rank"] == 7
    assert row["video_to_text"]["recall_5"] == 0


def test_levels_are_scored_among_themselves(file):
    result = retrieval.score(file[0])
    assert list(result["groups"]) == ["all", "fine", "mid"]
    fine = result["groups"]["fine"]
    assert fine["pairs"] == 5 and fine["texts"] == len(set(TEXTS[::2]))
    assert fine["chance"]["video_to_text"]["recall_1"] == pytest.approx(1 / fine["texts"])
    lines = retrieval.text_table(result).splitlines()
    assert sum("chance" in line for line in lines) == 6 and "0.278 (3 videos)" in lines[2]


def test_chance_is_what_shuffling_gives():
    rng = np.random.default_rng(1)
    right = np.array([1, 1, 3, 2, 7])
    ranks = [1 + np.flatnonzero(rng.permutation(12) < right[i % 5])[0] for i in range(60_000)]
    recall, median = retrieval.chance(12, right)
    for k in retrieval.RECALLS:
        assert recall[k] == pytest.approx(np.mean(np.array(ranks) <= k), abs=0.01)
    assert median == np.median(ranks)
    recall, median = retrieval.chance(1000, np.ones(8, int))
    assert recall == pytest.approx({1: 0.001, 5: 0.005, 10: 0.01}) and median == 500


def test_large_tables_are_ranked_in_slabs(monkeypatch):
    rng = np.random.default_rng(2)
    query, items = rng.normal(size=(2, 50, 4)).astype(np.float32)
    group = rng.integers(0, 20, 50)
    right = group[rng.integers(0, 50, 50)]
    whole = retrieval.ranks(query, items, right, group)
    monkeypatch.setattr(retrieval, "SLAB", 7 * 50)
    np.testing.assert_array_equal(retrieval.ranks(query, items, right, group), whole)


def test_files_that_do_not_fit_are_named(file, tmp_path):
    with pytest.raises(UserError, match="cannot be read as embeddings"):
        retrieval.score(tmp_path / "none.parquet")
    table = pq.read_table(file[0])
    pq.write_table(table.drop(["caption_id"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="lacks the columns caption_id"):
        retrieval.score(tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 19), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="model random was asked other pairs than pretrained"):
        retrieval.score(tmp_path / "b.parquet")
    lists = pa.array([[1.0]] + table["video_embedding"].to_pylist()[1:], pa.list_(pa.float32()))
    place = table.column_names.index("video_embedding")
    pq.write_table(table.set_column(place, "video_embedding", lists), tmp_path / "c.parquet")
    with pytest.raises(UserError, match="row 0: video_embedding has 1 values, others 6"):
        retrieval.score(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="lack .*level"):
        short = {name: x for name, x in columns().items() if name != "level"}
        retrieval.write_embeddings(tmp_path / "d.parquet", short, {})
