"""EndoVis 2017: tools from masks by folder and by value, one recording in both parts."""

import numpy as np
import pytest
from layouts import endovis2017 as layout

from data_prep import manifest, sources
from data_prep.sources import Times, endovis2017
from surgjax.errors import UserError

HALVES = Times(np.arange(4) * 500, np.arange(4), 2.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def one(root, name="train_1"):
    return next(video for video in endovis2017.find(root).videos if video.video_id == name)


def present(root, name="train_1", times=HALVES):
    table = endovis2017.labels(root, one(root, name), times)["tool"]
    return {
        int(t): [tool for tool, x in zip(endovis2017.TOOLS, row, strict=True) if x]
        for t, row in zip(table.t_ms, table.values, strict=True)
    }


def test_folders_of_one_type_count_together(root):
    assert present(root) == {
        0: ["Bipolar_Forceps", "Prograsp_Forceps"],
        500: ["Prograsp_Forceps"],
        1000: ["Other"],
    }


@pytest.mark.parametrize("folder", [
    "Large_Needle_Driver_Left_labels", "Right_Vessel_Sealer", "Left_Grasping_Retractor_labels",
    "Prograsp_Forceps", "Monopolar_Curved_Scissors_labels", "Left_Bipolar_Forceps",
])  # fmt: skip
def test_names_of_folders(root, folder):
    masks = root / layout.TRAIN / "ground_truth"
    for i in range(4):
        layout.mask(masks / folder / f"frame{i:03d}.png", 10)
    (tool,) = set(present(root)[1000]) - {"Other"}
    assert tool in folder


def test_a_frame_needs_all_masks_to_be_labelled(root):
    masks = root / layout.TRAIN / "ground_truth"
    assert 1500 not in present(root)
    assert endovis2017.check_labels(root, one(root), 4) == [
        f"{layout.TRAIN}/ground_truth/Maryland_Bipolar_Forceps_labels: 1 of 4 masks are missing"
    ]
    layout.mask(masks / "Maryland_Bipolar_Forceps_labels" / "frame003.png")
    assert present(root)[1500] == [] and endovis2017.check_labels(root, one(root), 4) == []


def test_values_of_the_test_part(root):
    path = root / "instrument_2017_test/instrument_2017_test/instrument_dataset_9/gt"
    for value, tool in enumerate(endovis2017.TOOLS, start=1):
        layout.mask(path / "TypeSegmentation/frame000.png", value, value)
        assert present(root, "test_9", Times(np.zeros(1), np.zeros(1, int), 2.0)) == {0: [tool]}
    layout.mask(path / "TypeSegmentation/frame000.png", 32)
    with pytest.raises(UserError, match="TypeSegmentation/frame000.png: value 32; expected 0 to 7"):
        present(root, "test_9", HALVES)


def test_labels_of_the_test_part_in_other_places(root):
    tested = root / "instrument_2017_test"
    expected = present(root, "test_9", Times(np.array([0, 500]), np.arange(2), 2.0))
    gt = tested / "instrument_2017_test" / "instrument_dataset_9" / "gt"
    (tested / "instrument_dataset_9").mkdir()
    (gt / "TypeSegmentation").rename(tested / "instrument_dataset_9" / "TypeSegmentation")
    assert present(root, "test_9", Times(np.array([0, 500]), np.arange(2), 2.0)) == expected
    (tested / "instrument_dataset_9" / "TypeSegmentation").rename(root / "elsewhere")
    assert endovis2017.labels(root, one(root, "test_9"), HALVES) == {}
    assert endovis2017.check_labels(root, one(root, "test_9"), 2) == ["test_9 has no masks"]


def test_a_damaged_mask_is_named(root):
    (root / layout.TRAIN / "ground_truth/Other_labels/frame001.png").write_bytes(b"x")
    with pytest.raises(UserError, match="Other_labels/frame001.png: does not decode"):
        present(root)


def test_folders_called_train_and_test_one_deeper(root):
    (root / "data" / "train").mkdir(parents=True)
    (root / layout.TRAIN).rename(root / "data" / "train" / "instrument_dataset_1")
    video = one(root)
    assert video.path == root / "data/train/instrument_dataset_1/left_frames"
    assert video.frames_fps == 2 and present(root)[1000] == ["Other"]


def test_shadows_of_another_system_and_copies_are_not_used(root):
    for folder in ("__MACOSX/training", "train"):
        (root / folder / "instrument_dataset_1" / "left_frames").mkdir(parents=True)
    found = endovis2017.find(root)
    assert found.warnings[0] == f"train_1 is there twice; {layout.TRAIN}/left_frames is used"
    assert not found.refused and len(found.videos) == 3
    assert sources.detect(root) == "endovis2017"


def test_splits(root):
    splits = manifest.read("endovis2017")
    assert len(splits.names) == 18 and splits.about["official"]["leaky"]
    train, test = one(root), one(root, "test_1")
    assert train.case == test.case == "endovis2017/1"
    assert (train.splits["official"], test.splits["official"]) == ("train", "test")
    assert train.splits["strict"] == test.splits["strict"] == "train"
    assert one(root, "test_9").splits["strict"] == "test"
    tested = [name for i in range(4) for name, part in splits.splits[f"crossval_{i}"].items()
              if part == "test"]  # fmt: skip
    assert sorted(tested) == [f"train_{i}" for i in range(1, 9)]
    assert train.splits["crossval_0"] == "test" and "crossval_0" not in test.splits
