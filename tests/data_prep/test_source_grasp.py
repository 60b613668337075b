"""GraSP: labels by file name, whatever the numbers count; frames at two rates."""

import json
import shutil

import numpy as np
import pytest
from layouts import grasp as layout
from layouts import images

from data_prep import manifest
from data_prep.sources import Times, grasp, psi_ava
from data_prep.video import Seen, kept_frames
from surgjax.errors import UserError


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video(root, name="CASE001"):
    return next(video for video in grasp.find(root).videos if video.video_id == name)


def times(frames, fps):
    return Times(np.arange(frames) * 1000 // fps, np.arange(frames), float(fps))


def test_one_frame_a_second_is_preferred(root):
    assert video(root).path == root / "GraSP_1fps/frames/CASE001" and video(root).frames_fps == 1
    assert video(root, "CASE041").frames_fps == 30
    assert "CASE001 is there twice; GraSP_1fps/frames/CASE001 is used" in grasp.find(root).warnings
    shutil.rmtree(root / "GraSP_1fps")
    assert video(root).path == root / "GraSP_30fps/frames/CASE001" and video(root).frames_fps == 45


def test_thirty_files_a_second_are_numbered_by_the_45_of_the_recording(root):
    shutil.rmtree(root / "GraSP_1fps")
    rows = [("CASE001/000000000.jpg", 1, 1), ("CASE001/000000045.jpg", 2, 2)]
    layout.annotations(root / "annotations/grasp_long-term_train.json", rows)
    seen = Seen()
    given = dict(fps=None, short_side=48, seen=seen, frames_fps=video(root).frames_fps)
    frames = list(kept_frames(video(root).path, **given))
    assert len(frames) == 61 and frames[30].t_ms == 1000 and frames[-1].t_ms == 2000
    stored = Times(
        np.array([f.t_ms for f in frames]), np.array([f.index for f in frames]), seen.native_fps
    )
    assert stored.native_fps == 30
    phase = grasp.labels(root, video(root), stored)["phase"]
    assert phase.label.tolist() == [1] * 30 + [2] * 30 and phase.t_ms[30] == 1000


def test_a_label_holds_for_a_second_and_no_longer(root):
    found = video(root, "CASE041")
    step = grasp.labels(root, found, times(61, 30))["step"]
    assert step.label.tolist() == [1] * 30 + [18] * 30  # not frame 60
    # At one a second a label is that of its own frame.
    step = grasp.labels(root, video(root), times(3, 1))["step"]
    assert (step.t_ms.tolist(), step.label.tolist()) == ([0, 2000], [0, 20])


def test_names_count_however_irregular_they_are(root):
    folder = root / "GraSP_30fps/frames/CASE041"
    for i in range(60, -1, -1):
        (folder / f"{i:09d}.jpg").rename(folder / f"{i + i // 7:09d}.jpg")
    layout.annotations(
        root / "annotations/grasp_long-term_test.json",
        [("CASE041/000000000.jpg", 2, 2), ("CASE041/000000032.jpg", 3, 3)],
    )
    number = np.array([i + i // 7 for i in range(61)])
    stored = Times(number * 1000 // 30, number, 30.0)
    phase = grasp.labels(root, video(root, "CASE041"), stored)["phase"]
    assert phase.label[0] == 2 and phase.t_ms[phase.label.tolist().index(3)] == 32000 // 30


def test_numbers_of_45_a_second_on_frames_of_30_are_no_silent_shift(root):
    rows = [(f"CASE041/{45 * i:09d}.jpg", 0, 0) for i in range(4)]
    layout.annotations(root / "annotations/grasp_long-term_test.json", rows)
    with pytest.raises(
        UserError, match="CASE041 has a row for 000000090, but its last picture is 000000060"
    ):
        grasp.check_labels(root, video(root, "CASE041"), 61)


def test_labels_of_another_rate_are_refused_and_not_mixed_up(root):
    rows = [(f"CASE001/{i:09d}.jpg", 0, 0) for i in range(3)]  # 30 a second, read as 1 a second
    layout.annotations(root / "annotations/grasp_long-term_train.json", rows)
    with pytest.raises(
        UserError, match="CASE001 has a row for 000000000, but its last picture is 00002"
    ):
        grasp.check_labels(root, video(root), 3)
    assert len(grasp.labels(root, video(root), times(3, 1))["phase"].t_ms) == 0


def test_labels_beside_the_frames_come_first(root):
    rows = [(f"CASE001/{i:05d}.jpg", 5, 6) for i in range(3)]
    layout.annotations(root / "GraSP_1fps/annotations/grasp_long-term_train.json", rows)
    tables = grasp.labels(root, video(root), times(3, 1))
    assert tables["phase"].label.tolist() == [5] * 3 and tables["step"].label.tolist() == [6] * 3


def test_folds_replace_the_training_file(root):
    (root / "annotations/grasp_long-term_train.json").unlink()
    assert grasp.labels(root, video(root), times(3, 1))["phase"].label.tolist() == [0, 10]


def test_what_is_missing_is_a_warning(root):
    (root / "annotations/grasp_long-term_test.json").unlink()
    found = video(root, "CASE041")
    assert grasp.check_labels(root, found, 61) == ["CASE041: no label file has a row of it"]
    assert grasp.check_labels(root, video(root), 3) == [
        "annotations/grasp_long-term_train.json: CASE001 has 1 pictures without a row, 00001 is "
        "the first"
    ]
    shutil.rmtree(root / "annotations")
    _, missing, labels, instruments = grasp.find(root).warnings
    assert missing.startswith("11 of 13 official videos are missing: CASE002")
    assert labels == "2 of 2 videos have no label file: CASE001, CASE041"
    assert instruments == "2 of 2 videos have no instrument file: CASE001, CASE041"


def test_missing_frames(root):
    images(root / "GraSP_1fps/frames/CASE001", ["00003.jpg"])
    rows = [(f"CASE001/{i:05d}.jpg", 0, 0) for i in (1, 3, 4)]
    path = layout.annotations(root / "annotations/grasp_long-term_train.json", rows)
    rows_alone, frames_alone = grasp.check_labels(root, video(root), 4)
    assert "CASE001 has 1 rows without a picture" in rows_alone
    assert "CASE001 has 2 pictures without a row" in frames_alone
    layout.annotations(path, [*rows, ("CASE001/00005.jpg", 0, 0)])
    with pytest.raises(
        UserError, match="CASE001 has a row for 00004, but its last picture is 00003"
    ):
        grasp.check_labels(root, video(root), 4)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("CASE001/00001.jpg", 11, 0)], "CASE001/00001.jpg: phase is '11'.*from 0 to 10"),
        ([("CASE001/00001.jpg", 0, 21)], "CASE001/00001.jpg: step is '21'.*from 0 to 20"),
        ([("CASE001/00001.jpg", [3], 0)], r"phase is '\[3\]'"),
        ([("CASE001/00001.jpg", 0, 0), ("CASE001/00001.jpg", 1, 0)], "there twice and differ"),
    ],
)
def test_bad_annotations_name_file_and_frame(root, rows, message):
    layout.annotations(root / "annotations/grasp_long-term_train.json", rows)
    with pytest.raises(UserError, match=f"grasp_long-term_train.json, .*{message}"):
        grasp.check_labels(root, video(root), 3)


@pytest.mark.parametrize(
    "data", ["{", "[]", '{"images": []}', '{"images": [], "annotations": [{"image_id": 1}]}']
)
def test_other_json_is_one_line(root, data):
    path = root / "annotations/grasp_long-term_train.json"
    path.write_text(data)
    with pytest.raises(
        UserError, match="annotations/grasp_long-term_train.json: .*expected images"
    ):
        grasp.check_labels(root, video(root), 3)


def test_instruments_are_those_of_the_named_frame_alone(root):
    table = grasp.labels(root, video(root, "CASE041"), times(61, 30))["instrument"]
    assert table.t_ms.tolist() == [1000] and table.values.tolist() == [[0, 0, 0, 0, 0, 1, 0]]
    table = grasp.labels(root, video(root), times(3, 1))["instrument"]
    assert table.t_ms.tolist() == [0, 2000]
    assert table.values.tolist() == [[1, 0, 0, 0, 0, 1, 0], [0] * 7]


def test_instruments_go_by_their_names_and_not_by_their_numbers(root):
    path = root / "annotations/grasp_short-term_train.json"
    data = json.loads(path.read_text())
    for category in data["categories"]:
        category["id"] = 8 - category["id"]
    for row in data["annotations"]:
        row["category_id"] = 8 - row["category_id"]
    path.write_text(json.dumps(data))
    table = grasp.labels(root, video(root), times(3, 1))["instrument"]
    assert table.values[0].tolist() == [1, 0, 0, 0, 0, 1, 0]


def test_short_term_files_may_be_missing_or_of_other_frames(root):
    path = root / "annotations/grasp_short-term_train.json"
    layout.short_term(path, {"CASE001/00002.jpg": [1], "CASE001/000000045.jpg": [1]})
    assert grasp.check_labels(root, video(root), 3)[1:] == [
        "annotations/grasp_short-term_train.json: 1 of 2 frames of CASE001 with instruments have "
        "no picture, 000000045 is the first"
    ]
    for file in (root / "annotations").glob("grasp_short-term_*"):
        file.unlink()
    assert not len(grasp.labels(root, video(root), times(3, 1))["instrument"].t_ms)
    assert len(grasp.check_labels(root, video(root), 3)) == 1


def test_bad_instruments_name_file_and_frame(root):
    path = root / "annotations/grasp_short-term_train.json"
    layout.short_term(path, {"CASE001/00000.jpg": [8]})
    with pytest.raises(UserError, match="grasp_short-term_train.json: KeyError 8; expected images"):
        grasp.check_labels(root, video(root), 3)
    path.write_text(path.read_text().replace("Clip Applier", "Stapler").replace(": 8", ": 6"))
    with pytest.raises(UserError, match="train.json, CASE001/00000.jpg: unknown instrument 'stap"):
        grasp.check_labels(root, video(root), 3)


def test_published_splits():
    splits, test = manifest.read("grasp"), {f"CASE0{number}" for number in (41, 47, 50, 51, 53)}
    assert splits.splits["official"] == splits.splits["strict"]
    parts = splits.splits["official"]
    assert {name for name, part in parts.items() if part == "test"} == test
    assert {name for name, part in parts.items() if part == "train"} == (
        manifest.read("psi_ava").names
    )
    for fold in ("crossval_1", "crossval_2"):
        assert splits.splits[fold] == manifest.read("psi_ava").splits[fold]
        assert splits.about[fold] == {"tier": "official", "fold": True}


def test_classes_are_those_of_psi_ava():
    assert grasp.ABOUT.tasks == psi_ava.ABOUT.tasks
    assert grasp.ABOUT.tasks["phase"]["classes"] == psi_ava.PHASES and len(psi_ava.PHASES) == 11
    assert grasp.ABOUT.tasks["step"]["classes"] == psi_ava.STEPS and len(psi_ava.STEPS) == 21
