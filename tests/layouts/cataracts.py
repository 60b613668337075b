"""CATARACTS: frames from 1, an odd rate, tables of three parts, and a camera that is not stored."""

from fractions import Fraction
from pathlib import Path

from small_videos import write_video

from data_prep.sources.cataracts import INSTRUMENTS
from layouts import text, video

FPS = "native"
RATE = Fraction(7500, 257)  # as in the data
FRAMES = 60
LABELS = {
    ("train01", "step", 0): "Idle",
    ("train01", "step", 959): "Idle",  # frame 28, row 29
    ("train01", "step", 994): "Wound Hydration",  # frame 29, row 30
    ("test01", "step", 994): "Wound Hydration",
    ("test02", "step", 1988): None,  # frame 58, the table ends before
    ("train01", "instrument", 0): {"biomarker", "cotton"},
    ("train01", "instrument", 959): {"biomarker", "cotton"},
    ("train01", "instrument", 994): None,  # frame 29: the annotators differ on one of two
    ("train01", "instrument", 1028): {"Vannas scissors"},
    ("test01", "instrument", 0): None,  # no table
}


def make(root: Path) -> None:
    for part, name, rows in (
        ("train_gt", "train01", FRAMES),
        ("dev_gt", "test01", FRAMES),
        ("test_gt", "test02", FRAMES - 5),
    ):
        path = root / "videos" / "micro" / f"{name}.mp4"
        write_video(path, FRAMES, width=64, height=48, rate=RATE)
        steps = [f"{i},{0 if i < 30 else 18}" for i in range(1, rows + 1)]
        text(root / "ground_truth/CATARACTS_2020" / part / f"{name}.csv", ["Frame,Steps", *steps])
    video(root / "videos" / "tray" / "train01.mp4")
    shown = [{"biomarker": 1, "cotton": 1}] * 29 + [{"biomarker": 1, "cotton": 0.5}]
    instruments(root, [*shown, *[{"Vannas scissors": 1}] * 30])
    text(root / "ground_truth/CATARACTS_2018/images/micro_train_gt/train01.csv", ["not read"])


def instruments(root: Path, shown: list[dict], name: str = "train01", part: str = "train_gt"):
    """A table whose header spells some names as the one of 2017 does; other columns are 0."""
    names = [name.replace("dissection cannula", "dissection canula") for name in INSTRUMENTS]
    rows = [[i, *(of.get(name, 0) for name in INSTRUMENTS)] for i, of in enumerate(shown, 1)]
    lines = [",".join(map(str, row)) for row in [["Frame", *names], *rows]]
    text(root / "ground_truth/CATARACTS_2017" / part / f"{name}.csv", lines)
