"""CATARACTS with the steps of its 2020 challenge, as downloaded.

    videos/micro/trainNN.mp4, testNN.mp4                      01 to 25 each, about 29.2 frames/s
    ground_truth/CATARACTS_2020/train_gt/trainNN.csv          Frame, Steps: a row a video frame
    ground_truth/CATARACTS_2020/{dev_gt,test_gt}/testNN.csv

Frames count from 1, steps from 0. Not read: the videos of the tray (videos/tray) and the tables of
instruments of 2017 and 2018, whose columns nobody here has seen.
"""

from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

FPS = 30  # rounded; a row is found by its frame number alone
PLACES = ("videos/micro/*.mp4",)
NAME = r"videos/micro/(?P<id>(?:train|test)\d\d)"
TABLES = "ground_truth/CATARACTS_2020"

ABOUT = About(
    dataset="cataracts",
    domain="cataract",
    procedure="cataract surgery",
    anatomy="eye",
    licence="NOASSERTION",
    access="open, IEEE DataPort account",
    layout="from-code",
    evidence="SurgVISTA, SurgMotion",
    tasks={
        "step": {
            "kind": "one_of_n",
            "classes": [
                "Idle",
                "Toric Marking",
                "Implant Ejection",
                "Incision",
                "Viscodilatation",
                "Capsulorhexis",
                "Hydrodissection",
                "Nucleus Breaking",
                "Phacoemulsification",
                "Vitrectomy",
                "Irrigation/Aspiration",
                "Preparing Implant",
                "Manual Aspiration",
                "Implantation",
                "Positioning",
                "OVD Aspiration",
                "Suturing",
                "Sealing Control",
                "Wound Hydration",
            ],
        }
    },
)
CLASSES = tuple(ABOUT.tasks["step"]["classes"])


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the microscope. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected=f"videos/micro/train01.mp4 and {TABLES}/train_gt/train01.csv",
        label_files={"step": lambda video_id: _file(root, video_id)},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Step of every stored frame that has a row."""
    path = _file(root, video.video_id)
    return {"step": label_files.of_frames(_rows(path), times)} if path.exists() else {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _file(root, video.video_id)
    if not path.exists():
        return []
    return label_files.check_length(path, root, _rows(path), frames, FPS)


def _rows(path: Path) -> label_files.Rows:
    return label_files.read_classes(
        path, CLASSES, ("Frame", "Steps"), first_frame=1, first_class=0, what="step"
    )


def _file(root: Path, video_id: str) -> Path:
    """The table of a video; where there is none, the place of one that is missing."""
    places = [
        root / TABLES / part / f"{video_id}.csv" for part in ("train_gt", "dev_gt", "test_gt")
    ]
    return next((path for path in places if path.exists()), places[-1])
