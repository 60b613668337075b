"""SAR-RARP50: rows for six frames, out of order, pictures by video frame, operations in parts."""

import numpy as np
import pytest
from layouts import images, text
from layouts import sar_rarp50 as layout

from data_prep import manifest
from data_prep.sources import Times, sar_rarp50
from surgjax.errors import UserError

NATIVE = Times(np.arange(60) * 50 // 3, np.arange(60), 60.0)
ROWS = [f"{6 * i:09d},{i % 8}" for i in range(10)]


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video(root, name="video_01"):
    return next(video for video in sar_rarp50.find(root).videos if video.video_id == name)


def test_a_row_stands_for_six_frames(root):
    text(root / "train1/video_01/action_discrete.txt", ROWS)
    action = sar_rarp50.labels(root, video(root), NATIVE)["action"]
    assert action.label.tolist() == [i // 6 % 8 for i in range(60)]


def test_rows_out_of_order_and_twice_and_missing(root):
    rows = [ROWS[0], ROWS[2], ROWS[1], ROWS[1], *ROWS[4:]]
    text(root / "train1/video_01/action_discrete.txt", rows)
    action = sar_rarp50.labels(root, video(root), NATIVE)["action"]
    frames = [i for i in range(60) if i // 6 != 3]
    assert action.t_ms.tolist() == NATIVE.t_ms[frames].tolist()
    assert action.label.tolist() == [i // 6 % 8 for i in frames]
    (warning,) = sar_rarp50.check_labels(root, video(root), 60)
    assert "1 rows too short (9 of 10)" in warning


def test_pictures_go_by_the_number_of_the_video_frame(root):
    folder = root / "train2/video_11_2/rgb"
    (folder / "000000000.png").unlink()
    (folder / "000000024.png").unlink()
    text(folder.with_name("action_discrete.txt"), ROWS)
    ten = Times(np.array([0, 100, 200, 400]), np.array([0, 1, 2, 4]), 10.0)
    found = video(root, "video_11_2")
    assert found.frames_fps == 10
    # Picture 0 is video frame 6, picture 4 is video frame 30.
    assert sar_rarp50.labels(root, found, ten)["action"].label.tolist() == [1, 2, 3, 5]


def test_the_video_counts_where_pictures_are_there_too(root):
    images(root / "train1/video_01/rgb", ["000000000.png"])
    found = sar_rarp50.find(root)
    assert video(root).path.name == "video_left.avi" and video(root).frames_fps is None
    assert "video_01 is there twice; train1/video_01/video_left.avi is used" in found.warnings


def test_parts_of_an_operation_are_one_case(root):
    one, two = video(root, "video_11_1"), video(root, "video_11_2")
    assert one.case == two.case == "sar_rarp50/video_11"
    assert (
        one.splits
        == two.splits
        == dict.fromkeys(("official", "strict", "surgrec_release"), "train")
    )
    assert video(root).case == "sar_rarp50/video_01"
    assert video(root, "video_41").splits["strict"] == "test"


def test_published_splits():
    splits = manifest.read("sar_rarp50")
    assert len(splits.names) == 54
    for name in ("official", "strict", "surgrec_release"):
        parts = splits.splits[name]
        train = {video for video, part in parts.items() if part == "train"}
        assert len(train) == 44 and {"video_11_1", "video_29_2", "video_40"} <= train
        assert not {"video_11", "video_15", "video_17", "video_29"} & parts.keys()
        test = {video for video, part in parts.items() if part == "test"}
        assert test == {f"video_{number}" for number in range(41, 51)}
    assert splits.about["surgrec_release"] == {"tier": "paper-release", "val_is_test": True}


def test_one_training_folder_is_as_good_as_two(root):
    (root / "train1").rename(root / "train")
    assert sar_rarp50.recognises(root)
    assert video(root).path == root / "train" / "video_01" / "video_left.avi"


def test_what_is_missing_is_a_warning(root):
    (root / "test/video_41/action_discrete.txt").unlink()
    missing, without = sar_rarp50.find(root).warnings
    assert missing.startswith("50 of 54 official videos are missing: video_02")
    assert without == "1 of 4 videos have no action file: video_41"
    assert sar_rarp50.labels(root, video(root, "video_41"), NATIVE) == {}
    assert sar_rarp50.check_labels(root, video(root, "video_41"), 60) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["000000000,0", "000000006,8"], "line 2: action is '8'; expected a number from 0 to 7"),
        (
            ["000000000,0", "000000007,1"],
            "line 2: .*expected every 6th frame number and one action",
        ),
        (["000000000,0,1"], "line 1: .*expected every 6th frame"),
        (["frame,action"], "line 1: .*expected every 6th frame"),
        (["000000000,0", "000000000,1"], "line 2: frame 0 has another action above"),
    ],
)
def test_bad_rows_name_file_and_line(root, lines, message):
    text(root / "train1/video_01/action_discrete.txt", lines)
    with pytest.raises(UserError, match=f"video_01/action_discrete.txt, {message}"):
        sar_rarp50.labels(root, video(root), NATIVE)


def test_more_than_a_second_too_much_or_too_little_is_an_error(root):
    assert sar_rarp50.check_labels(root, video(root), 60) == []
    assert sar_rarp50.check_labels(root, video(root, "video_11_2"), 10) == []
    for name, frames in (("video_01", 130), ("video_11_2", 21)):
        with pytest.raises(UserError, match=r"10 rows.*row 10 \(line 11\) is the first missing"):
            sar_rarp50.check_labels(root, video(root, name), frames)


def test_pictures_alone_need_the_label_files_to_be_recognised(tmp_path):
    images(tmp_path / "train/video_01/rgb", ["000000000.png", "000000006.png"])
    assert not sar_rarp50.recognises(tmp_path)
    text(tmp_path / "train/video_01/action_discrete.txt", ROWS)
    assert sar_rarp50.recognises(tmp_path)
