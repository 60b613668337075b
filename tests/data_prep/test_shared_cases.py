"""Operations that several datasets share: the table fits the manifests and reaches the stores."""

import layouts.cholect50
import small_videos as make

from data_prep import manifest, shared_cases


def test_the_names_are_those_of_the_manifests():
    pairs = shared_cases._pairs()
    assert len(pairs) == len(set(pairs)) == 45 + 45 + 45 + 80 + 8
    for case in (name for pair in pairs for name in pair):
        dataset, _, name = case.partition("/")
        assert name in manifest.read(dataset).names, case
    alone = {f"VID{number}" for number in (92, 96, 103, 110, 111)}
    shown = {a.partition("/")[2] for a, b in pairs if a.startswith("cholect50/")}
    assert manifest.read("cholect50").names == shown | alone
    assert manifest.read("cholect45").names == shown


def test_rows_go_both_ways_and_tell_what_is_held_out():
    rows = {row["case"]: row for row in shared_cases.rows({"cholect50/VID51", "psi_ava/CASE001"})}
    assert rows["cholect50/VID51"]["same_as"] in ("cholec80/video51", "cholect45/VID51")
    assert rows["psi_ava/CASE001"]["same_as"] == "grasp/CASE001"
    held = {
        (row["case"], row["same_as"]): row["held_out"]
        for row in shared_cases.rows({"cholect50/VID51", "cholec80/video01", "grasp/CASE001"})
    }
    assert held["cholect50/VID51", "cholec80/video51"]  # tested in Cholec80
    assert not held["cholec80/video01", "cholec80_cvs/video01"]
    assert shared_cases.rows({"own/VID51"}) == []


def test_folds_hold_nothing_out():
    assert not shared_cases.is_held_out("cholect50/VID79")  # test in fold 1 alone
    assert shared_cases.is_held_out("cholect50/VID92")  # test of the challenge


def test_a_store_knows_the_other_names_of_its_cases(tmp_path, capsys):
    layouts.cholect50.make(tmp_path / "root")
    out = tmp_path / "store"
    make.shards(tmp_path / "root", out, "--dataset", "cholect50", "--short-side", "48")
    assert "note: cholect50 shares operations with m2cai16, endoscapes" in capsys.readouterr().out
    cases = {row["case"] for row in make.rows(out, "videos")}
    rows = make.rows(out, "same_cases")
    assert rows == shared_cases.rows(cases) and rows
    assert all(row["evidence"] == "published" for row in rows)
