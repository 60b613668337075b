"""PolypsSet: annotations by picture, a folder of many sequences, more annotations than pictures."""

import shutil

import numpy as np
import pytest
from layouts import images, text
from layouts import polypsset as layout

from data_prep.sources import Times, polypsset
from surgjax.errors import UserError

TIMES = Times(1000 * np.arange(3), np.arange(3), 1.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video_of(root, name):
    return next(video for video in polypsset.find(root).videos if video.video_id == name)


def labels(root, name):
    """Task -> second -> label."""
    tables = polypsset.labels(root, video_of(root, name), TIMES)
    return {
        task: dict(zip((of.t_ms // 1000).tolist(), of.label.tolist(), strict=True))
        for task, of in tables.items()
    }


def test_labels_go_by_the_number_of_the_picture(root):
    assert labels(root, "train") == {"polyp": {0: 1, 1: 1, 2: 0}, "histology": {0: 0, 1: 1}}
    assert labels(root, "val_1") == {"polyp": {0: 1, 1: 1}, "histology": {0: 1, 1: 1}}
    assert labels(root, "test_1") == {"polyp": {0: 0, 1: 1, 2: 1}, "histology": {1: 0, 2: 0}}


def test_polyps_of_both_kinds(root):
    layout.annotate(root / "test2019/Annotation/1/2.xml", polypsset.KINDS)
    assert labels(root, "test_1") == {"polyp": {0: 0, 1: 1, 2: 1}, "histology": {2: 0}}


def test_parts_are_the_split(root):
    found = polypsset.find(root)
    assert {video.video_id: video.splits["strict"] for video in found.videos} == {
        "train": "train",
        "val_1": "val",
        "test_1": "test",
        "test_10": "test",
    }
    assert all(video.splits["official"] == video.splits["strict"] for video in found.videos)
    assert found.warnings == ["train2019 is one video of many sequences, which clips would mix"]


def test_folders_for_training(root):
    shutil.rmtree(root / "train2019")
    layout.write(root / "train2019", "7", {1: [], 2: ["adenomatous"], 3: []})
    assert polypsset.find(root).warnings == []
    assert labels(root, "train_7") == {"polyp": {0: 0, 1: 1, 2: 0}, "histology": {1: 1}}
    assert video_of(root, "train_7").splits["strict"] == "train"


def test_pictures_without_annotation_are_a_warning(root):
    (warning,) = polypsset.check_labels(root, video_of(root, "val_1"), 3)
    assert warning == "val2019/Annotation/1: 1 pictures have no annotation, 6 is the first"
    assert polypsset.check_labels(root, video_of(root, "test_1"), 3) == []


def test_a_sequence_without_annotations(root):
    shutil.rmtree(root / "val2019/Annotation")
    assert labels(root, "val_1") == {}
    assert polypsset.check_labels(root, video_of(root, "val_1"), 3) == []
    assert polypsset.find(root).warnings[1] == "1 of 4 videos have no annotation file: val_1"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["<annotation><object><name>serrated</name></object></annotation>"],
            "objects .'serrated'",
        ),
        (["<annotation><object></object></annotation>"], "objects .''.; expected"),
        (["<annotation><filename>1.jpg</filename>"], "objects ..; expected an annotation"),
    ],
)
def test_bad_files_are_named(root, lines, message):
    text(root / "test2019/Annotation/1/2.xml", lines)
    with pytest.raises(UserError, match=f"1/2.xml: {message}"):
        labels(root, "test_1")


def test_other_folders_are_told_apart(tmp_path):
    images(tmp_path / "train2019", ["1.jpg", "2.jpg"])
    (tmp_path / "train2019/Image").mkdir()
    assert not polypsset.recognises(tmp_path)
