"""Cholec80 as downloaded, and the same layout with other class names (synthetic.py).

    videos/videoNN.mp4                      25 frames a second; or 1-fps frames in frames/videoNN/
    phase_annotations/videoNN-phase.txt     Frame, Phase: one row a video frame, from 0
    tool_annotations/videoNN-tool.txt       Frame and one 0/1 column an instrument: every 25th frame

A row's number is the number of the video frame, so a stored frame finds its row by its own frame
number and nothing is interpolated. Classes go by name; their order is that of the literature.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_prep import label_files, manifest, recordings
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video

FPS = 25
TOOL_STEP = 25  # video frames from one row of a tool file to the next
PLACES = ("videos/video*", "frames/video*", "video*")
NAME = r"(?:videos/|frames/)?(?P<id>video\d{2,3})"

ABOUT = About(
    dataset="cholec80",
    domain="laparoscopy",
    procedure="cholecystectomy",
    anatomy="gallbladder",
    licence="CC-BY-NC-SA-4.0",
    access="request form of CAMMA",
    layout="from-code",
    evidence="TMRNet, Surgformer, TF-Cholec80",
    tasks={
        "phase": {
            "kind": "one_of_n",
            "classes": [
                "Preparation",
                "CalotTriangleDissection",
                "ClippingCutting",
                "GallbladderDissection",
                "GallbladderPackaging",
                "CleaningCoagulation",
                "GallbladderRetraction",
            ],
        },
        "instrument": {
            "kind": "multi_label",
            "classes": [
                "Grasper",
                "Bipolar",
                "Hook",
                "Scissors",
                "Clipper",
                "Irrigator",
                "SpecimenBag",
            ],
        },
    },
)


def recognises(root: Path) -> bool:
    return has_layout(root, ABOUT)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the official layout. Raises UserError when there are none."""
    return find_layout(root, ABOUT, overrides)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase of every stored frame that has a row; instruments of those whose very frame has one."""
    return read_labels(root, ABOUT, video, times)


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return check_files(root, ABOUT, video, frames)


# --- the layout, whatever its classes are called -------------------------------------------------


def has_layout(root: Path, about: About) -> bool:
    """Whether `root` has phase files, and the first of them this layout's class names."""
    lines = {}
    for kind in ("phase", "tool"):
        file = min((root / f"{kind}_annotations").glob(f"video*-{kind}.txt"), default=None)
        lines[kind] = [line.split() for line in label_files.first_lines(file, 2)]
    phases, instruments = (about.tasks[task]["classes"] for task in ("phase", "instrument"))
    row = lines["phase"][1] if lines["phase"] else []
    is_phase = len(row) == 2 and row[1] in phases
    # Other data has a phase "Preparation" too; the instruments' header tells them apart.
    return is_phase and (not lines["tool"] or set(lines["tool"][0][1:]) == set(instruments))


def find_layout(
    root: Path,
    about: About,
    overrides: Mapping[str, str],
    splits: manifest.Manifest | None = None,
) -> Found:
    """Videos (files first, then folders of 1-fps frames) with their splits and missing labels."""
    return recordings.assemble(
        about,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="videos/video01.mp4 or frames/video01/*.jpg beside phase_annotations/",
        splits=splits,
        label_files={
            "phase": lambda video_id: _file(root, "phase", video_id),
            "tool": lambda video_id: _file(root, "tool", video_id),
        },
    )


def read_labels(root: Path, about: About, video: Video, times: Times) -> dict[str, LabelTable]:
    ratio = FPS / (video.frames_fps or FPS)
    number = np.round(times.index * ratio).astype(np.int64)
    tables = {}
    for task, _, rows in _rows(root, about, video):
        tables[task] = label_files.of_frames(rows, times, number)
    return tables


def check_files(root: Path, about: About, video: Video, frames: float) -> list[str]:
    ratio = FPS / (video.frames_fps or FPS)
    return label_files.check_lengths(_rows(root, about, video), root, frames, FPS, ratio)


def _rows(root: Path, about: About, video: Video) -> list[tuple[str, Path, Rows]]:
    found = []
    if (path := _file(root, "phase", video.video_id)).exists():
        classes = tuple(about.tasks["phase"]["classes"])
        rows = label_files.read_classes(path, classes, ("Frame", "Phase"), what="phase")
        found.append(("phase", path, rows))
    if (path := _file(root, "tool", video.video_id)).exists():
        classes = tuple(about.tasks["instrument"]["classes"])
        rows = label_files.read_presence(path, classes, "Frame", 0, TOOL_STEP, "instrument")
        found.append(("instrument", path, rows))
    return found


def _file(root: Path, kind: str, video_id: str) -> Path:
    return root / f"{kind}_annotations" / f"{video_id}-{kind}.txt"
