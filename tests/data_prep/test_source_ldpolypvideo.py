"""LDPolypVideo: boxes by picture, and videos of which only a word is known."""

import shutil

import numpy as np
import pytest
from layouts import ldpolypvideo as layout
from layouts import text

from data_prep import manifest
from data_prep.sources import Times, ldpolypvideo
from surgjax.errors import UserError

TIMES = Times(np.arange(4) * 40, np.arange(4), 25.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video_of(root, name="1"):
    return next(video for video in ldpolypvideo.find(root).videos if video.video_id == name)


def polyps(root, name="1", times=TIMES):
    table = ldpolypvideo.labels(root, video_of(root, name), times)["polyp"]
    return dict(zip(table.t_ms.tolist(), table.label.tolist(), strict=True))


def test_boxes_are_counted_by_picture(root):
    assert polyps(root) == {0: 0, 40: 1, 80: 1}
    assert polyps(root, "10") == dict.fromkeys((0, 40, 80, 120), 0)
    assert video_of(root).frames_fps == 25


def test_a_missing_picture_leaves_a_gap(root):
    (root / "TrainValid/Images/1/0002.jpg").unlink()
    assert polyps(root, times=Times(np.array([0, 80]), np.array([0, 2]), 25.0)) == {0: 0, 80: 1}
    (warning,) = ldpolypvideo.check_labels(root, video_of(root), 4)
    assert warning == "Annotations/1: 1 has 1 rows without a picture, 2 is the first"


def test_annotations_of_another_video(root):
    layout.annotate(root, "TrainValid/1", [["0"]] * 9)
    with pytest.raises(
        UserError, match="Annotations/1: 1 has a row for 5, but its last picture is 4"
    ):
        ldpolypvideo.check_labels(root, video_of(root), 4)


@pytest.mark.parametrize(
    "lines",
    [["1"], ["2", layout.BOX], ["0", layout.BOX], ["1", "1 2 3"], [layout.BOX], ["polyp"], [""]],
)
def test_bad_files_are_named(root, lines):
    text(root / "TrainValid/Annotations/1/0003.txt", lines)
    with pytest.raises(UserError, match="Annotations/1/0003.txt: .*expected a number of boxes"):
        polyps(root)


def test_whole_videos_have_a_label_for_all_frames(root):
    names = ("videos with polyps/1", "videos without polyps/1")
    found = [ldpolypvideo.labels(root, video_of(root, name), TIMES) for name in names]
    assert [sorted(tables) for tables in found] == [["polyp_in_video"], ["polyp", "polyp_in_video"]]
    assert [tables["polyp_in_video"].label.tolist() for tables in found] == [[1] * 4, [0] * 4]
    assert found[1]["polyp"].label.tolist() == [0] * 4
    assert ldpolypvideo.check_labels(root, video_of(root, names[0]), 25) == []


def test_splits(root):
    both = lambda part: {"official": part, "strict": part}  # noqa: E731
    assert video_of(root).splits == both("train") and video_of(root, "101").splits == both("test")
    assert video_of(root, "videos with polyps/1").splits == {"strict": "train"}
    splits = manifest.read("ldpolypvideo")
    test = {name for name, part in splits.splits["strict"].items() if part == "test"}
    assert test == {str(number) for number in range(101, 161)} and len(splits.names) == 160
    assert splits.splits["official"] == splits.splits["strict"]


def test_what_is_missing_is_a_warning(root):
    shutil.rmtree(root / "Test/Annotations/101")
    missing, without = ldpolypvideo.find(root).warnings
    assert missing.startswith("157 of 160 official videos are missing: 100, 102")
    assert without == "1 of 3 folders of pictures have no annotations: 101"
    assert ldpolypvideo.labels(root, video_of(root, "101"), TIMES) == {}
    assert ldpolypvideo.check_labels(root, video_of(root, "101"), 4) == []


def test_parts_of_the_download_are_enough(root):
    for folder in ("TrainValid", "Test", "videos with polyps"):
        assert ldpolypvideo.recognises(root)
        shutil.rmtree(root / folder)
    assert ldpolypvideo.recognises(root)
    assert [v.video_id for v in ldpolypvideo.find(root).videos] == ["videos without polyps/1"]
