"""The labelled videos of HyperKvasir as downloaded.

    labeled-videos/<tract>/<group>/<finding>/<name>.avi    370 avi and 3 mpg; 20, 25 and 30 frames/s
    labeled-videos/video-labels.csv                        the videos there are, in its first column
    labeled-images/<tract>/<group>/<finding>/<name>.jpg    pictures, not stored

tract is lower-gi-tract or upper-gi-tract. The folder is the label of the whole video; its class is
written lower-polyps or upper-polyps, for both tracts have polyps. The classes are the folders that
are there, so a store of a part of the download has fewer. Names are uuids, <uuid>_<n> being a clip
of the video <uuid>. There is no official split of the videos.
"""

import re
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

PLACES = ("labeled-videos/*/*/*/*.*",)
NAME = r"labeled-videos/(?:lower|upper)-gi-tract/[^/]+/[^/]+/(?P<id>[^/]+)"
CLIP = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_\d+")

SPLITS = "strict (7:2:1)"

ABOUT = About(
    dataset="hyperkvasir",
    domain="endoscopy",
    procedure="gastroscopy and colonoscopy",
    anatomy="gastrointestinal tract",
    licence="CC-BY-4.0",
    access="open, OSF",
    layout="from-code",
    evidence="public programs; the class names of SurgRec's list",
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of all findings. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    found.warnings.extend(_missing(root, found) + _pictures(root))
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="labeled-videos/lower-gi-tract/pathological-findings/polyps/<uuid>.avi",
        case=_case,
        tasks={"finding": {"kind": "one_of_n", "classes": _classes(root)}},
        strata={_case(name): _class(path.parent) for name, path in found.paths.items()},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """The finding of the video, for every stored frame."""
    number = _classes(root).index(_class(video.path.parent))
    return {"finding": label_files.of_video(times, label=number)}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []  # there are no label files


def _classes(root: Path) -> list[str]:
    folders = root.glob("labeled-videos/*-gi-tract/*/*")
    return sorted({_class(folder) for folder in folders if folder.is_dir()})


def _class(folder: Path) -> str:
    tract = folder.parents[1].name.removesuffix("-gi-tract")
    return f"{tract}-{folder.name}"


def _case(video_id: str) -> str:
    return CLIP.sub(r"\1", video_id)


def _missing(root: Path, found: recordings.Recordings) -> list[str]:
    path = root / "labeled-videos" / "video-labels.csv"
    if not path.is_file():
        return []
    # Later columns are free text, whose encoding and delimiter do not matter here.
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()[1:]
    listed = {re.split("[,;]", line)[0].strip() for line in lines} - {""}
    here = {name for video_id in found.paths for name in (video_id, _case(video_id))}
    if not (missing := sorted(listed - here)):
        return []
    text = recordings.some(missing)
    return [f"{len(missing)} of {len(listed)} videos of {path.name} are missing: {text}"]


def _pictures(root: Path) -> list[str]:
    count = sum(1 for _ in root.glob("labeled-images/*/*/*/*.jpg"))
    if count == 0:
        return []
    return [f"{count} pictures of labeled-images are not stored; only videos are"]
