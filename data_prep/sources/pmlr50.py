"""PmLR50 as released.

    frames/NN/*.jpg                   01 to 50, one frame a second; 00000000.jpg is second 0
    phase_annotations/NN.txt          a header, then frame and phase 0 to 4: one row a frame, from 0
    blocking_annotations/NN.txt       the same of the inflow to the liver: 0 open, 1 blocked
    labels/*/1fps*.pickle             both for many videos, instead of the text files: video ->
                                      [{frame_id, phase_gt, blocking_gt, ...}, ...] from frame 0

A row's number is the number in the name of its frame. Text files come first; what they lack is
taken from the pickles. Boxes (bbox_annotations/NN.json) are not read.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from data_prep.video import list_images
from surgjax.errors import UserError

PLACES = ("frames/*",)
NAME = r"frames/(?P<id>\d\d)"
PICKLES = "labels/*/1fps*.pickle"

ABOUT = About(
    dataset="pmlr50",
    domain="laparoscopy",
    procedure="liver resection",
    anatomy="liver",
    licence="NOASSERTION",
    access="request to the authors",
    layout="from-code",
    evidence="PmNet, SurgVISTA",
    tasks={
        "phase": {
            "kind": "one_of_n",
            "classes": [
                "Preparation stage",
                "Knotting of the Foley catheter",
                "Procedure of the liver resection",
                "Release of the Foley catheter",
                "Postprocessing stage",
            ],
        },
        "blocking": {"kind": "one_of_n", "classes": ["open", "blocked"]},
    },
)


def recognises(root: Path) -> bool:
    texts = root.glob("phase_annotations/[0-9][0-9].txt")
    labelled = any(texts) or any(root.glob(PICKLES))
    return labelled and any(root.glob("frames/[0-9][0-9]/*.jpg"))


def find(root: Path, **overrides: str) -> Found:
    """Folders of frames. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="frames/01/00000000.jpg beside phase_annotations/01.txt",
        label_files={
            "phase": lambda video_id: _file(root, "phase", video_id),
            "blocking": lambda video_id: _file(root, "blocking", video_id),
        },
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase and blocking of every stored frame whose number has a row."""
    tables = {}
    for task in ABOUT.tasks:
        path = _file(root, task, video.video_id)
        if path.exists():
            number = label_files.file_numbers(video, times)
            tables[task] = label_files.of_frames(_rows(path, task, video.video_id), times, number)
    return tables


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    position, _ = list_images(video.path)[-1]
    last = Times(np.zeros(1, np.int64), np.array([position]), 1.0)
    count = int(label_files.file_numbers(video, last)[0]) + 1  # a first frame may be missing
    warnings = []
    for task in ABOUT.tasks:
        path = _file(root, task, video.video_id)
        if path.exists():
            rows = _rows(path, task, video.video_id)
            of = path if path.suffix == ".txt" else path / video.video_id
            warnings += label_files.check_length(of, root, rows, count, fps=1)
    return warnings


def _file(root: Path, task: str, video_id: str) -> Path:
    """The text file of a video, or else the pickle that has it."""
    path = root / f"{task}_annotations" / f"{video_id}.txt"
    if path.exists():
        return path
    for pickled in sorted(root.glob(PICKLES)):
        entries = _pickled(pickled).get(video_id)
        if entries and f"{task}_gt" in entries[0]:
            return pickled
    return path


def _rows(path: Path, task: str, video_id: str) -> Rows:
    classes = tuple(ABOUT.tasks[task]["classes"])
    if path.suffix == ".txt":
        header = tuple(label_files.read_table(path, header=True)[0])
        return label_files.read_classes(path, classes, header, first_class=0, what=task)
    entries = _pickled(path)[video_id]
    label = np.empty(len(entries), np.int32)
    for i, entry in enumerate(entries):
        where = f"{label_files.named(path)}, video {video_id}, entry {i}"
        if str(entry.get("frame_id")) != str(i):
            raise UserError(f"{where}: frame_id is {entry.get('frame_id')}; expected {i}")
        value = str(entry.get(f"{task}_gt"))
        label[i] = label_files.class_number(value, classes, where, first=0, what=task)
    return Rows(np.arange(len(entries)), label=label, line=0)


@cached_by_file
def _pickled(path: Path) -> dict[str, list[dict]]:
    """Entries by video."""
    data = label_files.read_pickle(path)
    lists = data.values() if isinstance(data, dict) else [None]
    if not all(isinstance(x, list) and all(isinstance(row, dict) for row in x) for x in lists):
        raise UserError(
            f"{label_files.named(path)}: expected a dictionary with a list of entries a video"
        )
    return {str(name).zfill(2): entries for name, entries in data.items()}
