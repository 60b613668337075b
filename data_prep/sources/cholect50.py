"""CholecT50 as downloaded.

    videos/VIDnn/000000.png    one frame a second, numbered from 0; out-of-body frames are black
    labels/VIDnn.json          {"categories": {task: {number: name}},
                                "annotations": {frame: [vector, ...]}, ...}

A vector is an action: triplet, instrument, its score and box, verb, target, its score and box,
phase; 15 numbers, -1 for none. A frame without action has no vector, or one that tells the phase.
VIDnn is videonn of Cholec80, frame k its frame 25 k; 92, 96, 103, 110 and 111 are not in Cholec80.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, recordings
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

FPS = 1
PLACES = ("videos/VID*/",)
NAME = r"videos/(?P<id>VID\d{2,3})"
SLOTS = {"triplet": 0, "instrument": 1, "verb": 7, "target": 8, "phase": 14}  # of a vector
VECTOR = 15  # numbers

# A line: an instrument, one of its verbs, and the targets of both. The order numbers the triplets.
ACTIONS = """
grasper dissect cystic_plate gallbladder omentum
grasper grasp cystic_artery cystic_duct cystic_pedicle cystic_plate gallbladder gut liver omentum
grasper grasp peritoneum specimen_bag
grasper pack gallbladder
grasper retract cystic_duct cystic_pedicle cystic_plate gallbladder gut liver omentum peritoneum
bipolar coagulate abdominal_wall_cavity blood_vessel cystic_artery cystic_duct cystic_pedicle
bipolar coagulate cystic_plate gallbladder liver omentum peritoneum
bipolar dissect adhesion cystic_artery cystic_duct cystic_plate gallbladder omentum
bipolar grasp cystic_plate liver specimen_bag
bipolar retract cystic_duct cystic_pedicle gallbladder liver omentum
hook coagulate blood_vessel cystic_artery cystic_duct cystic_pedicle cystic_plate gallbladder
hook coagulate liver omentum
hook cut blood_vessel peritoneum
hook dissect blood_vessel cystic_artery cystic_duct cystic_plate gallbladder omentum peritoneum
hook retract gallbladder liver
scissors coagulate omentum
scissors cut adhesion blood_vessel cystic_artery cystic_duct cystic_plate liver omentum peritoneum
scissors dissect cystic_plate gallbladder omentum
clipper clip blood_vessel cystic_artery cystic_duct cystic_pedicle cystic_plate
irrigator aspirate fluid
irrigator dissect cystic_duct cystic_pedicle cystic_plate gallbladder omentum
irrigator irrigate abdominal_wall_cavity cystic_pedicle liver
irrigator retract gallbladder liver omentum
"""
INSTRUMENTS = "grasper bipolar hook scissors clipper irrigator".split()
CLASSES = {
    "triplet": [
        f"{instrument},{verb},{target}"
        for instrument, verb, *targets in map(str.split, ACTIONS.strip().splitlines())
        for target in targets
    ]
    + [f"{instrument},null_verb,null_target" for instrument in INSTRUMENTS],
    "instrument": INSTRUMENTS,
    "verb": "grasp retract dissect coagulate clip cut aspirate irrigate pack null_verb".split(),
    "target": """
        gallbladder cystic_plate cystic_duct cystic_artery cystic_pedicle blood_vessel fluid
        abdominal_wall_cavity liver adhesion omentum peritoneum gut specimen_bag null_target
    """.split(),
    "phase": """
        preparation carlot-triangle-dissection clipping-and-cutting gallbladder-dissection
        gallbladder-packaging cleaning-and-coagulation gallbladder-extraction
    """.split(),
}

ABOUT = About(
    dataset="cholect50",
    domain="laparoscopy",
    procedure="cholecystectomy",
    anatomy="gallbladder",
    licence="CC-BY-NC-SA-4.0",
    access="request form of CAMMA",
    layout="verified",
    evidence="README-Format of CAMMA-public/cholect50",
    tasks={
        task: {"kind": "one_of_n" if task == "phase" else "multi_label", "classes": classes}
        for task, classes in CLASSES.items()
    },
)


def recognises(root: Path) -> bool:
    return any(root.glob("labels/VID*.json")) and any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Folders of frames. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    expected = "videos/VID01/000000.png beside labels/VID01.json"
    files = {"label": lambda video_id: _file(root, video_id)}
    return recordings.assemble(
        ABOUT, root, found, overrides, expected=expected, frames_fps=FPS, label_files=files
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """What is done, and the phase, of every stored frame that the label file names."""
    path = _file(root, video.video_id)
    rows = _read(path) if path.exists() else {}
    number = label_files.file_numbers(video, times) if rows else None
    return {task: label_files.of_frames(of, times, number) for task, of in rows.items()}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _file(root, video.video_id)
    if not path.exists():
        return []
    return label_files.check_pictures(path, video, _read(path)["triplet"].frame.tolist())


@cached_by_file
def _read(path: Path) -> dict[str, Rows]:
    """Rows of each task. Raises UserError naming the frame."""
    annotations, names = label_files.read_json(
        path,
        lambda data: (
            {int(frame): list(vectors) for frame, vectors in data["annotations"].items()},
            {task: dict(data["categories"][task]) for task in SLOTS},
        ),
        "JSON with annotations and categories as CholecT50 has them",
    )
    frame = np.array(sorted(annotations), np.int64)
    values = {task: np.zeros((len(frame), len(of)), np.float32) for task, of in CLASSES.items()}
    for row, number in enumerate(frame.tolist()):
        where = f"{label_files.named(path)}, frame {number}"
        for vector in annotations[number]:
            if not isinstance(vector, list) or len(vector) != VECTOR:
                raise UserError(f"{where}: {vector}; expected a vector of {VECTOR} numbers")
            for task, slot in SLOTS.items():
                if vector[slot] != -1:
                    word = str(names[task].get(str(vector[slot]), vector[slot]))
                    column = label_files.class_number(word, CLASSES[task], where, what=task)
                    values[task][row, column] = 1
        if values["phase"][row].sum() > 1:
            raise UserError(f"{where}: two phases; expected one")
    some = values["phase"].any(axis=1)
    phase = Rows(frame[some], label=values["phase"][some].argmax(1).astype(np.int32))
    return {task: Rows(frame, values=of) for task, of in values.items()} | {"phase": phase}


def _file(root: Path, video_id: str) -> Path:
    return root / "labels" / f"{video_id}.json"
