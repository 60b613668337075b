"""The recordings of a known layout: files and folders of frames under the names it gives them."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_prep import manifest
from data_prep.media import VIDEO_SUFFIXES, suffix
from data_prep.sources import About, Found, Refused, Video
from surgjax.errors import UserError

SHOWN = 5  # names in a message


@dataclass
class Recordings:
    """What is under a root.

    Attributes:
      paths: video_id -> file, or folder of frames.
      refused: never opened.
      warnings: what is odd.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def search(root: Path, places: Iterable[str], name: str) -> Recordings:
    """Videos and folders of frames that a layout names.

    Args:
      places: globs below the root. A recording that is in two of them is taken from the first.
      name: regular expression for the whole path below the root, '/' between its parts, without
        the suffix of a file; its group "id" is the video_id.
    """
    found, top = Recordings(), Path(os.path.realpath(root))
    for place in places:
        for path in sorted(root.glob(place)):
            below = path.relative_to(root).as_posix()
            if not path.is_dir():
                if suffix(path.name) not in VIDEO_SUFFIXES:
                    continue
                below = os.path.splitext(below)[0]
            match = re.fullmatch(name, below)
            if match is None:
                continue
            video_id = match["id"]
            inside = Path(os.path.realpath(path)).is_relative_to(top)
            if not inside or not path.exists():
                detail = "a link to nothing" if inside else "a link that leaves the folder"
                row = Refused(video_id, str(path.relative_to(root)), "refused", detail)
                found.refused.append(row)
            elif video_id in found.paths:
                used = found.paths[video_id].relative_to(root)
                found.warnings.append(f"{video_id} is there twice; {used} is used")
            else:
                found.paths[video_id] = path
    return found


def assemble(
    about: About,
    root: Path,
    recordings: Recordings,
    overrides: Mapping[str, str],
    *,
    expected: str,
    case: Callable[[str], str] = str,
    frames_fps: float = 1.0,
    tasks: Mapping[str, dict] | None = None,
    splits: manifest.Manifest | None = None,
    unlisted_train: bool = False,
    strata: Mapping[str, object] | None = None,
    label_files: Mapping[str, Callable[[str], Path]] | None = None,
) -> Found:
    """What a source found, with cases, splits and what is missing.

    Args:
      overrides: the user's words about the videos, in place of the dataset's.
      expected: what the layout looks like, for the message when nothing is there.
      case: of a video_id, without the dataset's name.
      frames_fps: rate of folders of frames.
      tasks: where they differ from the dataset's.
      splits: where they are not those of splits/<dataset>.yaml.
      unlisted_train: whether `strict` has the videos that the manifest does not name, for training.
      strata: of each case, for a dataset with labels and without any split, which is divided
        7:2:1.
      label_files: what a file holds -> the path of it for a video_id; missing ones are counted.

    Raises:
      UserError: there is no recording.
    """
    if not recordings.paths and not recordings.refused:
        raise UserError(
            f"no {about.dataset} videos in {root}: expected {expected}; found {contents(root)}; "
            f"check --root"
        )
    words = {key: getattr(about, key) for key in ("domain", "procedure", "anatomy", "licence")}
    words |= {key: value for key, value in overrides.items() if key in words}
    splits = splits or manifest.read(about.dataset)
    warnings, parts, kinds = list(recordings.warnings), dict(splits.splits), dict(splits.about)
    if unlisted_train:
        unlisted = recordings.paths.keys() - splits.names
        parts["strict"] = parts["strict"] | dict.fromkeys(unlisted, "train")
    tasks = dict(tasks or about.tasks)
    if tasks and not parts:  # what has no labels is for pretraining
        cases = {case(video_id) for video_id in recordings.paths}
        parts["strict"] = manifest.divide({name: (strata or {}).get(name) for name in cases})
        kinds["strict"] = {"tier": "ours"}
    videos = [
        Video(
            video_id,
            path,
            dataset=about.dataset,
            case=f"{about.dataset}/{case(video_id)}",
            splits={
                name: part
                for name, of in parts.items()
                if (part := of.get(video_id) or of.get(case(video_id)))
            },
            frames_fps=frames_fps if path.is_dir() else None,
            **words,
        )
        for video_id, path in sorted(recordings.paths.items())
    ]
    here = set(recordings.paths) | {case(video_id) for video_id in recordings.paths}
    missing = sorted(splits.names - here - {row.video_id for row in recordings.refused})
    if missing:
        warnings.append(
            f"{len(missing)} of {len(splits.names)} official videos are missing: {some(missing)}"
        )
    for kind, file in (label_files or {}).items():
        without = [video.video_id for video in videos if not file(video.video_id).exists()]
        if without:
            warnings.append(
                f"{len(without)} of {len(videos)} videos have no {kind} file: {some(without)}"
            )
    return Found(videos, recordings.refused, tasks, about.layout, kinds, warnings)


def contents(folder: Path) -> str:
    """The first names in a folder, for a message."""
    try:
        names = sorted(f"{e.name}/" if e.is_dir() else e.name for e in os.scandir(folder))
    except OSError:
        return "no readable folder"
    return some(names) if names else "an empty folder"


def some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
