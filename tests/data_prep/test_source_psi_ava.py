"""PSI-AVA: several boxes a second, classes from 0 and from 1, two places for the annotations."""

import shutil

import numpy as np
import pytest
from layouts import images, text
from layouts import psi_ava as layout

from data_prep import manifest
from data_prep.sources import Times, psi_ava
from surgjax.errors import UserError

THREE = Times(np.array([0, 1000, 2000]), np.arange(3), 1.0)
TABLE = "outputs/data_annotations/psi-ava/fold1/annotations/train.csv"
BOX = layout.BOX


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video(root, name="CASE001"):
    return next(video for video in psi_ava.find(root).videos if video.video_id == name)


def test_instruments_are_those_of_all_boxes_of_a_second(root):
    tables = psi_ava.labels(root, video(root), THREE)
    assert tables["instrument"].t_ms.tolist() == [1000]  # second 2 has no box
    assert tables["instrument"].values.tolist() == [[1, 0, 0, 0, 0, 0, 1]]
    assert tables["phase"].t_ms.tolist() == tables["step"].t_ms.tolist() == [1000, 2000]
    assert tables["phase"].label.tolist() == [1, 10] and tables["step"].label.tolist() == [1, 20]


def test_a_row_belongs_to_the_number_in_the_name(root):
    (root / "keyframes/CASE001/00000.jpg").unlink()
    two = Times(np.array([0, 1000]), np.arange(2), 1.0)
    assert psi_ava.labels(root, video(root), two)["phase"].label.tolist() == [1, 10]


def test_a_second_without_a_row_has_no_label_of_the_one_before(root):
    images(root / "keyframes/CASE001", ["00003.jpg"])
    four = Times(np.arange(4) * 1000, np.arange(4), 1.0)
    assert psi_ava.labels(root, video(root), four)["step"].t_ms.tolist() == [1000, 2000]
    (warning,) = psi_ava.check_labels(root, video(root), 4)
    assert warning == "annotations/train.csv: CASE001 has 2 pictures without a row, 0 is the first"


def test_annotations_may_lie_beside_the_keyframes(root):
    shutil.move(root / "outputs/data_annotations/psi-ava", root / "annotations")
    shutil.rmtree(root / "annotations/fold1")  # each fold has all cases
    assert psi_ava.labels(root, video(root), THREE)["phase"].label.tolist() == [1, 10]
    assert all("annotation" not in warning for warning in psi_ava.find(root).warnings)


def test_what_is_missing_is_a_warning(root):
    images(root / "keyframes/CASE002", ["00000.jpg", "00001.jpg"])
    (warning,) = psi_ava.find(root).warnings
    assert warning.startswith("5 of 8 official videos are missing: CASE003")
    missing = video(root, "CASE002")
    assert psi_ava.check_labels(root, missing, 2) == ["CASE002: no label file has a row of it"]
    two = Times(np.array([0, 1000]), np.arange(2), 1.0)
    assert all(len(table.t_ms) == 0 for table in psi_ava.labels(root, missing, two).values())
    shutil.rmtree(root / "outputs")
    assert "3 of 3 videos have no annotation file: CASE001" in psi_ava.find(root).warnings[1]


def test_films_are_no_keyframes(root):
    (root / "keyframes" / "CASE003.mp4").touch()
    assert len(psi_ava.find(root).videos) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"CASE001,3,1,{BOX},1,11,0", "phase is '11'; expected a number from 0 to 10"),
        (f"CASE001,3,1,{BOX},1,0,21", "step is '21'; expected a number from 0 to 20"),
        (f"CASE001,3,1,{BOX},0,0,0", "instrument is '0'; expected a number from 1 to 7"),
        (f"CASE001,3,1,{BOX},1,0", "expected case, second and 11 more values"),
        (f"CASE001,x,1,{BOX},1,0,0", "expected case, second and 11 more values"),
        (f"CASE001,2,2,{BOX},1,9,20", "expected phase and step of second 2 above"),
    ],
)
def test_bad_rows_name_file_and_line(root, line, message):
    with (root / TABLE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=f"annotations/train.csv, line 4: .*{message}"):
        psi_ava.labels(root, video(root), THREE)


def test_rows_past_the_last_frame(root):
    rows = [f"CASE001,{second},1,{BOX},1,0,0" for second in range(4)]
    text(root / TABLE, rows)
    (warning,) = psi_ava.check_labels(root, video(root), 3)
    assert warning == "annotations/train.csv: CASE001 has 1 rows without a picture, 3 is the first"
    text(root / TABLE, [*rows, f"CASE001,4,1,{BOX},1,0,0"])
    with pytest.raises(UserError, match="CASE001 has a row for 3, but its last picture is 2"):
        psi_ava.check_labels(root, video(root), 3)


def test_published_folds():
    splits = manifest.read("psi_ava")
    assert len(splits.names) == 8
    one, two = splits.splits["crossval_1"], splits.splits["crossval_2"]
    first = {"CASE001", "CASE004", "CASE014", "CASE015"}
    assert {name for name, part in one.items() if part == "train"} == first
    assert {name for name, part in two.items() if part == "test"} == first
    assert one.keys() == two.keys() == splits.names
    assert splits.about["crossval_1"] == {"tier": "official", "fold": True}
    assert set(splits.splits["strict"].values()) == {"train"}
    assert splits.splits["strict"].items() <= manifest.read("grasp").splits["strict"].items()
    assert splits.splits["surgvista"] == dict.fromkeys(splits.names, "train")
    assert splits.names < manifest.read("grasp").names
