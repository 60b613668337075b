"""CholecT45 as downloaded: the videos that CholecT50 shares with Cholec80, labels as tables.

data/VIDnn/000000.png     one frame a second, numbered from 0
triplet/VIDnn.txt         no header; frame number and 100 columns 0 or 1, comma-separated
instrument/VIDnn.txt      the same with 6 columns, verb/ with 10, target/ with 15
dict/                     names of the columns, the same as CholecT50's; not read
"""

from dataclasses import replace
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import Found, LabelTable, Times, Video, cholect50

PLACES = ("data/VID*/",)
NAME = r"data/(?P<id>VID\d{2,3})"

ABOUT = replace(
    cholect50.ABOUT,
    dataset="cholect45",
    evidence="README of CAMMA-public/cholect45",
    tasks={task: of for task, of in cholect50.ABOUT.tasks.items() if task != "phase"},
)


def recognises(root: Path) -> bool:
    has_labels = any((root / "triplet").glob("VID*.txt"))
    return has_labels and any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Folders of frames. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="data/VID01/000000.png beside triplet/VID01.txt",
        frames_fps=cholect50.FPS,
        label_files={
            task: lambda video_id, task=task: _file(root, task, video_id) for task in ABOUT.tasks
        },
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """What is done in every stored frame that has a row."""
    number = label_files.file_numbers(video, times)
    return {
        task: label_files.of_frames(rows, times, number)
        for task, _, rows in _tables(root, video.video_id)
    }


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return [
        warning
        for _, path, rows in _tables(root, video.video_id)
        for warning in label_files.check_pictures(path, video, rows.frame.tolist())
    ]


def _tables(root: Path, video_id: str) -> list[tuple[str, Path, Rows]]:
    """Task, file and rows of the label files that are there."""
    paths = {task: _file(root, task, video_id) for task in ABOUT.tasks}
    return [
        (task, path, label_files.read_presence(path, tuple(cholect50.CLASSES[task]), what=task))
        for task, path in paths.items()
        if path.exists()
    ]


def _file(root: Path, task: str, video_id: str) -> Path:
    return root / task / f"{video_id}.txt"
