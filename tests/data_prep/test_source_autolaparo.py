"""AutoLaparo: seconds from 1 onto frames from 0, phases from 1 or from 0."""

from collections import Counter

import numpy as np
import pytest
from layouts import autolaparo as layout
from layouts import text

from data_prep import manifest
from data_prep.sources import Times, Video, autolaparo
from surgjax.errors import UserError

TIMES = Times(np.arange(75) * 40, np.arange(75), 25.0)  # three seconds


def phases(root, *numbers, lines=None):
    """Label of every frame of a three-second video with these rows; None where it has none."""
    lines = lines or ["Frame\tPhase", *(f"{i}\t{n}" for i, n in enumerate(numbers, 1))]
    text(root / "task1/labels/label_01.txt", lines)
    table = autolaparo.labels(root, recording(root), TIMES).get("phase")
    found = dict(zip(table.t_ms.tolist(), table.label.tolist(), strict=True))
    return [found.get(t) for t in TIMES.t_ms.tolist()]


def recording(root):
    return Video("01", root / "task1/videos/01.mp4", *["x"] * 6)


def test_row_k_is_the_second_k(tmp_path):
    assert phases(tmp_path, 1, 2, 7) == [0] * 25 + [1] * 25 + [6] * 25
    assert phases(tmp_path, 1, 7) == [0] * 25 + [6] * 25 + [None] * 25


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((1, 4, 7), [0, 3, 6]),
        ((0, 3, 6), [0, 3, 6]),  # a shifted copy
        ((2, 3, 6), [1, 2, 5]),  # neither 0 nor 7: as published
    ],
)
def test_phases_from_one_or_from_zero(tmp_path, numbers, expected):
    assert phases(tmp_path, *numbers)[::25] == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1\t0", "2\t7"], "label_01.txt, line 3: phase is '7'; expected a number from 0 to 6"),
        (["1\t1", "2\t8"], "line 3: phase is '8'; expected a number from 1 to 7"),
        (["1\t1", "2\tWashing"], "line 3: phase is 'Washing'"),
        (["0\t1", "1\t1"], "line 2: .*expected frame 1 and one phase"),
        (["1\t1", "3\t1"], "line 3: .*expected frame 2"),
    ],
)
def test_bad_rows_are_named(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        phases(tmp_path, lines=["Frame\tPhase", *lines])


def test_the_header_is_expected(tmp_path):
    with pytest.raises(UserError, match="line 1: header is .*expected Frame and Phase"):
        phases(tmp_path, lines=["1\t1", "2\t1"])


def test_a_second_more_or_less_is_a_warning_and_two_are_an_error(tmp_path):
    phases(tmp_path, 1, 1, 1)
    check = lambda frames: autolaparo.check_labels(tmp_path, recording(tmp_path), frames)  # noqa: E731
    assert check(75) == [] and check(51) == []  # the third second may be cut short
    assert check(100) == ["task1/labels/label_01.txt: 1 rows too short (3 of 4)"]
    assert check(50) == ["task1/labels/label_01.txt: 1 rows too long (3 of 2)"]
    with pytest.raises(UserError, match=r"3 rows, .*needs 5; row 3 \(line 5\) is the first missi"):
        check(125)
    with pytest.raises(UserError, match=r"row 1 \(line 3\) is the first past the end"):
        check(25)


def test_missing_files_are_told(tmp_path):
    layout.make(tmp_path)
    (tmp_path / "task1/labels/label_12.txt").unlink()
    found = autolaparo.find(tmp_path)
    assert found.warnings[0].startswith("18 of 21 official videos are missing: 02, 03")
    assert found.warnings[1] == "1 of 3 videos have no phase file: 12"
    video = found.videos[1]
    assert autolaparo.labels(tmp_path, video, TIMES) == {}
    assert autolaparo.check_labels(tmp_path, video, 75) == []


def test_videos_without_label_files_are_no_autolaparo(tmp_path):
    layout.make(tmp_path)
    assert autolaparo.recognises(tmp_path)
    for path in (tmp_path / "task1/labels").iterdir():
        path.unlink()
    assert not autolaparo.recognises(tmp_path)


def test_split_sizes():
    splits = manifest.read("autolaparo").splits
    assert splits.keys() == {"official", "strict", "surgvista", "surgrec_release"}
    for parts in splits.values():
        assert Counter(parts.values()) == {"train": 10, "val": 4, "test": 7}
        assert (parts["10"], parts["11"], parts["15"]) == ("train", "val", "test")
