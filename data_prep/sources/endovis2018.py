"""EndoVis 2018, robotic scene segmentation, as downloaded: frames of the left camera.

    miccai_challenge_2018_release_1/seq_1/left_frames/frame000.png
    miccai_challenge_2018_release_1/seq_1/labels/frame000.png         a colour a class
    miccai_challenge_release_2/seq_5/..., test_data/seq_1/...         the test part has "test" above

Sequences may lie up to three folders deep. About a frame a second; frames that look alike were
taken out, so times are those of a steady rate. Sequence 8 does not exist, and those of the test
part are other operations than those of the same number for training. A class of the scene is
present where a pixel has its colour. Masks are not stored, nor are frames of the right camera; the
corrected labels of `repairs`, the types of instruments of ISINet and the questions of
EndoVis-18-VQA are not read.
"""

import re
from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video
from data_prep.video import list_images
from surgjax.errors import UserError

FPS = 1
PLACES = tuple(f"{'*/' * depth}seq_*/left_frames" for depth in range(4))
NAME = r"(?!(?:.*/)?__MACOSX/)(?P<id>(?:.+/)?seq_\d+)/left_frames"
COLOURS = {  # as labels.json gives them; black is the background
    "instrument-shaft": (0, 255, 0),
    "instrument-clasper": (0, 255, 255),
    "instrument-wrist": (125, 255, 12),
    "kidney-parenchyma": (255, 55, 0),
    "covered-kidney": (24, 55, 125),
    "thread": (187, 155, 25),
    "clamps": (0, 255, 125),
    "suturing-needle": (255, 255, 125),
    "suction-instrument": (123, 15, 175),
    "small-intestine": (124, 155, 5),
    "ultrasound-probe": (12, 255, 141),
}
TEST = r"(?<![a-z])test"  # in the name of a folder of the test part

ABOUT = About(
    dataset="endovis2018",
    domain="robotic",
    procedure="porcine procedures",
    anatomy="kidney",
    licence="NOASSERTION",
    access="registration, grand-challenge.org",
    layout="from-code",
    evidence="public programs; labels.json of the challenge",
    tasks={"scene": {"kind": "multi_label", "classes": list(COLOURS)}},
)


def recognises(root: Path) -> bool:
    return any(_recordings(root).paths)


def find(root: Path, **overrides: str) -> Found:
    """Sequences of both parts. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        _recordings(root),
        overrides,
        expected="miccai_challenge_2018_release_1/seq_1/left_frames/frame000.png",
        frames_fps=FPS,
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Classes of the scene in the stored frames that have a label picture."""
    files = dict(list_images(video.path))
    pictures = [_label(video, files[position]) for position in times.index.tolist()]
    some = np.array([picture.exists() for picture in pictures], bool)
    if not some.any():
        return {}
    values = [_present(picture) for picture in pictures if picture.exists()]
    return {"scene": LabelTable(times.t_ms[some], values=np.stack(values))}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    files = [file for _, file in list_images(video.path)]
    missing = sum(not _label(video, file).exists() for file in files)
    return [f"{video.video_id}: {missing} of {len(files)} frames have no label"] if missing else []


def _recordings(root: Path) -> recordings.Recordings:
    """Sequences by part and number, whatever folder they are in: train_seq_1, test_seq_1."""
    found = recordings.search(root, PLACES, NAME)
    paths, found.paths = found.paths, {}
    for name, path in paths.items():
        above, _, sequence = name.rpartition("/")
        video_id = f"{'test' if re.search(TEST, above.lower()) else 'train'}_{sequence}"
        if (first := found.paths.setdefault(video_id, path)) != path:
            found.warnings.append(f"{video_id} is there twice; {first.relative_to(root)} is used")
    return found


def _label(video: Video, file: Path) -> Path:
    return video.path.parent / "labels" / file.name


def _present(path: Path) -> np.ndarray:
    """(classes,) float32. Raises UserError where the picture or its colours are others."""
    import cv2

    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise UserError(f"{path.parents[1].name}/{label_files.named(path)}: does not decode")
    pixels = _number(image.astype(np.int32))
    counts = [np.count_nonzero(pixels == _number(np.array(rgb))) for rgb in COLOURS.values()]
    if sum(counts) + np.count_nonzero(pixels == 0) < pixels.size / 2:
        raise UserError(
            f"{path.parents[1].name}/{label_files.named(path)}: most colours are none of "
            f"labels.json; expected the label pictures as they were downloaded"
        )
    return (np.array(counts) > 0).astype(np.float32)


def _number(rgb: np.ndarray) -> np.ndarray:
    """(...,) one number a colour, of (..., 3) integers."""
    return rgb[..., 0] * 65536 + rgb[..., 1] * 256 + rgb[..., 2]
