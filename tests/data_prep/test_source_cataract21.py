"""Cataract-21: names with and without a suffix, tables without header."""

from collections import Counter

import pytest
from layouts import cataract21 as layout
from layouts import text

from data_prep import manifest
from data_prep.sources import Video, cataract21
from surgjax.errors import UserError


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video_of(root, name) -> Video:
    return next(video for video in cataract21.find(root).videos if video.video_id == name)


def check(root, name="case_18_validation"):
    return cataract21.check_labels(root, video_of(root, name), 75.0)


def test_cases_go_by_number(root):
    splits = {video.video_id: video.splits["official"] for video in cataract21.find(root).videos}
    assert splits == {"case_01": "train", "case_11_training": "train", "case_18_validation": "test"}


def test_clips_and_other_names_are_no_videos(root):
    for name in ("case_18_validation_0012", "case_269", "case_1", "case_01_test", "xcase_01"):
        (root / f"{name}.mp4").write_bytes(b"")
    assert len(cataract21.find(root).videos) == 3


def test_both_names_of_one_case(root):
    video = root / "case_18.mp4"
    video.write_bytes((root / "case_18_validation.mp4").read_bytes())
    cases = [video.case for video in cataract21.find(root).videos]
    assert cases.count("cataract21/case_18") == 2
    assert check(root, "case_18") == []  # the table of the longer name is another video's


def test_a_header_is_refused(root):
    text(root / "case_18_validation.csv", ["frame,label_name", "0,Incision"])
    with pytest.raises(UserError, match="case_18_validation.csv, line 1: .*expected frame 0 and"):
        check(root)


def test_unknown_phase(root):
    text(root / "case_18_validation.csv", ["0,Incision", "1,Incission"])
    with pytest.raises(UserError, match="line 2: unknown phase 'Incission' .*did you mean 'Inc"):
        check(root)


def test_frames_count_from_0(root):
    text(root / "case_18_validation.csv", ["1,Incision"])
    with pytest.raises(UserError, match="line 1: .*expected frame 0 and one phase"):
        check(root)


def test_up_to_a_second_is_tolerated(root):
    assert check(root, "case_11_training") == ["case_11_training.csv: 25 rows too short (50 of 75)"]
    text(root / "case_18_validation.csv", [f"{i},Phako" for i in range(49)])
    with pytest.raises(UserError, match="49 rows, but .* needs 75; row 49 .* is the first missing"):
        check(root)


def test_missing_tables_are_counted(root):
    (root / "case_18_validation.csv").unlink()
    warnings = cataract21.find(root).warnings
    assert "18 of 21 official videos are missing: case_02, case_03" in warnings[0]
    assert warnings[1] == "1 of 3 videos have no phase file: case_18_validation"
    assert check(root) == []


def test_tables_tell_the_layout(tmp_path):
    (tmp_path / "case_01.mp4").write_bytes(b"")
    assert not cataract21.recognises(tmp_path)
    text(tmp_path / "case_01.csv", ["0,Idle"])
    assert not cataract21.recognises(tmp_path)
    text(tmp_path / "case_01.csv", ["0,not_initialized"])
    assert cataract21.recognises(tmp_path)


def test_17_and_4():
    splits = manifest.read("cataract21")
    for name, parts in splits.splits.items():
        assert Counter(parts.values()) == {"train": 17, "test": 4}, name
        assert (parts["case_17"], parts["case_18"]) == ("train", "test")
    assert splits.about["surgrec_release"] == {"tier": "paper-release", "val_is_test": True}
    assert len(cataract21.CLASSES) == 12
