"""PolypsSet as downloaded (Li et al., PLoS One 2021), also called KUMC: pictures and boxes.

    val2019/Image/1/12.jpg        a folder a sequence; test2019 alike
    val2019/Annotation/1/12.xml   <annotation>...<object><name>adenomatous</name>...
    train2019/Image/12.jpg        pictures of all sequences in one folder, and their boxes in
    train2019/Annotation/12.xml   another; or folders as in the other parts

Sequences are called val_1. A picture without an object shows no polyp; where a polyp is, is not
read. There are more annotations than pictures. No rate is published: pictures are taken as one a
second, so that all are stored. Nothing tells the sequences of train2019 apart, so that its pictures
are one video, `train`, of which single frames make sense, but not clips. The pictures come from
Kansas, from MICCAI 2017, from CVC and from Colonoscopic (GLRC), and no list tells which from where.
"""

import re
from pathlib import Path

import numpy as np

from data_prep import label_files, manifest, recordings
from data_prep.label_files import Rows
from data_prep.sources import PARTS, About, Found, LabelTable, Times, Video
from data_prep.video import list_images
from surgjax.errors import UserError

FPS = 1
PLACES = (*(f"{part}2019/Image/*/" for part in PARTS), "train2019/Image/")
NAME = r"(?P<id>(?:train|val|test)2019/Image/[^/]+|train2019/Image)"
KINDS = ("hyperplastic", "adenomatous")

SPLITS = "official, strict"

ABOUT = About(
    dataset="polypsset",
    domain="endoscopy",
    procedure="colonoscopy",
    anatomy="colon",
    licence="CC0-1.0",
    access="open, Harvard Dataverse",
    layout="from-code",
    evidence="public programs; the rate is not known",
    tasks={
        "polyp": {"kind": "one_of_n", "classes": ["no_polyp", "polyp"]},
        "histology": {"kind": "one_of_n", "classes": list(KINDS)},
    },
)


def recognises(root: Path) -> bool:
    return any(_recordings(root).paths)


def find(root: Path, **overrides: str) -> Found:
    """Sequences, and the pictures for training. Raises UserError when there are none."""
    found = _recordings(root)
    if "train" in found.paths:
        found.warnings.append("train2019 is one video of many sequences, which clips would mix")
    parts = {name: name.partition("_")[0] for name in found.paths}
    splits = {"official": parts, "strict": parts}
    about = {name: {"tier": "official"} for name in splits}
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="val2019/Image/1/1.jpg beside val2019/Annotation/1/1.xml",
        frames_fps=FPS,
        splits=manifest.Manifest(frozenset(), splits, about, {}),
        label_files={"annotation": lambda video_id: _folder(found.paths[video_id])},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Whether a stored frame shows a polyp, and of which kind."""
    if not _folder(video.path).is_dir():
        return {}
    shown = _read(_folder(video.path))
    kinds = {i: KINDS.index(*of) for i, of in shown.items() if len(of) == 1}
    tables = {"polyp": {i: int(bool(of)) for i, of in shown.items()}, "histology": kinds}
    numbers = label_files.file_numbers(video, times)
    return {task: label_files.of_frames(_rows(of), times, numbers) for task, of in tables.items()}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    folder = _folder(video.path)
    if not folder.is_dir():
        return []
    position = np.array([position for position, _ in list_images(video.path)])
    pictures = label_files.file_numbers(video, Times(position, position, 1.0)).tolist()
    missing = sorted(set(pictures) - _read(folder).keys())
    if not missing:
        return []
    where = folder.relative_to(root)
    return [f"{where}: {len(missing)} pictures have no annotation, {missing[0]} is the first"]


def _recordings(root: Path) -> recordings.Recordings:
    found = recordings.search(root, PLACES, NAME)
    paths = {}
    for path in found.paths.values():
        part, *sequence = path.relative_to(root).parts[::2]
        if sequence or list_images(path):
            paths["_".join([part.removesuffix("2019"), *sequence])] = path
    found.paths = paths
    return found


def _folder(path: Path) -> Path:
    """The annotations of a folder of pictures."""
    if path.name == "Image":
        return path.with_name("Annotation")
    return path.parents[1] / "Annotation" / path.name


def _rows(numbers: dict[int, int]) -> Rows:
    frames = sorted(numbers)
    return Rows(np.array(frames, np.int64), np.array([numbers[i] for i in frames], np.int32))


def _read(folder: Path) -> dict[int, set[str]]:
    """Kinds of polyps by the number of the picture. Raises UserError naming the file."""
    shown = {}
    for file in folder.glob("*.xml"):
        text = file.read_text(encoding="utf-8", errors="replace")
        kinds = [
            match[1] if (match := re.search(r"<name>\s*(.*?)\s*</name>", of)) else ""
            for of in re.findall(r"<object>(.*?)</object>", text, re.DOTALL)
        ]
        digits = re.findall(r"\d+", file.stem)
        if not digits or "</annotation>" not in text or not set(kinds) <= set(KINDS):
            raise UserError(
                f"{file.parent.name}/{file.name}: objects {kinds}; expected an annotation of "
                f"{' and '.join(KINDS)} polyps, with the number of its picture in the name"
            )
        shown[int(digits[-1])] = set(kinds)
    return shown
