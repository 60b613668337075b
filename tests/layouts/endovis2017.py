"""EndoVis 2017: both parts of one sequence, a sequence of the test part alone, masks by folder."""

from pathlib import Path

import cv2
import numpy as np

from layouts import images, text

FPS = "native"
TRAIN = "instrument_1_4_training/instrument_dataset_1"
LABELS = {
    ("train_1", "tool", 0): {"Bipolar_Forceps", "Prograsp_Forceps"},
    ("train_1", "tool", 500): {"Prograsp_Forceps"},  # of the right one alone
    ("train_1", "tool", 1000): {"Other"},
    ("train_1", "tool", 1500): None,  # a mask is missing
    ("test_1", "tool", 0): {"Vessel_Sealer", "Other"},
    ("test_1", "tool", 500): set(),
    ("test_9", "tool", 500): {"Bipolar_Forceps"},
}
CASES = {"train_1": "1", "test_1": "1", "test_9": "9"}
MASKS = {  # a value a frame; parts of an instrument have several
    "Left_Prograsp_Forceps_labels": (10, 0, 0, 0),
    "Right_Prograsp_Forceps_labels": (0, 20, 0, 0),
    "Maryland_Bipolar_Forceps_labels": (30, 0, 0),
    "Other_labels": (0, 0, 255, 0),
}


def mask(path: Path, *values: int, channels: int = 1) -> Path:
    """A picture of zeros with one pixel of each value."""
    image = np.zeros((48, 64, channels), np.uint8)
    for i, value in enumerate(values):
        image[10 + i, 20] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def make(root: Path) -> None:
    for camera in ("left_frames", "right_frames"):
        images(root / TRAIN / camera, [f"frame{i:03d}.png" for i in range(4)])
    for folder, values in MASKS.items():
        for i, value in enumerate(values):
            path = root / TRAIN / "ground_truth" / folder / f"frame{i:03d}.png"
            mask(path, value, channels=3 if folder == "Other_labels" else 1)
    for number, first, above in ((1, 225, "1_4"), (9, 0, "9_10")):
        folder = root / f"instrument_{above}_testing" / f"instrument_dataset_{number}"
        images(folder / "left_frames", [f"frame{first + i:03d}.png" for i in range(2)])
    tested = root / "instrument_2017_test" / "instrument_2017_test"
    mask(tested / "instrument_dataset_1/gt/TypeSegmentation/frame225.png", 4, 7)
    mask(tested / "instrument_dataset_1/gt/TypeSegmentation/frame226.png")
    mask(tested / "instrument_dataset_9/gt/TypeSegmentation/frame000.png")
    mask(tested / "instrument_dataset_9/gt/TypeSegmentation/frame001.png", 1)
    mask(tested / "instrument_dataset_9/gt/TypeSegmentationRescaled/frame001.png", 32)
    text(root / TRAIN / "camera_calibration.txt", ["Camera-0-F"])
