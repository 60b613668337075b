"""M2CAI16-workflow as downloaded.

    train_dataset/workflow_video_NN.mp4, workflow_video_NN.txt               01 to 27, 25 frames/s
    test_dataset/test_workflow_video_NN.mp4, test_workflow_video_NN.txt      01 to 14

Label files are tab-separated, Frame and Phase, a row a video frame from 0; some end before their
video, and the frames after their end have no label. Files ending in _timestamp.txt and _pred.txt
are no labels.
"""

from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video, cholec80

FPS = 25
PLACES = ("train_dataset/workflow_video_*", "test_dataset/test_workflow_video_*")
NAME = r"(train_dataset/(?=w)|test_dataset/(?=t))(?P<id>(test_)?workflow_video_\d\d)"

ABOUT = About(
    dataset="m2cai16",
    domain="laparoscopy",
    procedure="cholecystectomy",
    anatomy="gallbladder",
    licence="CC-BY-NC-SA-4.0",
    access="request form of CAMMA",
    layout="from-code",
    evidence="SurgMotion, SurgVISTA",
    tasks={
        "phase": {
            "kind": "one_of_n",
            "classes": ["TrocarPlacement", *cholec80.ABOUT.tasks["phase"]["classes"]],
        }
    },
)
CLASSES = tuple(ABOUT.tasks["phase"]["classes"])


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the two folders. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="train_dataset/workflow_video_01.mp4 and test_dataset/test_workflow_video_01.mp4",
        label_files={"phase": lambda video_id: found.paths[video_id].with_suffix(".txt")},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase of every stored frame that has a row."""
    path = video.path.with_suffix(".txt")
    return {"phase": label_files.of_frames(_rows(path), times)} if path.exists() else {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = video.path.with_suffix(".txt")
    if not path.exists():
        return []
    rows = _rows(path)
    if (seconds := (frames - len(rows.frame)) / FPS) > 1:
        return [f"{path.relative_to(root)}: ends {seconds:.0f} s before its video"]
    return label_files.check_length(path, root, rows, frames, FPS)


def _rows(path: Path) -> label_files.Rows:
    return label_files.read_classes(path, CLASSES, ("Frame", "Phase"), what="phase")
