"""Cataract-101: one table of starts for all videos."""

from collections import Counter

import numpy as np
import pytest
from layouts import cataract101 as layout
from layouts import text

from data_prep import manifest
from data_prep.sources import Times, cataract101
from surgjax.errors import UserError

TIMES = Times(40 * np.arange(75), np.arange(75), 25.0)
HEADER = "VideoID;FrameNo;Phase"


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video_of(root, name="case_269"):
    return next(video for video in cataract101.find(root).videos if video.video_id == name)


def phases(root, name="case_269"):
    """Class of each frame, -1 where there is none."""
    found = np.full(75, -1)
    for table in cataract101.labels(root, video_of(root, name), TIMES).values():
        found[table.t_ms // 40] = table.label
    return found.tolist()


def test_a_phase_lasts_until_the_next_row(root):
    assert phases(root) == [-1] * 10 + [0] * 20 + [1] * 30 + [2] * 15


def test_a_number_that_starts_another(root):
    (root / "videos" / "case_26.mp4").write_bytes((root / "videos/case_764.mp4").read_bytes())
    text(root / "annotations.csv", [HEADER, "26;20;4", "269;0;5", "2690;0;6"])
    assert phases(root, "case_26") == [-1] * 20 + [3] * 55
    assert phases(root, "case_269") == [4] * 75


def test_two_rows_of_one_frame(root):
    text(root / "annotations.csv", [HEADER, "269;0;1", "269;30;2", "269;30;3"])
    assert phases(root) == [0] * 30 + [2] * 45


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["269;0;1", "269;9;11"], "annotations.csv, line 3: phase is '11'; .* from 1 to 10"),
        (["269;0;0"], "line 2: phase is '0'; expected a number from 1 to 10"),
        (["269;0;rhexis"], "line 2: phase is 'rhexis'"),
        (["269;0"], "line 2: .*expected a video, a frame and a phase"),
        (["269;0.5;1"], "line 2: .*expected a video, a frame and a phase"),
        (["269;50;1", "269;49;2"], "line 3: frame 49 of video 269 comes after frame 50"),
    ],
)
def test_bad_rows_are_named(root, rows, message):
    text(root / "annotations.csv", [HEADER, *rows])
    with pytest.raises(UserError, match=message):
        phases(root)


def test_another_header(root):
    text(root / "annotations.csv", ["VideoID,FrameNo,Phase", "269,0,1"])
    assert not cataract101.recognises(root)
    assert phases(root)[0] == 0  # commas are as good as semicolons
    text(root / "annotations.csv", ["VideoID;Phase;FrameNo", "269;1;0"])
    with pytest.raises(UserError, match=f"line 1: header is .*expected {HEADER}"):
        phases(root)


def test_starts_past_the_end(root):
    check = lambda: cataract101.check_labels(root, video_of(root), 75.0)  # noqa: E731
    text(root / "annotations.csv", [HEADER, "269;0;1", "269;75;2", "269;99;3"])
    assert check() == ["annotations.csv: line 3 (frame 75) starts past the end of case_269"]
    text(root / "annotations.csv", [HEADER, "269;0;1", "269;75;2", "269;100;3"])
    with pytest.raises(UserError, match=r"case_269 has 75 frames, but line 3 \(frame 75\) is the"):
        check()


def test_a_video_of_another_length_than_annotated(root):
    video = video_of(root)
    assert cataract101.check_labels(root, video, 100.0) == []
    with pytest.raises(UserError, match="videos.csv, line 2: 75 frames, but case_269.mp4 has 101"):
        cataract101.check_labels(root, video, 101.0)
    (root / "videos.csv").unlink()
    assert cataract101.check_labels(root, video, 101.0) == []


def test_what_is_missing_is_counted(root):
    warnings = cataract101.check_labels(root, video_of(root, "case_764"), 30.0)
    assert warnings == ["annotations.csv: no row for case_764"]
    (root / "annotations.csv").unlink()
    found = cataract101.find(root)
    assert "98 of 101 official videos are missing: case_270, case_278" in found.warnings[0]
    assert "3 of 3 videos have no phase file" in found.warnings[1]
    assert phases(root) == [-1] * 75
    assert cataract101.check_labels(root, video_of(root), 75.0) == []


def test_lists_of_surgrec():
    splits = manifest.read("cataract101")
    release = splits.splits["surgrec_release"]
    assert Counter(release.values()) == {"train": 71, "val": 20, "test": 10}
    assert splits.names == release.keys() and splits.splits["strict"] == release
    assert release["case_269"] == "train" and release["case_271"] == "val"
    assert release["case_764"] == "test"
