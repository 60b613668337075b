"""CholecT50: a video of each part, a missing picture, frames without an action or a vector."""

from pathlib import Path

from data_prep.sources.cholect50 import CLASSES
from layouts import images, save_json

FPS = 1
NONE = [-1] * 14
LABELS = {
    ("VID01", "triplet", 0): set(),  # a vector that only tells the phase
    ("VID01", "phase", 0): "preparation",
    ("VID01", "triplet", 1000): {"grasper,retract,gallbladder", "hook,dissect,gallbladder"},
    ("VID01", "instrument", 1000): {"grasper", "hook"},
    ("VID01", "verb", 1000): {"retract", "dissect"},
    ("VID01", "target", 1000): {"gallbladder"},
    ("VID01", "phase", 1000): "carlot-triangle-dissection",
    ("VID01", "triplet", 2000): set(),  # no vector at all
    ("VID01", "phase", 2000): None,
    ("VID01", "triplet", 3000): None,  # 000003.png is missing
    ("VID01", "triplet", 4000): {"irrigator,null_verb,null_target"},
    ("VID05", "phase", 2000): "gallbladder-extraction",
    ("VID103", "instrument", 0): {"clipper"},
    ("VID10", "instrument", 0): {"irrigator"},
}


def make(root: Path) -> None:
    frames = {
        "VID01": {
            0: [[*NONE, 0]],
            1: [vector(17, 0, 1, 0, phase=1), vector(60, 2, 2, 0, phase=1)],
            2: [],
            3: [vector(60, 2, 2, 0, phase=1)],
            4: [vector(99, 5, 9, 14, phase=1)],
        },
        "VID05": {i: [[*NONE, 6]] for i in range(3)},
        "VID10": {i: [vector(82, 5, 6, 6, phase=3)] for i in range(3)},
        "VID103": {i: [vector(79, 4, 4, 2, phase=2)] for i in range(3)},
    }
    for video_id, annotations in frames.items():
        numbers = [frame for frame in annotations if (video_id, frame) != ("VID01", 3)]
        images(root / "videos" / video_id, [f"{number:06d}.png" for number in numbers])
        write(root, video_id, annotations)


def vector(triplet: int, instrument: int, verb: int, target: int, phase: int) -> list[float]:
    """An action, with the box of its instrument."""
    box = [1.0, 0.25, 0.5, 0.1, 0.2]
    return [triplet, instrument, *box, verb, target, *[-1] * 5, phase]


def write(root: Path, video_id: str, annotations: dict, categories: dict | None = None) -> Path:
    """A label file; keys as text and out of order, as JSON may have them."""
    names = {task: {str(i): name for i, name in enumerate(of)} for task, of in CLASSES.items()}
    data = {
        "video": int(video_id[3:]),
        "fps": 1,
        "num_frames": len(annotations),
        "categories": names | (categories or {}),
        "annotations": {str(frame): annotations[frame] for frame in sorted(annotations, key=str)},
    }
    return save_json(root / "labels" / f"{video_id}.json", data)
