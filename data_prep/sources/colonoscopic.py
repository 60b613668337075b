"""The colonoscopy videos of Mesejo et al. (IEEE TMI 2016), also called Colonoscopic.

    Adenoma/adenoma_01/videos/NBI.mp4, WL.mp4    40 lesions, each in narrow-band and white light
    Hyperplasic/hyperplasic_01/...               21; also written hyperplastic
    Serrated/serrated_01/...                     15

The folder videos may be missing. Copies saved one after the other in one folder have other names,
taken to be numbers of the same lesions, as their counts suggest: Hyperplasic/NBI.mp4, NBI(1).mp4 to
NBI(20).mp4, Serrated/NBI(21).mp4 to NBI(35).mp4, Adenoma/NBI(36).mp4 to NBI(75).mp4, and so for WL.
A video has the name adenoma_NBI_01 here. The kind of lesion is the label of all its frames, and the
two videos of a lesion are one case. Opinions of doctors and camera calibrations are not read.
"""

import re
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

KINDS = {"adenoma": 36, "hyperplasic": 0, "serrated": 21}  # first number in a folder of copies
PLACES = ("*/*_*/videos/*.mp4", "*/*_*/*.mp4", "*/NBI*.mp4", "*/WL*.mp4")
KIND = "(?i:adenoma|hyperplast?ic|serrated)"
NAME = rf"(?P<id>{KIND}/(?:{KIND}_\d\d/(?:videos/)?(?:NBI|WL)|(?:NBI|WL) ?(?:\(\d+\))?))"

ABOUT = About(
    dataset="colonoscopic",
    domain="endoscopy",
    procedure="colonoscopy",
    anatomy="colon",
    licence="CC-BY-4.0",
    access="open, depeca.uah.es",
    layout="from-code",
    evidence="public programs that download it, SurgRec",
    tasks={"lesion": {"kind": "one_of_n", "classes": list(KINDS)}},
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of all lesions. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    paths = {}
    for path_name, path in found.paths.items():
        name = _name(path_name)
        if name in paths:
            found.warnings.append(f"{name} is there twice; {paths[name].relative_to(root)} is used")
        paths.setdefault(name, path)
    found.paths = paths
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="Adenoma/adenoma_01/videos/NBI.mp4",
        case=lambda video_id: re.sub("_(NBI|WL)_", "_", video_id),
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """The kind of lesion, for every stored frame."""
    kind = video.video_id.partition("_")[0]
    return {"lesion": label_files.of_video(times, label=list(KINDS).index(kind))}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []  # there are no label files


def _name(path: str) -> str:
    """`Adenoma/adenoma_01/videos/NBI` and `Adenoma/NBI(36)` are adenoma_NBI_01."""
    kind = path.partition("/")[0].lower().replace("stic", "sic")
    file = path.rpartition("/")[2]
    light, digits = re.match("NBI|WL", file)[0], re.findall(r"\d+", path)
    number = int(digits[0]) if digits else 0
    if "_" not in path:
        number += 1 - KINDS[kind]
    return f"{kind}_{light}_{number:02d}"
