"""Kvasir-Capsule as downloaded: 43 videos with findings, 74 without.

    labelled_videos/04a78ef00c5245e0.mp4      unlabelled_videos/<16 digits>.mp4, for training
    metadata.csv                              or in labelled_images/
        filename;video_id;frame_number;finding_category;finding_class;x1;y1;...;x4;y4
        04a78ef00c5245e0_11213.jpg;04a78ef00c5245e0;11213;Luminal;Blood - fresh;;;;;;;

A row is a frame of its video and what it shows; that frames count from 0 is assumed. Rows with a
box have more values than others, and boxes are not read. A frame with two different findings has no
label. The pictures of labelled_images/<finding>/ are these frames again and are not stored.

The published folds (official_splits/split_0.csv, split_1.csv) divide frames: 7 of the 43 videos are
in both, so they are not offered. `strict` divides videos.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

FPS = 30
PLACES = ("labelled_videos/*.mp4", "unlabelled_videos/*.mp4")
NAME = r"(?:un)?labelled_videos/(?P<id>[0-9a-f]{16})"
HEADER = ["filename", "video_id", "frame_number", "finding_category", "finding_class"]

ABOUT = About(
    dataset="kvasir_capsule",
    domain="endoscopy",
    procedure="capsule endoscopy",
    anatomy="gastrointestinal tract",
    licence="CC-BY-4.0",
    access="open, OSF",
    layout="from-code",
    evidence="README and program of its makers; that frames count from 0 is assumed",
    tasks={
        "finding": {
            "kind": "one_of_n",
            "classes": [
                "Ampulla of Vater",
                "Angiectasia",
                "Blood - fresh",
                "Blood - hematin",
                "Erosion",
                "Erythema",
                "Foreign body",
                "Ileocecal valve",
                "Lymphangiectasia",
                "Normal clean mucosa",
                "Polyp",
                "Pylorus",
                "Reduced mucosal view",
                "Ulcer",
            ],
        }
    },
)
CLASSES = tuple(ABOUT.tasks["finding"]["classes"])


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of both folders. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    if not _file(root).is_file():
        found.warnings.append(f"there is no {_file(root).name}, so no video has labels")
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="labelled_videos/04a78ef00c5245e0.mp4 beside metadata.csv",
        unlisted_train=True,  # they have no label that could be tested
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Finding of the stored frames that have one."""
    rows = _rows(root, video)
    return {"finding": label_files.of_frames(rows, times)} if rows else {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    rows, path = _rows(root, video), _file(root)
    last = rows.frame.max(initial=-1) if rows else -1
    if last >= frames + FPS:
        raise UserError(
            f"{label_files.named(path)}: {video.video_id} has {frames:.0f} frames, but a finding "
            f"at frame {last}; download the video again, or remove {path.name}"
        )
    if not (double := _read(path)[1].get(video.video_id) if rows else None):
        return []
    return [
        f"{label_files.named(path)}: {len(double)} frames of {video.video_id} show two findings "
        f"and have no label, {min(double)} is the first"
    ]


def _file(root: Path) -> Path:
    beside = root / "metadata.csv"
    return beside if beside.is_file() else root / "labelled_images" / "metadata.csv"


def _rows(root: Path, video: Video) -> Rows | None:
    path = _file(root)
    return _read(path)[0].get(video.video_id) if path.is_file() else None


@cached_by_file
def _read(path: Path) -> tuple[dict[str, Rows], dict[str, set[int]]]:
    """video_id -> findings by frame, and video_id -> frames with two."""
    header, *rows = label_files.read_table(path, header=True)
    if header[: len(HEADER)] != HEADER:
        raise UserError(
            f"{label_files.where(path, 1)}: header is {header}; expected {';'.join(HEADER)} first"
        )
    shown: dict[str, dict[int, int]] = {}
    double: dict[str, set[int]] = {}
    for line, row in enumerate(rows, 2):
        at = label_files.where(path, line)
        if len(row) < len(HEADER) or not label_files.is_whole(row[2]):
            raise UserError(f"{at}: {row}; expected {';'.join(HEADER)}")
        frame = int(row[2])
        finding = label_files.class_number(row[4], CLASSES, at, what="finding")
        if shown.setdefault(row[1], {}).setdefault(frame, finding) != finding:
            double.setdefault(row[1], set()).add(frame)
    tables = {}
    for video_id, of in shown.items():
        frames = np.array(sorted(of.keys() - double.get(video_id, set())), np.int64)
        tables[video_id] = Rows(frames, label=np.array([of[i] for i in frames], np.int32))
    return tables, double
