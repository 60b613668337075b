"""Label files of public datasets, and what they say of stored frames.

Most are tables with a row a frame. `Rows` holds one by frame number, counted from 0 whatever the
file counts from; `of_frames` gives stored frames their rows; `check_length` compares file and
video.
"""

import csv
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.sources import LabelTable, Times, Video, cached_by_file
from data_prep.video import list_images
from surgjax.errors import UserError, nearest
from surgjax.files import parse_json


@dataclass(frozen=True)
class Rows:
    """Labels by frame.

    Attributes:
      frame: (n,) int64, increasing, counted from 0.
      label: (n,) int32; or
      values: (n, classes) float32.
      step: frames from one row to the next.
      line: of the first row in its file.
    """

    frame: np.ndarray
    label: np.ndarray | None = None
    values: np.ndarray | None = None
    step: int = 1
    line: int = 1


def read_table(path: Path, *, header: bool) -> list[list[str]]:
    """Values of each line, the header's first; tab, semicolon, comma or blanks between them.

    Raises:
      UserError: not UTF-8 text, or empty where a header is expected.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{named(path)}: not UTF-8 text; expected a table of labels") from error
    if header and not lines:
        raise UserError(f"{named(path)}: the file is empty; expected a header and rows")
    mark = next((mark for mark in "\t;," if lines and mark in lines[0]), None)
    if mark is None:
        return [line.split() for line in lines]
    try:
        return [
            [value.strip() for value in row]
            for row in csv.reader(lines, delimiter=mark, strict=True)
        ]
    except csv.Error as error:
        raise UserError(
            f"{named(path)}: no table ({error}); is a quotation mark left open?"
        ) from error


def first_lines(path: Path | None, count: int) -> list[str]:
    """The first lines of a text file, whatever its bytes, to recognise it; none without a file."""
    if path is None or not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return [file.readline().strip() for _ in range(count)]


@cached_by_file
def read_classes(
    path: Path,
    classes: tuple[str, ...],
    header: tuple[str, ...] | None = None,
    first_frame: int = 0,
    first_class: int | None = None,
    step: int = 1,
    what: str = "class",
) -> Rows:
    """A table of frame number and class.

    Args:
      header: names of its two columns; None for a file that starts with a row.
      first_frame: number of the first frame.
      first_class: number of the first class; None where classes go by their names.
      step: frames from one row to the next.

    Raises:
      UserError: another header, a row out of order, an unknown class; names file and line.
    """
    table = read_table(path, header=header is not None)
    if header is not None and tuple(table[0]) != header:
        raise UserError(f"{where(path, 1)}: header is {table[0]}; expected {' and '.join(header)}")
    line = 1 if header is None else 2
    rows = table[line - 1 :]
    label = np.empty(len(rows), np.int32)
    for i, row in enumerate(rows):
        expected = i * step + first_frame
        if len(row) != 2 or not is_whole(row[0]) or int(row[0]) != expected:
            raise UserError(
                f"{where(path, i + line)}: {row}; expected frame {expected} and one {what}"
            )
        label[i] = class_number(row[1], classes, where(path, i + line), first_class, what)
    return Rows(np.arange(len(rows)) * step, label=label, step=step, line=line)


@cached_by_file
def read_presence(
    path: Path,
    classes: tuple[str, ...],
    header: str | None = None,
    first_frame: int = 0,
    step: int = 1,
    what: str = "class",
) -> Rows:
    """A table of frame number and one 0/1 column a class.

    Args:
      header: name of the first column, the others being the classes in any order; None for a file
        without header, whose columns are the classes in order.

    Raises:
      UserError: other columns, a row out of order, another value than 0 or 1.
    """
    table = read_table(path, header=header is not None)
    columns, line = list(range(1, len(classes) + 1)), 1
    if header is not None:
        names, line = table[0], 2
        for name in names[1:]:
            if name not in classes:
                raise UserError(
                    f"{where(path, 1)}: unknown {what} {name!r}{nearest(name, classes)}; "
                    f"known: {', '.join(classes)}"
                )
        if names[:1] != [header] or sorted(names[1:]) != sorted(classes):
            raise UserError(
                f"{where(path, 1)}: header is {names}; expected {header}, {', '.join(classes)}"
            )
        columns = [names.index(name) for name in classes]
    rows = table[line - 1 :]
    values = np.empty((len(rows), len(classes)), np.float32)
    for i, row in enumerate(rows):
        expected = i * step + first_frame
        if (
            len(row) != len(classes) + 1
            or not is_whole(row[0])
            or int(row[0]) != expected
            or not set(row[1:]) <= {"0", "1"}
        ):
            raise UserError(
                f"{where(path, i + line)}: {row}; expected frame {expected} and {len(classes)} "
                f"values 0 or 1"
            )
        values[i] = [row[column] == "1" for column in columns]
    return Rows(np.arange(len(rows)) * step, values=values, step=step, line=line)


PLAIN = str | bytes | bytearray | int | float | complex | None


class _Plain(pickle._Unpickler):
    """Builds containers, numbers and strings; a pickle can ask for nothing else.

    The one written in Python: 12 bytes make the other one fill 34 GB of memory, an array as long as
    the highest place that they name.

    Numpy's own constructors are not among them: an array of objects over bytes of the file's maker
    is an array of addresses, and a type with fields outside of its size reads what is beside it.
    """

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        core = module in ("numpy.core.multiarray", "numpy._core.multiarray")
        known = {"scalar": _scalar, "_reconstruct": _Array} if core else {}
        known |= {"dtype": _Kind, "ndarray": None} if module == "numpy" else {}
        if name not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[name]


class _Kind:
    """In the place of numpy.dtype: numbers and texts of one size."""

    def __init__(self, code: str, *_: object):
        if not re.fullmatch(r"b1|[iuf][1248]|[SU]\d{1,4}", code):
            raise pickle.UnpicklingError(f"it asks for numpy's {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def read(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.dtype(self.code).newbyteorder(self.order))


class _Array(list):
    """In the place of numpy.ndarray: its values, in lists within lists."""

    def __init__(self, *_: object):
        super().__init__()

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_column, data = state
        values = kind.read(data).reshape(shape, order="F" if by_column else "C")
        self[:] = values.tolist()


def _refuse_parts(data: object) -> None:
    """Raises UnpicklingError where something of numpy's was left without being a value."""
    todo, seen = [data], set()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            todo += value
        elif not isinstance(value, PLAIN):
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")


def _scalar(kind: _Kind, data: bytes):
    (value,) = kind.read(data).tolist()
    return value


def read_pickle(path: Path):
    """What a pickled label file holds, arrays of numpy as lists.

    Raises:
      UserError: damage, or other than plain data.
    """
    try:
        with path.open("rb") as file:
            data = _Plain(file).load()
        _refuse_parts(data)
        return data
    except Exception as error:  # a pickle can fail in any way
        raise UserError(
            f"{named(path)}: no pickle of plain data ({error}); expected the published label file"
        ) from error


def read_json(path: Path, read: Callable[[Any], Any], expected: str) -> Any:
    """`read` of what a JSON file holds. Raises UserError for damage and another structure."""
    try:
        return read(parse_json(path.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{named(path)}: {type(error).__name__} {error}; expected {expected}; copy it again"
        ) from error


def class_number(
    value: str, classes: Sequence[str], at: str, first: int | None = None, what: str = "class"
) -> int:
    """Position of a class, given by its name or by its number from `first`. Raises UserError."""
    if first is None:
        if value not in classes:
            raise UserError(
                f"{at}: unknown {what} {value!r}{nearest(value, classes)}; "
                f"known: {', '.join(classes)}"
            )
        return classes.index(value)
    last = first + len(classes) - 1
    if not is_whole(value) or not first <= int(value) <= last:
        raise UserError(f"{at}: {what} is {value!r}; expected a number from {first} to {last}")
    return int(value) - first


def is_whole(value: str) -> bool:
    """Whether a text is a whole number from 0, of a length that int64 takes."""
    return re.fullmatch("[0-9]{1,15}", value) is not None


def of_frames(
    rows: Rows, times: Times, number: np.ndarray | None = None, held: bool = False
) -> LabelTable:
    """Labels of the stored frames that have a row.

    Args:
      number: (n,) numbers of the stored frames in the file's count from 0; None: `times.index`.
      held: a row stands for the frames up to the next one, not for its own frame alone.
    """
    number = times.index if number is None else number
    at = np.searchsorted(rows.frame, number, "right") - 1
    after = number - rows.frame[np.maximum(at, 0)] if len(rows.frame) else number
    some = (at >= 0) & (after < (rows.step if held else 1))
    pick = lambda column: None if column is None else column[at[some]]  # noqa: E731
    return LabelTable(times.t_ms[some], pick(rows.label), pick(rows.values))


def of_spans(
    spans: Sequence[tuple[float, float, int]], times: Times, position: np.ndarray | None = None
) -> LabelTable:
    """Classes of the stored frames within spans (start, end, class), the end not included.

    Args:
      position: (n,) of each stored frame in the unit of the spans; None: milliseconds. Where spans
        overlap, the later in the list counts.
    """
    position = times.t_ms if position is None else position
    label = np.full(len(position), -1, np.int32)
    for start, end, number in spans:
        label[(position >= start) & (position < end)] = number
    some = label >= 0
    return LabelTable(times.t_ms[some], label[some])


def of_video(times: Times, *, label: int | None = None, values=None) -> LabelTable:
    """The same label, or values, for every stored frame."""
    n = len(times.t_ms)
    if label is not None:
        return LabelTable(times.t_ms, np.full(n, label, np.int32))
    return LabelTable(times.t_ms, None, np.tile(np.asarray(values, np.float32), (n, 1)))


def file_numbers(video: Video, times: Times) -> np.ndarray:
    """(n,) numbers in the file names of a folder's stored frames; a file's frame numbers.

    Raises:
      UserError: a name without number.
    """
    if video.frames_fps is None:
        return times.index
    number = {}
    for position, file in list_images(video.path, video.frames_pattern):
        digits = re.findall(r"\d+", file.stem)
        if not digits:
            raise UserError(
                f"{named(file)}: no number in the name, so no label finds it; expected frames as "
                f"they were downloaded, and nothing else in their folder"
            )
        number[position] = int(digits[-1])
    return np.array([number[int(i)] for i in times.index], np.int64)


def check_length(
    path: Path, root: Path, rows: Rows, frames: float, fps: float, ratio: float = 1.0
) -> list[str]:
    """A warning about a label file up to a second shorter or longer than its recording.

    Args:
      frames: of the recording.
      fps: frames of the label file's count in a second.
      ratio: frames of the label file's count for one of the recording: at least 1, more for folders
        of frames.

    Raises:
      UserError: more than a second; names the first row.
    """
    last = round(frames * ratio)  # one past the last label row the recording can have
    first = last - round(ratio) + 1  # a folder of frames ends somewhere within its last second
    least, most = -(-first // rows.step), -(-last // rows.step)
    count = len(rows.frame)
    odd = min(0, count - least) or max(0, count - most)
    if abs(odd) * rows.step > fps:
        row = min(count, most)
        word = "missing" if odd < 0 else "past the end"
        raise UserError(
            f"{path.relative_to(root)}: {count} rows, but the recording of {frames:.0f} frames "
            f"needs {most}; row {row} (line {row + rows.line}) is the first {word}. Up to a second "
            f"is tolerated; get label file and video of the same release, or remove one of them"
        )
    if not odd:
        return []
    word = "short" if odd < 0 else "long"
    return [f"{path.relative_to(root)}: {abs(odd)} rows too {word} ({count} of {most})"]


def check_lengths(
    tables: Iterable[tuple[str, Path, Rows]],
    root: Path,
    frames: float,
    fps: float,
    ratio: float = 1.0,
) -> list[str]:
    """`check_length` of several (task, label file, its rows)."""
    return [
        warning
        for _, path, rows in tables
        for warning in check_length(path, root, rows, frames, fps, ratio)
    ]


def check_pictures(
    path: Path, video: Video, rows: Iterable, pictures: Iterable | None = None
) -> list[str]:
    """Warnings about rows without a picture and, at 1 frame a second, pictures without a row.

    Args:
      rows: number of each row, or name of its picture.
      pictures: the same of the pictures there are; None: the numbers in their names.

    Raises:
      UserError: nothing fits, or rows go on for more than a second after the last picture.
    """
    if pictures is None:
        position = np.array(
            [position for position, _ in list_images(video.path, video.frames_pattern)]
        )
        pictures = file_numbers(video, Times(position, position, 1.0)).tolist()
    rows, pictures, at = set(rows), set(pictures), f"{named(path)}: {video.video_id}"
    past = sorted(row for row in rows if row > max(pictures))
    if len(past) > 1 or not rows & pictures:
        raise UserError(
            f"{at} has a row for {(past or sorted(rows) or ['nothing'])[0]}, but its last picture "
            f"is {max(pictures)}; get labels and pictures of one release, or remove one of them"
        )
    odd = []
    if missing := sorted(rows - pictures):
        odd.append(f"{at} has {len(missing)} rows without a picture, {missing[0]} is the first")
    if (missing := sorted(pictures - rows)) and video.frames_fps == 1:
        odd.append(f"{at} has {len(missing)} pictures without a row, {missing[0]} is the first")
    return odd


def where(path: Path, line: int) -> str:
    """File and line, for a message."""
    return f"{named(path)}, line {line}"


def named(path: Path) -> str:
    """A file with its folder, which often tells the split or the task."""
    return f"{path.parent.name}/{path.name}"
