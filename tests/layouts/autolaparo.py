"""AutoLaparo: seconds from 1, phases 1 to 7, and a copy that somebody shifted to 0 to 6."""

from pathlib import Path

from layouts import text, video

FPS = 2
LABELS = {
    ("01", "phase", 0): "Preparation",
    ("01", "phase", 520): "Preparation",  # still the first second
    ("01", "phase", 1000): "Dividing Ligament and Peritoneum",
    ("01", "phase", 2000): "Washing",
    ("12", "phase", 0): "Suturing",
    ("12", "phase", 2000): None,  # the label file ends before
    ("16", "phase", 0): "Preparation",
    ("16", "phase", 2520): "Suturing",
}


def make(root: Path) -> None:
    for name, phases in (("01", (1, 2, 7)), ("12", (6, 6)), ("16", (0, 1, 5))):
        video(root / f"task1/videos/{name}.mp4")
        rows = [f"{second}\t{phase}" for second, phase in enumerate(phases, 1)]
        text(root / f"task1/labels/label_{name}.txt", ["Frame\tPhase", *rows])
    text(root / "task2/laparoscope_motion_label.txt", ["Clip\tLabel", "1\t0"])
    video(root / "task2/clips/001.mp4", seconds=1)
