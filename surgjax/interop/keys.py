"""Key tables: how one outside weight format and our parameter paths say the same thing.

A table is a tuple of rows; a row joins one path of ours with the outside tensors it is made of. All
transforms only move numbers, so reading a table forth and back gives every bit again. `{i}` in an
outside name counts the layers, which lie on the leading axis of ours.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange

from surgjax.errors import UserError, nearest

Flat = Mapping[str, np.ndarray]  # "encoder/embed/kernel" or an outside tensor name -> array


@dataclass(frozen=True)
class Transform:
    """A pair of inverse functions: the outside tensors of one layer, and one array of ours."""

    to_ours: Callable[..., np.ndarray]  # (*outside tensors) -> ours
    from_ours: Callable[[np.ndarray, int], Sequence[np.ndarray]]  # (ours, how many) -> outside


def joined_linear(*weights: np.ndarray) -> np.ndarray:
    """PyTorch linears (out, in) -> one kernel (in, sum of out), columns in the order given.

    Their biases (out,) are joined alike.
    """
    return np.concatenate([weight.T for weight in weights], axis=-1)


def split_linear(kernel: np.ndarray, count: int) -> Sequence[np.ndarray]:
    """Inverse of `joined_linear` for linears of equal size."""
    return [part.T for part in np.split(kernel, count, axis=-1)]


SAME = Transform(lambda x: x, lambda x, _: [x])
LINEAR = Transform(joined_linear, split_linear)  # several outside names: q, k, v of one kernel


def tubelet(t: int = 2, h: int = 16, w: int = 16) -> Transform:
    """Conv3d weight (d, c, t, h, w) <-> kernel over flat tubelets, rows in (t, h, w, c) order."""
    return Transform(
        lambda conv: rearrange(conv, "d c t h w -> (t h w c) d"),
        lambda kernel, _: [rearrange(kernel, "(t h w c) d -> d c t h w", t=t, h=h, w=w)],
    )


@dataclass(frozen=True)
class Row:
    """One path of ours and the outside tensors it is made of.

    Attributes:
      ours: parameter path, as "encoder/blocks/norm1/scale".
      outside: one name, or several that together make ours (query, key, value).
      transform: how the numbers move.
      also: a second outside name of the tensor; read where the first is absent, always written.
    """

    ours: str
    outside: str | tuple[str, ...]
    transform: Transform = SAME
    also: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.outside,) if isinstance(self.outside, str) else self.outside

    @property
    def part(self) -> str:
        """The network this row belongs to: the first word of the path."""
        return self.ours.split("/")[0]

    @property
    def is_stacked(self) -> bool:
        return "{i}" in self.names[0]


@dataclass(frozen=True)
class Table:
    """All rows of a format.

    Attributes:
      rows: the rows; their paths are unique.
      ignored: outside name glob -> why such a tensor carries nothing a model of ours needs.
    """

    rows: tuple[Row, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What a table made of a file.

    Attributes:
      params: our path -> float32 array.
      fresh: expected paths the file does not give, sorted.
      notes: one line a fact worth knowing: networks absent, tensors ignored.
    """

    params: dict[str, np.ndarray]
    fresh: list[str]
    notes: list[str]


def to_ours(
    table: Table,
    tensors: Flat,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    *,
    source: str = "the file",
    allow: Sequence[str] = (),
) -> Reading:
    """Outside tensors -> parameters of ours.

    A network (first word of our paths) that is wholly absent from the file stays fresh, one that is
    wholly absent from `expected` is left out; both are noted. Inside a network nothing may be
    missing and no tensor of the file may stay unused.

    Args:
      tensors: outside name -> array, names already in the table's spelling.
      expected: our path -> shape wanted; None takes all rows the file has.
      source: how messages name the file.
      allow: globs over outside names or our paths that may be unused or missing.

    Raises:
      UserError: missing, unused or contradicting tensors, by name.
    """
    wanted = {row.ours for row in table.rows} if expected is None else set(expected)
    wanted_parts = {path.split("/")[0] for path in wanted}
    numbers = _layer_numbers(table, tensors)
    found = {
        row.ours: _gather(
            row, tensors, numbers[_stem(row.names[0])] if row.is_stacked else {None}, source
        )
        for row in table.rows
    }
    held_parts = {row.part for row in table.rows if found[row.ours]}
    if not held_parts & wanted_parts:
        raise UserError(
            f"{source} holds no {' or '.join(sorted(wanted_parts))} that this format knows; found "
            f"{shortened(sorted(tensors))}; check that this is the right file"
        )
    params, used, left_out, allowed = {}, set(), {}, []
    for row in table.rows:
        layers = found[row.ours]
        names = {name for layer in layers.values() for name in layer.used}
        if row.part not in wanted_parts:
            left_out.setdefault(row.part, set()).update(names)
            used |= names
        elif row.ours not in wanted and layers and _matches(row.ours, allow):
            left_out.setdefault(row.ours, set()).update(names)
            used |= names
        elif row.ours in wanted and layers and not any(layer.lacking for layer in layers.values()):
            params[row.ours] = _assemble(row, layers, source)
            used |= names
        elif row.ours not in wanted and names - used and _matches(row.ours, allow):
            allowed.append(f"ignored: {row.ours} (allowed)")
            used |= names
    absent = sorted(wanted_parts - held_parts)
    _refuse_missing(wanted - set(params), absent, table, found, source, allow)
    notes = [
        f"left out: {part} ({len(names)} tensors)" for part, names in left_out.items() if names
    ]
    notes += allowed + _refuse_unused(set(tensors) - used, table, source, allow)
    notes += [f"fresh: {part} (not in {source})" for part in absent]
    fresh = sorted(wanted - set(params)) if expected is not None else []
    return Reading(params, fresh, notes)


def from_ours(table: Table, params: Flat) -> dict[str, np.ndarray]:
    """Parameters of ours -> outside tensors, second names included.

    Networks the parameters lack are left out. Raises UserError for a path without a place there.
    """
    rows = {row.ours: row for row in table.rows}
    homeless = sorted(set(params) - set(rows))
    if homeless:
        raise UserError(
            f"this format has no place for {shortened(homeless)}{nearest(homeless[0], rows)}; "
            f"expected only the networks it knows; choose another format"
        )
    out = {}
    for path, value in params.items():
        row = rows[path]
        layers = enumerate(value) if row.is_stacked else [(None, value)]
        for i, layer in layers:
            parts = row.transform.from_ours(layer, len(row.names))
            for name, part in zip(row.names, parts, strict=True):
                out[_layer_name(name, i)] = np.asarray(part, order="C")
            if row.also:
                out[_layer_name(row.also, i)] = np.asarray(parts[0], order="C")
    return out


def renamed(tensors: Flat, rename: Callable[[str], str]) -> dict[str, np.ndarray]:
    """Tensors under other names. Raises UserError where two would get one name."""
    made: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = rename(name)
        if short in made:
            raise UserError(
                f"two tensors of the file mean {short!r}, one of them {name!r}; expected one "
                f"model; keep either student or teacher in the file"
            )
        made[short] = tensor
    return made


def unwrapped(name: str, wrappers: Sequence[str]) -> str:
    """A tensor's name without what programs put before it, in any order and number."""
    while True:
        short = name
        for wrapper in wrappers:
            short = short.removeprefix(wrapper)
        if short == name:
            return name
        name = short


def shortened(names: Sequence[str], limit: int = 6) -> str:
    """'a', 'b' and 12 more."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


@dataclass(frozen=True)
class _Layer:
    """Tensors of one row and layer, the names used for them, and the names that are not there."""

    arrays: tuple[np.ndarray, ...]
    used: tuple[str, ...]
    lacking: tuple[str, ...]


Layers = dict[int | None, _Layer]


def _refuse_missing(missing, absent, table, found, source, allow) -> None:
    missing = {p for p in missing if p.split("/")[0] not in absent and not _matches(p, allow)}
    lacking = sorted(missing - {row.ours for row in table.rows})  # paths the format does not know
    for row in table.rows:
        if row.ours in missing:
            layers = found[row.ours].values()
            lacking += [n for layer in layers for n in layer.lacking] if layers else row.names
    lacking = [name for name in lacking if not _matches(name, allow)]
    if lacking:
        raise UserError(
            f"{source} lacks {shortened(lacking)} (ours: {shortened(sorted(missing))}); expected a "
            f"complete network; get the complete file, or allow these to start fresh"
        )


def _refuse_unused(
    names: Iterable[str], table: Table, source: str, allow: Sequence[str]
) -> list[str]:
    """A note for every unused name that may be so; UserError with the others."""
    notes, unused = [], []
    for name in sorted(names):
        reasons = [why for glob, why in table.ignored.items() if fnmatch.fnmatchcase(name, glob)]
        if reasons or _matches(name, allow):
            notes.append(f"ignored: {name} ({reasons[0] if reasons else 'allowed'})")
        else:
            unused.append(name)
    if unused:
        raise UserError(
            f"{source} holds {len(unused)} tensors this model has no place for: "
            f"{shortened(unused)}; expected only known names; use another file, or allow these "
            f"names to be dropped"
        )
    return notes


def _layer_numbers(table: Table, tensors: Flat) -> dict[str, set[int]]:
    """What stands before `{i}` -> the layers any row has there, so that no row can lack one."""
    numbers: dict[str, set[int]] = {}
    for row in table.rows:
        for name in _spellings(row) if row.is_stacked else ():
            pattern = re.compile(re.escape(name).replace(r"\{i\}", r"(\d+)"))
            matches = filter(None, map(pattern.fullmatch, tensors))
            numbers.setdefault(_stem(name), set()).update(int(m.group(1)) for m in matches)
    return numbers


def _gather(row: Row, tensors: Flat, numbers: Iterable[int | None], source: str) -> Layers:
    """Layer number (None for a row without layers) -> its tensors; empty where there are none."""
    layers = {}
    for i in sorted(numbers, key=lambda i: i or 0):
        first = [_layer_name(name, i) for name in row.names]
        second = _layer_name(row.also, i) if row.also else None
        used = [name for name in (*first, second) if name in tensors]
        if second in used and first[0] in used:
            if not np.array_equal(tensors[first[0]], tensors[second]):
                raise UserError(
                    f"{source} gives two different tensors for one parameter: {first[0]!r} and "
                    f"{second!r}; expected equal ones; re-export the file"
                )
        elif second in used:
            first = [second]
        lacking = tuple(name for name in first if name not in tensors)
        arrays = tuple(tensors[name] for name in first if name in tensors)
        layers[i] = _Layer(arrays, tuple(used), lacking)
    return layers if any(layer.used for layer in layers.values()) else {}


def _assemble(row: Row, layers: Layers, source: str) -> np.ndarray:
    if row.is_stacked and sorted(layers) != list(range(len(layers))):
        gap = next(i for i in range(len(layers)) if i not in layers)
        raise UserError(
            f"{source} lacks layer {gap} of {row.names[0]!r} but holds layer {max(layers)}; "
            f"expected layers 0 to {max(layers)}; get the complete file"
        )
    made = []
    for i, layer in layers.items():
        try:
            made.append(row.transform.to_ours(*(_f32(array) for array in layer.arrays)))
        except Exception as error:  # einops and numpy name shapes, not tensors
            shapes = [array.shape for array in layer.arrays]
            raise UserError(
                f"{source}: {shortened(layer.used)} of shapes {shapes} do not make {row.ours!r} "
                f"({type(error).__name__}); expected this format's shapes; check the file"
            ) from error
        if made[-1].shape != made[0].shape:
            raise UserError(
                f"{source}: layer {i} of {row.names[0]!r} has shape {made[-1].shape}, layer 0 "
                f"{made[0].shape}; expected equal shapes; use a checkpoint of one depth"
            )
    return np.stack(made) if row.is_stacked else np.array(made[0], order="C")


def _f32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float32, copy=False)


def _spellings(row: Row) -> tuple[str, ...]:
    return row.names + ((row.also,) if row.also else ())


def _stem(name: str) -> str:
    return name.split("{i}")[0]


def _layer_name(name: str, i: int | None) -> str:
    return name if i is None else name.replace("{i}", str(i))


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)
