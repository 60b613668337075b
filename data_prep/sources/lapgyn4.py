"""LapGyn4 (v1.2) as downloaded: still pictures of gynecologic laparoscopy.

    Surgical_Actions/Suturing/c_286_v_70367_f_5502.jpg    case, clip and frame; 8 folders
    Anatomical_Structures/Uterus/c_1_v_1132_f_2.jpg       5 folders
    Actions_on_Anatomy/Suturing_Ovary/c_4_v_55_f_2203.jpg 4 folders
    Instrument_Count/{0,1,2,3}/31.jpg                     not stored

A folder holds the pictures of many clips, one a second; those of one clip are one video here, and
the folder is the label of all its pictures. Clips with a single picture are left out. The pictures
of Instrument_Count are shuffled and partly those of Cholec80, and nothing tells which. The clips
that SurgRec calls LapGyn4 are another dataset: lapgyn6_events.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

FOLDERS = {  # -> task and its folders
    "Surgical_Actions": (
        "action",
        "Coagulation Cutting_Cold Cutting_HF Dissection_Blunt Injection Sling_Hysterectomy "
        "Suction_Irrigation Suturing".split(),
    ),
    "Anatomical_Structures": ("anatomy", "Colon Liver Ovary Oviduct Uterus".split()),
    "Actions_on_Anatomy": (
        "action_on_anatomy",
        "Suturing_Other Suturing_Ovary Suturing_Uterus Suturing_Vagina".split(),
    ),
}
PICTURE = re.compile(r"(?P<clip>(?P<case>c_\d+)_v_\d+)_f_\d+\.jpg")
FPS = 1

ABOUT = About(
    dataset="lapgyn4",
    domain="laparoscopy",
    procedure="gynecologic laparoscopy",
    anatomy="female pelvis",
    licence="CC-BY-NC-4.0",
    access="open, ITEC Klagenfurt",
    layout="from-code",
    evidence="programs of EndoViT and others that quote its readme",
    tasks={task: {"kind": "one_of_n", "classes": names} for task, names in FOLDERS.values()},
)


def recognises(root: Path) -> bool:
    return any(_recordings(root).paths)


def find(root: Path, **overrides: str) -> Found:
    """The clips of each folder. Raises UserError when there are none."""
    found = _recordings(root)
    strata: dict[str, set[str]] = {}
    for name in found.paths:
        strata.setdefault(_case(name), set()).add(name.rpartition("/")[0])
    result = recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="Surgical_Actions/Suturing/c_1_v_113587_f_13.jpg",
        case=_case,
        frames_fps=FPS,
        strata={case: tuple(sorted(folders)) for case, folders in strata.items()},
    )
    videos = [
        replace(video, frames_pattern=re.escape(f"{video.video_id.rpartition('/')[2]}_f_"))
        for video in result.videos
    ]
    return replace(result, videos=videos)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """The class of the clip's folder, for every stored picture."""
    top, folder, _ = video.video_id.split("/")
    task, names = FOLDERS[top]
    return {task: label_files.of_video(times, label=names.index(folder))}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []  # there are no label files


def _recordings(root: Path) -> recordings.Recordings:
    """Every clip with the folder that it shares with others."""
    places = [f"{top}/{folder}" for top, (_, names) in FOLDERS.items() for folder in names]
    folders = recordings.search(root, places, "(?P<id>.+)")
    found, single = recordings.Recordings(refused=folders.refused), 0
    for name, folder in folders.paths.items():
        matches = map(PICTURE.fullmatch, (file.name for file in folder.iterdir()))
        counts = Counter(match["clip"] for match in matches if match)
        single += sum(count == 1 for count in counts.values())
        found.paths |= {f"{name}/{clip}": folder for clip, count in counts.items() if count > 1}
    if single:
        found.warnings.append(f"{single} clips with a single picture are left out")
    if count := sum(1 for _ in root.glob("Instrument_Count/*/*.jpg")):
        found.warnings.append(f"{count} pictures of Instrument_Count are not stored")
    return found


def _case(video_id: str) -> str:
    return video_id.rpartition("/")[2].split("_v_")[0]
