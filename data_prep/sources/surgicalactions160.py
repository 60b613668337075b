"""SurgicalActions160 as downloaded.

    NN_<action>/NN_MM.mp4    16 folders of 10 clips, NN being the action's number from 1

A clip shows one action, which is the label of all its frames. The clips are cut from 59 recordings,
and nothing tells which clip is of which: each counts as a case of its own.
"""

import re
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

ABOUT = About(
    dataset="surgicalactions160",
    domain="laparoscopy",
    procedure="gynecologic laparoscopy",
    anatomy="female pelvis",
    licence="CC-BY-NC-SA-4.0",
    access="open, ITEC Klagenfurt",
    layout="from-code",
    evidence="its README for the actions, SurgRec and SurgMotion for the names",
    tasks={
        "action": {
            "kind": "one_of_n",
            "classes": [
                "abdominal access",
                "injection",
                "cutting",
                "blunt dissection",
                "dissection (thermal)",
                "irrigation",
                "coagulation",
                "suction",
                "needle positioning",
                "needle puncture",
                "knot pushing",
                "knotting",
                "thread cut",
                "sling-in",
                "endobag-in",
                "endobag-out",
            ],
        }
    },
)
CLASSES = tuple(ABOUT.tasks["action"]["classes"])
FOLDERS = tuple(  # 05_dissection_thermal
    f"{number:02d}_{re.sub('[()]', '', name).replace(' ', '_')}"
    for number, name in enumerate(CLASSES, start=1)
)
PLACES = tuple(f"{folder}/*.mp4" for folder in FOLDERS)
NAME = r"(\d\d)_[^/]+/(?P<id>\1_\d\d)"  # a clip in another action's folder is none


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Clips of the 16 folders. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    return recordings.assemble(
        ABOUT, root, found, overrides, expected="01_abdominal_access/01_01.mp4"
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """The action of the clip, for every stored frame."""
    return {"action": label_files.of_video(times, label=FOLDERS.index(video.path.parent.name))}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []  # there are no label files
