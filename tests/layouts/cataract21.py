"""Cataract-21: tables without header, names with and without a suffix, tables beside and apart."""

from pathlib import Path

from layouts import text, video

FPS = 1
LABELS = {
    ("case_01", "phase", 0): "not_initialized",
    ("case_01", "phase", 1000): "Incision",  # frame 25
    ("case_11_training", "phase", 2000): None,  # the table ends before
    ("case_18_validation", "phase", 2000): "Incision",
}
CASES = {"case_11_training": "case_11", "case_18_validation": "case_18"}


def make(root: Path) -> None:
    for name, table, rows in (
        ("videos/case_01", "labels/case_01", 75),
        ("case_11_training", "case_11_training", 50),  # shorter than its video
        ("case_18_validation", "case_18_validation", 75),
    ):
        video(root / f"{name}.mp4")
        phases = [("not_initialized", "Incision")[i >= 25] for i in range(rows)]
        text(root / f"{table}.csv", [f"{i},{phase}" for i, phase in enumerate(phases)])
