"""CATARACTS: frames from 1, an odd rate, tables of three parts, and a camera that is not stored."""

from fractions import Fraction
from pathlib import Path

from small_videos import write_video

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
    instruments = ["Frame,biomarker,Charleux cannula", "1,0,0.5"]
    text(root / "ground_truth/CATARACTS_2018/train_gt/train01.csv", instruments)
