"""EndoVis 2017, robotic instrument segmentation, as downloaded: frames of the left camera.

    instrument_1_4_training/instrument_dataset_1/left_frames/frame000.png
    instrument_1_4_training/instrument_dataset_1/ground_truth/Left_Prograsp_Forceps_labels/*.png
    instrument_1_4_testing/instrument_dataset_1/left_frames/frame225.png
    instrument_2017_test/instrument_dataset_1/TypeSegmentation/frame225.png

A folder is of the test part if its name has "test" in it, else of the training part (train/ and
test/ are as good), and may lie one folder deeper. Two frames a second, 225 of eight sequences for
training; the test part goes on with the same eight sequences for 75 frames and has two of its own.

A tool is present where its mask has a pixel: of any instrument of that type in the training part;
of the values 1 to 7 in the test part. Masks are not stored, nor are frames of the right camera.
"""

import re
from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video
from data_prep.video import list_images
from surgjax.errors import UserError

FPS = 2
PLACES = ("*/instrument_dataset_*/left_frames", "*/*/instrument_dataset_*/left_frames")
NAME = r"(?!__MACOSX)(?P<id>.+/instrument_dataset_\d+)/left_frames"
SEQUENCE = "instrument_dataset_"
TESTED = "instrument_2017_test"  # with the labels of the test part
TOOLS = [  # in the order of the values of the test part
    "Bipolar_Forceps",
    "Prograsp_Forceps",
    "Large_Needle_Driver",
    "Vessel_Sealer",
    "Grasping_Retractor",
    "Monopolar_Curved_Scissors",
    "Other",
]
TEST = r"(?<![a-z])test"  # in the name of a folder of the test part

ABOUT = About(
    dataset="endovis2017",
    domain="robotic",
    procedure="porcine procedures",
    anatomy="mixed",
    licence="NOASSERTION",
    access="registration, grand-challenge.org",
    layout="from-code",
    evidence="page of the challenge; programs of TernausNet, ISINet and others",
    tasks={"tool": {"kind": "multi_label", "classes": TOOLS}},
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
        expected="instrument_1_4_training/instrument_dataset_1/left_frames/frame000.png",
        case=lambda video_id: video_id.split("_")[1],
        frames_fps=FPS,
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Tools present in the stored frames that have all masks."""
    files = {position: file.name for position, file in list_images(video.path)}
    folders, rows = _folders(root, video), []
    for at, position in enumerate(times.index.tolist()):
        masks = [folder / files[position] for _, folder in folders]
        if folders and all(mask.exists() for mask in masks):
            values = np.zeros(len(TOOLS), np.float32)
            for (tool, _), mask in zip(folders, masks, strict=True):
                values[_tools(mask, tool)] = 1
            rows.append((at, values))
    if not rows:
        return {}
    some = np.array([at for at, _ in rows])
    return {"tool": LabelTable(times.t_ms[some], values=np.stack([values for _, values in rows]))}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    files, folders = [file.name for _, file in list_images(video.path)], _folders(root, video)
    odd = [] if folders else [f"{video.video_id} has no masks"]
    for _, folder in folders:
        if missing := sum(not (folder / name).exists() for name in files):
            odd.append(f"{folder.relative_to(root)}: {missing} of {len(files)} masks are missing")
    return odd


def _recordings(root: Path) -> recordings.Recordings:
    """Sequences by part and number, whatever folder they are in: train_1, test_1."""
    found = recordings.search(root, PLACES, NAME)
    paths, found.paths = found.paths, {}
    for name, path in paths.items():
        above, _, number = name.rpartition(f"/{SEQUENCE}")
        video_id = f"{'test' if re.search(TEST, above.lower()) else 'train'}_{number}"
        if (first := found.paths.setdefault(video_id, path)) != path:
            found.warnings.append(f"{video_id} is there twice; {first.relative_to(root)} is used")
    return found


def _folders(root: Path, video: Video) -> list[tuple[int | None, Path]]:
    """Folders of masks with the tool each shows; None where a mask shows several by value."""
    part, number = video.video_id.split("_")
    if part == "train":  # Left_Prograsp_Forceps_labels, Maryland_Bipolar_Forceps_labels
        paths = sorted((video.path.parent / "ground_truth").glob("*/"))
        return [
            (tool, path) for path in paths for tool, name in enumerate(TOOLS) if name in path.name
        ]
    above = [root / TESTED, root / TESTED / TESTED, video.path.parents[1]]
    inside = ("TypeSegmentation", "gt/TypeSegmentation")
    paths = [folder / f"{SEQUENCE}{number}" / name for folder in above for name in inside]
    return [(None, path) for path in paths if path.is_dir()][:1]


def _tools(mask: Path, tool: int | None) -> list[int]:
    """The tools in a mask: `tool`, or those of its values. Raises UserError for other values."""
    image = _read(mask)
    found = np.unique(image[image > 0]).tolist()
    if tool is not None:
        return [tool] if found else []
    if found and max(found) > len(TOOLS):
        raise UserError(
            f"{label_files.named(mask)}: value {max(found)}; expected 0 to {len(TOOLS)} as in the "
            f"published TypeSegmentation"
        )
    return [value - 1 for value in found]


def _read(path: Path) -> np.ndarray:
    """(h, w) uint8, the first channel of a mask. Raises UserError where it does not decode."""
    import cv2

    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"{path.parent.parent.name}/{label_files.named(path)}: does not decode")
    return image if image.ndim == 2 else image[:, :, 0]
