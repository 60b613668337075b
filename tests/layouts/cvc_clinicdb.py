"""CVC-ClinicDB: ends of the first sequence, all of the shortest, the start of the last."""

from pathlib import Path

from layouts import images

FPS = 1
LABELS = {}
NUMBERS = {
    "sequence_01": [1, 2, 3, 4, 5, 6, 25],
    "sequence_02": [26, 27],
    "sequence_10": [200, 201, 202, 203, 204, 205],
    "sequence_29": [592, 593, 612],
}


def make(root: Path, folder: str = "", suffix: str = "tif") -> None:
    for name in ("Original", "Ground Truth"):
        numbers = [number for numbers in NUMBERS.values() for number in numbers]
        images(root / folder / name, [f"{number}.{suffix}" for number in numbers])
