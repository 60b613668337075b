"""Strategies for damaged and odd files: small changes of a valid one, so that readers get deep."""

import copy
import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

# What stands in a table in place of a value.
ODD_WORDS = (
    "", " ", "0", "1", "-1", "7", "nan", "inf", "-inf", "1e400", "1e17", "99999999999999999999",
    "0.5", "1_0", "x", "\u0663", "\u00e9\u4e2d", "a,b", '"', "a\tb", "..", "../../x", "/etc/passwd",
    "%s{0}", "NULL", "True", "\x1b[31m", "\x00", "-0", "+1", "0x10", "x" * 300, "9" * 5000,
)  # fmt: skip
ODD_NUMBERS = (0, 1, -1, 2, 255, 2**31 - 1, 2**31, -(2**31), 2**53 + 1, 2**62, 2**63 - 1, -(2**63))
ODD_FLOATS = (0.0, -1.0, 0.5, 1e-300, 1e17, 1e300, float("nan"), float("inf"), -float("inf"))
ODD_JSON = (
    None, True, False, 0, -1, 1, 2**40, 2**70, 10**15, 0.5, 1e300, float("nan"), float("inf"), "",
    "x", "../x", "nan", "1", "\x00", "\ud800", [], {}, [None], [[]], {"x": 1}, [1, 2, 3],
)  # fmt: skip
LONG = "x" * 140_000  # more than the csv module takes
MOST = 4  # changes of one file


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with up to MOST bits, bytes, numbers or pieces of it changed, perhaps cut off."""
    end = max(len(data) - 1, 0)
    edges = min(end, 64)  # headers and footers say what the rest means
    at = st.integers(0, edges) | st.integers(end - edges, end) | st.integers(0, end)
    length = st.integers(0, 16) | st.integers(0, len(data))
    number = st.sampled_from([0, 1, 0x7F, 0xFF, 2**15, 2**31 - 1, 2**31, 2**40, 2**63, 2**64 - 1])
    change = st.one_of(
        st.tuples(st.just("flip"), at, st.integers(0, 7)),
        st.tuples(st.just("byte"), at, st.integers(0, 255)),
        st.tuples(st.just("number"), at, st.tuples(number, st.sampled_from([1, 2, 4, 8]))),
        st.tuples(st.just("remove"), at, length),
        st.tuples(st.just("repeat"), at, length),
        st.tuples(st.just("insert"), at, st.binary(max_size=16)),
        st.tuples(st.just("cut"), at, st.none()),
    )
    return st.lists(change, max_size=MOST).map(lambda changes: _damage(data, changes))


def _damage(data: bytes, changes: list[tuple]) -> bytes:
    made = bytearray(data)
    for kind, at, how in changes:
        if at >= len(made):
            continue
        if kind == "flip":
            made[at] ^= 1 << how
        elif kind == "byte":
            made[at] = how
        elif kind == "number":
            value, size = how
            made[at : at + size] = (value % 256**size).to_bytes(size, "little")
        elif kind == "remove":
            del made[at : at + how]
        elif kind == "repeat":
            made[at:at] = made[at : at + how]
        elif kind == "insert":
            made[at:at] = how
        else:
            del made[at:]
    return bytes(made)


def odd_table(text: str, separator: str = ",", header: bool = True) -> st.SearchStrategy[bytes]:
    """A table as text with odd values, rows and columns; in another encoding, or damaged."""
    rows = [line.split(separator) for line in text.rstrip("\n").split("\n")]
    row, column = st.integers(0, len(rows) - 1), st.integers(0, max(map(len, rows)) - 1)
    change = st.one_of(
        st.tuples(st.just("value"), row, column, st.sampled_from(ODD_WORDS)),
        st.tuples(st.just("value"), row, column, st.text(max_size=8)),
        st.tuples(st.just("long"), row, column),
        st.tuples(st.just("remove"), row, st.integers(1, 3)),
        st.tuples(st.just("repeat"), row),
        st.tuples(st.just("swap rows"), row, row),
        st.tuples(st.just("remove column"), column),
        st.tuples(st.just("swap columns"), column, column),
        st.tuples(st.just("add column"), st.sampled_from(ODD_WORDS)),
        st.tuples(st.just("empty line"), row),
    )
    whole = st.builds(
        lambda changes, end, form: _encoded(_changed_rows(rows, changes, separator), end, form),
        st.lists(change, max_size=MOST),
        st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n", "\x85"]),
        st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    )
    return mostly(whole, damaged(text.encode()))


def _changed_rows(rows: list[list[str]], changes: list[tuple], separator: str) -> list[str]:
    made = [list(row) for row in rows]
    for kind, *how in changes:
        if not made:
            break
        if kind in ("value", "long") and how[0] < len(made) and how[1] < len(made[how[0]]):
            made[how[0]][how[1]] = how[2] if kind == "value" else LONG
        elif kind == "remove":
            del made[how[0] : how[0] + how[1]]
        elif kind == "repeat" and how[0] < len(made):
            made.insert(how[0], list(made[how[0]]))
        elif kind == "swap rows" and max(how) < len(made):
            made[how[0]], made[how[1]] = made[how[1]], made[how[0]]
        elif kind == "remove column":
            made = [row[: how[0]] + row[how[0] + 1 :] for row in made]
        elif kind == "swap columns":
            for row in made:
                if max(how) < len(row):
                    row[how[0]], row[how[1]] = row[how[1]], row[how[0]]
        elif kind == "add column":
            made = [[*row, how[0]] for row in made]
        elif kind == "empty line":
            made.insert(how[0], [])
    return [separator.join(row) for row in made]


def _encoded(lines: list[str], end: str, form: str) -> bytes:
    return "".join(line + end for line in lines).encode(form, "replace")


def odd_json(value: Any) -> st.SearchStrategy[bytes]:
    """JSON of `odd_value`s, nested too deep, or damaged."""
    odd = odd_value(value).map(lambda one: json.dumps(one).encode("utf-8", "replace"))
    deep = st.sampled_from([b"[", b'{"a":']).map(lambda start: start * 100_000)
    return mostly(odd, damaged(json.dumps(value).encode()) | deep)


def odd_value(value: Any) -> st.SearchStrategy[Any]:
    """Nested lists and dicts with odd, missing, renamed and exchanged values."""
    places = list(_places(value))
    place = st.sampled_from(places)
    change = st.one_of(
        st.tuples(st.just("set"), place, st.sampled_from(ODD_JSON)),
        st.tuples(st.just("set"), place, place),
        st.tuples(st.just("remove"), place, st.none()),
        st.tuples(st.just("rename"), place, st.sampled_from(["x", "", "../x", "1"])),
        st.tuples(st.just("deep"), place, st.none()),
    )
    changes = st.lists(change, max_size=MOST)
    return changes.map(lambda changes: _changed_value(value, changes, places))


def _places(value: Any, path: tuple = ()):
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from _places(inner, (*path, key))


def _changed_value(value: Any, changes: list[tuple], places: list[tuple]) -> Any:
    made = copy.deepcopy(value)
    for kind, path, how in changes:
        if isinstance(how, tuple):  # what stands at another place
            how = _at(value, how)
        if not path:
            made = copy.deepcopy(how) if kind == "set" else made
            continue
        try:
            parent = _at(made, path[:-1])
            if kind == "set":
                parent[path[-1]] = copy.deepcopy(how)
            elif kind == "remove":
                del parent[path[-1]]
            elif kind == "deep":
                parent[path[-1]] = [[[parent[path[-1]]]]]
            else:
                parent[how] = parent.pop(path[-1])
        except (AttributeError, LookupError, TypeError):
            continue  # an earlier change took the place away
    return made


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def parquet(table: pa.Table, **options) -> bytes:
    """The bytes of a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def odd_parquet(table: pa.Table) -> st.SearchStrategy[bytes]:
    """A Parquet file with odd values, types, columns and metadata; or damaged bytes."""
    column, row = st.sampled_from(table.column_names), st.integers(0, max(len(table) - 1, 0))
    values = (None, "", "x", *ODD_NUMBERS, *ODD_FLOATS, [], [0.5], [None], [0.25] * 9, "9" * 400)
    kinds = (
        pa.string(), pa.int8(), pa.int32(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(),
        pa.float64(), pa.bool_(), pa.binary(), pa.large_string(), pa.timestamp("ms"),
        pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.string()),
        pa.dictionary(pa.int32(), pa.string()), pa.decimal128(20, 2), pa.null(),
    )  # fmt: skip
    change = st.one_of(
        st.tuples(st.just("value"), column, row, st.sampled_from(values)),
        st.tuples(st.just("kind"), column, st.sampled_from(kinds)),
        st.tuples(st.just("remove"), column),
        st.tuples(st.just("rename"), column, st.sampled_from(["x", "", *table.column_names])),
        st.tuples(st.just("nulls"), column),
        st.tuples(st.just("rows"), st.integers(0, 2)),
        st.tuples(st.just("twice"), row),
        st.tuples(st.just("metadata"), st.sampled_from([b"", b"{}", b"[", b"\xff", b"[1e400]"])),
    )
    changed = st.lists(change, max_size=MOST).map(lambda c: parquet(_changed_table(table, c)))
    return mostly(changed, damaged(parquet(table)))


def _changed_table(table: pa.Table, changes: list[tuple]) -> pa.Table:
    for kind, *how in changes:
        if kind == "rows":
            table = table.slice(0, how[0])
        elif kind == "twice":
            table = pa.concat_tables([table, table.slice(how[0], 1)])
        elif kind == "metadata":
            names = list(table.schema.metadata or {"x": ""})
            table = table.replace_schema_metadata(dict.fromkeys(names, how[0]))
        elif how[0] not in table.column_names:
            continue
        elif kind == "remove":
            table = table.remove_column(table.column_names.index(how[0]))
        elif kind == "rename":
            names = [how[1] if name == how[0] else name for name in table.column_names]
            table = table.rename_columns(names)
        else:
            at = table.column_names.index(how[0])
            made = _changed_column(table[at], kind, how[1:])
            table = table if made is None else table.set_column(at, how[0], made)
    return table


def _changed_column(column: pa.ChunkedArray, kind: str, how: list) -> pa.Array | None:
    """None where the change cannot be made."""
    values = column.to_pylist()
    try:
        if kind == "kind":
            return column.cast(how[0])
        if kind == "nulls":
            return pa.array([None] * len(values), column.type)
        if how[0] < len(values):
            values[how[0]] = how[1]
        try:
            return pa.array(values, column.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return pa.array(values)  # of the type that fits
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def one_of_files(files: Mapping[str, st.SearchStrategy[bytes]]):
    """(name, bytes) of one of several files."""
    return st.one_of(*(st.tuples(st.just(name), made) for name, made in files.items()))


def mostly(often: st.SearchStrategy, rarely: st.SearchStrategy) -> st.SearchStrategy:
    """`often` three times in four."""
    return st.integers(0, 3).flatmap(lambda i: rarely if i == 3 else often)
