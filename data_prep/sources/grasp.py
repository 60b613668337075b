"""GraSP as downloaded.

    GraSP_1fps/frames/CASE001/00000.jpg                         preferred where both are there
    GraSP_30fps/frames/CASE001/000000000.jpg
    annotations/grasp_long-term_{train,test,fold1,fold2}.json   there, or beside a frames/
    annotations/grasp_short-term_{train,test,fold1,fold2}.json

A label file is COCO-like: images have id, file_name and video_name. The long-term annotations have
image_id, phases and steps (ids from 0), one a second: a label goes to the frame that file_name
names, and at 30 frames a second to those of the second after it. The short-term annotations, an
instrument each, have image_id and category_id, which `categories` names; they are of one frame in
about 35 s and go to that frame alone. Their masks, boxes and actions are not read. Of seven cases
the 30 frames of a second are numbered by the 45 of the recording: 0, 2, 3, 5, 6, 8 (CASE014
irregularly), so that a store with instruments is made at 1 frame a second from the frames of that
rate, or else at the native one.

The eight training cases are PSI-AVA's (psi_ava.py), under the same names.
"""

from collections.abc import Callable, Iterator
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
INSTRUMENTS = tuple(name.replace("long", "short") for name in LABELS)

ABOUT = About(
    dataset="grasp",
    domain="robotic",
    procedure="radical prostatectomy",
    anatomy="prostate",
    licence="NOASSERTION",
    access="open, Google Drive",
    layout="from-code",
    evidence="README and programs of GraSP, SurgLaVi; instruments: programs of other groups",
    tasks=psi_ava.ABOUT.tasks,
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Folders of frames. Raises UserError when there are none."""
    frames = recordings.search(root, PLACES, NAME)

    def file(names: tuple[str, ...]) -> Callable[[str], Path]:
        missing = root / "annotations" / names[0]
        return lambda case: next(_files(root, frames.paths[case], names), missing)

    found = recordings.assemble(
        ABOUT,
        root,
        frames,
        overrides,
        expected="GraSP_1fps/frames/CASE001/00000.jpg beside annotations/grasp_long-term_*.json",
        label_files={"label": file(LABELS), "instrument": file(INSTRUMENTS)},
    )
    return replace(found, videos=[replace(v, frames_fps=_rate(v)) for v in found.videos])


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase and step of the frames that are named, and of those in the second after one;
    instruments of the frames that the short-term files name."""
    long, short = _labels(root, video)[1], _labels(root, video, INSTRUMENTS)[1]
    files = list_images(video.path)
    named = [(i, long[file.stem]) for i, file in files if file.stem in long]
    frame, step = np.array([i for i, _ in named], np.int64), round(video.frames_fps)
    tables = {}
    for i, task in enumerate(("phase", "step")):
        rows = Rows(frame, np.array([of[i] for _, of in named], np.int32), step=step)
        tables[task] = label_files.of_frames(rows, times, held=True)
    seen = [(i, short[file.stem]) for i, file in files if file.stem in short]
    present = np.zeros((len(seen), len(psi_ava.INSTRUMENTS)), np.float32)
    for row, (_, numbers) in zip(present, seen, strict=True):
        row[list(numbers)] = 1
    rows = Rows(np.array([i for i, _ in seen], np.int64), values=present)
    return tables | {"instrument": label_files.of_frames(rows, times)}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path, rows = _labels(root, video)
    pictures = [file.stem for _, file in list_images(video.path)]
    warnings = [f"{video.video_id}: no label file has a row of it"]
    if path is not None:
        warnings = label_files.check_pictures(path, video, rows, pictures)
    path, rows = _labels(root, video, INSTRUMENTS)
    if missing := sorted(rows.keys() - set(pictures)):
        warnings.append(
            f"{label_files.named(path)}: {len(missing)} of {len(rows)} frames of {video.video_id} "
            f"with instruments have no picture, {missing[0]} is the first"
        )
    return warnings


def _rate(video: Video) -> float:
    """Numbers of frames in a second."""
    if video.path.parents[1].name == "GraSP_1fps":
        return 1.0
    return 45.0 if video.video_id in NUMBERED_BY_45 else 30.0


def _files(root: Path, folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Label files that may name the frames of a folder, those of its own release first."""
    for place in (folder.parents[1], root):
        files = (place / "annotations" / name for name in names)
        yield from (file for file in files if file.exists())


def _labels(
    root: Path, video: Video, names: tuple[str, ...] = LABELS
) -> tuple[Path | None, dict[str, tuple[int, ...]]]:
    """The first label file that has a case, and name of a frame -> (phase, step), or instruments
    of the short-term files."""
    read = _read if names == LABELS else _read_instruments
    found = ((file, read(file).get(video.video_id)) for file in _files(root, video.path, names))
    return next((pair for pair in found if pair[1]), (None, {}))


def _images(data: dict) -> dict[int, tuple[str, PurePosixPath]]:
    """id -> case and picture."""
    return {
        row["id"]: (str(row["video_name"]), PurePosixPath(row["file_name"]))
        for row in data["images"]
    }


def _rows(data: dict) -> list[tuple]:
    """Case, picture, phase and step of each annotation."""
    images = _images(data)
    return [(*images[row["image_id"]], row["phases"], row["steps"]) for row in data["annotations"]]


@cached_by_file
def _read(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
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


def _seen(data: dict) -> list[tuple]:
    """Case, picture and names of the instruments of each image."""
    names = {row["id"]: str(row["name"]) for row in data.get("categories", [])}
    seen: dict[int, list[str]] = {number: [] for number in _images(data)}
    for row in data["annotations"]:
        seen[row["image_id"]].append(names[row["category_id"]])
    return [(*image, seen[number]) for number, image in _images(data).items()]


@cached_by_file
def _read_instruments(path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Case -> name of a frame -> its instruments."""
    expected = (
        "images with id, file_name and video_name, categories with id and name, annotations with "
        "image_id and category_id"
    )
    cases: dict[str, dict] = {}
    for case, file, names in label_files.read_json(path, _seen, expected):
        at, words = (
            f"{label_files.named(path)}, {file}",
            {n.lower().replace(" ", "_") for n in names},
        )
        numbers = {class_number(w, psi_ava.INSTRUMENTS, at, what="instrument") for w in words}
        cases.setdefault(case, {})[file.stem] = tuple(sorted(numbers))
    return cases
