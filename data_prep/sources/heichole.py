"""HeiChole (EndoVis 2019, surgical workflow and skill), the 24 public videos as downloaded.

    Hei-Chole<n>.mp4                                         1 to 24, 25 or 50 frames a second; in
                                                             the root or in Videos/
    Annotations/Phase/Hei-Chole<n>_Annotation_Phase.csv      no header; frame and phase 0 to 6: one
                                                             row a video frame, from 0

Phases are those of Cholec80. The clips Hei-Chole<n>_Calot.mp4 and Hei-Chole<n>_Dissection.mp4 are
cut out of these operations for the rating of skill and are left out. Instruments, actions and
skill are not read, as nobody has confirmed what the columns of their files mean.
"""

from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video, cholec80
from data_prep.video import probe

PLACES = ("Videos/Hei-Chole*.*", "Hei-Chole*.*")
NAME = r"(?:Videos/)?(?P<id>Hei-Chole\d{1,2})"

ABOUT = About(
    dataset="heichole",
    domain="laparoscopy",
    procedure="cholecystectomy",
    anatomy="gallbladder",
    licence="NOASSERTION",
    access="registration for the challenge",
    layout="from-code",
    evidence="converters of other groups; phase files only",
    tasks={"phase": cholec80.ABOUT.tasks["phase"]},
)
CLASSES = tuple(ABOUT.tasks["phase"]["classes"])


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of whole operations. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="Hei-Chole1.mp4 or Videos/Hei-Chole1.mp4 beside Annotations/Phase/",
        label_files={"phase": lambda video_id: _file(root, video_id)},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase of every stored frame that has a row."""
    path = _file(root, video.video_id)
    return {"phase": label_files.of_frames(_rows(path), times)} if path.exists() else {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _file(root, video.video_id)
    if not path.exists():
        return []
    return label_files.check_length(path, root, _rows(path), frames, probe(video.path).fps)


def _rows(path: Path) -> label_files.Rows:
    return label_files.read_classes(path, CLASSES, first_class=0, what="phase")


def _file(root: Path, video_id: str) -> Path:
    return root / "Annotations" / "Phase" / f"{video_id}_Annotation_Phase.csv"
