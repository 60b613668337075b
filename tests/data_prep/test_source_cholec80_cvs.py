"""Cholec80-CVS: a sheet of segments in minutes and seconds, with rows that cannot be right."""

from collections import Counter

import numpy as np
import pytest
from layouts import cholec80_cvs as layout
from layouts import images, text
from small_videos import write_cholec

from data_prep import manifest, sources
from data_prep.sources import Times, Video, cholec80_cvs
from surgjax.errors import UserError

HEADER = (
    "video,critical_view,initial_minute,initial_second,final_minute,final_second,"
    "two_structures,cystic_plate,hepatocystic_triangle,Total"
)


def scored(root, *rows, header=HEADER, name="video01"):
    text(root / "cholec80-CVS.csv", [header, *rows])
    return Video(name, root / f"videos/{name}.mp4", *["x"] * 6)


def totals(root, video, seconds):
    t_ms = np.array([1000 * second for second in seconds], np.int64)
    tables = cholec80_cvs.labels(root, video, Times(t_ms, t_ms // 40, 25.0))
    return dict(zip((tables["total"].t_ms // 1000).tolist(), tables["total"].label, strict=True))


def test_minutes_and_seconds(tmp_path):
    video = scored(tmp_path, "1,0,9,58,10,1,2,0,1,3")
    assert totals(tmp_path, video, [597, 598, 600, 601, 602]) == {598: 3, 600: 3, 601: 3}


def test_columns_go_by_name(tmp_path):
    header = (
        "Total;Cystic Plate;Two Structures;Hepatocystic Triangle;Initial Second;Initial Minute;"
        "Final Minute;Final Second;Video"
    )
    video = scored(tmp_path, "3;0;2;1;0;0;0;4;1", header=header)  # as German spreadsheets save
    tables = cholec80_cvs.labels(tmp_path, video, Times(np.zeros(1), np.zeros(1), 25.0))
    assert {task: int(table.label[0]) for task, table in tables.items()} == {
        "two_structures": 2,
        "cystic_plate": 0,
        "hepatocystic_triangle": 1,
        "total": 3,
    }


def test_the_total_is_the_sum(tmp_path):
    video = scored(tmp_path, "1,0,0,0,0,9,2,2,1,4")
    assert totals(tmp_path, video, [0]) == {0: 5}


def test_zeros_give_way_and_later_rows_win(tmp_path):
    video = scored(tmp_path, "1,0,0,0,0,9,1,0,0,1", "1,0,0,5,0,9,0,0,0,0", "1,0,0,8,0,9,2,2,2,6")
    assert totals(tmp_path, video, [0, 6, 8]) == {0: 1, 6: 1, 8: 6}


def test_video_1_is_not_video_10(tmp_path):
    video = scored(tmp_path, "10,0,0,0,0,9,1,0,0,1")
    assert totals(tmp_path, video, [0]) == {}
    video = scored(tmp_path, "10,0,0,0,0,9,1,0,0,1", name="video10")
    assert totals(tmp_path, video, [0]) == {0: 1}


def test_a_segment_of_one_moment(tmp_path):
    video = scored(tmp_path, "1,0,0,5,0,5,1,1,0,2")
    assert totals(tmp_path, video, [4, 5, 6]) == {5: 2}


def test_numbers_as_spreadsheets_write_them(tmp_path):
    video = scored(tmp_path, "1.0,0,0.0,0,0,9.0,1.0,0,0,1", ",,,,,,,,,", "")
    assert totals(tmp_path, video, [0]) == {0: 1}


def test_a_segment_that_ends_before_it_starts_is_told_and_not_used(tmp_path):
    video = scored(tmp_path, "1,0,0,9,0,5,1,0,0,1", "1,0,0,0,0,1,1,1,0,2")
    assert totals(tmp_path, video, range(10)) == {0: 2, 1: 2}
    (warning,) = cholec80_cvs.check_labels(tmp_path, video, 250)
    assert "cholec80-CVS.csv, line 2: a segment of video01 ends before it starts" in warning


def test_length(tmp_path):
    video = scored(tmp_path, "1,0,0,0,0,10,1,0,0,1", "1,0,0,0,0,12,1,0,0,1")
    assert cholec80_cvs.check_labels(tmp_path, video, 300) == []
    assert cholec80_cvs.check_labels(tmp_path, video, 275) == []  # a second is tolerated
    with pytest.raises(UserError, match="line 3: the segment ends at 12 s, but video01 at 10.8 s"):
        cholec80_cvs.check_labels(tmp_path, video, 270)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "1,0,0,0,0,9,3,0,0,3",
            "line 2: two_structures is '3'; expected a whole number from 0 to 2",
        ),
        ("1,0,0,0,0,9,0,0.5,0,0", "line 2: cystic_plate is '0.5'"),
        ("1,0,0,0,0,9,0,,0,0", "line 2: cystic_plate is ''; expected a number"),
        ("81,0,0,0,0,9,0,0,0,0", "line 2: video is '81'; expected a whole number from 1 to 80"),
        ("0,0,0,0,0,9,0,0,0,0", "line 2: video is '0'; expected a whole number from 1 to 80"),
        ("1,0,0:30,0,0,9,0,0,0,0", "line 2: initial_minute is '0:30'"),
        ("1,0,0,0,0,9", "line 2: 6 values; expected 10"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    video = scored(tmp_path, row)
    with pytest.raises(UserError, match=f"cholec80-CVS.csv, {message}"):
        totals(tmp_path, video, [0])


def test_a_sheet_without_its_header(tmp_path):
    video = scored(tmp_path, header="1,0,0,0,0,9,0,0,0,0")
    with pytest.raises(UserError, match="line 1: no column video, initial_minute.*found 1, 0"):
        totals(tmp_path, video, [0])


def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path):
    layout.make(tmp_path)
    (tmp_path / "cholec80-CVS.csv").unlink()
    assert cholec80_cvs.find(tmp_path).warnings[1].startswith("3 of 3 videos have no score file")
    assert not cholec80_cvs.recognises(tmp_path)
    (tmp_path / "cholec80-CVS.xlsx").write_bytes(b"PK")
    assert sources.detect(tmp_path) == "cholec80_cvs"
    with pytest.raises(UserError, match="CVS.xlsx is a spreadsheet.*save it .*cholec80-CVS.csv"):
        cholec80_cvs.find(tmp_path)


def test_frames_once_a_second(tmp_path):
    scored(tmp_path, "1,0,0,1,0,2,1,0,0,1")
    images(tmp_path / "frames/video01", [f"video01_{i:06d}.png" for i in range(1, 5)])
    (video,) = cholec80_cvs.find(tmp_path).videos
    times = Times(1000 * np.arange(4), np.arange(4), 1.0)
    assert cholec80_cvs.labels(tmp_path, video, times)["total"].t_ms.tolist() == [1000, 2000]
    assert cholec80_cvs.check_labels(tmp_path, video, 4) == []


def test_without_a_sheet_it_is_cholec80(tmp_path):
    write_cholec(tmp_path)
    assert sources.detect(tmp_path) == "cholec80" and not cholec80_cvs.recognises(tmp_path)


def test_splits():
    splits = manifest.read("cholec80_cvs").splits
    theirs = manifest.read("cholec80").splits["strict"]
    assert splits["strict"] == splits["surgvista"] == theirs
    assert Counter(splits["colenet"].values()) == {"train": 50, "val": 15, "test": 15}
