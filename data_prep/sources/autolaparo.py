"""AutoLaparo, task 1 (phases of a hysterectomy), as downloaded.

    task1/videos/NN.mp4              01 to 21, 25 frames a second
    task1/labels/label_NN.txt        Frame, Phase: one row a second, from 1

Row k is the k-th second and labels every video frame of it. Phases are 1 to 7 as published; in
some copies they are shifted to 0 to 6, which shows by a 0 in the file. The other two tasks (motion
of the laparoscope, segmentation) are not read.
"""

import dataclasses
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file

FPS = 25
PLACES = ("task1/videos/*.*",)
NAME = r"task1/videos/(?P<id>\d\d)"

ABOUT = About(
    dataset="autolaparo",
    domain="laparoscopy",
    procedure="hysterectomy",
    anatomy="uterus",
    licence="CC-BY-NC-SA-4.0",
    access="request form of the authors",
    layout="from-code",
    evidence="SurgMotion, Laparo; phases from the official README",
    tasks={
        "phase": {
            "kind": "one_of_n",
            "classes": [
                "Preparation",
                "Dividing Ligament and Peritoneum",
                "Dividing Uterine Vessels and Ligament",
                "Transecting the Vagina",
                "Specimen Removal",
                "Suturing",
                "Washing",
            ],
        }
    },
)
CLASSES = tuple(ABOUT.tasks["phase"]["classes"])


def recognises(root: Path) -> bool:
    labelled = any(root.glob("task1/labels/label_[0-9][0-9].txt"))
    return labelled and any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of task 1. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="task1/videos/01.mp4 and task1/labels/label_01.txt",
        label_files={"phase": lambda video_id: _file(root, video_id)},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase of every stored frame whose second has a row."""
    path = _file(root, video.video_id)
    if not path.exists():
        return {}
    return {"phase": label_files.of_frames(_rows(path), times, held=True)}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _file(root, video.video_id)
    if not path.exists():
        return []
    return label_files.check_length(path, root, _rows(path), frames, FPS)


@cached_by_file
def _rows(path: Path) -> label_files.Rows:
    """Phases by video frame."""
    table = label_files.read_table(path, header=True)
    is_shifted = any(row[-1:] == ["0"] for row in table[1:])
    rows = label_files.read_classes(
        path,
        CLASSES,
        ("Frame", "Phase"),
        first_frame=1,
        first_class=0 if is_shifted else 1,
        what="phase",
    )
    return dataclasses.replace(rows, frame=FPS * rows.frame, step=FPS)


def _file(root: Path, video_id: str) -> Path:
    return root / "task1" / "labels" / f"label_{video_id}.txt"
