"""LapGyn6-Events as downloaded: clips of four events, which SurgRec calls LapGyn4.

    AbdominalAccess/Train/AbdominalAccess/case_102_AbdominalAccess_0.mp4    the event
    AbdominalAccess/Train/Rest/case_586_irrelevant_14.mp4                   anything else
    AbdominalAccess/Test/...
    Bleeding/..., NeedlePassing/..., Coag-Transection/Train/{Transection,Rest}/...

Each top folder is a task of two classes, with about as many clips of the rest; a clip is
labelled for its own task alone. SurgRec makes one task of the four top folders instead, where the
rest has the class of its event. Clips of seven cases are in Train and in Test, two of them within
Bleeding: in `strict`, a case with any clip in a folder Test is tested.
"""

from pathlib import Path

from data_prep import label_files, manifest, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

FOLDERS = {  # top folder -> task, folder of the event
    "AbdominalAccess": ("abdominal_access", "AbdominalAccess"),
    "Bleeding": ("bleeding", "Bleeding"),
    "Coag-Transection": ("coagulation_transection", "Transection"),
    "NeedlePassing": ("needle_passing", "NeedlePassing"),
}
REST = "Rest"
PLACES = tuple(
    f"{top}/{part}/{folder}/case_*.*"
    for top, (_, event) in FOLDERS.items()
    for part in ("Train", "Test")
    for folder in (event, REST)
)
NAME = r"(?P<id>[^/]+/(?:Train|Test)/[^/]+/case_\d+_.+)"

SPLITS = "official, surgrec_release, strict"

ABOUT = About(
    dataset="lapgyn6_events",
    domain="laparoscopy",
    procedure="gynecologic laparoscopy",
    anatomy="female pelvis",
    licence="NOASSERTION",
    access="open, ITEC Klagenfurt",
    layout="from-code",
    evidence="file lists of SurgRec",
    tasks={task: {"kind": "one_of_n", "classes": ["rest", task]} for task, _ in FOLDERS.values()},
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Clips of the four folders. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="Bleeding/Train/Bleeding/case_326_Bleeding_12.mp4",
        case=_case,
        splits=_splits(sorted(found.paths)),
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Event or rest, of the task whose folder the clip is in, for every stored frame."""
    top, _, folder, _ = video.video_id.split("/")
    return {FOLDERS[top][0]: label_files.of_video(times, label=int(folder != REST))}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []  # there are no label files


def _case(video_id: str) -> str:
    return "_".join(video_id.rpartition("/")[2].split("_")[:2])


def _splits(video_ids: list[str]) -> manifest.Manifest:
    """Folders Train and Test by clip, as published and as SurgRec took them, and by case."""
    folders = {video_id: video_id.split("/")[1].lower() for video_id in video_ids}
    tested = {_case(video_id) for video_id, part in folders.items() if part == "test"}
    strict = {case: "test" if case in tested else "train" for case in map(_case, video_ids)}
    about = {
        "official": {"tier": "official", "leaky": True},
        "surgrec_release": {"tier": "paper-release", "val_is_test": True, "leaky": True},
        "strict": {"tier": "ours"},
    }
    splits = {"official": folders, "surgrec_release": folders, "strict": strict}
    return manifest.Manifest(frozenset(), splits, about, {})
