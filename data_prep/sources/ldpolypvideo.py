"""LDPolypVideo as downloaded: 160 short videos as pictures with boxes, and 103 whole videos.

    TrainValid/Images/1/0001.jpg             videos 1 to 100; 25 a second is assumed
    TrainValid/Annotations/1/0001.txt        1             number of polyps, then a line a box:
                                             123 88 211 176
    Test/Images/101/, Test/Annotations/101/  videos 101 to 160
    videos with polyps/*.avi                 42 videos that show a polyp somewhere
    videos without polyps/*.avi              61 videos

Where a polyp is, is not read; a frame shows one (`polyp`) or none. Of the whole videos only those
without polyps have that label, for all frames. They are in no published split and are for training,
although nothing tells whether they show operations of the others.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video
from surgjax.errors import UserError

FPS = 25
WITH, WITHOUT = "videos with polyps", "videos without polyps"
PLACES = ("TrainValid/Images/*/", "Test/Images/*/", f"{WITH}/*", f"{WITHOUT}/*")
NAME = rf"(?:(?:TrainValid|Test)/Images/)?(?P<id>\d+|(?:{WITH}|{WITHOUT})/[^/]+)"

ABOUT = About(
    dataset="ldpolypvideo",
    domain="endoscopy",
    procedure="colonoscopy",
    anatomy="colon",
    licence="NOASSERTION",
    access="open, Google Drive or Baidu",
    layout="from-code",
    evidence="public programs; the rate of the pictures is assumed",
    tasks={
        "polyp": {"kind": "one_of_n", "classes": ["no_polyp", "polyp"]},
        "polyp_in_video": {"kind": "one_of_n", "classes": ["no_polyp", "polyp"]},
    },
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Folders of pictures and whole videos. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    result = recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="TrainValid/Images/1/0001.jpg beside TrainValid/Annotations/1/0001.txt",
        frames_fps=FPS,
        unlisted_train=True,
    )
    boxed = [video for video in result.videos if _is_boxed(video)]
    if without := [video.video_id for video in boxed if not _folder(video).is_dir()]:
        text = f"{len(without)} of {len(boxed)} folders of pictures have no annotations"
        result.warnings.append(f"{text}: {recordings.some(without)}")
    return result


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Whether a stored frame shows a polyp, and whether its whole video does."""
    if not _is_boxed(video):
        shown = int(video.path.parent.name == WITH)
        tables = {"polyp_in_video": label_files.of_video(times, label=shown)}
        return tables if shown else tables | {"polyp": label_files.of_video(times, label=0)}
    if not _folder(video).is_dir():
        return {}
    return {
        "polyp": label_files.of_frames(_rows(video), times, label_files.file_numbers(video, times))
    }


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    if not _is_boxed(video) or not _folder(video).is_dir():
        return []
    return label_files.check_pictures(_folder(video), video, _rows(video).frame.tolist())


def _is_boxed(video: Video) -> bool:
    return video.path.parent.name == "Images"


def _folder(video: Video) -> Path:
    return video.path.parents[1] / "Annotations" / video.path.name


def _rows(video: Video) -> Rows:
    """Whether a picture has boxes, by the number in its name."""
    shown = {}
    for file in _folder(video).glob("*.txt"):
        rows = label_files.read_table(file, header=False)
        count = rows[0][0] if rows and len(rows[0]) == 1 else ""
        if (
            not file.stem.isdecimal()
            or count != str(len(rows) - 1)
            or any(len(r) != 4 for r in rows[1:])
        ):
            raise UserError(
                f"{file.parent.parent.name}/{label_files.named(file)}: {rows}; expected a number "
                f"of boxes and a line of four numbers for each, in a file such as 0001.txt"
            )
        shown[int(file.stem)] = int(count) > 0
    frames = np.array(sorted(shown), np.int64)
    return Rows(frames, np.array([shown[frame] for frame in frames.tolist()], np.int32))
