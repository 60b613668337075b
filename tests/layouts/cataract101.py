"""Cataract-101: one table of starts for all videos, which has rows of a video that is not there."""

from pathlib import Path

from layouts import text, video

FPS = "native"
LABELS = {
    ("case_269", "phase", 360): None,  # frame 9, before the first row
    ("case_269", "phase", 400): "incision",  # frame 10
    ("case_269", "phase", 1200): "viscous agent injection",  # frame 30
    ("case_269", "phase", 2000): "viscous agent injection",  # a second row of the same phase
    ("case_269", "phase", 2400): "rhexis",
    ("case_269", "phase", 2960): "rhexis",  # the last frame
    ("case_271", "phase", 0): "tonifying and antibiotics",
    ("case_764", "phase", 0): None,  # no rows
}
STARTS = ["269;10;1", "269;30;2", "269;50;2", "269;60;3", "270;5;1", "271;0;10"]
LENGTHS = ["269;75;25;1;2", "270;900;25;3;1", "271;50;25;2;2", "764;30;25;4;1"]


def make(root: Path) -> None:
    video(root / "videos" / "case_269.mp4")
    video(root / "videos" / "case_271.mp4", seconds=2)
    video(root / "videos" / "case_764.mp4", seconds=1.2)
    text(root / "annotations.csv", ["VideoID;FrameNo;Phase", *STARTS])
    text(root / "videos.csv", ["VideoID;Frames;FPS;Surgeon;Experience", *LENGTHS])
    text(root / "phases.csv", ["Phase;Meaning", "1;Incision"])
