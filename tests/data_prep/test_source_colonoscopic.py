"""Colonoscopic: one lesion in two lights, under three kinds of names."""

from collections import Counter

import numpy as np
import pytest
from layouts import colonoscopic as layout
from layouts import video

from data_prep import manifest
from data_prep.sources import Times, colonoscopic

TIMES = Times(np.array([0, 1000]), np.array([0, 25]), 25.0)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Adenoma/adenoma_07/videos/WL", "adenoma_WL_07"),
        ("hyperplasic/hyperplasic_07/NBI", "hyperplasic_NBI_07"),
        ("Hyperplastic/hyperplastic_07/videos/NBI", "hyperplasic_NBI_07"),
        ("Hyperplasic/WL", "hyperplasic_WL_01"),
        ("Hyperplasic/WL(20)", "hyperplasic_WL_21"),
        ("Serrated/NBI(21)", "serrated_NBI_01"),
        ("Serrated/NBI(35)", "serrated_NBI_15"),
        ("Adenoma/NBI(36)", "adenoma_NBI_01"),
        ("Adenoma/NBI (75)", "adenoma_NBI_40"),
    ],
)
def test_names(tmp_path, path, name):
    (tmp_path / f"{path}.mp4").parent.mkdir(parents=True)
    (tmp_path / f"{path}.mp4").write_bytes(b"")
    (found,) = colonoscopic.find(tmp_path).videos
    assert found.video_id == name and found.splits["strict"] in ("train", "val", "test")


def test_the_folder_is_the_label_of_all_frames(tmp_path):
    layout.make(tmp_path)
    videos = colonoscopic.find(tmp_path).videos
    labels = [colonoscopic.labels(tmp_path, v, TIMES)["lesion"].label.tolist() for v in videos]
    assert labels == [[0, 0]] * 3 + [[1, 1]] * 2 + [[2, 2]]


def test_both_lights_are_one_case(tmp_path):
    layout.make(tmp_path)
    one, two = colonoscopic.find(tmp_path).videos[:2]
    assert one.case == two.case == "colonoscopic/adenoma_01"
    assert one.splits["strict"] == two.splits["strict"]
    assert one.path.parent.name == "videos"


def test_a_copy_of_a_video_counts_once(tmp_path):
    layout.make(tmp_path)
    video(tmp_path / "Adenoma" / "NBI(36).mp4", seconds=1)
    found = colonoscopic.find(tmp_path)
    expected = "adenoma_NBI_01 is there twice; Adenoma/adenoma_01/videos/NBI.mp4 is used"
    assert expected in found.warnings and len(found.videos) == 6
    assert any("146 of 152 official videos are missing" in line for line in found.warnings)


def test_other_folders_are_told_apart(tmp_path):
    for name in ("Polyp/NBI(36).mp4", "Adenoma/IR(36).mp4", "Adenoma/adenoma_1/NBI.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert not colonoscopic.recognises(tmp_path)


def test_splits():
    splits = manifest.read("colonoscopic")
    strict, release = splits.splits["strict"], splits.splits["surgrec_release"]
    assert splits.names == strict.keys() == release.keys() and len(strict) == 152
    assert Counter(strict.values()) == {"train": 106, "val": 30, "test": 16}
    assert all(strict[name.replace("NBI", "WL")] == part for name, part in strict.items())
    assert Counter(release.values()) == {"train": 106, "val": 31, "test": 15}
    # The lists' Adenoma/NBI(57), WL(38) and Hyperplasic/NBI(10) are tested, NBI.mp4 is not.
    assert {
        release[name] for name in ("adenoma_NBI_22", "adenoma_WL_03", "hyperplasic_NBI_11")
    } == {"test"}
    assert release["hyperplasic_NBI_01"] == "train"
    other = {
        name: name.replace("NBI", "?").replace("WL", "NBI").replace("?", "WL") for name in release
    }
    test = [name for name, part in release.items() if part == "test"]
    assert sum(release[other[name]] == "train" for name in test) == 12
    assert splits.about["surgrec_release"] == {"tier": "paper-release", "leaky": True}
