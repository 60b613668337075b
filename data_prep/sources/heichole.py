"""HeiChole (EndoVis 2019, surgical workflow and skill), the 24 public videos as downloaded.

    Videos/Full/Hei-Chole<n>.mp4                             1 to 24, 25 or 50 frames a second; or
                                                             in Videos/ or the root
    Annotations/Phase/Hei-Chole<n>_Annotation_Phase.csv            frame and phase 0 to 6
    Annotations/Instrument/Hei-Chole<n>_Annotation_Instrument.csv  frame and 21 columns 0 or 1
    Annotations/Action/Hei-Chole<n>_Annotation_Action.csv          frame, grasp, hold, cut, clip
    Annotations/Skill/Hei-Chole<n>_Skill.csv                       five scores of 1 to 5

No file has a header. The first three have a row a video frame, from 0; phases are those of
Cholec80. The columns of instruments are seven categories, 13 without use, and shafts that belong to
no known instrument, which are not read. Skill is that of a whole video. In some copies the names of
label files are in small letters.

Not read: the _Detailed files (types of instruments, actions of each hand), and the clips
Hei-Chole<n>_Calot.mp4 and Hei-Chole<n>_Dissection.mp4 with a rating of their own, which are cut out
of these videos.
"""

from dataclasses import replace
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.guarded import header_of
from data_prep.label_files import Rows
from data_prep.sources import About, Found, LabelTable, Times, Video, cholec80
from surgjax.errors import UserError

PLACES = ("Videos/Full/Hei-Chole*.*", "Videos/Hei-Chole*.*", "Hei-Chole*.*")
NAME = r"(?:Videos/(?:Full/)?)?(?P<id>Hei-Chole\d{1,2})"
INSTRUMENTS = "grasper clipper coagulation scissors suction_irrigation specimen_bag stapler".split()
UNUSED = [f"unused_{number}" for number in range(7, 20)]
COLUMNS = (*INSTRUMENTS, *UNUSED, "undefined_shaft")
ACTIONS = ("grasp", "hold", "cut", "clip")
SKILL = "depth_perception bimanual_dexterity efficiency tissue_handling case_difficulty".split()

ABOUT = About(
    dataset="heichole",
    domain="laparoscopy",
    procedure="cholecystectomy",
    anatomy="gallbladder",
    licence="NOASSERTION",
    access="registration for the challenge",
    layout="from-code",
    evidence="programs of other groups, and one's account of its download",
    tasks={
        "phase": cholec80.ABOUT.tasks["phase"],
        "instrument": {"kind": "multi_label", "classes": INSTRUMENTS},
        "action": {"kind": "multi_label", "classes": list(ACTIONS)},
        "skill": {"kind": "score", "classes": SKILL},
    },
)
PHASES = tuple(ABOUT.tasks["phase"]["classes"])


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of whole operations. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="Videos/Full/Hei-Chole1.mp4 or Hei-Chole1.mp4 beside Annotations/Phase/",
        label_files={
            task: lambda video_id, task=task: _file(root, task, video_id) for task in ABOUT.tasks
        },
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase, instruments and actions of the stored frames with a row; the skill for all frames."""
    tables = {
        task: label_files.of_frames(rows, times) for task, _, rows in _tables(root, video.video_id)
    }
    if (path := _file(root, "skill", video.video_id)).exists():
        tables["skill"] = label_files.of_video(times, values=_skill(path))
    return tables


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    if (path := _file(root, "skill", video.video_id)).exists():
        _skill(path)
    fps = header_of(video).fps
    return label_files.check_lengths(_tables(root, video.video_id), root, frames, fps)


def _tables(root: Path, video_id: str) -> list[tuple[str, Path, Rows]]:
    """Task, file and rows of the tables that are there."""
    files = {task: _file(root, task, video_id) for task in ("phase", "instrument", "action")}
    return [(task, path, _rows(task, path)) for task, path in files.items() if path.exists()]


def _rows(task: str, path: Path) -> Rows:
    if task == "phase":
        return label_files.read_classes(path, PHASES, first_class=0, what="phase")
    if task == "action":
        return label_files.read_presence(path, ACTIONS)
    rows = label_files.read_presence(path, COLUMNS)
    used = len(INSTRUMENTS)
    if rows.values[:, used:-1].any():
        raise UserError(
            f"{label_files.named(path)}: other columns than the first {used} and the last have a "
            f"1; expected the file of categories, not the one of types (_Detailed)"
        )
    return replace(rows, values=rows.values[:, :used])


def _skill(path: Path) -> list[int]:
    rows = label_files.read_table(path, header=False)
    if len(rows) != 1 or len(rows[0]) != len(SKILL) or not set(rows[0]) <= set("12345"):
        raise UserError(
            f"{label_files.where(path, 1)}: {rows[:2]}; expected one line of {len(SKILL)} scores "
            f"of 1 to 5"
        )
    return [int(score) for score in rows[0]]


def _file(root: Path, task: str, video_id: str) -> Path:
    kind = task.title()
    name = f"{video_id}_Skill.csv" if task == "skill" else f"{video_id}_Annotation_{kind}.csv"
    path = root / "Annotations" / kind / name
    small = path.with_name(name.lower())
    return path if path.exists() or not small.exists() else small
