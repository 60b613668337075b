"""Cholec80-CVS: a sheet with names as a spreadsheet writes them, and rows that overlap."""

from pathlib import Path

from layouts import text, video

FPS = 1
HEADER = (
    "Video,Critical View,Initial Minute,Initial Second,Final Minute,Final Second,"
    "Two Structures,Cystic Plate,Hepatocystic Triangle,Total"
)
LABELS = {
    ("video01", "total", 0): None,  # not scored
    ("video01", "two_structures", 1000): "1",
    ("video01", "cystic_plate", 1000): "0",
    ("video01", "hepatocystic_triangle", 2000): "2",
    ("video01", "total", 2000): "3",  # the last second belongs to the segment
    ("video01", "total", 3000): "0",
    ("video01", "total", 4000): None,
    ("video41", "total", 2000): "6",
    ("video10", "total", 1000): None,  # has no row, nor does it take video 1's
}


def make(root: Path) -> None:
    for name in ("video01", "video10", "video41"):
        video(root / "videos" / f"{name}.mp4", seconds=5)
    rows = [
        "1,0,0,1,0,2,1,0,2,3",
        "1,0,0,2,0,3,0,0,0,0",  # shares a second with the row above
        "41,1,0,0,0,4,2,2,2,6",
        ",,,,,,,,,",
    ]
    text(root / "cholec80-CVS.csv", [HEADER, *rows])
