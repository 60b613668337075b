"""PmLR50: frames once a second, one of them missing; one video has its labels in a pickle only."""

from pathlib import Path

from layouts import images, save_pickle, text

FPS = 1
LABELS = {
    ("01", "phase", 0): "Preparation stage",
    ("01", "phase", 3000): "Knotting of the Foley catheter",  # 00000002.jpg is missing
    ("01", "blocking", 1000): "open",
    ("01", "blocking", 3000): "blocked",
    ("34", "phase", 2000): "Postprocessing stage",
    ("34", "blocking", 0): "blocked",
    ("38", "phase", 0): "Procedure of the liver resection",  # 00000001.jpg
    ("38", "phase", 2000): None,  # the label file ends before
}


def make(root: Path) -> None:
    for name, seconds in (("01", (0, 1, 3, 4)), ("34", range(3)), ("38", range(1, 4))):
        images(root / "frames" / name, [f"{second:08d}.jpg" for second in seconds])
    _write(root, "01", phases=(0, 0, 0, 1, 1), blocking=(0, 0, 0, 1, 1))
    _write(root, "38", phases=(2, 2, 3), blocking=(1, 1, 0))
    rows = [
        {"video_id": "34", "frame_id": i, "frames": 3, "phase_gt": 4, "blocking_gt": 1}
        for i in range(3)
    ]
    save_pickle(root / "labels/test/1fpstest.pickle", {"34": rows, "35": rows})


def _write(root: Path, name: str, phases, blocking) -> None:
    for task, values in (("Phase", phases), ("Blocking", blocking)):
        lines = [f"{i}\t{value}" for i, value in enumerate(values)]
        path = root / f"{task.lower()}_annotations" / f"{name}.txt"
        text(path, [f"Frame\t{task}", *lines])
