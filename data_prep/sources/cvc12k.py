"""CVC-ClinicVideoDB (CVC-12k): the 18 videos with masks of the GIANA challenges.

    CVC-VideoClinicDBtrain_valid/
        images/1-12.png        picture 12 of video 1; 25 a second is assumed
        masks/1-12.tif         or 1-12_Polyp.tif: black where there is no polyp

The root is the folder that holds both; their names may begin with a capital. All pictures are in
one folder. A frame shows a polyp where its mask is not black; where it is, is not read. The 18
videos of the challenges' test set have no masks.

What Endo-FM and its followers call CVC-12k is another dataset: their program reads the 612 stills
of CVC-ClinicDB (Original/1.tif), which cvc_clinicdb reads.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video
from data_prep.video import list_images
from surgjax.errors import UserError

FPS = 25
IMAGES = ("images", "Images")
MASKS = ("masks", "Masks")
PICTURE = re.compile(r"(\d+)-(\d+)\.png")  # video, picture
MASK = re.compile(r"(\d+)-(\d+)(?:_\w+)?\.(?:tif|tiff|png|bmp)")

ABOUT = About(
    dataset="cvc12k",
    domain="endoscopy",
    procedure="colonoscopy",
    anatomy="colon",
    licence="NOASSERTION",
    access="registration for the challenge",
    layout="from-code",
    evidence="programs of participants of GIANA; the rate is assumed",
    tasks={"polyp": {"kind": "one_of_n", "classes": ["no_polyp", "polyp"]}},
)


def recognises(root: Path) -> bool:
    """Whether there are pictures and masks of some video: such names alone are common."""
    found = _recordings(root)
    return any(name in found.paths for name, _, _ in _masks(root))


def find(root: Path, **overrides: str) -> Found:
    """Videos of the folder of pictures. Raises UserError when there are none."""
    found = _recordings(root)
    masked = {name for name, _, _ in _masks(root)}
    if without := sorted(found.paths.keys() - masked, key=int):
        text = f"{len(without)} of {len(found.paths)} videos have no masks"
        found.warnings.append(f"{text}: {recordings.some(without)}")
    result = recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="images/1-1.png beside masks/1-1.tif",
        frames_fps=FPS,
    )
    videos = [
        replace(video, frames_pattern=re.escape(f"{video.video_id}-")) for video in result.videos
    ]
    return replace(result, videos=videos)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Whether the mask of a stored frame shows a polyp."""
    masks = _masks_of(root, video)
    if not masks:
        return {}
    numbers = label_files.file_numbers(video, times)
    stored = sorted(masks.keys() & set(numbers.tolist()))
    shown = np.array([_is_marked(masks[number]) for number in stored], np.int32)
    return {"polyp": label_files.of_frames(Rows(np.array(stored, np.int64), shown), times, numbers)}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    masks = _masks_of(root, video)
    if not masks:
        return []
    folder = next(iter(masks.values())).parent
    files = (file.name for _, file in list_images(video.path, video.frames_pattern))
    pictures = [int(match[2]) for name in files if (match := PICTURE.fullmatch(name))]
    return label_files.check_pictures(folder, video, masks, pictures)


def _recordings(root: Path) -> recordings.Recordings:
    """Every video with the folder that it shares with the others."""
    folders = recordings.search(root, IMAGES, f"(?P<id>{'|'.join(IMAGES)})")
    found = recordings.Recordings(refused=folders.refused)
    for folder in folders.paths.values():
        videos = {match[1] for file in folder.iterdir() if (match := PICTURE.fullmatch(file.name))}
        found.paths |= dict.fromkeys(videos, folder)
    return found


def _masks(root: Path) -> Iterator[tuple[str, int, Path]]:
    """Video, number and file of each mask."""
    for folder in (root / name for name in MASKS):
        for file in folder.iterdir() if folder.is_dir() else ():
            if match := MASK.fullmatch(file.name):
                yield match[1], int(match[2]), file


def _masks_of(root: Path, video: Video) -> dict[int, Path]:
    return {number: file for name, number, file in _masks(root) if name == video.video_id}


def _is_marked(file: Path) -> bool:
    import cv2

    data = np.fromfile(file, np.uint8)
    mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if mask is None:
        raise UserError(f"{label_files.named(file)}: does not decode; download the masks again")
    return bool(mask.any())
