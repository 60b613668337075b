"""LapGyn4: clips out of folders of pictures, single pictures and shuffled ones left out."""

import numpy as np
import pytest
from layouts import images
from layouts import lapgyn4 as layout

from data_prep.sources import Times, lapgyn4
from data_prep.video import list_images

TIMES = Times(np.array([0, 1000]), np.array([0, 1]), 1.0)


@pytest.fixture
def videos(tmp_path):
    layout.make(tmp_path)
    return {video.video_id: video for video in lapgyn4.find(tmp_path).videos}


def test_a_video_is_the_pictures_of_one_clip(videos):
    counts = {
        name: [file.name for _, file in list_images(video.path, video.frames_pattern)]
        for name, video in videos.items()
    }
    assert counts == {
        f"{folder}/{clip}": [f"{clip}_f_{frame}.jpg" for frame in frames]
        for folder, clips in layout.CLIPS.items()
        for clip, frames in clips.items()
        if len(frames) > 1
    }
    positions = [
        [i for i, _ in list_images(video.path, video.frames_pattern)]
        for name, video in sorted(videos.items())
        if "Surgical" in name
    ]
    assert positions == [[0, 1, 3], [0, 1], [0, 1, 2]]  # every second, or every 25th frame


def test_the_label_is_the_folders(videos, tmp_path):
    found = {}
    for name, video in videos.items():
        ((task, table),) = lapgyn4.labels(tmp_path, video, TIMES).items()
        found[name.split("/")[1]] = task, table.label.tolist()
    assert found == {
        "Suturing": ("action", [7, 7]),
        "Cutting_HF": ("action", [2, 2]),
        "Uterus": ("anatomy", [4, 4]),
        "Suturing_Ovary": ("action_on_anatomy", [1, 1]),
    }


def test_an_operation_is_one_case_over_all_folders(videos):
    same = [video for name, video in videos.items() if "/c_1_v_" in name]
    assert len(same) == 3 and {video.case for video in same} == {"lapgyn4/c_1"}
    assert len({video.splits["strict"] for video in same}) == 1


def test_what_is_left_out_is_told(videos, tmp_path):
    assert lapgyn4.find(tmp_path).warnings == [
        "1 clips with a single picture are left out",
        "2 pictures of Instrument_Count are not stored",
    ]


def test_shuffled_pictures_alone_are_no_lapgyn4(tmp_path):
    images(tmp_path / "Instrument_Count" / "2", ["31.jpg", "77.jpg"])
    images(tmp_path / "Surgical_Actions" / "Suturing", ["a.jpg", "c_1_v_2_f_3.png"])
    assert not lapgyn4.recognises(tmp_path)
