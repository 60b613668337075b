"""CATARACTS: frames from 1, steps from 0, tables of three parts."""

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
    assert cataracts.labels(root, video_of(root, "test01"), TIMES) == {}
    assert cataracts.check_labels(root, video_of(root, "test01"), 60.0) == []


def test_25_and_5_and_20():
    splits = manifest.read("cataracts")
    official = splits.splits["official"]
    assert Counter(official.values()) == {"train": 25, "val": 5, "test": 20}
    assert splits.names == official.keys() and splits.splits["strict"] == official
    dev = {name for name, part in official.items() if part == "val"}
    assert dev == {"test01", "test07", "test14", "test16", "test19"}
    assert len(cataracts.CLASSES) == 19
