"""Cataract-21 (cat-21) as downloaded.

    case_NN_training.mp4, case_NN_training.csv            01 to 17, 25 frames/s
    case_NN_validation.mp4, case_NN_validation.csv        18 to 21

The label files have no header: frame from 0 and name of the phase, a row a video frame. What is
assumed: public programs read the files from one folder, or the videos from videos/ and the tables
from labels/, and call them case_NN; lists made from the download have the longer names. All of
these are taken, and a table has the name of its video. Outside the phases frames are
not_initialized, which is a class of its own here.
"""

from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

FPS = 25
PLACES = ("case_*.mp4", "videos/case_*.mp4")
NAME = r"(?:videos/)?(?P<id>case_\d\d(?:_training|_validation)?)"

ABOUT = About(
    dataset="cataract21",
    domain="cataract",
    procedure="cataract surgery",
    anatomy="eye",
    licence="CC-BY-NC-SA-4.0",
    access="open, ITEC Klagenfurt",
    layout="from-code",
    evidence="SurgVISTA, SurgRec",
    tasks={
        "phase": {
            "kind": "one_of_n",
            "classes": [
                "not_initialized",
                "Incision",
                "Viscoelasticum",
                "Rhexis",
                "Hydrodissektion",
                "Phako",
                "Irrigation-Aspiration",
                "Kapselpolishing",
                "Linsenimplantation",
                "Visco-Absaugung",
                "Tonisieren",
                "Antibiotikum",
            ],
        }
    },
)
CLASSES = tuple(ABOUT.tasks["phase"]["classes"])


def recognises(root: Path) -> bool:
    paths = recordings.search(root, PLACES, NAME).paths.values()
    lines = (label_files.first_lines(_file(root, path), 1) for path in paths)
    rows = (line.split(",") for first in lines for line in first)
    return any(len(row) == 2 and row[1].strip() in CLASSES for row in rows)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the folder or of videos/. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="case_01_training.mp4 or case_01.mp4, with case_01_training.csv or case_01.csv",
        case=lambda video_id: video_id[: len("case_01")],
        label_files={"phase": lambda video_id: _file(root, found.paths[video_id])},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase of every stored frame that has a row."""
    path = _file(root, video.path)
    return {"phase": label_files.of_frames(_rows(path), times)} if path.exists() else {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _file(root, video.path)
    if not path.exists():
        return []
    return label_files.check_length(path, root, _rows(path), frames, FPS)


def _rows(path: Path) -> label_files.Rows:
    return label_files.read_classes(path, CLASSES, what="phase")


def _file(root: Path, video: Path) -> Path:
    """The table of a video: beside it, else in labels/."""
    beside = video.with_suffix(".csv")
    return beside if beside.exists() else root / "labels" / beside.name
