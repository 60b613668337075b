"""Cholec80: two videos of 25 frames a second, labels of every frame and of every 25th."""

from pathlib import Path

from small_videos import write_cholec

FPS = "native"
LABELS = {
    ("video01", "phase", 0): "Preparation",
    ("video01", "phase", 1160): "Preparation",  # frame 29
    ("video01", "phase", 1200): "CalotTriangleDissection",  # frame 30
    ("video41", "instrument", 1000): {"Grasper", "Hook"},  # frame 25
    ("video41", "instrument", 1040): None,
}


def make(root: Path) -> None:
    for name in ("video01", "video41"):
        write_cholec(root, name)
