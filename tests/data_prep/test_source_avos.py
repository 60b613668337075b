"""AVOS: spans in seconds, tables told by their columns, videos that disappeared."""

import numpy as np
import pytest
from layouts import avos as layout
from layouts import text

from data_prep import sources
from data_prep.sources import Times, avos
from surgjax.errors import UserError

QUARTERS = Times(np.arange(12) * 250, np.arange(12), 4.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def one(root, name="-3gFrKiC99I"):
    return next(video for video in avos.find(root).videos if video.video_id == name)


def test_times_count_and_not_frames(root):
    text(root / "train.csv", [layout.HEADER, "-3gFrKiC99I,0.5,1.25,9000,9999,tying"])
    table = avos.labels(root, one(root), QUARTERS)["action"]
    assert table.t_ms.tolist() == [500, 750, 1000] and table.label.tolist() == [3, 3, 3]


def test_the_later_of_overlapping_rows_counts(root):
    rows = ["-3gFrKiC99I,0,2,0,0,background", "-3gFrKiC99I,1,3,0,0,cutting"]
    text(root / "train.csv", [layout.HEADER, *rows])
    table = avos.labels(root, one(root), QUARTERS)["action"]
    assert table.label.tolist() == [0] * 4 + [1] * 8


def test_what_is_missing_is_told(root):
    assert avos.find(root).warnings == [
        "1 of 3 labelled videos are missing: goneFromWeb",
        "1 of 3 videos have no row: rzKGRcXNXm4",
    ]
    assert avos.labels(root, one(root, "rzKGRcXNXm4"), QUARTERS) == {}


def test_only_a_table_of_actions_makes_it_avos(root):
    assert sources.detect(root) == "avos"
    (root / "train.csv").unlink()
    (root / "annotations" / "test.csv").unlink()
    assert not avos.recognises(root)  # boxes alone
    assert avos.labels(root, one(root), QUARTERS) == {}
    assert avos.check_labels(root, one(root), 75) == []


def test_spans_past_the_end_are_an_error(root):
    assert avos.check_labels(root, one(root), 75) == []
    text(root / "train.csv", [layout.HEADER, "-3gFrKiC99I,4.5,9,0,0,tying"])
    with pytest.raises(UserError, match="1 spans of -3gFrKiC99I begin after .* 4.5 s of 3 s"):
        avos.check_labels(root, one(root), 75)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("-3gFrKiC99I,0,1,0,30,sewing", "unknown label 'sewing'"),
        ("-3gFrKiC99I,2,1,0,30,tying", "from 2 to 1 s; expected the start before the end"),
        ("-3gFrKiC99I,a,1,0,30,tying", "start_seconds is 'a'; expected a number"),
        ("-3gFrKiC99I,0,1", "unknown label ''"),
    ],
)
def test_bad_rows_name_file_and_line(root, row, message):
    text(root / "train.csv", [layout.HEADER, row])
    with pytest.raises(UserError, match=f"train.csv, line 2: {message}"):
        avos.find(root)
