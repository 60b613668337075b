"""Suites as data: every entry is one that the adapters, `score` and the papers know."""

import importlib
import json

import pytest

from data_prep import manifest, sources
from surgjax.benchmark import score, suites
from surgjax.benchmark.aggregates import SURGREC_DOMAINS
from surgjax.errors import UserError

EVERY = [
    pytest.param(entry, id=f"{name}-{tier}-{entry.id}")
    for name in suites.names()
    for tier in suites.TIERS
    for entry in suites.load(name, tier).entries
    if not entry.own
]


def in_files(name, root, monkeypatch):
    """Tasks and splits that a source makes of the files of its miniature, without real videos."""
    layout = importlib.import_module(f"layouts.{name}")

    def empty(path, *_, **__):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    if hasattr(layout, "video"):
        monkeypatch.setattr(layout, "video", empty)
    layout.make(root)
    found = sources.load(name).find(root)
    return found.tasks, found.splits


@pytest.mark.parametrize("entry", EVERY)
def test_entries_are_what_the_adapters_have(entry, tmp_path, monkeypatch):
    source = sources.load(entry.source)
    tasks, splits = source.ABOUT.tasks, manifest.read(entry.source).about
    if hasattr(source, "SPLITS"):
        tasks, splits = in_files(entry.source, tmp_path, monkeypatch)
    if entry.dataset == "synthetic":
        splits = {"official": {}}  # of its splits.csv
    task = tasks[entry.label]
    several = entry.task in ("tool", "triplet") or "criteria_map" in entry.score_protocols
    assert task["kind"] == ("multi_label" if several else "one_of_n")
    assert set(entry.exclude) <= set(task["classes"])
    assert entry.split in (splits or {"strict": {}})
    assert entry.domain == sources.load(entry.dataset).ABOUT.domain
    assert entry.unit in suites.UNITS and entry.main in entry.metrics
    assert set(entry.score_protocols) <= set(score.PROTOCOLS[entry.task])


def test_strict_and_release_are_what_their_names_say():
    for name in suites.names():
        for entry in suites.load(name, "strict").entries:
            about = manifest.read(entry.source).about.get(entry.split, {})
            assert not about.get("leaky") and not about.get("val_is_test"), entry.id
    released = suites.load("surgrec16", "release").entries
    made_of = {(entry.source, entry.split, entry.unit) for entry in released}
    assert made_of == {("surgrec_csv", "surgrec_release", "video")}
    assert {e.store for e in released} == {f"surgrec_{e.dataset}" for e in released}
    parts = manifest.read("cholec80").splits["tecno"]  # the test videos of SurgVLP's zero-shot task
    tested = {video for video, part in parts.items() if part == "test"}
    assert tested == manifest.read("cholec80").splits["surgvlp_zero_shot"].keys()
    assert suites.load("surgclip10", "release").entry("cholec80").split == "tecno"


def test_suites_have_the_columns_of_their_papers():
    for tier in suites.TIERS:
        surgrec = suites.load("surgrec16", tier)
        domains = {entry.dataset: entry.domain for entry in surgrec.entries}
        assert len(domains) == 16
        assert domains == {d: name for name, sets in SURGREC_DOMAINS.items() for d in sets}
        vista = suites.load("surgvista13", tier)
        assert len(vista.averaged) == len({entry.dataset for entry in vista.averaged}) == 11
        beside = [entry.id for entry in vista.entries if entry.beside]
        assert beside == ["endoscapes_criteria"] and len(vista.entries) == 13 + len(beside)
        clip = suites.load("surgclip10", tier)
        assert len(clip.entries) == 10 and len(clip.datasets) == 6
        for suite in (surgrec, vista, clip):
            assert len({entry.id for entry in suite.entries}) == len(suite.entries)
    bypass = [e for e in clip.entries if e.dataset == "multibypass140"]
    assert {e.split for e in bypass} == {"bern_0", "strasbourg_0"}
    assert all(e.exclude == ("other_intervention",) for e in bypass)
    assert vista.entry("cholect50").main == "ap_ivt"
    assert tuple(vista.entry("cholect50").metrics)[-1] == "ap_ivt"


def test_a_store_is_found_and_what_is_missing_is_said(store, tmp_path):
    rendered = suites.load("synthetic")
    (found,) = suites.open_stores([store])
    assert all(suites.store_of(entry, [found]) is found for entry in rendered.entries)
    assert suites.needed(rendered, [found]) == []
    assert [s.path for s in suites.open_stores([store.parent, store])].count(found.path) == 1
    (line, _) = suites.needed(rendered)
    assert "python -m data_prep synthesize" in line and "--dataset synthetic" in line
    lines = suites.needed(suites.load("surgrec16", "release"), [found])
    assert len(lines) == 16
    (line,) = (line for line in lines if line.startswith("cholec80: "))
    assert "request form of CAMMA" in line and "--out STORES/surgrec_cholec80" in line
    lines = "\n".join(suites.needed(suites.load("surgvista13")))
    assert "esd57: private, bring your own" in lines and "--videos DIR --dataset esd57" in lines


def test_a_store_without_the_labels_or_the_split_does_not_do(store, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in store.iterdir():
        (changed / file.name).symlink_to(file)
    meta = json.loads((store / "store.json").read_text())
    del meta["tasks"]["instrument"]
    (changed / "store.json").unlink()
    (changed / "store.json").write_text(json.dumps(meta))
    phase, tool = suites.load("synthetic").entries
    (found,) = suites.open_stores([changed])
    assert suites.store_of(phase, [found]) is found and suites.store_of(tool, [found]) is None
    (line,) = suites.needed(suites.load("synthetic"), [found])
    assert line.startswith("synthetic_tool: ") and "no labels of task 'instrument'" in line
    assert suites.store_of(tool, suites.open_stores([changed, store])).path == store


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="no suite 'surgrec'.*did you mean 'surgrec16'"):
        suites.load("surgrec")
    with pytest.raises(UserError, match="tier 'released'.*did you mean 'release'"):
        suites.load("surgrec16", "released")
    with pytest.raises(UserError, match="no folder .*nowhere; expected the --out"):
        suites.open_stores([tmp_path / "nowhere"])
    assert suites.open_stores([tmp_path]) == []
