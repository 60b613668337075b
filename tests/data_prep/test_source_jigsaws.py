"""JIGSAWS: frames from 1, gaps, meta files with repeated tabs, folds made of the names."""

from collections import Counter

import numpy as np
import pytest
from layouts import jigsaws as layout
from layouts import text

from data_prep import manifest
from data_prep.sources import Times, jigsaws
from surgjax.errors import UserError

NATIVE = Times(np.arange(90) * 100 // 3, np.arange(90), 30.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video(root, name="Suturing_B001_capture1"):
    return next(video for video in jigsaws.find(root).videos if video.video_id == name)


def test_frames_count_from_one_and_the_last_belongs_to_the_gesture(root):
    gesture = jigsaws.labels(root, video(root), NATIVE)["gesture"]
    assert gesture.t_ms.tolist() == NATIVE.t_ms[10:60].tolist()
    assert gesture.label.tolist() == [0] * 30 + [12] * 20


def test_a_frame_that_two_lines_name_belongs_to_the_later(root):
    gesture = jigsaws.labels(root, video(root, "Suturing_C005_capture2"), NATIVE)["gesture"]
    assert gesture.label.tolist() == [1] * 29 + [6] * 61


def test_both_cameras_have_the_same_labels_and_case(root):
    one, two = video(root), video(root, "Suturing_B001_capture2")
    assert one.case == two.case == "jigsaws/Suturing_B001" and one.splits == two.splits
    first, second = (jigsaws.labels(root, v, NATIVE) for v in (one, two))
    assert first["gesture"].label.tolist() == second["gesture"].label.tolist()
    assert (
        first["grs"].values.tolist() == second["grs"].values.tolist() == [[3, 2, 2, 2, 2, 3]] * 90
    )


def test_folds_of_all_trials():
    names = [
        f"{task}_{surgeon}00{repetition}"
        for task in jigsaws.TASKS
        for surgeon in jigsaws.SURGEONS
        for repetition in range(1, 6)
        if (task, surgeon, repetition) != ("Suturing", "H", 2)
    ]
    made = jigsaws._splits(set(names))
    louo, loso = [f"louo_{surgeon}" for surgeon in "BCDEFGHI"], [f"loso_{i}" for i in range(1, 6)]
    assert list(made.splits) == ["strict", *louo, *loso]
    assert Counter(made.splits["louo_B"].values()) == {"train": 104, "test": 15}
    assert Counter(made.splits["loso_2"].values()) == {"train": 96, "test": 23}
    assert {name for name, part in made.splits["loso_5"].items() if part == "test"} == {
        name for name in names if name.endswith("5")
    }
    for folds in (louo, loso):  # everything is tested once
        tested = Counter(n for f in folds for n, part in made.splits[f].items() if part == "test")
        assert tested == Counter(names)
    assert all(made.about[fold] == {"tier": "official", "fold": True} for fold in louo + loso)


def test_no_surgeon_is_in_two_parts_whatever_is_there(root):
    expected = manifest.divide(dict.fromkeys("BCDEFGHI"))
    assert Counter(expected.values()) == {"train": 5, "val": 2, "test": 1}
    found = jigsaws.find(root)
    assert found.splits["strict"] == {"tier": "ours"}
    for one in found.videos:
        assert one.splits["strict"] == expected[one.case[-4]]


def test_missing_trials_are_no_warning_and_missing_labels_are(root):
    assert jigsaws.find(root).warnings == []
    (root / "Suturing/transcriptions/Suturing_B001.txt").unlink()
    (root / "Knot_Tying/meta_file_Knot_Tying.txt").unlink()
    transcription, meta = jigsaws.find(root).warnings
    assert "2 of 6 videos have no transcription file: Suturing_B001_capture1" in transcription
    assert "2 of 6 videos have no meta file: Knot_Tying_I003_capture1" in meta
    assert jigsaws.labels(root, video(root), NATIVE).keys() == {"skill", "grs"}
    knots = video(root, "Knot_Tying_I003_capture1")
    assert jigsaws.labels(root, knots, NATIVE).keys() == {"gesture"}


def test_a_trial_without_a_meta_line_is_a_warning(root):
    text(root / "Suturing/meta_file_Suturing.txt", ["Suturng_B001 N 14 3 2 2 2 2 3"])  # misspelt
    (warning,) = jigsaws.check_labels(root, video(root), 90)
    assert warning.endswith(
        "meta_file_Suturing.txt: no line for Suturing_B001, so no skill and no grs"
    )
    assert jigsaws.labels(root, video(root), NATIVE).keys() == {"gesture"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1 9 G1", "10 20 G7"], "line 2: unknown gesture 'G7'.*known: G1, G2"),
        (["1 9 G10"], "line 1: unknown gesture 'G10'"),
        (["1 9"], "line 1: .*expected first frame, last frame and gesture"),
        (["9 1 G1"], "line 1: .*expected first frame"),
        (["a 1 G1"], "line 1: .*expected first frame"),
        ([""], "is empty; expected lines such as 79 137 G1"),
    ],
)
def test_bad_transcriptions_name_file_and_line(root, lines, message):
    text(root / "Suturing/transcriptions/Suturing_B001.txt", lines)
    with pytest.raises(UserError, match=f"transcriptions/Suturing_B001.txt,? {message}"):
        jigsaws.labels(root, video(root), NATIVE)


@pytest.mark.parametrize(
    "line", ["A X 14 3 2 2 2 2 3", "A N 14 3 2 2 2 2", "A N 14 3 2 2 2 2 6", "A N 14 3 2 2 2 2 3 1"]
)
def test_bad_ratings_name_file_and_line(root, line):
    text(root / "Suturing/meta_file_Suturing.txt", ["Suturing_B001 N 14 3 2 2 2 2 3", line])
    with pytest.raises(
        UserError, match="meta_file_Suturing.txt, line 2: .*expected trial, N, I or E"
    ):
        jigsaws.labels(root, video(root), NATIVE)


def test_gestures_more_than_a_second_past_the_end_are_an_error(root):
    assert jigsaws.check_labels(root, video(root), 30) == []
    with pytest.raises(UserError, match="B001.txt, line 2: frame 60, but .*capture1.avi has 29"):
        jigsaws.check_labels(root, video(root), 29)


def test_other_names_are_no_trials(root):
    for name in ("Suturing_J001_capture1", "Suturing_B006_capture1", "Knot_Tying_B001_capture1"):
        (root / "Suturing" / "video" / f"{name}.avi").touch()
    (root / "Suturing" / "video" / "Suturing_B001_capture3.avi").touch()
    assert len(jigsaws.find(root).videos) == 6
