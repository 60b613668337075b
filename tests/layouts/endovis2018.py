"""EndoVis 2018: two releases, one number in both parts, colours with alpha, shadows of folders."""

from pathlib import Path

import cv2
import numpy as np

from layouts import images, save_json

FPS = "native"
ONE = "miccai_challenge_2018_release_1/miccai_challenge_2018_release_1/seq_1"
TEST = "test_data/test_data/seq_1-20190101-001/seq_1"
SHAFT, KIDNEY, PROBE = (0, 255, 0), (255, 55, 0), (12, 255, 141)
LABELS = {
    ("train_seq_1", "scene", 0): {"instrument-shaft", "kidney-parenchyma"},
    ("train_seq_1", "scene", 1000): set(),
    ("train_seq_1", "scene", 2000): {"ultrasound-probe"},
    ("train_seq_5", "scene", 1000): None,  # no label picture
    ("train_seq_5", "scene", 0): {"instrument-shaft"},
    ("test_seq_1", "scene", 1000): {"kidney-parenchyma"},
}


def label(path: Path, *colours: tuple[int, int, int], alpha: int | None = None) -> Path:
    """A black picture with a few pixels of each colour."""
    image = np.zeros((48, 64, 3 if alpha is None else 4), np.uint8)
    if alpha is not None:
        image[..., 3] = alpha
    for i, rgb in enumerate(colours):
        image[10 + i, 20:23, :3] = rgb[::-1]  # OpenCV writes blue first
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def make(root: Path) -> None:
    for name, count in ((ONE, 3), ("miccai_challenge_release_2/seq_5", 2), (TEST, 2)):
        for camera in ("left_frames", "right_frames"):
            images(root / name / camera, [f"frame{i:03d}.png" for i in range(count)])
    label(root / ONE / "labels/frame000.png", SHAFT, KIDNEY, alpha=128)
    label(root / ONE / "labels/frame001.png", alpha=128)
    label(root / ONE / "labels/frame002.png", PROBE, (1, 2, 3))  # a pixel of no class
    label(root / "miccai_challenge_release_2/seq_5/labels/frame000.png", SHAFT)
    label(root / TEST / "labels/frame000.png")
    label(root / TEST / "labels/frame001.png", KIDNEY)
    shadow = root / "miccai_challenge_2018_release_1" / "__MACOSX" / "seq_2" / "left_frames"
    shadow.mkdir(parents=True)
    (shadow / "._frame000.png").write_bytes(b"Mac OS X")
    save_json(
        root / Path(ONE).parent / "labels.json",
        [{"name": "background-tissue", "color": [0, 0, 0], "classid": 0}],
    )
