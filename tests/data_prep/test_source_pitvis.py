"""PitVis: one row more than seconds, steps that hold, instruments that do not, no video_19."""

from collections import Counter

import numpy as np
import pytest
from layouts import pitvis as layout
from layouts import text
from layouts import video as write_video

from data_prep import manifest
from data_prep.sources import Times, Video, pitvis
from surgjax.errors import UserError

LAST = "1,9,-1,-1,-2"


def recording(root, *rows, header=layout.HEADER, name="video_01"):
    text(root / f"annotations_{name[-2:]}.csv", [header, *rows])
    return Video(name, root / f"{name}.mp4", *["x"] * 6)


def frames(*index, fps=24):
    index = np.array(index)
    return Times(np.round(1000 * index / fps).astype(np.int64), index, float(fps))


@pytest.mark.parametrize(("name", "fps"), [("video_01", 24), ("video_24", 25)])
def test_a_row_is_a_second_of_its_video(tmp_path, name, fps):
    rows = [f"{int(name[-2:])},{row}" for row in ("0,-1,-1,-2", "1,3,2,-2", "2,14,2,-2", LAST[2:])]
    rows[3] = rows[3].replace(",9,", ",3,")
    video = recording(tmp_path, *rows, name=name)
    times = frames(0, fps - 1, fps, fps + 1, 2 * fps - 1, 2 * fps, 3 * fps, fps=fps)
    tables = pitvis.labels(tmp_path, video, times)
    assert tables["step"].label.tolist() == [0, 0, 3, 3, 3, 14]  # the last row has no second
    assert tables["instrument"].t_ms.tolist() == [1000, 2000]


def test_instruments(tmp_path):
    slots = ["-1,-2", "0,-2", "16,-2", "8,0", "0,1", "1,18", "-1,-2"]
    rows = [f"1,{i},{-1 if slot[0] == '-' else 1},{slot}" for i, slot in enumerate(slots)]
    video = recording(tmp_path, *rows)
    table = pitvis.labels(tmp_path, video, frames(*range(0, 24 * 7, 24)))["instrument"]
    names = pitvis.ABOUT.tasks["instrument"]["classes"]
    shown = [[names[i] for i in np.flatnonzero(row)] for row in table.values]
    assert table.t_ms.tolist() == [1000, 2000, 3000, 4000, 5000]
    assert shown == [
        [],
        ["suction"],
        ["kerrisons"],
        ["bipolar forceps"],
        ["bipolar forceps", "tissue glue"],
    ]


def test_classes():
    steps, instruments = (pitvis.ABOUT.tasks[task]["classes"] for task in ("step", "instrument"))
    assert len(steps) == 15 and len(instruments) == 18
    assert (steps[0], steps[5], steps[14]) == ("background", "sellotomy", "debris clearance")
    assert (instruments[0], instruments[15]) == ("bipolar forceps", "suction")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,0,0,-1,-2"], "annotations_01.csv, row 2: int_step is '0'; expected -1, 1, 2, 3"),
        (["1,0,15,1,-2"], "row 2: int_step is '15'"),
        (["1,0,1,1,-2", "1,1,1,19,-2"], "row 3: int_instrument1 is '19'; expected -1, 0, 1"),
        (["1,0,1,-2,-2"], "row 2: int_instrument1 is '-2'"),
        (["1,0,1,1,x"], "row 2: int_instrument2 is 'x'; expected -2, -1, 0"),
        (["2,0,1,1,-2"], "row 2: int_video is '2'; expected 1"),
        (["1,0,1,1,-2", "1,2,1,1,-2"], "row 3: int_time is '2'; expected 1"),
        (["1,1,1,1,-2"], "row 2: int_time is '1'; expected 0"),
        (["1,0,1,1"], "row 2: 4 values; expected 5"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        pitvis.labels(tmp_path, recording(tmp_path, *rows), frames(0))


def test_the_header_is_expected(tmp_path):
    with pytest.raises(UserError, match="annotations_01.csv: columns are 1,0,1,1,-2; expected int"):
        pitvis.labels(tmp_path, recording(tmp_path, header="1,0,1,1,-2"), frames(0))


def test_one_row_more_than_seconds_is_as_it_should_be(tmp_path):
    video = recording(tmp_path, *(f"1,{i},1,1,-2" for i in range(4)))
    assert pitvis.check_labels(tmp_path, video, 72) == []
    assert "1 rows too short (3 of 4)" in pitvis.check_labels(tmp_path, video, 96)[0]
    assert "1 rows too long (3 of 2)" in pitvis.check_labels(tmp_path, video, 48)[0]
    with pytest.raises(UserError, match=r"row 3 \(line 5\) is the first missing"):
        pitvis.check_labels(tmp_path, video, 120)
    with pytest.raises(UserError, match=r"row 1 \(line 3\) is the first past the end"):
        pitvis.check_labels(tmp_path, video, 24)


def test_the_video_without_annotations_is_told_and_kept(tmp_path):
    layout.make(tmp_path)
    found = pitvis.find(tmp_path)
    assert found.warnings[0].startswith("22 of 25 official videos are missing: video_02, video_03")
    assert found.warnings[1] == "1 of 3 videos have no annotation file: video_19"
    assert [video.video_id for video in found.videos] == ["video_01", "video_19", "video_24"]
    assert pitvis.check_labels(tmp_path, found.videos[1], 72) == []


def test_numbered_videos_alone_are_no_pitvis(tmp_path):
    write_video(tmp_path / "video_01.mp4", seconds=1)
    assert not pitvis.recognises(tmp_path)


def test_splits():
    splits = manifest.read("pitvis").splits
    test = lambda name: {v[-2:] for v, part in splits[name].items() if part == "test"}  # noqa: E731
    assert test("strict") == test("surgmotion") == set("02 06 12 13 24".split())
    assert test("surgrec_release") == set("01 12 21 24 25".split())
    for name in ("surgmotion", "surgrec_release"):
        assert Counter(splits[name].values()) == {"train": 19, "test": 5}
        assert "video_19" not in splits[name]
    assert Counter(splits["strict"].values()) == {"train": 20, "test": 5}
    for name in ("official", "surgvista"):
        assert Counter(splits[name].values()) == {"train": 25}
