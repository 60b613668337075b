"""HeiChole: rows a video frame without header, names that are the start of others."""

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
    assert heichole.labels(tmp_path, found.videos[0], times) == {}
    assert heichole.check_labels(tmp_path, found.videos[0], 75) == []


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
