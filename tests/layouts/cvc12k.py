"""CVC-12k: two videos in one folder, numbers that start others, names of masks of both kinds."""

from pathlib import Path

import cv2
import numpy as np

from layouts import images

FPS = "native"
LABELS = {
    ("1", "polyp", 0): "no_polyp",  # 1-1.png
    ("1", "polyp", 40): "polyp",
    ("1", "polyp", 80): None,  # no mask
    ("11", "polyp", 0): "polyp",
    ("18", "polyp", 80): "no_polyp",
}


def make(root: Path) -> None:
    for name in ("1", "11", "18"):
        images(root / "images", [f"{name}-{i}.png" for i in range(1, 4)])
    masks = {"1-1": 0, "1-2": 255, "18-1": 255, "18-2": 255, "18-3": 0}
    masks |= {f"11-{i}_Polyp": 1 for i in range(1, 4)}
    for name, value in masks.items():
        mask(root / "masks" / f"{name}.tif", value)


def mask(path: Path, value: int) -> Path:
    """A mask that has `value` in one corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((48, 64), np.uint8)
    picture[-3:, -3:] = value
    assert cv2.imwrite(str(path), picture)
    return path
