"""PitVis (EndoVis 2023), the 25 public videos as downloaded: one folder, files side by side.

    video_NN.mp4           01 to 25, 24 frames a second, 25 in video_24
    annotations_NN.csv     int_video, int_time, int_step, int_instrument1, int_instrument2: one row
                           a second, from 0; there is none for video_19

Steps are -1 (background) and 1 to 14 and hold for their second. The one or two instruments of a row
are those of the frame at that second: -1 is out of the patient, where they have no label; 0 is none
visible; -2 is an unused second place. The last row of a file is past the last second and left out.
map_steps.csv and map_instruments.csv name some numbers twice and are not read.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file, read_rows
from surgjax.errors import UserError

PLACES = ("video_*.*",)
NAME = r"(?P<id>video_\d\d)"
COLUMNS = ["int_video", "int_time", "int_step", "int_instrument1", "int_instrument2"]
VALUES = {
    "int_step": [-1, *range(1, 15)],
    "int_instrument1": range(-1, 19),
    "int_instrument2": range(-2, 19),
}
STEPS = """background, nasal corridor creation, anterior sphenoidotomy, septum displacement,
    sphenoid sinus clearance, sellotomy, durotomy, tumour excision, haemostasis,
    synthetic graft placement, fat graft placement, gasket seal construct, dural sealant,
    nasal packing, debris clearance"""
INSTRUMENTS = """bipolar forceps, cottle, cup forceps, dural scissors, freer elevator,
    haemostatic foam, irrigation syringe, kerrisons, micro doppler, nasal cutting forceps,
    pituitary rongeurs, retractable knife, ring curette, spatula dissector, stealth pointer,
    suction, surgical drill, tissue glue"""

ABOUT = About(
    dataset="pitvis",
    domain="endoscopy",
    procedure="pituitary surgery",
    anatomy="pituitary gland",
    licence="NOASSERTION",
    access="open download (UCL)",
    layout="from-code",
    evidence="a published audit of the files",
    tasks={
        "step": {"kind": "one_of_n", "classes": [name.strip() for name in STEPS.split(",")]},
        "instrument": {
            "kind": "multi_label",
            "classes": [name.strip() for name in INSTRUMENTS.split(",")],
        },
    },
)


def recognises(root: Path) -> bool:
    labelled = any(root.glob("annotations_[0-9][0-9].csv"))
    return labelled and any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the folder. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="video_01.mp4 and annotations_01.csv",
        label_files={"annotation": lambda video_id: _file(root, video_id)},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Step of every stored frame whose second has a row; instruments of those at a full second."""
    path = _file(root, video.video_id)
    if not path.exists():
        return {}
    steps, instruments = _rows(path, _rate(video))
    return {
        "step": label_files.of_frames(steps, times, held=True),
        "instrument": label_files.of_frames(instruments, times),
    }


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _file(root, video.video_id)
    if not path.exists():
        return []
    steps, _ = _rows(path, _rate(video))
    return label_files.check_length(path, root, steps, frames, _rate(video))


@cached_by_file
def _rows(path: Path, rate: int) -> tuple[Rows, Rows]:
    """Steps, and instruments of the seconds inside the patient; by video frame."""
    table = []
    for number, (where, row) in enumerate(read_rows(path, COLUMNS)):
        expected = VALUES | {"int_video": [int(path.stem[-2:])], "int_time": [number]}
        for name in COLUMNS:
            if row[name] not in map(str, expected[name]):
                known = ", ".join(map(str, expected[name]))
                raise UserError(f"{where}: {name} is {row[name]!r}; expected {known}")
        table.append([int(row[name]) for name in COLUMNS])
    rows = np.array(table[:-1], np.int64).reshape(-1, len(COLUMNS))
    frame, step, slots = rate * rows[:, 1], rows[:, 2], rows[:, 3:]
    shown = (slots[:, :, None] == np.arange(1, 19)).any(axis=1)
    inside = slots[:, 0] >= 0
    return (
        Rows(frame, label=np.maximum(step, 0).astype(np.int32), step=rate, line=2),
        Rows(frame[inside], values=shown[inside].astype(np.float32), step=rate, line=2),
    )


def _rate(video: Video) -> int:
    return 25 if video.video_id == "video_24" else 24


def _file(root: Path, video_id: str) -> Path:
    return root / f"annotations_{video_id[-2:]}.csv"
