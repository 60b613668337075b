"""HyperKvasir: the folder is the label, clips of one video stay together."""

import shutil

import numpy as np
import pytest
from layouts import hyperkvasir as layout
from layouts import text

from data_prep import manifest
from data_prep.sources import Times, hyperkvasir

TIMES = Times(np.array([0, 1000]), np.array([0, 25]), 25.0)
CLASSES = ["lower-parasites", "lower-polyps", "upper-polyps", "upper-ulcer"]


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def test_classes_are_the_folders_of_each_tract(root):
    found = hyperkvasir.find(root)
    assert found.tasks == {"finding": {"kind": "one_of_n", "classes": CLASSES}}
    labels = {}
    for video in found.videos:
        labels[video.video_id] = hyperkvasir.labels(root, video, TIMES)["finding"].label.tolist()
    polyps = {f"{layout.POLYP}_0": [1, 1], f"{layout.POLYP}_12": [1, 1], "polypp 5": [2, 2]}
    assert labels == polyps | {layout.WORM: [0, 0], layout.ULCER: [3, 3]}


def test_an_empty_folder_keeps_its_class(root):
    (
        root / f"labeled-videos/lower-gi-tract/pathological-findings/parasites/{layout.WORM}.mpg"
    ).unlink()
    assert hyperkvasir.find(root).tasks["finding"]["classes"] == CLASSES


def test_clips_of_one_video_are_one_case(root):
    videos = {video.video_id: video for video in hyperkvasir.find(root).videos}
    first, last = videos[f"{layout.POLYP}_0"], videos[f"{layout.POLYP}_12"]
    assert first.case == last.case == f"hyperkvasir/{layout.POLYP}"
    assert first.splits == last.splits
    assert videos["polypp 5"].case == "hyperkvasir/polypp 5"  # not every name is a uuid


def test_cases_are_divided_by_finding(root):
    found = hyperkvasir.find(root)
    assert found.splits == {"strict": {"tier": "ours"}}
    strata = {
        layout.POLYP: "lower-polyps",
        "polypp 5": "upper-polyps",
        layout.ULCER: "upper-ulcer",
        layout.WORM: "lower-parasites",
    }
    parts = manifest.divide(strata)
    for video in found.videos:
        assert video.splits == {"strict": parts[video.case.removeprefix("hyperkvasir/")]}


def test_pictures_are_counted(root):
    assert hyperkvasir.find(root).warnings == [
        "2 pictures of labeled-images are not stored; only videos are"
    ]
    shutil.rmtree(root / "labeled-images")
    assert hyperkvasir.find(root).warnings == []


def test_listed_videos_that_are_missing(root):
    shutil.rmtree(root / "labeled-images")
    table = root / "labeled-videos" / "video-labels.csv"
    text(table, ["Video file,Organ", f"{layout.ULCER},Upper GI", "x,Lower GI"])
    assert hyperkvasir.find(root).warnings == ["1 of 2 videos of video-labels.csv are missing: x"]
    table.write_bytes("file;b\nx;\xa8\n".encode("latin-1"))  # free text of another encoding
    assert hyperkvasir.find(root).warnings == ["1 of 1 videos of video-labels.csv are missing: x"]


def test_a_video_in_two_folders(root):
    tract = root / "labeled-videos" / "upper-gi-tract"
    ulcer = tract / "pathological-findings" / "ulcer" / f"{layout.ULCER}.avi"
    (tract / "anatomical-landmarks" / "z-line").mkdir(parents=True)
    shutil.copy(ulcer, tract / "anatomical-landmarks" / "z-line")
    assert f"{layout.ULCER} is there twice; " in hyperkvasir.find(root).warnings[0]


def test_other_folders_are_told_apart(tmp_path):
    other = tmp_path / "labeled-videos" / "cats" / "a" / "b"
    other.mkdir(parents=True)
    (other / "c.avi").write_bytes(b"")
    assert not hyperkvasir.recognises(tmp_path)
