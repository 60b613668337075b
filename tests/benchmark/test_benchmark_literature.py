"""Published numbers: what follows from them does, and what does not is noted."""

import re

import pytest

from configs import surgvista
from surgjax.benchmark import aggregates, curves, literature, suites

TABLES = literature.read()["tables"]


def table2(model):
    of = TABLES["surgrec_table2"]
    return dict(zip(of["columns"], of["rows"][model], strict=True))


def given_by_table2(model):
    """Domains, macro and worst as Table 4 has them, in per cent."""
    found = aggregates.aggregate(table2(model))
    return [*found.domains.values(), found.macro, found.worst]


def test_one_row_of_table_4_follows_from_table_2_and_the_others_are_noted():
    assert list(aggregates.SURGREC_DOMAINS) == TABLES["surgrec_table4"]["columns"][:4]
    notes = TABLES["surgrec_table4"]["notes"]
    for model, printed in TABLES["surgrec_table4"]["rows"].items():
        given = given_by_table2(model)
        if model not in notes:
            assert model == "SurgRec-MAE w/o balance"
            assert printed == [17.87, 22.80, 56.73, 35.50, 33.23, 17.87]
            assert given == pytest.approx(printed, abs=0.006)
            continue
        assert given != pytest.approx(printed, abs=0.3)
        told = [float(word) for word in re.findall(r"\d+\.\d\d", notes[model])]
        assert told == pytest.approx(given, abs=0.006)
        # Its own last two columns follow from the others.
        assert printed[4:] == pytest.approx([sum(printed[:4]) / 4, min(printed[:4])], abs=0.006)


def test_printed_differences_are_those_of_the_rows_but_for_the_slips():
    of = TABLES["surgrec_table4"]
    slips = 0
    for name, printed in of["differences"].items():
        one, other = (of["rows"][model] for model in name.split(" minus "))
        for column, value, a, b in zip(of["columns"], printed, one, other, strict=True):
            wrong, right = of["slips"].get(name, {}).get(column, (None, value))
            assert right == pytest.approx(a - b, abs=0.006)
            if wrong is not None:
                slips += 1
                assert wrong == f"{value:+.2f}" or "/" in wrong
                assert f"{right:+.2f}" in of["note"] or "/" in wrong
    assert slips == 4


def test_the_text_averages_follow_from_no_table():
    means = {m: sum(table2(m).values()) / 16 for m in TABLES["surgrec_table2"]["rows"]}
    gains = means["SurgRec-MAE"] - means["VideoMAE"], means["SurgRec-JEPA"] - means["JEPA"]
    assert gains == pytest.approx((17.03, 5.09), abs=0.006)  # and not 3.18 and 2.61


def test_a_row_has_all_tables_of_its_model_as_shares():
    rows = {row.model: row for row in literature.of_suite("surgrec16")}
    row = rows["VideoMAE"]
    assert [source.where for source in row.sources] == ["Table 2", "Table 4"]
    assert row.values["cholec80:image_accuracy"] == pytest.approx(0.1465)
    assert row.values["macro"] == pytest.approx(0.3812) and "27.15" in row.notes["macro"]
    assert "cholec80:image_accuracy" not in row.notes
    assert rows["Qwen3-VL-8B, P2"].sources[0].protocol == "zero_shot"
    (row,) = literature.of_suite("surgvista13")
    assert row.values["cholec80:jaccard"] == pytest.approx(0.781)
    (row,) = (r for r in literature.of_suite("surgclip10") if r.model == "SurgCLIP (β)")
    assert row.values["cholec80:video_accuracy"] == pytest.approx(0.5798)
    assert row.values["cholec80:macro_f1_per_video"] == pytest.approx(0.3942)


@pytest.mark.parametrize("suite", ["surgrec16", "surgvista13", "surgclip10"])
def test_columns_are_those_of_the_suite(suite):
    known = {
        f"{entry.id}:{metric}"
        for entry in suites.load(suite, "release").entries
        for metric in entry.metrics
    } | {*aggregates.SURGREC_DOMAINS, "macro", "worst"}
    for row in literature.of_suite(suite):
        assert row.values.keys() <= known
        assert all(0 <= value <= 1 for value in row.values.values())


def test_arena_scores_are_sums():
    of = TABLES["surgvlm_bench"]
    assert of["columns"] == ["arena", *aggregates.ARENA] and len(of["rows"]) == 20
    for arena, *scores in of["rows"].values():
        found = aggregates.arena_score(dict(zip(aggregates.ARENA, scores, strict=True)))
        assert found == pytest.approx(arena, abs=0.021)


def test_settings_are_those_that_are_trained():
    said = literature.read()["scaling"]["settings"]
    own = {s: sum(surgvista.FRAMES[n] for n in surgvista._datasets(s)) for s in said}
    sizes = curves.sizes_by_name([f"ours-{s}" for s in said] + ["ours-base"]).models
    assert sizes == {f"ours-{s}": ("ours", own[s]) for s in said} and own["E"] == 3_552_777
    of_gallbladder = sum(surgvista.FRAMES[n] for n in ("cholec80", "m2cai16_workflow", "heichole"))
    for setting in "CD":
        share = of_gallbladder / own[setting]
        assert said[setting]["cholecystectomy"] == pytest.approx(share, abs=0.0006)
    columns = {key for gain in literature.read()["scaling"]["gains"] for key in gain}
    for column in columns - {"from", "to"}:
        entry, metric = column.split(":")
        assert metric in suites.load("surgvista13").entry(entry).metrics
