"""HeiChole: rows a video frame without header, columns without use, names that start alike."""

from collections import Counter

import numpy as np
import pytest
from layouts import heichole as layout
from layouts import text
from layouts import video as write_video

from data_prep import manifest
from data_prep.sources import Times, Video, heichole
from surgjax.errors import UserError


def labelled(root, *lines, name="Hei-Chole1"):
    text(root / f"Annotations/Phase/{name}_Annotation_Phase.csv", lines)
    return Video(name, root / f"{name}.mp4", *["x"] * 6)


def test_each_operation_has_its_own_file_and_clips_are_none(tmp_path):
    layout.make(tmp_path)
    found = heichole.find(tmp_path)
    assert [video.video_id for video in found.videos] == [
        "Hei-Chole1",
        "Hei-Chole10",
        "Hei-Chole21",
    ]
    assert found.warnings[0].startswith("21 of 24 official videos are missing: Hei-Chole11")
    assert len(found.warnings) == 1 and found.refused == []


def test_a_file_of_another_video_is_not_taken(tmp_path):
    layout.make(tmp_path)
    annotations = tmp_path / "Annotations/Phase"
    (annotations / "Hei-Chole1_Annotation_Phase.csv").unlink()
    found = heichole.find(tmp_path)
    assert found.warnings[1] == "1 of 3 videos have no phase file: Hei-Chole1"
    times = Times(np.zeros(1), np.zeros(1, np.int64), 25.0)
    assert heichole.labels(tmp_path, found.videos[0], times).keys() == {
        "instrument",
        "action",
        "skill",
    }
    warnings = heichole.check_labels(tmp_path, found.videos[0], 75)
    assert [warning.split("/")[1] for warning in warnings] == ["Instrument", "Action"]


def test_rows_are_video_frames(tmp_path):
    video = labelled(tmp_path, "0,0", "1,6", "2,3")
    times = Times(np.array([0, 20, 60]), np.array([0, 1, 3]), 50.0)
    table = heichole.labels(tmp_path, video, times)["phase"]
    assert (table.t_ms.tolist(), table.label.tolist()) == ([0, 20], [0, 6])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Frame,Phase", "0,0"], r"Phase.csv, line 1: \['Frame', 'Phase'\]; expected frame 0"),
        (["0,0", "1,7"], "Phase/Hei-Chole1_.*csv, line 2: phase is '7'; expected .* 0 to 6"),
        (["0,Preparation"], "line 1: phase is 'Preparation'"),
        (["1,0"], "line 1: .*expected frame 0"),
        (["0,0", "2,0"], "line 2: .*expected frame 1"),
    ],
)
def test_bad_rows_are_named(tmp_path, lines, message):
    video = labelled(tmp_path, *lines)
    with pytest.raises(UserError, match=message):
        heichole.labels(tmp_path, video, Times(np.zeros(1), np.zeros(1, np.int64), 25.0))


@pytest.mark.parametrize("fps", [25, 50])
def test_lengths_by_the_rate_of_the_video(tmp_path, fps):
    write_video(tmp_path / "Hei-Chole1.mp4", fps=fps)  # three seconds
    check = lambda rows: heichole.check_labels(  # noqa: E731
        tmp_path, labelled(tmp_path, *(f"{i},0" for i in range(rows))), 3 * fps
    )
    assert check(3 * fps) == []
    path = "Annotations/Phase/Hei-Chole1_Annotation_Phase.csv"
    assert check(2 * fps) == [f"{path}: {fps} rows too short ({2 * fps} of {3 * fps})"]
    with pytest.raises(UserError, match=rf"row {3 * fps} \(line {3 * fps + 1}\) is the first past"):
        check(4 * fps + 1)


def test_instruments_are_the_first_seven_of_21_columns(tmp_path):
    video = labelled(tmp_path, "0,0")
    shown = [",".join(str(int(i == column)) for i in range(7)) for column in range(7)]
    values = [layout.instruments(categories, shaft=1) for categories in shown]
    layout.rows(tmp_path, "Instrument", "Hei-Chole1", values)
    times = Times(np.arange(0, 140, 20), np.arange(7), 50.0)
    table = heichole.labels(tmp_path, video, times)["instrument"]
    np.testing.assert_array_equal(table.values, np.eye(7))
    assert heichole.INSTRUMENTS[2] == "coagulation" and heichole.INSTRUMENTS[5] == "specimen_bag"


def test_actions(tmp_path):
    video = labelled(tmp_path, "0,0")
    layout.rows(tmp_path, "Action", "Hei-Chole1", ["1,1,0,0", "0,0,1,0", "0,0,0,1"])
    times = Times(np.array([0, 40, 80, 120]), np.arange(4), 25.0)
    table = heichole.labels(tmp_path, video, times)["action"]
    assert table.t_ms.tolist() == [0, 40, 80]
    shown = [[heichole.ACTIONS[i] for i in np.flatnonzero(row)] for row in table.values]
    assert shown == [["grasp", "hold"], ["cut"], ["clip"]]


def test_the_skill_of_the_whole_video_counts(tmp_path):
    layout.make(tmp_path)
    times = Times(np.array([0, 2000]), np.array([0, 50]), 25.0)
    found = {video.video_id: video for video in heichole.find(tmp_path).videos}
    table = heichole.labels(tmp_path, found["Hei-Chole1"], times)["skill"]
    assert table.values.tolist() == [[5, 5, 4, 3, 1]] * 2  # not that of its clip, 3 4 4 5 3


def test_names_in_small_letters(tmp_path):
    video = labelled(tmp_path, "0,4", name="Hei-Chole1")
    path = tmp_path / "Annotations/Phase/Hei-Chole1_Annotation_Phase.csv"
    path.rename(path.with_name(path.name.lower()))
    times = Times(np.zeros(1), np.zeros(1, np.int64), 25.0)
    assert heichole.labels(tmp_path, video, times)["phase"].label.tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        ("Instrument", "0,1,0,0", "Instrument/Hei-Chole1_.*csv, line 1: .*frame 0 and 21 values"),
        ("Instrument", f"0,{'0,' * 7}1{',0' * 13}", "other columns than the first 7 .*_Detailed"),
        ("Action", "0,1,0,0,2", "Action/Hei-Chole1_.*csv, line 1: .*frame 0 and 4 values 0 or 1"),
        ("Action", f"0{',0' * 12}", "line 1: .*expected frame 0 and 4 values"),
    ],
)
def test_other_columns_are_named(tmp_path, kind, line, message):
    video = labelled(tmp_path, "0,0")
    text(tmp_path / f"Annotations/{kind}/Hei-Chole1_Annotation_{kind}.csv", [line])
    with pytest.raises(UserError, match=message):
        heichole.labels(tmp_path, video, Times(np.zeros(1), np.zeros(1, np.int64), 25.0))


@pytest.mark.parametrize("lines", [["1,2,3,4"], ["1,2,3,4,6"], ["0,1,2,3,4,5"], ["1,1,1,1,1"] * 2])
def test_other_ratings_are_named_before_any_work(tmp_path, lines):
    write_video(tmp_path / "Hei-Chole1.mp4", seconds=1)
    layout.skill(tmp_path, "Hei-Chole1_Skill", *lines)
    with pytest.raises(UserError, match="Skill/Hei-Chole1_Skill.csv, line 1: .*one line of 5 scor"):
        heichole.check_labels(tmp_path, heichole.find(tmp_path).videos[0], 25)


def test_clips_alone_are_no_heichole(tmp_path):
    write_video(tmp_path / "Hei-Chole1_Calot.mp4", seconds=1)
    assert not heichole.recognises(tmp_path)


def test_splits():
    splits = manifest.read("heichole").splits
    public = {f"Hei-Chole{number}" for number in range(1, 25)}
    for name in ("official", "surgvista"):
        assert splits[name] == dict.fromkeys(public, "train")
    assert splits["strict"] == manifest.divide(dict.fromkeys(public))
    assert Counter(splits["strict"].values()) == {"train": 17, "val": 5, "test": 2}
