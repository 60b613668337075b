"""LDPolypVideo: pictures with and without boxes, a missing file, whole videos of both kinds."""

from pathlib import Path

from layouts import images, text, video

FPS = "native"
LABELS = {
    ("1", "polyp", 0): "no_polyp",
    ("1", "polyp", 40): "polyp",
    ("1", "polyp", 80): "polyp",  # two
    ("1", "polyp", 120): None,  # no file
    ("101", "polyp", 0): "polyp",
    ("videos with polyps/1", "polyp_in_video", 480): "polyp",
    ("videos with polyps/1", "polyp", 480): None,  # nobody knows which frames
    ("videos without polyps/1", "polyp_in_video", 0): "no_polyp",
    ("videos without polyps/1", "polyp", 480): "no_polyp",
}
BOX = "12 8 21 17"


def make(root: Path) -> None:
    for part, name in (("TrainValid", "1"), ("TrainValid", "10"), ("Test", "101")):
        images(root / part / "Images" / name, [f"{i:04d}.jpg" for i in range(1, 5)])
    annotate(root, "TrainValid/1", [["0"], ["1", BOX], ["2", BOX, BOX]])
    annotate(root, "TrainValid/10", [["0"]] * 4)
    annotate(root, "Test/101", [["1", BOX]] * 4)
    for folder in ("videos with polyps", "videos without polyps"):
        video(root / folder / "1.avi", seconds=1)


def annotate(root: Path, name: str, files: list[list[str]]) -> Path:
    """Files of one video, named from 1; `name` is part/video."""
    part, _, number = name.partition("/")
    folder = root / part / "Annotations" / number
    for i, lines in enumerate(files, 1):
        text(folder / f"{i:04d}.txt", lines)
    return folder
