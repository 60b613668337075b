"""Saved predictions, from which all numbers are computed; the same for our models and any other.

predictions.parquet has one row a labelled frame or clip:

    video_id         whose frame or clip it is
    t_ms             time of the labelled frame, milliseconds; clips may have `clip_id` instead
    probabilities    list of a float for each class
    target           class number; of several classes at once a list of 1, 0 and NaN (unknown)

and perhaps value and target_value (scores), boxes and target_boxes (x0, y0, x1, y1), split, case,
dataset, model (several may share a file), protocol (how the predictions were made, in a line), and
of few-shot learning setting (what was learnt from, as "4 videos") and draw (a number each time).
The schema's metadata holds `classes`, their names as a JSON list in the order of probabilities, and
perhaps `saw_test`, whether the model was trained on these cases: yes, no or unknown.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from surgjax.errors import UserError, nearest
from surgjax.files import parse_json, whole, write_whole

REQUIRED = ("video_id", "probabilities", "target")
# What tells two rows apart, as far as it is there.
KEYS = ("model", "setting", "draw", "video_id", "clip_id", "t_ms")
SAW_TEST = ("yes", "no", "unknown")
LISTS = ("probabilities", "target", "boxes", "target_boxes")
MOST_MS = 2**53  # what a float64 holds exactly
SUM_SLACK = 1e-3  # of probabilities kept as float16


@dataclass(frozen=True)
class Predictions:
    """Rows of one file.

    Attributes:
      classes: their names.
      probabilities: of each class.
      target: class number, or 1, 0 and NaN for each class.
      columns: all others, each (n,): video_id and what else the file has.
      saw_test: whether the model was trained on these cases; "unknown" where the file is silent.
    """

    classes: list[str]
    probabilities: Float[np.ndarray, "n c"]
    target: Int[np.ndarray, "n"] | Float[np.ndarray, "n c"]
    columns: dict[str, np.ndarray]
    saw_test: str = "unknown"

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @property
    def pred(self) -> Int[np.ndarray, "n"]:
        """The most probable class, of equal ones the first."""
        return self.probabilities.argmax(1).astype(np.int64)

    @property
    def models(self) -> list[str]:
        """Their names in the order of the file; one without a name is ""."""
        return list(dict.fromkeys(self.columns["model"].tolist())) if "model" in self else [""]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def where(self, rows: np.ndarray) -> "Predictions":
        """Some rows, by mask or number."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        values = self.probabilities[rows], self.target[rows]
        return Predictions(self.classes, *values, columns, self.saw_test)

    def of(self, model: str) -> "Predictions":
        """The rows of one model."""
        return self.where(self.columns["model"] == model) if "model" in self else self


def write(
    path: Path,
    columns: dict[str, np.ndarray | pa.Array],
    probabilities: Float[np.ndarray, "n c"],
    target: Int[np.ndarray, "n"] | Float[np.ndarray, "n c"],
    classes: list[str],
    saw_test: str = "unknown",
) -> None:
    """Writes the file whole.

    Args:
      columns: video_id and any others, each (n,).
      saw_test: whether the model was trained on these cases, one of SAW_TEST.

    Raises:
      ValueError: columns of another length, or no video_id.
    """
    lengths = {len(values) for values in [*columns.values(), probabilities, target]}
    if "video_id" not in columns or len(lengths) > 1 or probabilities.shape[1] != len(classes):
        raise ValueError(
            f"predictions of {len(classes)} classes with columns {sorted(columns)} of lengths "
            f"{sorted(lengths)} and probabilities {probabilities.shape}"
        )
    data = {name: pa.array(values) for name, values in columns.items()}
    data["probabilities"] = _lists(probabilities)
    data["target"] = pa.array(target.astype(np.int32)) if target.ndim == 1 else _lists(target)
    about = {"classes": json.dumps(list(classes)), "saw_test": saw_test}
    table = pa.table(data).replace_schema_metadata(about)
    with whole(path) as part:
        pq.write_table(table, part)


def read(path: Path, classes: list[str] | None = None) -> Predictions:
    """The rows of a file, checked.

    Args:
      classes: names to order by, for a file that has the same names in another order; None: as in
        the file.

    Raises:
      UserError: not there, unreadable, columns or classes missing, rows that are there twice, or
        values that are no probabilities or targets; the first bad row is named.
    """
    table = read_parquet(path, "predictions")
    if missing := [name for name in REQUIRED if name not in table.column_names]:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(REQUIRED)} and "
            f"t_ms or clip_id"
        )
    found = _classes(path, table.schema, classes)
    filled(path, table, ("video_id", "t_ms", "target"))
    probabilities = matrix(path, table, "probabilities").astype(np.float32)
    if probabilities.shape[1] != len(found):
        raise UserError(
            f"{path}: {probabilities.shape[1]} probabilities a row for {len(found)} classes"
        )
    if pa.types.is_integer(table["target"].type):
        target = table["target"].to_numpy().astype(np.int64)
    else:
        target = matrix(path, table, "target").astype(np.float32)
    columns = {
        name: matrix(path, table, name) if name in LISTS else table[name].to_numpy()
        for name in table.column_names
        if name not in ("probabilities", "target")
    }
    columns["video_id"] = columns["video_id"].astype(str)
    _check(path, probabilities, target, columns, len(found))
    if classes is not None and found != list(classes):
        order = [found.index(name) for name in classes]
        probabilities = probabilities[:, order]
        target = np.argsort(order)[target] if target.ndim == 1 else target[:, order]
    saw_test = (table.schema.metadata or {}).get(b"saw_test", b"unknown").decode()
    if saw_test not in SAW_TEST:
        raise UserError(f"{path}: saw_test is {saw_test!r}; expected {', '.join(SAW_TEST)}")
    return Predictions(list(classes or found), probabilities, target, columns, saw_test)


def classes_of(path: Path) -> list[str]:
    """The names alone, without reading the rows. Raises UserError as `read`."""
    try:
        return _classes(path, pq.read_schema(path), None)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as predictions ({error})") from error


def read_parquet(path: Path, what: str) -> pa.Table:
    """The rows of a file; columns that keep equal values once are what they repeat.

    Raises:
      UserError: it cannot be read as `what`.
    """
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # texts may be none
        for at, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                table = table.set_column(at, field.name, table[at].cast(field.type.value_type))
        return table
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as {what} ({error})") from error


def matrix(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """A column of lists of numbers, all of one length, (n, length).

    Raises:
      UserError: of another type, or a row of another length.
    """
    column = table[name].combine_chunks()
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    is_lists = any(is_kind(column.type) for is_kind in kinds)
    if not is_lists or not _is_number(column.type.value_type):
        raise UserError(f"{path}: {name} is of type {column.type}; expected lists of numbers")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    width = int(np.median(lengths)) if len(lengths) else 0
    if column.null_count or (lengths != width).any():
        row = int((lengths != width).argmax())
        raise UserError(f"{path}, row {row}: {name} has {lengths[row]} values, others {width}")
    return flat.reshape(len(column), width)


def filled(path: Path, table: pa.Table, names: Iterable[str]) -> None:
    """Raises UserError: a row without a value of these columns, as far as they are there, a t_ms
    that is no whole number, or a video_id that is no name."""
    for name in names:
        if name not in table.column_names:
            continue
        column = table[name]
        if name == "t_ms" and not _is_number(column.type):
            raise UserError(f"{path}: t_ms is of type {column.type}; expected milliseconds")
        if name == "video_id" and not _is_name(column.type):
            raise UserError(f"{path}: video_id is of type {column.type}; expected text")
        empty = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)).to_numpy()
        if empty.any():
            raise UserError(f"{path}, row {int(empty.argmax())} has no {name}; give every row one")
        values = column.to_numpy().astype(np.float64) if name == "t_ms" else np.zeros(0)
        odd = ~(np.abs(values) < MOST_MS)
        odd |= np.where(odd, 0, values) % 1 != 0
        if odd.any():
            row = int(odd.argmax())
            raise UserError(
                f"{path}, row {row}: t_ms is {values[row]:g}; expected whole milliseconds"
            )


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file whole, keys in the order given."""
    write_whole(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _classes(path: Path, schema: pa.Schema, wanted: list[str] | None) -> list[str]:
    try:
        found = parse_json((schema.metadata or {})[b"classes"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} does not name its classes; expected a JSON list of names as `classes` in the "
            f"schema's metadata"
        ) from error
    if not isinstance(found, list) or len(set(map(str, found))) < len(found):
        raise UserError(f"{path}: classes are {found!r}; expected a list of different names")
    found = [str(name) for name in found]
    if wanted is not None and sorted(found) != sorted(wanted):
        odd = next((name for name in found if name not in wanted), None)
        hint = f"{odd!r} is none{nearest(odd, wanted)}" if odd else "some are missing"
        raise UserError(
            f"{path} has {len(found)} classes, expected {len(wanted)}: {', '.join(wanted)} ({hint})"
        )
    return found


def _is_name(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    return any(is_kind(kind) for is_kind in kinds)


def _is_number(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_integer, pa.types.is_floating))


def _check(
    path: Path,
    probabilities: np.ndarray,
    target: np.ndarray,
    columns: dict[str, np.ndarray],
    classes: int,
) -> None:
    def first(mask: np.ndarray) -> str:
        row = int(mask.argmax())
        at = f" at {columns['t_ms'][row]} ms" if "t_ms" in columns else ""
        return f"{path}, row {row} ({columns['video_id'][row]}{at})"

    if "t_ms" not in columns and "clip_id" not in columns:
        raise UserError(f"{path} lacks t_ms and clip_id; expected one, to tell rows apart")
    bad = ~np.isfinite(probabilities).all(1)
    if bad.any():
        raise UserError(f"{first(bad)}: a probability is not a finite number")
    if target.ndim == 1:
        bad = (target < 0) | (target >= classes)
        if bad.any():
            raise UserError(f"{first(bad)}: target {target[bad][0]}; expected 0 to {classes - 1}")
        bad = (probabilities < 0).any(1) | (np.abs(probabilities.sum(1) - 1) > SUM_SLACK)
        if bad.any():
            raise UserError(
                f"{first(bad)}: probabilities sum to {probabilities[bad][0].sum():.4f}; expected "
                f"numbers from 0 that sum to 1, as a softmax gives"
            )
    else:
        bad = ~(np.isnan(target) | (target == 0) | (target == 1)).all(1)
        if bad.any() or target.shape[1] != classes:
            at = first(bad) if bad.any() else path
            raise UserError(f"{at}: target is not 1, 0 or NaN for each of {classes} classes")
    keys = pa.table({name: pa.array(columns[name]) for name in KEYS if name in columns})
    counts = keys.group_by(keys.column_names).aggregate([([], "count_all")])
    if len(counts) < len(keys):
        twice = next(row for row in counts.to_pylist() if row.pop("count_all") > 1)
        text = ", ".join(f"{name} {value}" for name, value in twice.items())
        raise UserError(f"{path} has two rows of {text}; expected one each")


def _lists(values: np.ndarray) -> pa.ListArray:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values.astype(np.float32).ravel()))
