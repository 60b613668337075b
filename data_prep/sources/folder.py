"""Your own videos: every video file and every folder of jpg, png or tif frames below a root.

Optional files beside them, in the root:

    labels.csv    video,start,end,label   seconds; a frame at t has the label when start <= t < end
                  video,t,label           seconds; the frame on screen at t has the label
                  and perhaps a column `task` (default "label"); `video` is the path below the root,
                  with or without its suffix
    splits.csv    video,split and perhaps case: the part of each labelled video, train, val or test;
                  videos of one patient name the same case and are in one part. Without it labelled
                  videos are divided 7:2:1
    captions.csv  video_id,start_ms,end_ms,level,text and more, see data_prep/captions.py
    clips.csv     video_id,start_ms,end_ms and perhaps label,weight
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from data_prep import manifest
from data_prep.media import PLAYLIST_SUFFIXES, VIDEO_SUFFIXES, suffix
from data_prep.sources import (
    PARTS,
    Found,
    LabelTable,
    Refused,
    Times,
    Video,
    cached_by_file,
    number,
    read_rows,
    read_splits,
)
from data_prep.video import IMAGE_SUFFIXES
from surgjax.errors import UserError, nearest
from surgjax.inside import is_printable, leads_out


def recognises(root: Path) -> bool:
    return True


def find(
    root: Path,
    *,
    dataset: str = "own",
    domain: str = "unknown",
    procedure: str = "unknown",
    anatomy: str = "unknown",
    licence: str = "NOASSERTION",
    frames_fps: float = 1.0,
) -> Found:
    """Everything below `root`. Links that leave it and playlists are refused, never opened.

    Args:
      licence: SPDX identifier; NOASSERTION is SPDX's word for not stated.
      frames_fps: rate of folders of frames.
    Raises:
      UserError: no videos.
    """
    paths, refused = walk(root)
    if not paths and not refused:
        raise UserError(
            f"no videos in {root}: expected files such as .mp4, .avi or .mkv, or folders of "
            f"jpg, png or tif frames; check --videos"
        )
    about = dict(
        dataset=dataset, domain=domain, procedure=procedure, anatomy=anatomy, licence=licence
    )
    named = _names(root, paths)
    of_video = _Names(root, named)
    rows = {}
    if (root / "splits.csv").exists():
        given = read_splits(root / "splits.csv", ("case",))
        for name, row in given.items():
            if rows.setdefault(of_video(name, row["where"]), row) is not row:
                raise UserError(f"{row['where']}: {name!r} is named above too; expected one row")
        _check_cases(rows)
    parts, tasks, warnings = {name: row["split"] for name, row in rows.items()}, {}, []
    if (root / "labels.csv").exists():
        labels = _read_labels(root / "labels.csv")
        tasks = {
            task: {"kind": "one_of_n", "classes": classes}
            for task, classes in sorted(labels.classes.items())
        }
        shown = {
            of_video(name, where): labels.shown[name] for name, where in labels.first_row.items()
        }
        if not rows:
            parts = manifest.divide(shown)
            count = Counter(parts.values())
            warnings.append(
                "labels.csv without splits.csv: labelled videos are divided into "
                + ", ".join(f"{count[part]} {part}" for part in PARTS)
                + "; write splits.csv (video,split,case) to choose, above all where several videos "
                "show one patient"
            )
    videos = [
        Video(
            name,
            path,
            case=f"{dataset}/{rows.get(name, {}).get('case') or name}",
            splits={"official": parts[name]} if name in parts else {},
            frames_fps=frames_fps if path.is_dir() else None,
            **about,
        )
        for name, path in named
    ]
    splits = {"official": {"tier": "official" if rows else "ours"}} if parts else {}
    return Found(videos, refused, tasks, splits=splits, warnings=warnings)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Labels from labels.csv, if there is one. Raises UserError where two rows name one frame."""
    if not (root / "labels.csv").exists():
        return {}
    rows = _read_labels(root / "labels.csv")
    names = (video.video_id, str(video.path.relative_to(root)))
    tables = {}
    for task, classes in rows.classes.items():
        label = np.full(len(times.t_ms), -1, np.int32)
        for where, start, end, name in (
            r for n in dict.fromkeys(names) for r in rows.of.get((n, task), ())
        ):
            if end is None:
                half = 500 / times.native_fps if times.native_fps else 1
                hit = np.abs(times.t_ms - 1000 * start) <= half + 0.5
                if hit.sum() > 1:  # exactly between two frames: the earlier one is on screen
                    hit &= np.arange(len(hit)) == np.argmax(hit)
            else:
                hit = (times.t_ms >= round(1000 * start)) & (times.t_ms < round(1000 * end))
            new = classes.index(name)
            if np.any((label[hit] != -1) & (label[hit] != new)):
                raise UserError(
                    f"{where}: overlaps an earlier row with another label; a frame has one"
                )
            label[hit] = new
        some = label >= 0
        if some.any():
            tables[task] = LabelTable(times.t_ms[some], label=label[some])
    return tables


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []


def walk(root: Path) -> tuple[list[Path], list[Refused]]:
    """Video files and folders of frames below `root` in order, and what is refused unopened."""
    paths, refused = [], []

    def refuses(path: Path) -> bool:
        if detail := _objection(path, root):
            # A name that is no UTF-8 cannot be kept in a table as it is.
            name = str(path.relative_to(root)).encode("utf-8", "backslashreplace").decode()
            refused.append(Refused(os.path.splitext(name)[0], name, "refused", detail))
        return bool(detail)

    for here, folders, files in os.walk(root):
        here = Path(here)
        folders[:] = sorted(n for n in folders if n[0] != "." and not refuses(here / n))
        files = sorted(name for name in files if name[0] != ".")
        videos = [name for name in files if suffix(name) in VIDEO_SUFFIXES | PLAYLIST_SUFFIXES]
        paths += [here / name for name in videos if not refuses(here / name)]
        images = [n for n in files if suffix(n) in IMAGE_SUFFIXES and not (here / n).is_symlink()]
        if images and not videos:  # pictures beside videos are thumbnails
            paths.append(here)
    return sorted(paths), sorted(refused, key=lambda row: row.path)


def _objection(path: Path, root: Path) -> str | None:
    """Why a file or folder below `root` is not even opened; None for most."""
    if path.is_symlink():
        try:
            if not path.resolve(strict=True).is_relative_to(root.resolve()):
                return "a link that leaves the folder"
        except (OSError, RuntimeError):
            return "a link to nothing"
    name = str(path.relative_to(root))
    if not is_printable(name):
        return "the name holds characters that cannot be printed"
    if objection := leads_out(name):
        return f"a name {objection}"
    if suffix(path.name) in PLAYLIST_SUFFIXES:
        return "a playlist names other files or addresses"
    return None


def _names(root: Path, paths: list[Path]) -> list[tuple[str, Path]]:
    """(video_id, path); where two videos differ in their suffix only, both keep it."""

    def plain(path: Path) -> str:
        name = str(path.relative_to(root))
        return (
            (name if name != "." else root.resolve().name)
            if path.is_dir()
            else os.path.splitext(name)[0]
        )

    seen = [plain(path) for path in paths]
    count = Counter(seen)
    return [
        (name if count[name] == 1 else str(path.relative_to(root)), path)
        for name, path in zip(seen, paths, strict=True)
    ]


class _Names:
    """The video that a csv file means by a name: the path below the root, or without its suffix."""

    def __init__(self, root: Path, named: list[tuple[str, Path]]):
        self.ids = {str(path.relative_to(root)): name for name, path in named}
        self.ids |= {name: name for name, _ in named}

    def __call__(self, name: str, where: str) -> str:
        """Its video_id. Raises UserError naming the nearest."""
        if name not in self.ids:
            raise UserError(f"{where}: no video {name!r} below the root{nearest(name, self.ids)}")
        return self.ids[name]


def _check_cases(rows: dict[str, dict[str, str]]) -> None:
    """Raise UserError for a case in two parts: its frames would be trained on and tested."""
    first: dict[str, dict[str, str]] = {}
    for row in rows.values():
        case = row.get("case")
        if case and first.setdefault(case, row)["split"] != row["split"]:
            raise UserError(
                f"{row['where']}: case {case!r} is {row['split']} here and "
                f"{first[case]['split']} in {first[case]['where']}; expected one part for all "
                f"videos of a case"
            )


class _Labels:
    """labels.csv in memory: rows by (video, task), classes by task; of each video the first row
    and the labels it shows, sorted."""

    def __init__(self):
        self.of, self.classes, self.first_row, self.shown = {}, {}, {}, {}


@cached_by_file
def _read_labels(path: Path) -> _Labels:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        points = "t" in file.readline().strip().split(",")
    columns = ["video", "t", "label"] if points else ["video", "start", "end", "label"]
    result = _Labels()
    for where, row in read_rows(path, columns, ("task",)):
        start = number(row["t" if points else "start"], where, "t" if points else "start")
        end = None if points else number(row["end"], where, "end")
        if end is not None and end <= start:
            raise UserError(f"{where}: end {end:g} is not after start {start:g}")
        if not row["label"] or not row["video"]:
            raise UserError(f"{where}: video or label is empty")
        task = row.get("task") or "label"
        if not task.isidentifier():
            raise UserError(f"{where}: task {task!r} is no plain name; use letters, digits and _")
        result.of.setdefault((row["video"], task), []).append((where, start, end, row["label"]))
        result.classes.setdefault(task, set()).add(row["label"])
        result.first_row.setdefault(row["video"], where)
        result.shown.setdefault(row["video"], set()).add((task, row["label"]))
    result.classes = {task: sorted(names) for task, names in result.classes.items()}
    result.shown = {video: sorted(labels) for video, labels in result.shown.items()}
    return result
