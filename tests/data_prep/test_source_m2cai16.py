"""M2CAI16: label files beside the videos that end early, files that are no labels, two folders."""

from collections import Counter

import numpy as np
import pytest
from layouts import m2cai16 as layout
from layouts import text, video

from data_prep import manifest
from data_prep.sources import Times, cholec80, m2cai16
from surgjax.errors import UserError

CLASSES = m2cai16.ABOUT.tasks["phase"]["classes"]
TIMES = Times(np.array([0, 40, 80]), np.arange(3), 25.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def write(root, *rows, header="Frame\tPhase", name="train_dataset/workflow_video_01"):
    text(root / f"{name}.txt", [header, *rows])


def video_of(root, name="workflow_video_01"):
    return next(one for one in m2cai16.find(root).videos if one.video_id == name)


def test_cholec80_and_the_placing_of_trocars():
    assert CLASSES == ["TrocarPlacement", *cholec80.ABOUT.tasks["phase"]["classes"]]
    assert "Phase" not in CLASSES and len(CLASSES) == 8  # the header is no class


def test_phases_go_by_name_whether_the_first_is_there_or_not(root):
    write(root, "0\tPreparation", "1\tGallbladderRetraction", "2\tPreparation")
    table = m2cai16.labels(root, video_of(root), TIMES)["phase"]
    assert table.label.tolist() == [1, 7, 1]


def test_timestamps_and_predictions_are_no_labels(root):
    (root / "train_dataset/workflow_video_01.txt").unlink()
    found = m2cai16.find(root)
    assert (root / "train_dataset/workflow_video_01_pred.txt").exists()
    assert found.warnings[1] == "1 of 3 videos have no phase file: workflow_video_01"
    assert m2cai16.labels(root, video_of(root), TIMES) == {}
    assert m2cai16.check_labels(root, video_of(root), 75) == []


def test_labels_may_end_before_their_video_but_not_after(root):
    check = lambda frames: m2cai16.check_labels(root, video_of(root), frames)  # noqa: E731
    path = "train_dataset/workflow_video_01.txt"  # 75 rows
    assert check(75) == []
    assert check(100) == [f"{path}: 25 rows too short (75 of 100)"]
    assert check(1500) == [f"{path}: ends 57 s before its video"]
    assert check(50) == [f"{path}: 25 rows too long (75 of 50)"]
    with pytest.raises(UserError, match=r"row 49 \(line 51\) is the first past the end"):
        check(49)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("Frame\tPhase", "1\tTrocarPlacement", "workflow_video_01.txt, line 2: .*expected frame 0"),
        ("Frame\tPhase", "0\tPhase", "line 2: unknown phase 'Phase'"),
        ("Frame\tPhase", "0\t1", "line 2: unknown phase '1'"),
        (
            "0\tTrocarPlacement",
            "1\tTrocarPlacement",
            "line 1: header is .*expected Frame and Phase",
        ),
    ],
)
def test_bad_rows_are_named(root, header, row, message):
    write(root, row, header=header)
    with pytest.raises(UserError, match=message):
        m2cai16.labels(root, video_of(root), TIMES)


def test_each_folder_has_its_own_names(root):
    video(root / "train_dataset/test_workflow_video_09.mp4", seconds=1)
    video(root / "test_dataset/workflow_video_09.mp4", seconds=1)
    found = m2cai16.find(root)
    parts = {one.video_id: one.splits["official"] for one in found.videos}
    assert parts == {
        "test_workflow_video_03": "test",
        "workflow_video_01": "train",
        "workflow_video_12": "train",
    }
    assert found.warnings[0].startswith("38 of 41 official videos are missing")


def test_27_and_14():
    official = manifest.read("m2cai16").splits["official"]
    assert Counter(official.values()) == {"train": 27, "test": 14}
