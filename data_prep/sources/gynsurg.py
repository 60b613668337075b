"""GynSurg's clips of three seconds as downloaded.

    GynSurg_action_dataset/{Coagulation,NeedlePassing,Rest,SuctionIrrigation,Transection}/*.mp4
    GynSurg_bleeding_dataset/{Non_bleeding,Bleeding}/*.mp4
    GynSurg_smoke_dataset/{Non_smoke,Smoke}/*.mp4

Names start with the case: case_458_Irigation_0:03:09.366667-0:03:12.86666730fps.mp4. A clip is
labelled for the task of its folder alone. Clips overlap by a second, and clips of the three folders
may show the same seconds; all of them are in the same part. The folder Smoke is assumed.
Segmentations and the longer clips of GynSurg_Action_Segments, which show the same operations, are
not read.
"""

from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

FOLDERS = {  # -> task and its folders
    "GynSurg_action_dataset": (
        "action",
        ("Coagulation", "NeedlePassing", "Rest", "SuctionIrrigation", "Transection"),
    ),
    "GynSurg_bleeding_dataset": ("bleeding", ("Non_bleeding", "Bleeding")),
    "GynSurg_smoke_dataset": ("smoke", ("Non_smoke", "Smoke")),
}
PLACES = tuple(f"{top}/{name}/*.*" for top, (_, names) in FOLDERS.items() for name in names)
NAME = r"(?P<id>[^/]+/[^/]+/case_\d+_.+)"

ABOUT = About(
    dataset="gynsurg",
    domain="laparoscopy",
    procedure="gynecologic laparoscopy",
    anatomy="female pelvis",
    licence="NOASSERTION",
    access="open, ITEC Klagenfurt",
    layout="from-code",
    evidence="public programs; names of cases as in GynSurg_Action_Segments",
    tasks={task: {"kind": "one_of_n", "classes": list(names)} for task, names in FOLDERS.values()},
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Clips of the three folders. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="GynSurg_action_dataset/Coagulation/case_1_Coagulation_....mp4",
        case=_case,
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """The class of the clip's folder, for every stored frame."""
    top, folder, _ = video.video_id.split("/")
    task, names = FOLDERS[top]
    return {task: label_files.of_video(times, label=names.index(folder))}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []  # there are no label files


def _case(video_id: str) -> str:
    return "_".join(video_id.rpartition("/")[2].split("_")[:2])
