"""Cholec80 as downloaded, and the same layout with other class names (synthetic.py).

    videos/videoNN.mp4                      25 frames a second; or 1-fps frames in frames/videoNN/
    phase_annotations/videoNN-phase.txt     Frame, Phase: one row a video frame, from 0
    tool_annotations/videoNN-tool.txt       Frame and one 0/1 column an instrument: every 25th frame

A row's number is the number of the video frame, so a stored frame finds its row by its own frame
number and nothing is interpolated. Classes go by name; their order is that of the literature.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from data_prep.sources import Found, LabelTable, Refused, Times, Video, cached_by_file
from data_prep.video import VIDEO_SUFFIXES, suffix
from surgjax.errors import UserError, nearest

LABEL_FPS = 25
TOOL_STEP = 25  # video frames from one row of a tool file to the next
SPLITS = Path(__file__).resolve().parent.parent / "splits"


@dataclass(frozen=True)
class Layout:
    """What differs between data sets that share these files."""

    dataset: str
    phases: tuple[str, ...]
    instruments: tuple[str, ...]
    domain: str
    procedure: str
    anatomy: str
    licence: str


LAYOUT = Layout(
    dataset="cholec80",
    phases=(
        "Preparation",
        "CalotTriangleDissection",
        "ClippingCutting",
        "GallbladderDissection",
        "GallbladderPackaging",
        "CleaningCoagulation",
        "GallbladderRetraction",
    ),
    instruments=("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag"),
    domain="laparoscopy",
    procedure="cholecystectomy",
    anatomy="gallbladder",
    licence="CC-BY-NC-SA-4.0",
)


def recognises(root: Path) -> bool:
    return recognises_layout(root, LAYOUT)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the official layout. Raises UserError when there are none."""
    manifest = read_manifest("cholec80")
    found = find_layout(root, LAYOUT, manifest["splits"], overrides)
    missing = sorted(manifest["videos"] - {video.video_id for video in found.videos})
    if missing:
        found.warnings.append(
            f"{len(missing)} of {len(manifest['videos'])} official videos are missing: "
            f"{_some(missing)}"
        )
    found.split_tiers.update(manifest["tiers"])
    return found


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    return read_labels(root, LAYOUT, video, times)


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return check_files(root, LAYOUT, video, frames)


def recognises_layout(root: Path, layout: Layout) -> bool:
    """Whether `root` has phase files, and the first of them this layout's class names."""
    first = next(iter(sorted((root / "phase_annotations").glob("video*-phase.txt"))), None)
    if first is None:
        return False
    with first.open(encoding="utf-8-sig", errors="replace") as file:
        row = (file.readline(), file.readline())[1].split()
    return len(row) == 2 and row[1] in layout.phases and _own(root, layout)


def _own(root: Path, layout: Layout) -> bool:
    # Both layouts have a phase "Preparation"; the instruments' header tells them apart.
    first = next(iter(sorted((root / "tool_annotations").glob("video*-tool.txt"))), None)
    if first is None:
        return True
    with first.open(encoding="utf-8-sig", errors="replace") as file:
        return set(file.readline().split()[1:]) == set(layout.instruments)


def read_manifest(dataset: str) -> dict:
    """splits/<dataset>.yaml: {videos: ids, splits: {name: {id: part}}, tiers: {name: tier}}."""
    data = yaml.safe_load((SPLITS / f"{dataset}.yaml").read_text(encoding="utf-8"))
    splits = {
        name: {
            video: part for part in ("train", "val", "test") for video in _ids(split.get(part, ""))
        }
        for name, split in data["splits"].items()
    }
    tiers = {name: split["source_tier"] for name, split in data["splits"].items()}
    return {"videos": set(_ids(data["videos"])), "splits": splits, "tiers": tiers}


def _ids(ranges: str) -> list[str]:
    ends = [[int(x) for x in part.split("-")] for part in ranges.split()]
    return [f"video{n:02d}" for end in ends for n in range(end[0], end[-1] + 1)]


def find_layout(
    root: Path, layout: Layout, splits: dict[str, dict], overrides: dict[str, str]
) -> Found:
    """Videos (files first, then folders of 1-fps frames) with their splits and missing labels."""
    paths: dict[str, Path] = {}
    refused, warnings = [], []
    top = root.resolve()
    for folder in ("videos", "frames", "."):
        for path in sorted((root / folder).glob("video*")) if (root / folder).is_dir() else []:
            name = path.name if path.is_dir() else path.stem
            if not re.fullmatch(r"video\d{2,3}", name):
                continue
            if not path.is_dir() and suffix(path.name) not in VIDEO_SUFFIXES:
                continue
            if not path.resolve().is_relative_to(top):
                detail = "a link that leaves the folder"
                refused.append(Refused(name, str(path.relative_to(root)), "refused", detail))
            elif name in paths:
                warnings.append(f"{name} is there twice; {paths[name].relative_to(root)} is used")
            else:
                paths[name] = path
    if not paths and not refused:
        raise UserError(
            f"no {layout.dataset} videos in {root}: expected videos/video01.mp4 or "
            f"frames/video01/*.jpg; check --root, the folder that holds videos/ and "
            f"phase_annotations/"
        )
    about = {key: getattr(layout, key) for key in ("domain", "procedure", "anatomy", "licence")}
    about.update({key: value for key, value in overrides.items() if key in about})
    videos = [
        Video(
            name,
            path,
            dataset=layout.dataset,
            case=f"{layout.dataset}/{name}",
            splits={split: parts[name] for split, parts in splits.items() if name in parts},
            frames_fps=1.0 if path.is_dir() else None,
            **about,
        )
        for name, path in sorted(paths.items())
    ]
    for kind, file in (("phase", _phase_file), ("tool", _tool_file)):
        without = [video.video_id for video in videos if not file(root, video).exists()]
        if without:
            warnings.append(
                f"{len(without)} of {len(videos)} videos have no {kind} file: {_some(without)}"
            )
    tasks = {
        "phase": {"kind": "one_of_n", "classes": list(layout.phases)},
        "instrument": {"kind": "multi_label", "classes": list(layout.instruments)},
    }
    return Found(videos, refused, tasks, "verified", {}, warnings)


def read_labels(root: Path, layout: Layout, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase of every stored frame that has a row; instruments of those whose very frame has one."""
    row = _label_row(video, times.index)
    tables = {}
    if _phase_file(root, video).exists():
        phase = _read_phases(_phase_file(root, video), layout)
        some = row < len(phase)
        tables["phase"] = LabelTable(times.t_ms[some], label=phase[row[some]])
    if _tool_file(root, video).exists():
        tools = _read_tools(_tool_file(root, video), layout)
        some = (row % TOOL_STEP == 0) & (row // TOOL_STEP < len(tools))
        tables["instrument"] = LabelTable(times.t_ms[some], values=tools[row[some] // TOOL_STEP])
    return tables


def check_files(root: Path, layout: Layout, video: Video, frames: float) -> list[str]:
    """Warnings about label files up to a second shorter or longer than `frames` of the recording.

    Raises:
      UserError: more than a second, or a row that cannot be read; names the file and the row.
    """
    per_frame = 1 if video.frames_fps is None else LABEL_FPS / video.frames_fps
    last = round(frames * per_frame)  # one past the last label row the recording can have
    first = last - round(per_frame) + 1  # a folder of frames ends somewhere within its last second
    warnings = []
    for file, read, step in ((_phase_file, _read_phases, 1), (_tool_file, _read_tools, TOOL_STEP)):
        path = file(root, video)
        if not path.exists():
            continue
        rows = len(read(path, layout))
        least, most = -(-first // step), -(-last // step)
        odd = min(0, rows - least) or max(0, rows - most)
        if abs(odd) * step > LABEL_FPS:
            row = min(rows, most)
            word = "missing" if odd < 0 else "past the end"
            raise UserError(
                f"{path.relative_to(root)}: {rows} rows, but the recording of {frames:.0f} frames "
                f"needs {most}; row {row} (line {row + 2}) is the first {word}. Up to a second is "
                f"tolerated; get label file and video of the same release, or remove one of them"
            )
        if odd:
            word = "short" if odd < 0 else "long"
            warnings.append(
                f"{path.relative_to(root)}: {abs(odd)} rows too {word} ({rows} of {most})"
            )
    return warnings


def _label_row(video: Video, index: np.ndarray) -> np.ndarray:
    return (
        index
        if video.frames_fps is None
        else np.round(index * LABEL_FPS / video.frames_fps).astype(np.int64)
    )


def _phase_file(root: Path, video: Video) -> Path:
    return root / "phase_annotations" / f"{video.video_id}-phase.txt"


def _tool_file(root: Path, video: Video) -> Path:
    return root / "tool_annotations" / f"{video.video_id}-tool.txt"


@cached_by_file
def _read_phases(path: Path, layout: Layout) -> np.ndarray:
    """(rows,) int32 class of each video frame."""
    number = {name: i for i, name in enumerate(layout.phases)}
    header, rows = _read_table(path)
    if header != ["Frame", "Phase"]:
        raise UserError(
            f"{_where(path, 1)}: header is {header}; expected Frame and Phase, tab-separated"
        )
    classes = np.empty(len(rows), np.int32)
    for i, row in enumerate(rows):
        if len(row) != 2 or row[0] != str(i):
            raise UserError(f"{_where(path, i + 2)}: {row}; expected frame {i} and one phase")
        if row[1] not in number:
            raise UserError(
                f"{_where(path, i + 2)}: unknown phase {row[1]!r}{nearest(row[1], number)}; "
                f"known: {', '.join(number)}"
            )
        classes[i] = number[row[1]]
    return classes


@cached_by_file
def _read_tools(path: Path, layout: Layout) -> np.ndarray:
    """(rows, instruments) float32 presence at every 25th video frame, in the layout's order."""
    header, rows = _read_table(path)
    for name in header[1:]:
        if name not in layout.instruments:
            raise UserError(
                f"{_where(path, 1)}: unknown instrument {name!r}"
                f"{nearest(name, layout.instruments)}; known: {', '.join(layout.instruments)}"
            )
    if header[:1] != ["Frame"] or sorted(header[1:]) != sorted(layout.instruments):
        raise UserError(
            f"{_where(path, 1)}: header is {header}; "
            f"expected Frame, {', '.join(layout.instruments)}"
        )
    columns = [header.index(name) for name in layout.instruments]
    values = np.empty((len(rows), len(columns)), np.float32)
    for i, row in enumerate(rows):
        if (
            len(row) != len(header)
            or row[0] != str(i * TOOL_STEP)
            or not set(row[1:]) <= {"0", "1"}
        ):
            raise UserError(
                f"{_where(path, i + 2)}: {row}; "
                f"expected frame {i * TOOL_STEP} and {len(columns)} values 0 or 1"
            )
        values[i] = [row[column] == "1" for column in columns]
    return values


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: not UTF-8 text; expected tab-separated labels") from error
    header, *rows = [line.split() for line in lines] or [[]]
    return header, rows


def _where(path: Path, line: int) -> str:
    return f"{path.parent.name}/{path.name}, line {line}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
