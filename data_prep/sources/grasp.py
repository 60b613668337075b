"""GraSP as downloaded.

    GraSP_1fps/frames/CASE001/00000.jpg                         preferred where both are there
    GraSP_30fps/frames/CASE001/000000000.jpg
    annotations/grasp_long-term_{train,test,fold1,fold2}.json   there, or beside a frames/

A label file is COCO-like: images have id, file_name and video_name, annotations image_id, phases
and steps (ids from 0), one a second. A label goes to the frame that file_name names, and at 30
frames a second to those of the second after it. Of seven cases the 30 frames of a second are
numbered by the 45 of the recording: 0, 2, 3, 5, 6, 8 (CASE014 irregularly). The short-term label
files, of instruments and their actions, are not read.

The eight training cases are PSI-AVA's (psi_ava.py), under the same names.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows, class_number
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file, psi_ava
from data_prep.video import list_images
from surgjax.errors import UserError

PLACES = ("GraSP_1fps/frames/CASE*/", "GraSP_30fps/frames/CASE*/")
NAME = r"GraSP_(1|30)fps/frames/(?P<id>CASE\d{3})"
NUMBERED_BY_45 = {f"CASE{number:03d}" for number in (1, 2, 3, 4, 7, 14, 15)}  # of 30 a second
LABELS = tuple(f"grasp_long-term_{part}.json" for part in ("train", "test", "fold1", "fold2"))

ABOUT = About(
    dataset="grasp",
    domain="robotic",
    procedure="radical prostatectomy",
    anatomy="prostate",
    licence="NOASSERTION",
    access="open, Google Drive",
    layout="from-code",
    evidence="README and programs of GraSP, SurgLaVi",
    tasks={task: psi_ava.ABOUT.tasks[task] for task in ("phase", "step")},
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Folders of frames. Raises UserError when there are none."""
    frames, missing = recordings.search(root, PLACES, NAME), root / "annotations" / LABELS[0]
    found = recordings.assemble(
        ABOUT,
        root,
        frames,
        overrides,
        expected="GraSP_1fps/frames/CASE001/00000.jpg beside annotations/grasp_long-term_*.json",
        label_files={"label": lambda case: next(_files(root, frames.paths[case]), missing)},
    )
    return replace(found, videos=[replace(v, frames_fps=_rate(v)) for v in found.videos])


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase and step of the frames that are named, and of those in the second after one."""
    _, given = _labels(root, video)
    named = [(i, given[file.stem]) for i, file in list_images(video.path) if file.stem in given]
    frame, step = np.array([i for i, _ in named], np.int64), round(video.frames_fps)
    tables = {}
    for i, task in enumerate(ABOUT.tasks):
        rows = Rows(frame, np.array([of[i] for _, of in named], np.int32), step=step)
        tables[task] = label_files.of_frames(rows, times, held=True)
    return tables


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path, rows = _labels(root, video)
    if path is None:
        return [f"{video.video_id}: no label file has a row of it"]
    pictures = [file.stem for _, file in list_images(video.path)]
    return label_files.check_pictures(path, video, rows, pictures)


def _rate(video: Video) -> float:
    """Numbers of frames in a second."""
    if video.path.parents[1].name == "GraSP_1fps":
        return 1.0
    return 45.0 if video.video_id in NUMBERED_BY_45 else 30.0


def _files(root: Path, folder: Path) -> Iterator[Path]:
    """Label files that may name the frames of a folder, those of its own release first."""
    for place in (folder.parents[1], root):
        files = (place / "annotations" / name for name in LABELS)
        yield from (file for file in files if file.exists())


def _labels(root: Path, video: Video) -> tuple[Path | None, dict[str, tuple[int, int]]]:
    """The first label file that has a case, and name of a frame -> phase, step."""
    found = ((file, _read(file).get(video.video_id)) for file in _files(root, video.path))
    return next((pair for pair in found if pair[1]), (None, {}))


def _rows(data: dict) -> list[tuple]:
    """Case, picture, phase and step of each annotation."""
    images = {row["id"]: PurePosixPath(row["file_name"]) for row in data["images"]}
    case_of = {row["id"]: row["video_name"] for row in data["images"]}
    rows = [(row["image_id"], row["phases"], row["steps"]) for row in data["annotations"]]
    return [(case_of[image], images[image], *ids) for image, *ids in rows]


@cached_by_file
def _read(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Case -> name of a frame -> phase, step."""
    expected = "images with id, file_name and video_name, annotations with image_id, phases, steps"
    cases: dict[str, dict] = {}
    for case, file, phase, step in label_files.read_json(path, _rows, expected):
        at = f"{label_files.named(path)}, {file}"
        ids = (
            class_number(str(phase), psi_ava.PHASES, at, 0, "phase"),
            class_number(str(step), psi_ava.STEPS, at, 0, "step"),
        )
        if cases.setdefault(case, {}).setdefault(file.stem, ids) != ids:
            raise UserError(f"{at}: phase and step are there twice and differ; remove one of them")
    return cases
