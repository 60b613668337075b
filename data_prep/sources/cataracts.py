"""CATARACTS with the steps of its 2020 challenge and the instruments of 2017, as downloaded.

    videos/micro/trainNN.mp4, testNN.mp4                      01 to 25 each, about 29.2 frames/s
    ground_truth/CATARACTS_2020/train_gt/trainNN.csv          Frame, Steps: a row a video frame
    ground_truth/CATARACTS_2020/{dev_gt,test_gt}/testNN.csv
    ground_truth/CATARACTS_2017/{train_gt,test_gt}/NAME.csv   Frame and a column an instrument, by
                                                              name; perhaps to_be_evaluated

Frames count from 1, steps from 0. An instrument is 0, 1, or 0.5 where the two annotators differ; a
frame with a 0.5, or that is not to be evaluated, has no label of instruments. Not read: the videos
of the tray (videos/tray) and the tables of 2018.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

FPS = 30  # rounded; a row is found by its frame number alone
PLACES = ("videos/micro/*.mp4",)
NAME = r"videos/micro/(?P<id>(?:train|test)\d\d)"
TABLES = {"step": "ground_truth/CATARACTS_2020", "instrument": "ground_truth/CATARACTS_2017"}
FRAME, EVALUATED = "frame", "to_be_evaluated"  # columns of a table of instruments
VALUES = {"0": 0.0, "1": 1.0, "0.5": np.nan, "0.0": 0.0, "1.0": 1.0}
STEPS = (
    "Idle, Toric Marking, Implant Ejection, Incision, Viscodilatation, Capsulorhexis, "
    "Hydrodissection, Nucleus Breaking, Phacoemulsification, Vitrectomy, Irrigation/Aspiration, "
    "Preparing Implant, Manual Aspiration, Implantation, Positioning, OVD Aspiration, Suturing, "
    "Sealing Control, Wound Hydration"
).split(", ")
INSTRUMENTS = (
    "biomarker, Charleux cannula, hydrodissection cannula, Rycroft cannula, viscoelastic cannula, "
    "cotton, capsulorhexis cystotome, Bonn forceps, capsulorhexis forceps, Troutman forceps, "
    "needle holder, irrigation/aspiration handpiece, phacoemulsifier handpiece, "
    "vitrectomy handpiece, implant injector, primary incision knife, secondary incision knife, "
    "micromanipulator, suture needle, Mendez ring, Vannas scissors"
).split(", ")

ABOUT = About(
    dataset="cataracts",
    domain="cataract",
    procedure="cataract surgery",
    anatomy="eye",
    licence="NOASSERTION",
    access="open, IEEE DataPort account",
    layout="from-code",
    evidence="SurgVISTA, SurgMotion; instruments: programs of other groups",
    tasks={
        "step": {"kind": "one_of_n", "classes": STEPS},
        "instrument": {"kind": "multi_label", "classes": INSTRUMENTS},
    },
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the microscope. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected=f"videos/micro/train01.mp4 and {TABLES['step']}/train_gt/train01.csv",
        label_files={
            task: lambda video_id, task=task: _file(root, task, video_id) for task in TABLES
        },
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Step of every stored frame that has a row; instruments where the annotators agree."""
    tables = {
        task: label_files.of_frames(rows, times) for task, _, rows in _tables(root, video.video_id)
    }
    if (shown := tables.get("instrument")) is not None:
        sure = ~np.isnan(shown.values).any(axis=1)
        tables["instrument"] = LabelTable(shown.t_ms[sure], values=shown.values[sure])
    return tables


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return label_files.check_lengths(_tables(root, video.video_id), root, frames, FPS)


def _tables(root: Path, video_id: str) -> list[tuple[str, Path, Rows]]:
    """Task, file and rows of the tables that are there."""
    files = {task: _file(root, task, video_id) for task in TABLES}
    return [(task, path, _rows(task, path)) for task, path in files.items() if path.exists()]


def _rows(task: str, path: Path) -> Rows:
    if task == "instrument":
        return _instruments(path)
    return label_files.read_classes(path, tuple(STEPS), ("Frame", "Steps"), 1, 0, what="step")


@cached_by_file
def _instruments(path: Path) -> Rows:
    """Instruments by frame, NaN where they are not sure. Raises UserError naming the line."""
    header, *rows = label_files.read_table(path, header=True)
    names = [name.lower().replace("canula", "cannula") for name in header]  # both are in use
    wanted = [name.lower() for name in INSTRUMENTS]
    named = sorted(name for name in names[1:] if name != EVALUATED)
    if names[0] != FRAME or named != sorted(wanted):
        raise UserError(
            f"{label_files.where(path, 1)}: header is {header}; expected Frame, "
            f"{', '.join(INSTRUMENTS)}"
        )
    columns = [names.index(name) for name in wanted]
    counts = names.index(EVALUATED) if EVALUATED in names else None
    values = np.empty((len(rows), len(wanted)), np.float32)
    for i, row in enumerate(rows):
        if len(row) != len(header) or row[0] != str(i + 1) or not VALUES.keys() >= set(row[1:]):
            raise UserError(
                f"{label_files.where(path, i + 2)}: {row}; expected frame {i + 1} and "
                f"{len(header) - 1} values of 0, 0.5 or 1"
            )
        is_sure = counts is None or VALUES[row[counts]] == 1
        values[i] = [VALUES[row[column]] for column in columns] if is_sure else np.nan
    return Rows(np.arange(len(rows)), values=values, line=2)


def _file(root: Path, task: str, video_id: str) -> Path:
    """The table of a video; where there is none, the place of one that is missing."""
    places = [
        root / TABLES[task] / part / f"{video_id}.csv" for part in ("train_gt", "dev_gt", "test_gt")
    ]
    return next((path for path in places if path.exists()), places[-1])
