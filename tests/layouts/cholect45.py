"""CholecT45: a missing picture, a label file that ends a second before the pictures."""

from pathlib import Path

from data_prep.sources.cholect50 import CLASSES
from layouts import images, text

FPS = 1
LABELS = {
    ("VID02", "triplet", 0): {"grasper,retract,gallbladder"},
    ("VID02", "instrument", 0): {"grasper"},
    ("VID02", "verb", 0): {"retract"},
    ("VID02", "target", 0): {"gallbladder"},
    ("VID02", "triplet", 1000): None,  # 000001.png is missing
    ("VID02", "triplet", 2000): {"grasper,retract,gallbladder", "hook,dissect,gallbladder"},
    ("VID02", "instrument", 3000): set(),
    ("VID04", "target", 1000): {"gallbladder"},
    ("VID04", "target", 2000): None,  # no row
    ("VID10", "target", 1000): {"fluid"},
}
RETRACT, DISSECT, ASPIRATE = (17, 0, 1, 0), (60, 2, 2, 0), (82, 5, 6, 6)


def make(root: Path) -> None:
    videos = {
        "VID02": ([0, 2, 3], [[RETRACT], [RETRACT], [RETRACT, DISSECT], []]),
        "VID04": ([0, 1, 2], [[DISSECT], [DISSECT]]),
        "VID10": ([0, 1, 2], [[ASPIRATE]] * 3),
    }
    for video_id, (numbers, rows) in videos.items():
        images(root / "data" / video_id, [f"{number:06d}.png" for number in numbers])
        write(root, video_id, rows)


def write(root: Path, video_id: str, rows: list[list[tuple[int, int, int, int]]]) -> None:
    """The four tables; a row is the (triplet, instrument, verb, target) of each action."""
    for i, task in enumerate(("triplet", "instrument", "verb", "target")):
        lines = []
        for frame, actions in enumerate(rows):
            there = {action[i] for action in actions}
            columns = [int(number in there) for number in range(len(CLASSES[task]))]
            lines.append(",".join(map(str, [frame, *columns])))
        text(root / task / f"{video_id}.txt", lines)
        text(root / "dict" / f"{task}.txt", [f"{j}:{name}" for j, name in enumerate(CLASSES[task])])
