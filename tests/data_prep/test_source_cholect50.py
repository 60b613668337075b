"""CholecT50: vectors of actions, frames without any, pictures that are missing, folds."""

import json
from collections import Counter

import numpy as np
import pytest
from layouts import cholect50 as layout
from layouts import images, video

from data_prep import manifest, sources
from data_prep.sources import Times, Video, cholect50
from surgjax.errors import UserError

TIMES = Times(np.array([0, 1000]), np.array([0, 1]), 1.0)
ACTION = layout.vector(17, 0, 1, 0, phase=1)


def labelled(root, annotations, numbers=(0, 1), name="VID01", **categories):
    """A video of pictures with these numbers, and its label file."""
    folder = images(root / "videos" / name, [f"{number:06d}.png" for number in numbers])
    layout.write(root, name, annotations, categories)
    return Video(name, folder, *["x"] * 6, frames_fps=1.0)


def names(table, task):
    return [
        {name for name, there in zip(cholect50.CLASSES[task], row, strict=True) if there}
        for row in table.values
    ]


def test_classes_are_those_of_the_literature():
    triplets = cholect50.CLASSES["triplet"]
    assert [len(of) for of in cholect50.CLASSES.values()] == [100, 6, 10, 15, 7]
    assert len(set(triplets)) == 100
    assert triplets[0] == "grasper,dissect,cystic_plate"
    assert triplets[12] == "grasper,grasp,specimen_bag"
    assert triplets[17] == "grasper,retract,gallbladder"
    assert triplets[58] == "hook,dissect,cystic_duct"
    assert triplets[60] == "hook,dissect,gallbladder"
    assert triplets[82] == "irrigator,aspirate,fluid"
    assert triplets[93] == "irrigator,retract,omentum"
    null = [f"{name},null_verb,null_target" for name in cholect50.CLASSES["instrument"]]
    assert triplets[94:] == null
    parts = [triplet.split(",") for triplet in triplets]
    for i, task in enumerate(("instrument", "verb", "target")):
        assert {part[i] for part in parts} == set(cholect50.CLASSES[task])
    assert len({(i, v) for i, v, _ in parts}) == 26 and len({(i, t) for i, _, t in parts}) == 59


def test_numbers_stand_for_the_names_of_the_file(tmp_path):
    swapped = {"0": "hook", "1": "bipolar", "2": "grasper"}
    video = labelled(tmp_path, {0: [ACTION], 1: []}, instrument=swapped)
    tables = cholect50.labels(tmp_path, video, TIMES)
    assert names(tables["instrument"], "instrument") == [{"hook"}, set()]


def test_a_frame_without_action_is_labelled_and_its_phase_is_known_or_not(tmp_path):
    video = labelled(tmp_path, {0: [[*layout.NONE, 4]], 1: []})
    tables = cholect50.labels(tmp_path, video, TIMES)
    assert names(tables["triplet"], "triplet") == [set(), set()]
    assert (tables["phase"].t_ms.tolist(), tables["phase"].label.tolist()) == ([0], [4])


def test_the_same_action_twice_counts_once(tmp_path):
    video = labelled(tmp_path, {0: [ACTION, ACTION], 1: [ACTION]})
    values = cholect50.labels(tmp_path, video, TIMES)["triplet"].values
    assert values.sum(axis=1).tolist() == [1, 1]


def test_frames_are_numbers_even_where_the_first_picture_is_missing(tmp_path):
    rows = {i: [layout.vector(17, 0, 1, 0, phase=int(i > 9))] for i in range(12)}  # "10" < "2"
    video = labelled(tmp_path, rows, numbers=[2, 10, 11])
    times = Times(np.array([0, 8000, 9000]), np.array([0, 8, 9]), 1.0)
    assert cholect50.labels(tmp_path, video, times)["phase"].label.tolist() == [0, 1, 1]
    path = "labels/VID01.json"
    assert cholect50.check_labels(tmp_path, video, 3) == [
        f"{path}: VID01 has 9 rows without a picture, 0 is the first"
    ]


def test_length(tmp_path):
    video = labelled(tmp_path, {i: [ACTION] for i in range(3)}, numbers=[0, 1])
    assert cholect50.check_labels(tmp_path, video, 2) == [
        "labels/VID01.json: VID01 has 1 rows without a picture, 2 is the first"
    ]
    video = labelled(tmp_path, {i: [ACTION] for i in range(5)}, numbers=[0, 1])
    with pytest.raises(UserError, match="VID01 has a row for 2, but its last picture is 1"):
        cholect50.check_labels(tmp_path, video, 2)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([17, 0, 1], r"frame 1: \[17, 0, 1\]; expected a vector of 15 numbers"),
        ("17", "frame 1: 17; expected a vector"),
        ([100, *ACTION[1:]], "labels/VID01.json, frame 1: unknown triplet '100'.*known: grasper,"),
        ([*ACTION[:-1], 7], "frame 1: unknown phase '7'"),
        ([*ACTION[:-1], [0]], "frame 1: unknown phase"),
    ],
)
def test_bad_vectors_are_named(tmp_path, vector, message):
    video = labelled(tmp_path, {0: [ACTION], 1: [vector]})
    with pytest.raises(UserError, match=message):
        cholect50.labels(tmp_path, video, TIMES)


def test_unknown_name(tmp_path):
    video = labelled(tmp_path, {0: [ACTION]}, phase={"1": "clipping-and-cuting"})
    with pytest.raises(UserError, match="frame 0: unknown phase .*did you mean 'clipping-and-cutt"):
        cholect50.labels(tmp_path, video, TIMES)


def test_two_phases_in_a_frame(tmp_path):
    video = labelled(tmp_path, {0: [ACTION, [*layout.NONE, 2]]})
    with pytest.raises(UserError, match="VID01.json, frame 0: two phases; expected one"):
        cholect50.labels(tmp_path, video, TIMES)


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        '{"annotations": {}}',
        '{"annotations": {"x": []}, "categories": {}}',
        '{"annotations": {"0": null}, "categories": {}}',
    ],
)
def test_damaged_files_are_named(tmp_path, damage):
    video = labelled(tmp_path, {0: [ACTION]})
    (tmp_path / "labels/VID01.json").write_text(damage)
    with pytest.raises(UserError, match="labels/VID01.json: .*expected JSON with annotations and"):
        cholect50.check_labels(tmp_path, video, 2)


def test_an_incomplete_download_is_told(tmp_path):
    layout.make(tmp_path)
    (tmp_path / "labels/VID10.json").unlink()
    video(tmp_path / "videos/VID12.mp4", seconds=1)  # no folder of frames
    found = cholect50.find(tmp_path)
    assert [one.video_id for one in found.videos] == ["VID01", "VID05", "VID10", "VID103"]
    assert found.warnings == [
        "46 of 50 official videos are missing: VID02, VID04, VID06, VID08, VID110 and 41 more",
        "1 of 4 videos have no label file: VID10",
    ]
    assert cholect50.labels(tmp_path, found.videos[2], TIMES) == {}
    assert cholect50.check_labels(tmp_path, found.videos[2], 3) == []
    assert found.videos[3].splits["strict"] == "test" != found.videos[2].splits["strict"]


def test_labels_without_videos_are_no_cholect50(tmp_path):
    layout.write(tmp_path, "VID01", {0: []})
    assert not cholect50.recognises(tmp_path)
    images(tmp_path / "other/VID01", ["000000.png"])
    assert sources.detect(tmp_path) == sources.FOLDER
    assert json.loads((tmp_path / "labels/VID01.json").read_text())["fps"] == 1


def test_splits():
    splits = manifest.read("cholect50")
    assert len(splits.names) == 50
    counts = {name: Counter(parts.values()) for name, parts in splits.splits.items()}
    assert counts["challenge"] == counts["strict"] == {"train": 40, "val": 5, "test": 5}
    assert splits.splits["strict"] == splits.splits["challenge"]
    assert counts["rendezvous"] == {"train": 35, "val": 5, "test": 10}
    assert counts["surgvista"] == {"train": 45, "test": 5}
    held = {name for name, part in splits.splits["challenge"].items() if part == "test"}
    assert held == {"VID92", "VID96", "VID103", "VID110", "VID111"}  # not in Cholec80
    merged = {name: part.replace("val", "train") for name, part in splits.splits["strict"].items()}
    assert splits.splits["surgvista"] == merged
    folds = [splits.splits[f"crossval_{fold}"] for fold in range(1, 6)]
    assert all(Counter(of.values()) == {"train": 35, "val": 5, "test": 10} for of in folds)
    tested = [name for of in folds for name, part in of.items() if part == "test"]
    assert sorted(tested) == sorted(splits.names)
    assert all("fold" in splits.about[f"crossval_{fold}"] for fold in range(1, 6))
    last = {name for name, part in folds[0].items() if part == "val"}
    assert last == {"VID01", "VID56", "VID04", "VID13", "VID92"}
    last = {name for name, part in folds[4].items() if part == "val"}
    assert last == {"VID75", "VID22", "VID49", "VID12", "VID110"}
