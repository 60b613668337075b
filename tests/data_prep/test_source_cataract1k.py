"""Cataract-1K: phases by the second, several sets in one folder."""

from collections import Counter

import numpy as np
import pytest
from layouts import cataract1k as layout
from layouts import text, video

from data_prep import manifest, sources
from data_prep.sources import Times, cataract1k
from surgjax.errors import UserError

TIMES = Times(np.arange(0, 2000, 100), np.arange(0, 60, 3), 30.0)
SET = "Phase_recognition_dataset"


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video_of(root, name="case_4687"):
    return next(video for video in cataract1k.find(root).videos if video.video_id == name)


def write(root, rows, header=layout.HEADER, name="case_4687"):
    return text(root / SET / f"annotations/{name}/{name}_annotations_phases.csv", [header, *rows])


def phases(root, name="case_4687"):
    found = np.full(20, -1)
    for table in cataract1k.labels(root, video_of(root, name), TIMES).values():
        found[table.t_ms // 100] = table.label
    return found.tolist()


def test_seconds_count_and_frames_do_not(root):
    write(root, ["1,Incision,9999,99999,0.45,1.25", "1,Lens positioning,1,2,1.5,9"])
    assert phases(root) == [-1] * 5 + [0] * 8 + [-1] * 2 + [8] * 5


def test_all_names_of_the_files(root):
    names = (
        "Incision,Viscoelastic,Capsulorhexis,Hydrodissection,Phacoemulsification,"
        "Irrigation/Aspiration,Capsule Pulishing,Lens Implantation,Lens positioning,"
        "Viscoelastic_Suction,Anterior_Chamber Flushing,Tonifying/Antibiotics"
    ).split(",")
    write(root, [f"1,{name},0,0,{i / 10},{(i + 1) / 10}" for i, name in enumerate(names)])
    assert phases(root) == [*range(12), *[-1] * 8]


def test_columns_go_by_their_names(root):
    write(root, ["0.5;0.7;Incision"], "sec;endSec;comment")
    assert phases(root) == [-1] * 5 + [0] * 2 + [-1] * 13


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,Idle,0,1,0,1", "line 2: unknown phase 'idle'"),
        ("1,Incision,0,1,0", "line 2: 5 values; expected 6"),
        ("1,Incision,0,1,x,1", "line 2: a time is 'x'"),
        ("1,Incision,0,1,2,1", "line 2: a phase ends at 1 s, before it starts at 2 s"),
    ],
)
def test_bad_rows_are_named(root, row, message):
    write(root, [row])
    with pytest.raises(UserError, match=f"case_4687/case_4687_annotations_phases.csv, {message}"):
        phases(root)


def test_another_header(root):
    write(root, [], "caseId,frame,endFrame")
    with pytest.raises(UserError, match="line 1: header is .*expected comment, sec, endSec in it"):
        phases(root)


def test_a_phase_past_the_end(root):
    one = video_of(root)  # of 2 s
    write(root, ["1,Incision,0,1,0,1", "1,Incision,0,1,1,3"])
    assert cataract1k.check_labels(root, one, 60.0) == []
    write(root, ["1,Incision,0,1,0,1", "1,Incision,0,1,1,3.1"])
    with pytest.raises(UserError, match="line 3: a phase ends at 3.1 s, but case_4687.mp4 has 2 s"):
        cataract1k.check_labels(root, one, 60.0)
    one.path.write_bytes(b"no video")
    assert cataract1k.check_labels(root, one, 60.0) == []


def test_the_video_with_phases_counts(root):
    found = cataract1k.find(root)
    assert video_of(root).path == root / SET / "videos" / "case_4687.mp4"
    assert (
        f"case_4687 is there twice; {SET}/videos/case_4687.mp4 is used" in found.warnings
        and found.warnings[-1] == "1 of 4 videos have no phases and are for training: case_709"
    )


def test_videos_without_phases_are_for_training(root):
    assert video_of(root, "case_709").splits == {"strict": "train"}
    assert video_of(root, "case_5011").splits == {"strict": "test", "surgrec_release": "test"}
    assert "case_709" not in manifest.read("cataract1k").splits["strict"]
    assert cataract1k.check_labels(root, video_of(root, "case_709"), 25.0) == []


def test_the_phase_set_alone(root):
    assert cataract1k.recognises(root / SET)
    found = cataract1k.find(root / SET)
    assert [video.video_id for video in found.videos] == list(layout.PHASES)
    assert phases(root / SET)[5:10] == [0] * 5


def test_all_videos_alone_look_like_any_folder(tmp_path):
    video(tmp_path / "case_709.mp4", seconds=1)
    assert sources.detect(tmp_path) == sources.FOLDER
    assert [video.video_id for video in cataract1k.find(tmp_path).videos] == ["case_709"]


def test_lists_of_surgrec():
    splits = manifest.read("cataract1k")
    release = splits.splits["surgrec_release"]
    assert Counter(release.values()) == {"train": 39, "val": 11, "test": 6}
    assert splits.names == release.keys() and splits.splits["strict"] == release
    assert release["case_4687"] == "train" and release["case_4863"] == "val"
    assert {name for name, part in release.items() if part == "test"} == {
        f"case_{number}" for number in (5011, 5072, 5261, 5300, 5303, 5315)
    }
