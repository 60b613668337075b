"""PolypDiag: two lists, names of many kinds, a listed video that is not there, one in no list."""

from pathlib import Path

from layouts import text, video

FPS = 1
UUID = "0e3731a7-51f6-4415-9038-41322f6e4746"
LABELS = {
    ("12", "diagnosis", 0): "abnormal",
    (UUID, "diagnosis", 1000): "normal",
    ("a b_3", "diagnosis", 0): "abnormal",
    ("unlisted", "diagnosis", 0): None,
}


def make(root: Path) -> None:
    for name in ("12", UUID, "a b_3", "unlisted"):
        video(root / "videos" / f"{name}.mp4", seconds=2)
    text(root / "splits" / "train.txt", ["12.mp4,1", f"{UUID}.mp4,0", "missing.mp4,0"])
    text(root / "splits" / "val.txt", ["a b_3.mp4,1"])
