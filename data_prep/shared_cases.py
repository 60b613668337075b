"""Operations that are in several datasets: what is published (shared_cases.yaml)."""

import functools
from collections.abc import Collection
from pathlib import Path

import yaml

from data_prep import manifest

FILE = Path(__file__).resolve().parent / "shared_cases.yaml"


def rows(cases: Collection[str]) -> list[dict]:
    """Rows of same_cases.parquet (record.SAME_CASE_COLUMNS) for the cases of a store, sorted."""
    found = []
    for case, same_as in _pairs():
        for name, other in ((case, same_as), (same_as, case)):
            if name in cases:
                evidence = {"held_out": is_held_out(other), "evidence": "published"}
                found.append({"case": name, "same_as": other} | evidence)
    return sorted(found, key=lambda row: (row["case"], row["same_as"]))


def is_held_out(case: str) -> bool:
    """Whether a case is tested in its dataset, by the split `strict`."""
    dataset, _, name = case.partition("/")
    return _manifest(dataset).splits.get("strict", {}).get(name) == "test"


def warnings(dataset: str) -> list[str]:
    """What only pictures can tell about a dataset's cases."""
    links = [{of["dataset"], of["of"]} for of in _read()["same"]]
    listed, found = {dataset}, []
    for _ in links:  # also what is listed by way of a third
        listed = listed.union(*(link for link in links if link & listed))
    for group in _read()["unlisted"]:
        if dataset not in group["datasets"]:
            continue
        others = [name for name in group["datasets"] if name not in listed]
        found.append(
            f"{dataset} shares operations with {', '.join(others)} that no list names "
            f"({group['why']}); with one of them, run python -m data_prep overlap"
        )
    return found


@functools.cache
def _read() -> dict:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


@functools.cache
def _manifest(dataset: str) -> manifest.Manifest:
    return manifest.read(dataset)


@functools.cache
def _pairs() -> list[tuple[str, str]]:
    pairs = []
    for of in _read()["same"]:
        names = zip(manifest.expand(of["cases"]), manifest.expand(of["names"]), strict=True)
        pairs += [(f"{of['dataset']}/{a}", f"{of['of']}/{b}") for a, b in names]
    return pairs
