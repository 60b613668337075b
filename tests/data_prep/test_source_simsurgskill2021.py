"""SimSurgSkill 2021: boxes of a frame a second, videos of two rates, cases in two parts."""

import numpy as np
import pytest
from layouts import simsurgskill2021 as layout

from data_prep.sources import Times, simsurgskill2021
from surgjax.errors import UserError

SECONDS = Times(np.array([0, 1000, 2000]), np.array([0, 30, 60]), 30.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def one(root, name="train_v1/caseid_000001"):
    return next(v for v in simsurgskill2021.find(root).videos if v.video_id == name)


def save(root, rows):
    layout.boxes(root / "train_v1/annotations/bounding_box_gt/caseid_000001_fps1.json", rows)


def test_the_faster_video_counts(root):
    paths = {v.video_id: v.path.name for v in simsurgskill2021.find(root).videos}
    assert paths == {
        "train_v1/caseid_000001": "caseid_000001.mp4",
        "train_v2/caseid_000002": "caseid_000002_fps1.mp4",
        "test/caseid_000001": "caseid_000001.mp4",
    }


def test_parts_are_the_split_and_their_cases_are_their_own(root):
    found = simsurgskill2021.find(root)
    assert found.splits == dict.fromkeys(("official", "strict"), {"tier": "official"})
    splits = {v.case: v.splits["strict"] for v in found.videos}
    assert splits == {
        "simsurgskill2021/train_v1/caseid_000001": "train",
        "simsurgskill2021/train_v2/caseid_000002": "train",
        "simsurgskill2021/test/caseid_000001": "test",
    }
    assert found.warnings == ["1 files skill_metric_gt.csv are there and not read"]


def test_a_tool_is_present_where_it_has_a_box(root):
    save(root, [layout.box(3.0, "needle"), layout.box(1.0, "needle driver")])
    table = simsurgskill2021.labels(root, one(root), SECONDS)["tool"]
    assert table.t_ms.tolist() == [0, 2000]
    assert table.values.tolist() == [[1, 0], [0, 1]]


def test_only_the_first_frame_of_a_second_is_labelled(root):
    index = np.arange(90)
    t_ms = np.round(index * 1000 / 29.97).astype(int)
    table = simsurgskill2021.labels(root, one(root), Times(t_ms, index, 29.97))["tool"]
    assert table.t_ms.tolist() == [0, t_ms[30]]  # 1001 ms
    assert table.values.tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("end", ["_fp1", ""])
def test_other_names_of_the_label_file(root, end):
    folder = root / "train_v1/annotations/bounding_box_gt"
    (folder / "caseid_000001_fps1.json").rename(folder / f"caseid_000001{end}.json")
    assert simsurgskill2021.labels(root, one(root), SECONDS)["tool"].values.tolist() == [
        [1, 1],
        [0, 0],
    ]


def test_a_video_without_boxes(root):
    (root / "test/annotations/bounding_box_gt/caseid_000001_fps1.json").unlink()
    found = simsurgskill2021.find(root)
    assert "1 of 3 videos have no box file: test/caseid_000001" in found.warnings
    assert simsurgskill2021.labels(root, one(root, "test/caseid_000001"), SECONDS) == {}
    assert simsurgskill2021.check_labels(root, one(root, "test/caseid_000001"), 90) == []


@pytest.mark.parametrize(
    ("name", "frames"), [("train_v1/caseid_000001", 90), ("train_v2/caseid_000002", 3)]
)
def test_boxes_past_the_end_are_an_error(root, name, frames):
    part, case = name.split("/")
    path = root / part / "annotations/bounding_box_gt" / f"{case}_fps1.json"
    layout.boxes(path, [layout.box(5.0, "needle")])
    assert simsurgskill2021.check_labels(root, one(root, name), frames) == []
    layout.boxes(path, [layout.box(60.0, "needle")])
    with pytest.raises(UserError, match="boxes of frame 60, but .*caseid.* has 3 seconds"):
        simsurgskill2021.check_labels(root, one(root, name), frames)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (layout.box(1.0, "needel"), "box 0: unknown obj_class 'needel'.*needle"),
        (layout.box(0.0, "needle"), "box 0: frame_id is 0; expected a whole number from 1"),
        (layout.box(1.5, "needle"), "box 0: frame_id is 1.5"),
        ({"frame_id": 1.0}, "KeyError 'objects'; expected JSON of boxes"),
    ],
)
def test_bad_boxes_are_named(root, row, message):
    save(root, [row])
    with pytest.raises(UserError, match=f"bounding_box_gt/caseid_000001_fps1.json.*{message}"):
        simsurgskill2021.labels(root, one(root), SECONDS)


def test_no_boxes_at_all(root):
    save(root, [])
    assert simsurgskill2021.labels(root, one(root), SECONDS)["tool"].values.shape == (0, 2)
    assert simsurgskill2021.check_labels(root, one(root), 90) == []
