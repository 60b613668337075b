"""Endoscapes2023 as downloaded: its critical view of safety, Endoscapes-CVS201.

    train/12_29375.jpg, val/, test/     <video>_<frame at 25 fps>.jpg, one frame a second
    train/annotation_ds_coco.json       {"images": [{"file_name": "12_29375.jpg",
                                         "is_ds_keyframe": true, "ds": [0, 0.667, 0.333]}, ...]}

A folder holds the frames of many videos. `ds` is the mean of three raters, every 5 s; a criterion
is met where two of them say so; `total` counts those that are met, as SurgVISTA's four classes do.
Other frames are not labelled. The folders train_seg, all, 12_5 and 25 hold the same pictures again,
and *_vids.txt repeat the split, written as 1.2e+01; none is read.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import PARTS, About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

FPS = 1
LABELS = "annotation_ds_coco.json"
PICTURE = re.compile(r"(\d+)_(\d+)\.jpg")  # video, frame
CRITERIA = ["C1_two_structures", "C2_hepatocystic_triangle", "C3_cystic_plate"]

ABOUT = About(
    dataset="endoscapes",
    domain="laparoscopy",
    procedure="cholecystectomy",
    anatomy="gallbladder",
    licence="CC-BY-NC-SA-4.0",
    access="direct download from CAMMA",
    layout="verified",
    evidence="README of CAMMA-public/Endoscapes",
    tasks={
        "cvs": {"kind": "multi_label", "classes": CRITERIA},
        "total": {"kind": "one_of_n", "classes": [str(n) for n in range(len(CRITERIA) + 1)]},
    },
)


def recognises(root: Path) -> bool:
    return any((root / part / LABELS).is_file() for part in PARTS) and any(_recordings(root).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the three folders. Raises UserError when there are none."""
    found = _recordings(root)
    result = recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected=f"train/1_29375.jpg beside train/{LABELS}",
        frames_fps=FPS,
        label_files={"CVS": lambda video_id: found.paths[video_id] / LABELS},
    )
    videos = [
        replace(video, frames_pattern=re.escape(f"{video.video_id}_")) for video in result.videos
    ]
    return replace(result, videos=videos)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Criteria met in the stored frames that were rated, and how many."""
    rows = _rated(video)
    if rows is None:
        return {}
    number, total = label_files.file_numbers(video, times), rows.values.sum(1).astype(np.int32)
    given = {"cvs": rows, "total": replace(rows, values=None, label=total)}
    return {task: label_files.of_frames(of, times, number) for task, of in given.items()}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    rows = _rated(video)
    if rows is None:
        return []
    pictures = [frame for name, frame in _pictures(video.path) if name == video.video_id]
    missing = np.setdiff1d(rows.frame, pictures)
    if not len(missing):
        return []
    return [
        f"{video.path.name}/{video.video_id}_*.jpg: {len(missing)} of {len(rows.frame)} rated "
        f"frames are missing, {video.video_id}_{missing[0]}.jpg is the first"
    ]


def _recordings(root: Path) -> recordings.Recordings:
    """Every video with the folder that it shares with others."""
    folders = recordings.search(root, PARTS, "(?P<id>train|val|test)")
    found = recordings.Recordings(refused=folders.refused)
    for part, folder in folders.paths.items():
        videos = {video_id for video_id, _ in _pictures(folder)}
        if twice := sorted(videos & found.paths.keys(), key=int):
            found.warnings.append(
                f"{part}/ holds videos of another folder, which counts: {recordings.some(twice)}"
            )
        found.paths = dict.fromkeys(videos, folder) | found.paths
    return found


def _pictures(folder: Path) -> Iterator[tuple[str, int]]:
    """Video and frame number of the pictures in a folder."""
    for file in folder.iterdir():
        if match := PICTURE.fullmatch(file.name):
            yield match[1], int(match[2])


def _rated(video: Video) -> Rows | None:
    """Ratings of a video, by frame number; None without label file."""
    path = video.path / LABELS
    return _read(path).get(video.video_id, _rows([])) if path.exists() else None


@cached_by_file
def _read(path: Path) -> dict[str, Rows]:
    """Ratings of each video. Raises UserError naming the picture."""
    ratings = label_files.read_json(
        path,
        lambda data: [
            (str(image["file_name"]), image["ds"])
            for image in data["images"]
            if image.get("is_ds_keyframe", True)
        ],
        "JSON with images that have file_name and ds",
    )
    met: dict[str, dict[int, list[int]]] = {}
    for file_name, means in ratings:
        match = PICTURE.fullmatch(file_name)
        if match is None or not _is_rating(means):
            raise UserError(
                f"{label_files.named(path)}: picture {file_name} has ds {means}; expected a name "
                f"such as 12_29375.jpg and a mean of 0 to 1 for each of {len(CRITERIA)} criteria"
            )
        met.setdefault(match[1], {})[int(match[2])] = [round(mean) for mean in means]
    return {video_id: _rows(sorted(frames.items())) for video_id, frames in met.items()}


def _rows(met: list[tuple[int, list[int]]]) -> Rows:
    values = np.array([criteria for _, criteria in met], np.float32).reshape(-1, len(CRITERIA))
    return Rows(np.array([frame for frame, _ in met], np.int64), values=values)


def _is_rating(means: object) -> bool:
    return (
        isinstance(means, list)
        and len(means) == len(CRITERIA)
        and all(isinstance(mean, int | float) and 0 <= mean <= 1 for mean in means)
    )
