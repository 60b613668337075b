"""One file a dataset: where its videos and labels are, and what they are called.

A source module offers

    ABOUT                                             what is known before a file is read
    find(root, **overrides) -> Found                  the videos under a root; reads no video
    labels(root, video, times) -> {task: LabelTable}  the labels of stored frames
    check_labels(root, video, frames) -> [warning]    whether the label files fit the video
    recognises(root) -> bool                          whether a root has this layout
    captions(root, ends) -> rows                      only where it has some; see captions.checked
    SPLITS                                            only where find makes them: their names

`overrides` are what a user may say about the videos: domain, procedure, anatomy, licence. What
sources share is in data_prep/recordings.py, label_files.py and manifest.py (splits).
"""

import csv
import functools
import importlib
import io
import os
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from surgjax.errors import UserError, nearest

FOLDER = "folder"  # the source of everything that has no known layout
PARTS = ("train", "val", "test")  # of a split


@dataclass(frozen=True)
class About:
    """What is known of a dataset before any of its files is read.

    Attributes:
      licence: SPDX identifier, or NOASSERTION (not stated).
      access: how one gets it.
      layout: "verified" when it was seen in the data itself, "from-code" when public programs read
        it so, else "assumed".
      evidence: where the layout was read.
      tasks: task -> {"kind": one_of_n | multi_label | score, "classes": names in order}.
    """

    dataset: str
    domain: str
    procedure: str
    anatomy: str
    licence: str
    access: str
    layout: str
    evidence: str
    tasks: dict[str, dict] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Video:
    """A recording of a source.

    Attributes:
      video_id: unique in a store: the path below the root without suffix, '/' kept.
      path: the file, or the folder of frames.
      case: `<dataset>/<case>`; videos of one operation share it.
      splits: split name -> train, val or test.
      frames_fps: rate of a folder of frames; None for files.
      frames_pattern: regular expression that the names of its frames match from their start, where
        a folder holds those of many videos.
    """

    video_id: str
    path: Path
    dataset: str
    case: str
    domain: str
    procedure: str
    anatomy: str
    licence: str
    splits: dict[str, str] = field(default_factory=dict, hash=False)
    frames_fps: float | None = None
    frames_pattern: str = ""


@dataclass(frozen=True)
class Refused:
    """What is never opened or could not be read: a row of quarantine.parquet."""

    video_id: str
    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Found:
    """What a source has.

    Attributes:
      tasks: task -> {"kind": one_of_n | multi_label | score, "classes": names in order}.
      layout_status: as `About.layout`.
      splits: split name -> {"tier": who defined it: official, community, paper-release or ours;
        "val_is_test", "leaky", "fold": True where they are so; see data_prep/manifest.py}.
    """

    videos: list[Video]
    refused: list[Refused] = field(default_factory=list)
    tasks: dict[str, dict] = field(default_factory=dict)
    layout_status: str = "verified"
    splits: dict[str, dict] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Times:
    """The stored frames of one video.

    Attributes:
      t_ms: (n,) int64, milliseconds from the first frame.
      index: (n,) int64, frame number in the recording.
      native_fps: rate of the recording.
    """

    t_ms: np.ndarray
    index: np.ndarray
    native_fps: float


@dataclass(frozen=True)
class LabelTable:
    """Labels of some stored frames: `label` (n,) int32 or `values` (n, classes) float32."""

    t_ms: np.ndarray
    label: np.ndarray | None = None
    values: np.ndarray | None = None


def known() -> list[str]:
    """Names of all sources."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The source called `name`. Raises UserError naming the nearest."""
    if name not in known():
        raise UserError(
            f"unknown dataset {name!r}{nearest(name, known())}; known: {', '.join(known())}. "
            f"For your own videos use --videos DIR, with any --dataset name"
        )
    return importlib.import_module(f"{__name__}.{name}")


def detect(root: Path) -> str:
    """Name of the source whose layout `root` has; "folder" for anything else."""
    for name in known():
        if name != FOLDER and load(name).recognises(root):
            return name
    return FOLDER


def read_rows(
    path: Path, required: list[str], optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """("file, row N", values) of a csv file with a header line.

    Raises:
      UserError: not UTF-8, no csv, columns missing or unknown, a row of another length.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path.name}: not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from error
    # A text may go over several lines; a quotation mark left open would swallow the rows after it.
    rows = _told(csv.reader(io.StringIO(text, newline=""), strict=True), path)
    _, first = next(rows, (0, []))
    header = [name.strip() for name in first]
    missing = [name for name in required if name not in header]
    strange = [name for name in header if name not in required and name not in optional]
    if missing or strange or len(set(header)) < len(header):
        raise UserError(
            f"{path.name}: columns are {','.join(header) or 'none'}; expected {','.join(required)}"
            + (f" and perhaps {','.join(optional)}" if optional else "")
        )
    for line, row in rows:
        if not row:
            continue
        where = f"{path.name}, row {line}"
        if len(row) != len(header):
            raise UserError(f"{where}: {len(row)} values; expected {len(header)}")
        yield where, dict(zip(header, (value.strip() for value in row), strict=True))


def _told(rows, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, row) of a csv reader. Raises UserError where it does not understand a line."""
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise UserError(f"{path.name}, row {rows.line_num}: no csv ({error})") from error


def read_splits(path: Path, optional: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Video -> its row of a csv file with the columns video and split, and where that row stands.

    Raises:
      UserError: as `read_rows`; a part other than train, val and test; a video twice.
    """
    rows: dict[str, dict[str, str]] = {}
    for where, row in read_rows(path, ["video", "split"], optional):
        if row["split"] not in PARTS:
            raise UserError(f"{where}: split is {row['split']!r}; expected {' or '.join(PARTS)}")
        if row["video"] in rows:
            raise UserError(f"{where}: {row['video']!r} is named above too; expected one row each")
        rows[row["video"]] = row | {"where": where}
    return rows


def number(value: str, where: str, name: str) -> float:
    """`value` as a finite, non-negative number. Raises UserError."""
    try:
        odd = "_" in str(value) or not str(value).isascii()  # float() takes 1_0 and other digits
        result = -1.0 if odd else float(value)
    except ValueError:
        result = -1.0
    if not 0 <= result < float("inf"):
        raise UserError(f"{where}: {name} is {value!r}; expected a number of at least 0")
    return result


def cached_by_file(function):
    """Remember the last few results of `function(path, ...)` until the file changes."""

    @functools.lru_cache(maxsize=4)
    def remembered(path: Path, stamp: tuple, *arguments, **options):
        return function(path, *arguments, **options)

    @functools.wraps(function)
    def call(path: Path, *arguments, **options):
        status = os.stat(path)
        return remembered(path, (status.st_size, status.st_mtime_ns), *arguments, **options)

    return call
