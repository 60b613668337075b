"""`list` says what there is and where to get it, without jax."""

import subprocess
import sys
from pathlib import Path

import pytest

from surgjax.benchmark import list as listing
from surgjax.benchmark import suites
from surgjax.benchmark.__main__ import main
from surgjax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def by_id(suite, tier="strict", stores=()):
    found = listing.rows(suites.load(suite, tier), stores)
    return {row[0]: dict(zip(listing.COLUMNS, row, strict=True)) for row in found}


def test_rows_say_split_layout_licence_and_access():
    vista = by_id("surgvista13")
    assert len(vista) == 14
    assert vista["cholec80"] == {
        "set": "cholec80",
        "task": "phase: phase",
        "split (who)": "strict (official)",
        "unit": "frame",
        "layout": "from-code",
        "licence": "CC-BY-NC-SA-4.0",
        "here": "-",
        "access": "request form of CAMMA",
    }
    assert vista["esd57"]["access"] == "private, bring your own"
    assert vista["esd57"]["licence"] == vista["esd57"]["layout"] == "yours"
    assert by_id("surgvista13", "release")["cholec80"]["split (who)"] == "surgvista (paper-release)"
    rec = by_id("surgrec16")
    assert rec["colonoscopic"]["split (who)"] == "strict (ours)"
    assert rec["jigsaws"]["split (who)"] == "strict (in files)"
    released = by_id("surgrec16", "release")["jigsaws"]
    assert released["layout"] == "verified" and released["licence"] == "NOASSERTION"
    assert "SurgRec's repository" in released["access"] and "registration" in released["access"]
    clip = by_id("surgclip10")
    assert clip["bernbypass70"]["split (who)"] == "bern_0 (official, fold)"
    assert clip["grasp_tool"]["task"] == "tool: instrument"


def test_a_store_is_shown_where_it_is(store, capsys):
    assert main(["list", "--suite", "synthetic", "--stores", str(store)]) == 0
    printed = capsys.readouterr().out
    assert "synthetic, tier strict: 2 of 2 here" in printed and printed.count(str(store)) == 2
    assert "official (official)" in printed and "nothing was looked for" not in printed


def test_all_suites_without_a_store_and_without_jax():
    code = (
        "import sys; from surgjax.benchmark.__main__ import main; main(['list']); "
        "assert not {'jax', 'flax', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in suites.names():
        assert f"{name}" in done.stdout
    assert "0 of 14 here" in done.stdout and "name stores as --stores DIR" in done.stdout


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="no suite 'surgvista'"):
        main(["list", "--suite", "surgvista"])
    with pytest.raises(UserError, match="no folder"):
        main(["list", "--stores", str(tmp_path / "nowhere")])
