"""SimSurgSkill 2021 (EndoVis) as downloaded: exercises on the simulator of a surgical robot.

    train_v1|train_v2|test/videos/fps30/caseid_000001.mp4     or, where it is missing,
    train_v1|train_v2|test/videos/fps1/caseid_000001_fps1.mp4
    train_v1|train_v2|test/annotations/bounding_box_gt/caseid_000001_fps1.json
        {"0": {"frame_id": 1.0, "objects": true, "obj_class": "needle", ...}, ...}, a box each

Boxes are those of the fps1 video, whose frames count from 1 and are taken as the first of each
second of the fps30 video; a tool is present where it has a box, and a frame without boxes has a row
with objects false. Boxes are not stored. skill_metric_gt.csv is not read: nobody published which of
its columns names the video. No case number says whether two parts show the same person.
"""

from pathlib import Path

import numpy as np

from data_prep import label_files, manifest, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

FOLDERS = {"train_v1": "train", "train_v2": "train", "test": "test"}  # -> part of the split
NAME = r"[^/]+/videos/[^/]+/(?P<id>caseid_\d+)(?:_fps?1)?"
TOOLS = ("needle driver", "needle")

SPLITS = "official, strict"

ABOUT = About(
    dataset="simsurgskill2021",
    domain="robotic",
    procedure="suturing on a simulator",
    anatomy="rendered",
    licence="NOASSERTION",
    access="open, Google Cloud; for research",
    layout="from-code",
    evidence="README of the dataset, public programs",
    tasks={"tool": {"kind": "multi_label", "classes": list(TOOLS)}},
)


def recognises(root: Path) -> bool:
    return any(_recordings(root).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the three parts. Raises UserError when there are none."""
    found = _recordings(root)
    if sheets := len(list(root.glob("*/annotations/skill_metric_gt.csv"))):
        found.warnings.append(f"{sheets} files skill_metric_gt.csv are there and not read")
    parts = {video_id: FOLDERS[video_id.split("/")[0]] for video_id in found.paths}
    both = {name: {"tier": "official"} for name in ("official", "strict")}
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="train_v1/videos/fps30/caseid_000001.mp4",
        splits=manifest.Manifest(frozenset(), dict.fromkeys(both, parts), both, {}),
        label_files={"box": lambda video_id: _boxes(root, video_id)},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Tools with a box, for the stored frames that are the first of their second."""
    path = _boxes(root, video.video_id)
    if not path.exists():
        return {}
    second = np.rint(times.t_ms / 1000).astype(np.int64)
    first = abs(times.t_ms - 1000 * second) <= 500 / times.native_fps
    return {"tool": label_files.of_frames(_rows(path), times, np.where(first, second, -1))}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _boxes(root, video.video_id)
    if not path.exists():
        return []
    seconds = frames / (1 if video.path.parent.name == "fps1" else 30)
    if (last := _rows(path).frame.max(initial=-1)) > seconds + 1:
        raise UserError(
            f"{path.relative_to(root)}: boxes of frame {last + 1}, but {video.path.name} has "
            f"{seconds:.0f} seconds; get both of the same release, or remove one of them"
        )
    return []


def _recordings(root: Path) -> recordings.Recordings:
    """Videos by part and case: the fps30 video, else the fps1 video."""
    found = recordings.Recordings()
    for part in FOLDERS:
        for rate in ("fps1", "fps30"):  # the second replaces the first
            some = recordings.search(root, [f"{part}/videos/{rate}/*.*"], NAME)
            found.paths |= {f"{part}/{case}": path for case, path in some.paths.items()}
            found.refused += some.refused
    return found


def _boxes(root: Path, video_id: str) -> Path:
    part, case = video_id.split("/")
    folder = root / part / "annotations" / "bounding_box_gt"
    paths = [folder / f"{case}{end}.json" for end in ("_fps1", "_fp1", "")]
    return next((path for path in paths if path.exists()), paths[0])


@cached_by_file
def _rows(path: Path) -> label_files.Rows:
    """Tools present in each annotated frame, counted from 0. Raises UserError naming the box."""
    boxes = label_files.read_json(
        path,
        lambda data: [
            (key, float(box["frame_id"]), box["objects"], str(box["obj_class"]))
            for key, box in data.items()
        ],
        "JSON of boxes that have frame_id, objects and obj_class",
    )
    present: dict[int, np.ndarray] = {}
    for key, frame, objects, name in boxes:
        at = f"{label_files.named(path)}, box {key}"
        if frame < 1 or frame % 1:
            raise UserError(f"{at}: frame_id is {frame:g}; expected a whole number from 1 on")
        values = present.setdefault(int(frame) - 1, np.zeros(len(TOOLS), np.float32))
        if objects:
            values[label_files.class_number(name, TOOLS, at, what="obj_class")] = 1
    frames = sorted(present)
    values = np.array([present[frame] for frame in frames]).reshape(-1, len(TOOLS))
    return label_files.Rows(np.array(frames, np.int64), values=values.astype(np.float32))
