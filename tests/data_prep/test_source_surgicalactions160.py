"""SurgicalActions160: the folder is the label, its number counts from 1."""

from collections import Counter

import numpy as np
from layouts import surgicalactions160 as layout

from data_prep import manifest
from data_prep.sources import Times, surgicalactions160

TIMES = Times(np.array([0, 1000]), np.array([0, 25]), 25.0)


def test_folders_are_those_of_the_download():
    assert surgicalactions160.FOLDERS[0] == "01_abdominal_access"
    assert surgicalactions160.FOLDERS[4] == "05_dissection_thermal"
    assert surgicalactions160.FOLDERS[13] == "14_sling-in"
    assert len(surgicalactions160.FOLDERS) == 16


def test_the_label_is_the_folders_for_all_frames(tmp_path):
    layout.make(tmp_path)
    labels = {}
    for video in surgicalactions160.find(tmp_path).videos:
        table = surgicalactions160.labels(tmp_path, video, TIMES)["action"]
        labels[video.video_id] = table.label.tolist()
    assert labels == {"01_03": [0, 0], "05_02": [4, 4], "14_02": [13, 13], "16_10": [15, 15]}


def test_a_clip_in_a_wrong_folder_is_missing(tmp_path):
    layout.make(tmp_path)
    found = surgicalactions160.find(tmp_path)
    assert "156 of 160 official videos are missing: 01_01, 01_02, 01_04" in found.warnings[0]
    assert [video.video_id for video in found.videos] == ["01_03", "05_02", "14_02", "16_10"]


def test_other_numbered_folders_are_told_apart(tmp_path):
    for name in ("01_patient/01_01.mp4", "abdominal_access/01_01.mp4", "01_abdominal_access/1.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert not surgicalactions160.recognises(tmp_path)


def test_lists_of_surgrec():
    splits = manifest.read("surgicalactions160")
    release = splits.splits["surgrec_release"]
    assert len(splits.names) == 160 and splits.names == release.keys()
    assert splits.splits["strict"] == release
    assert Counter(release.values()) == {"train": 112, "val": 32, "test": 16}
    each = Counter((name[:2], part) for name, part in release.items())
    for number in range(1, 17):
        counts = [each[f"{number:02d}", part] for part in ("train", "val", "test")]
        assert counts == [7, 2, 1], number
