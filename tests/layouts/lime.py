"""LIME: a folder with one pair, one with several, a clip without text, a text that is blank."""

from pathlib import Path

from layouts import text, video

FPS = 1
LABELS = {}
CASES = {
    "0001/clip": "0001",
    "0002/clip": "0002",
    "more/a": "more",
    "more/b.1": "more",
    "more/c": "more",
}


def make(root: Path) -> None:
    for video_id in CASES:
        video(root / f"{video_id}.mp4", seconds=2)
    text(root / "0001/clip.txt", ["The hook frees the gallbladder", "  from its bed. "])
    text(root / "0002/clip.txt", [""])
    text(root / "more/a.txt", ["Two clips are placed."])
    text(root / "more/b.1.txt", ["The duct is cut."])
    text(root / "gone/clip.txt", ["Its clip was never downloaded."])
