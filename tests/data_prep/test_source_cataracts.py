"""CATARACTS: frames from 1, steps from 0, tables of three parts, annotators who differ."""

from collections import Counter

import numpy as np
import pytest
from layouts import cataracts as layout
from layouts import text

from data_prep import manifest
from data_prep.sources import Times, Video, cataracts
from surgjax.errors import UserError

TIMES = Times(np.array([0, 959, 994]), np.array([0, 28, 29]), 29.18)
TABLES = "ground_truth/CATARACTS_2020"


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video_of(root, name="train01") -> Video:
    return next(video for video in cataracts.find(root).videos if video.video_id == name)


def shown(root, index):
    """Instruments of frames of train01: frame -> their names."""
    times = Times(np.array(index) * 35, np.array(index), 29.18)
    table = cataracts.labels(root, video_of(root), times)["instrument"]
    names = [{cataracts.INSTRUMENTS[i] for i in np.flatnonzero(row)} for row in table.values]
    return dict(zip((table.t_ms // 35).tolist(), names, strict=True))


def write(root, *rows):
    text(root / TABLES / "train_gt" / "train01.csv", rows)


def test_row_1_is_the_first_frame(root):
    table = cataracts.labels(root, video_of(root), TIMES)["step"]
    assert table.label.tolist() == [0, 0, 18]


def test_the_tray_is_not_stored(root):
    assert [video.video_id for video in cataracts.find(root).videos] == [
        "test01",
        "test02",
        "train01",
    ]


def test_part_of_a_table_may_differ_from_the_name(root):
    assert cataracts.labels(root, video_of(root, "test01"), TIMES)["step"].label[-1] == 18
    assert video_of(root, "test01").splits["official"] == "val"
    assert video_of(root, "test02").splits["official"] == "test"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["Frame,Steps", "0,0"], "train_gt/train01.csv, line 2: .*expected frame 1 and one step"),
        (["Frame,Steps", "1,19"], "line 2: step is '19'; expected a number from 0 to 18"),
        (["Frame,Steps", "1,0", "3,0"], "line 3: .*expected frame 2"),
        (["Frame,biomarker", "1,0"], "line 1: header is .*expected Frame and Steps"),
        (["1,0"], "line 1: header is"),
    ],
)
def test_bad_rows_are_named(root, rows, message):
    write(root, *rows)
    with pytest.raises(UserError, match=message):
        cataracts.labels(root, video_of(root), TIMES)


def test_frames_where_the_annotators_differ_have_no_instruments(root):
    assert shown(root, [0, 28, 29, 30, 60]) == {
        0: {"biomarker", "cotton"},
        28: {"biomarker", "cotton"},
        30: {"Vannas scissors"},
    }


def test_instruments_go_by_name(root):
    names = cataracts.INSTRUMENTS[::-1]
    header = ["Frame", "to_be_evaluated", *(name.upper() for name in names)]
    rows = [["1", "1", "1.0", *["0.0"] * 20], ["2", "0", "1", *["0"] * 20]]
    lines = [",".join(row) for row in [header, *rows]]
    text(root / "ground_truth/CATARACTS_2017/train_gt/train01.csv", lines)
    assert shown(root, [0, 1]) == {0: {"Vannas scissors"}}  # frame 1 is not to be evaluated


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "cotton",
            "cottom",
            "train_gt/train01.csv, line 1: header is .*expected Frame, bio",
        ),
        ("Frame,", "Time,", "line 1: header is"),
        (",Vannas scissors", "", "line 1: header is"),
        ("cotton", "cotton,cotton", "line 1: header is .*expected Frame, biomarker, Charl"),
        (
            "\n1,1,",
            "\n0,1,",
            "train01.csv, line 2: .*expected frame 1 and 21 values of 0, 0.5 or 1",
        ),
        ("\n3,1,", "\n3,0.7,", "line 4: .*expected frame 3"),
        ("\n3,1,", "\n4,1,", "line 4: .*expected frame 3"),
    ],
)
def test_bad_tables_of_instruments_are_named(root, old, new, message):
    path = root / "ground_truth/CATARACTS_2017/train_gt/train01.csv"
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        cataracts.check_labels(root, video_of(root), 60.0)


def test_both_tables_are_compared_with_the_video(root):
    layout.instruments(root, [{}] * 58)
    path = "ground_truth/CATARACTS_2017/train_gt/train01.csv"
    warnings = cataracts.check_labels(root, video_of(root), 60.0)
    assert warnings == [f"{path}: 2 rows too short (58 of 60)"]


def test_up_to_a_second_is_tolerated(root):
    check = lambda name: cataracts.check_labels(root, video_of(root, name), 60.0)  # noqa: E731
    assert check("train01") == []
    assert check("test02") == [f"{TABLES}/test_gt/test02.csv: 5 rows too short (55 of 60)"]
    write(root, "Frame,Steps", *(f"{i},0" for i in range(1, 30)))
    with pytest.raises(UserError, match=r"29 rows, but .* row 29 \(line 31\) is the first missing"):
        check("train01")


def test_missing_tables_are_counted(root):
    (root / TABLES / "dev_gt" / "test01.csv").unlink()
    warnings = cataracts.find(root).warnings
    assert "47 of 50 official videos are missing: test03, test04" in warnings[0]
    assert warnings[1] == "1 of 3 videos have no step file: test01"
    assert warnings[2] == "2 of 3 videos have no instrument file: test01, test02"
    assert cataracts.labels(root, video_of(root, "test01"), TIMES) == {}
    assert cataracts.check_labels(root, video_of(root, "test01"), 60.0) == []


def test_25_and_5_and_20():
    splits = manifest.read("cataracts")
    official = splits.splits["official"]
    assert Counter(official.values()) == {"train": 25, "val": 5, "test": 20}
    assert splits.names == official.keys() and splits.splits["strict"] == official
    dev = {name for name, part in official.items() if part == "val"}
    assert dev == {"test01", "test07", "test14", "test16", "test19"}
    assert len(cataracts.STEPS) == 19 and len(set(cataracts.INSTRUMENTS)) == 21
