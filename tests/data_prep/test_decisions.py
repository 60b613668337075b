"""review.csv over the findings of `data_prep qc`: what is stored of a video, and what is not."""

import numpy as np
import pytest

from data_prep import decisions, review
from data_prep.decisions import END
from surgjax.errors import UserError
from tests import small_videos as make


@pytest.fixture
def qc(tmp_path):
    """Video a of 100 s: a person at 10 to 20 s and from 90 s on, text at 40 to 60 s; b is plain."""
    a = [
        "a",
        "100.000",
        50,
        999,
        0.1,
        0,
        0,
        0.2,
        0.2,
        3,
        0.1,
        0.0,
        0.9,
        1.0,
        "",
        "black frozen cuts",
    ]
    b = ["b", "50.000", 25, 999, 0, 0, 0, 0, 0, 0, *[""] * 6]
    spans = [
        ["a", "10.000", "20.000", "out_of_body", "0.9"],
        ["a", "40.000", "60.000", "text", "0.8"],
        ["a", "0.000", "10.000", "black", "1"],
        ["a", "90.000", "100.000", "out_of_body", "0.9"],
    ]
    box = [["a", "40.000", "60.000", "0.1", "0.8", "0.5", "0.9"]]
    make.findings(tmp_path, [[*a, ""], [*b, ""]], spans, box)
    return tmp_path


def reviewed(qc, *rows):
    make.reviews(qc, *rows)
    return decisions.read(qc)["a"]


def test_privacy_findings_are_left_out_and_quality_is_marked(qc):
    found = decisions.read(qc)
    expected = [(10_000, 20_000, "out_of_body"), (40_000, 60_000, "text")]
    assert found["a"].left_out == [*expected, (90_000, END, "out_of_body")]
    assert found["a"].flags == ["black", "frozen"] and found["a"].crop is None
    assert found["b"] == decisions.Decision()


def test_text_can_be_covered_and_borders_cut(qc):
    decision = decisions.read(qc, crop=True, cover_text=True)["a"]
    assert [why for *_, why in decision.left_out] == ["out_of_body", "out_of_body"]
    assert decision.covered == [(40_000, 60_000, 0.1, 0.8, 0.5, 0.9)]
    assert decision.crop == (0.1, 0.0, 0.9, 1.0)


def test_rows_of_a_person_go_before_findings_and_later_rows_before_earlier(qc):
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = []
        for _ in range(rng.integers(1, 6)):
            start, end = np.sort(rng.choice(100, 2, replace=False))
            rows.append(["a", start, end, rng.choice(["keep", "drop"])])
        left = np.zeros(100, bool)
        for start, end in ((10, 20), (40, 60), (90, 100)):
            left[start:end] = True
        for _, start, end, decision in rows:
            left[start:end] = decision == "drop"
        spans = reviewed(qc, *rows).left_out
        ours = np.zeros(100, bool)
        for start, end, _ in spans:
            ours[start // 1000 : min(100_000, end) // 1000] = True
        np.testing.assert_array_equal(ours, left)
        ends = [t for start, end, _ in spans for t in (start, end)]
        assert ends == sorted(ends)


def test_a_video_that_is_kept_whole_loses_its_flags(qc):
    assert reviewed(qc, ["a", "", "", "keep"]) == decisions.Decision()
    assert reviewed(qc, ["a", "", "", "drop"]).left_out == [(0, END, "review")]
    decision = reviewed(qc, ["a", "", "", "drop"], ["a", "1:00", "0:01:30", "keep"])
    assert decision.left_out == [(0, 60_000, "review"), (90_000, END, "review")]
    assert decision.flags == ["black", "frozen"]


@pytest.mark.parametrize(
    "row, message",
    [
        (["c", "", "", "keep"], "row 2: no video 'c'"),
        (["a", "", "", "hold"], "decision is 'hold'; expected keep or drop"),
        (["a", "20", "10", "keep"], "start 20 is not before end 10"),
        (["a", "1:75", "", "keep"], "start is '1:75'; expected seconds or h:mm:ss"),
        (["a", "-1", "", "keep"], "start is '-1'"),
    ],
)
def test_rows_that_cannot_be_meant_are_named(qc, row, message):
    with pytest.raises(UserError, match=message):
        reviewed(qc, row)


@pytest.mark.parametrize(
    "who, message", [(["", "2026-05-31"], "reviewer is empty"), (["A", "31.5.26"], "date is")]
)
def test_somebody_answers_for_every_row(qc, who, message):
    line = ",".join(["a", "", "", "keep", *who])
    (qc / "review.csv").write_text(",".join(review.COLUMNS) + "\n" + line + "\n")
    with pytest.raises(UserError, match=message):
        decisions.read(qc)


def test_an_unfinished_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished qc.json"):
        decisions.read(tmp_path)


@pytest.mark.parametrize("name", ["spans.csv", "boxes.csv", "videos.csv", "review.csv", "qc.json"])
def test_findings_that_are_gone_or_edited_hide_nothing(qc, name):
    """What a table no longer says would be stored."""
    text = (qc / name).read_text()
    (qc / name).unlink()
    with pytest.raises(UserError):
        decisions.read(qc)
    if name.endswith(".csv") and name != "review.csv":
        (qc / name).write_text(text.splitlines()[0] + "\n")
        with pytest.raises(UserError, match=f"{name} is not what .* wrote"):
            decisions.read(qc)
