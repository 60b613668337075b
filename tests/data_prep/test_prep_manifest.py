"""Splits: published ones as they were published, ours the same everywhere."""

from collections import Counter

import pytest

from data_prep import manifest
from data_prep.sources import PARTS


@pytest.mark.parametrize("dataset", sorted(path.stem for path in manifest.FOLDER.glob("*.yaml")))
def test_split_files_are_whole(dataset):
    splits = manifest.read(dataset)
    for name, parts in splits.splits.items():
        assert splits.digests[name] == manifest.digest(parts), (name, manifest.digest(parts))
        assert set(parts.values()) <= set(PARTS) and "tier" in splits.about[name]
        assert not splits.names or parts.keys() <= splits.names, name
    assert splits.about["strict"].keys() == {"tier"}  # not leaky, no test case validates


def test_ranges_keep_their_zeros(tmp_path, monkeypatch):
    text = """
    {dataset: x, videos: a08-11 b3 c1-2, splits: {own: {source_tier: ours, test: a08-09,
    train: b3, sha256: x, leaky: true}}}
    """
    (tmp_path / "x.yaml").write_text(text)
    monkeypatch.setattr(manifest, "FOLDER", tmp_path)
    splits = manifest.read("x")
    assert splits.names == {"a08", "a09", "a10", "a11", "b3", "c1", "c2"}
    assert splits.splits == {"own": {"a08": "test", "a09": "test", "b3": "train"}}
    assert splits.about == {"own": {"tier": "ours", "leaky": True}}
    assert manifest.read("unknown").splits == {}


@pytest.mark.parametrize(
    ("count", "expected"), [(100, (70, 20, 10)), (10, (7, 2, 1)), (3, (1, 1, 1))]
)
def test_seven_two_one(count, expected):
    parts = manifest.divide({f"case{i}": None for i in range(count)})
    assert tuple(Counter(parts.values())[part] for part in PARTS) == expected
    assert parts == manifest.divide({f"case{i}": None for i in reversed(range(count))})
    assert count < 10 or parts != manifest.divide(dict.fromkeys(parts), seed=1)


def test_strata_are_spread_over_the_parts():
    strata = {f"case{i}": "rare" if i % 10 == 0 else "usual" for i in range(200)}
    parts = manifest.divide(strata)
    count = Counter((strata[name], part) for name, part in parts.items())
    assert {part: count["rare", part] for part in PARTS} == {"train": 14, "val": 4, "test": 2}


def test_few_cases():
    assert manifest.divide({}) == {} and manifest.divide({"a": 0}) == {"a": "train"}
    assert sorted(manifest.divide({"a": 0, "b": 0}).values()) == ["test", "train"]
