"""CholecT45: four tables a video without header, comma-separated, counted from 0."""

from collections import Counter

import numpy as np
import pytest
from layouts import cholect45 as layout
from layouts import cholect50 as other
from layouts import images, text

from data_prep import manifest, sources
from data_prep.sources import Times, Video, cholect45, cholect50
from surgjax.errors import UserError

TIMES = Times(np.array([0, 1000]), np.array([0, 1]), 1.0)


def labelled(root, rows, numbers=(0, 1), name="VID01"):
    folder = images(root / "data" / name, [f"{number:06d}.png" for number in numbers])
    layout.write(root, name, rows)
    return Video(name, folder, *["x"] * 6, frames_fps=1.0)


def test_tasks_are_those_of_cholect50_without_phase():
    tasks = cholect45.ABOUT.tasks
    assert list(tasks) == ["triplet", "instrument", "verb", "target"]
    assert [len(of["classes"]) for of in tasks.values()] == [100, 6, 10, 15]
    assert all(of == cholect50.ABOUT.tasks[task] for task, of in tasks.items())
    assert cholect45.ABOUT.dataset == "cholect45"


def test_columns_are_classes_in_order(tmp_path):
    video = labelled(tmp_path, [[layout.ASPIRATE], []])
    tables = cholect45.labels(tmp_path, video, TIMES)
    assert np.flatnonzero(tables["triplet"].values[0]).tolist() == [82]
    assert np.flatnonzero(tables["verb"].values[0]).tolist() == [6]
    assert not tables["triplet"].values[1].any()  # labelled: nothing is done


def test_the_first_picture_may_be_missing(tmp_path):
    video = labelled(tmp_path, [[layout.RETRACT], [layout.DISSECT], []], numbers=[1, 2])
    tables = cholect45.labels(tmp_path, video, TIMES)
    assert np.flatnonzero(tables["instrument"].values[0]).tolist() == [2]
    warnings = cholect45.check_labels(tmp_path, video, 2)
    assert len(warnings) == 4
    rest = "VID01 has 1 rows without a picture, 0 is the first"
    assert warnings[0] == f"triplet/VID01.txt: {rest}"


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        ("verb", ["0,1"], r"verb/VID01.txt, line 1: \['0', '1'\]; expected frame 0 and 10 values"),
        ("instrument", ["0,0,0,0,0,0,2"], "instrument/VID01.txt, line 1: .*values 0 or 1"),
        ("instrument", ["1,0,0,0,0,0,0"], "line 1: .*expected frame 0"),
        ("instrument", ["0,0,0,0,0,0,0", "2,0,0,0,0,0,0"], "line 2: .*expected frame 1"),
        ("instrument", ["frame,g,b,h,s,c,i"], "line 1: .*expected frame 0"),
    ],
)
def test_bad_rows_are_named(tmp_path, task, lines, message):
    video = labelled(tmp_path, [[], []])
    text(tmp_path / task / "VID01.txt", lines)
    with pytest.raises(UserError, match=message):
        cholect45.labels(tmp_path, video, TIMES)


def test_length(tmp_path):
    video = labelled(tmp_path, [[]] * 4)
    with pytest.raises(
        UserError, match="triplet/VID01.txt: .*row for 2, but its last picture is 1"
    ):
        cholect45.check_labels(tmp_path, video, 2)


def test_what_is_missing_is_told_and_the_rest_is_used(tmp_path):
    layout.make(tmp_path)
    (tmp_path / "verb/VID10.txt").unlink()
    found = cholect45.find(tmp_path)
    assert found.warnings == [
        "42 of 45 official videos are missing: VID01, VID05, VID06, VID08, VID12 and 37 more",
        "1 of 3 videos have no verb file: VID10",
    ]
    assert list(cholect45.labels(tmp_path, found.videos[2], TIMES)) == [
        "triplet",
        "instrument",
        "target",
    ]
    assert cholect45.check_labels(tmp_path, found.videos[1], 3) == [
        f"{task}/VID04.txt: VID04 has 1 pictures without a row, 2 is the first"
        for task in cholect45.ABOUT.tasks
    ]


def test_cholect50_and_45_are_told_apart(tmp_path):
    layout.make(tmp_path / "45")
    other.make(tmp_path / "50")
    assert not cholect50.recognises(tmp_path / "45") and not cholect45.recognises(tmp_path / "50")
    assert sources.detect(tmp_path / "45") == "cholect45"
    assert sources.detect(tmp_path / "50") == "cholect50"


def test_splits():
    splits, larger = manifest.read("cholect45"), manifest.read("cholect50")
    assert len(splits.names) == 45 and splits.names < larger.names
    folds = [splits.splits[f"crossval_{fold}"] for fold in range(1, 6)]
    assert all(Counter(of.values()) == {"train": 31, "val": 5, "test": 9} for of in folds)
    tested = [name for of in folds for name, part in of.items() if part == "test"]
    assert sorted(tested) == sorted(splits.names)
    for fold, of in enumerate(folds, start=1):
        theirs = larger.splits[f"crossval_{fold}"]
        assert all(theirs[name] == "test" for name, part in of.items() if part == "test")
    last = {name for name, part in folds[0].items() if part == "val"}
    assert last == {"VID74", "VID01", "VID56", "VID04", "VID13"}
    halves = manifest.read("cholec80").splits["strict"]
    strict = {f"video{name[3:]}": part for name, part in splits.splits["strict"].items()}
    assert len(strict) == 45 and strict.items() <= halves.items()
