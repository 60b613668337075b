"""store.json and the Parquet tables of a store, checked as they are read.

A store comes from anywhere. What is missing, of another type, empty or of another length is told
here, by its file and column, and gives no wrong clip or label later.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from surgjax.data.record import SCHEMA_VERSION
from surgjax.files import parse_json

NAMES = pa.dictionary(pa.int32(), pa.string())  # strings that repeat, kept once
KINDS = ("one_of_n", "multi_label", "score")


def parse_meta(text: str | bytes) -> dict[str, Any]:
    """What store.json holds; of a newer schema anything.

    Raises:
      ValueError: no JSON, or an entry is missing or of another type; says which.
    """
    meta = parse_json(text)
    if not isinstance(meta, dict) or type(meta.get("schema_version")) is not int:
        raise ValueError("it has no schema_version")
    if meta["schema_version"] > SCHEMA_VERSION:
        return meta  # the rest may be of any kind
    missing = [name for name in ("settings", "shards") if name not in meta]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    settings, shards = meta["settings"], meta["shards"]
    if not isinstance(settings, dict) or not _is_count(settings.get("frames_per_record", 1), 1):
        raise ValueError("its settings are none")
    kinds = {"name": str, "sources": list} | dict.fromkeys(("tasks", "tables", "licences"), dict)
    for name, kind in kinds.items():
        if name in meta and not isinstance(meta[name], kind):
            raise ValueError(f"{name} is {meta[name]!r:.60}")
    for name in ("tables", "licences"):
        if not all(map(_is_text, meta.get(name, {}).values())):
            raise ValueError(f"{name} are {meta[name]!r:.60}")
    if not isinstance(shards, list) or not all(map(_is_shard, shards)):
        raise ValueError("its shards are no list of files with their records")
    for name, about in meta.get("tasks", {}).items():
        if not isinstance(about, dict) or about.get("kind") not in KINDS:
            raise ValueError(f"task {name} is {about!r:.60}")
        if not isinstance(about.get("classes"), list) or not all(map(_is_text, about["classes"])):
            raise ValueError(f"task {name} has no names of classes")
    for source in meta.get("sources", ()):
        splits = source.get("splits", {}) if isinstance(source, dict) else None
        if not isinstance(splits, dict) or not all(isinstance(of, dict) for of in splits.values()):
            raise ValueError(f"source {source!r:.60} has no splits")
    return {name: kind() for name, kind in kinds.items() if name != "name"} | meta


def read_table(
    path: Path, kinds: Mapping[str, pa.DataType | str], may_be_empty: Collection[str] = ()
) -> pa.Table:
    """The columns of a Parquet table that `kinds` names, of the types it gives.

    Args:
      kinds: column -> type, or its Arrow name; NAMES keeps equal strings once.
      may_be_empty: columns in which rows may have no value.

    Raises:
      ValueError: unreadable, or a column is missing, of another type, or has an empty value.
    """
    wanted = {n: pa.type_for_alias(k) if isinstance(k, str) else k for n, k in kinds.items()}
    names = [name for name, kind in wanted.items() if kind == NAMES]
    try:
        found = pq.read_schema(path).names
        if missing := [name for name in wanted if found.count(name) != 1]:
            raise ValueError(f"it lacks the column {missing[0]}")
        table = pq.read_table(path, columns=list(wanted), read_dictionary=names)
        table = table.select(list(wanted)).cast(pa.schema(wanted.items()))
        table.validate(full=True)  # texts may be none
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    for name in wanted:
        if name not in may_be_empty and table[name].null_count:
            raise ValueError(f"column {name} has empty values")
    return table


def is_rectangular(column: pa.ListArray, width: int) -> bool:
    """Whether every list of a column has `width` values, none of them empty."""
    lengths = pc.list_value_length(column)
    odd = len(column) and pc.min_max(lengths).as_py() != {"min": width, "max": width}
    return not odd and not column.flatten().null_count


def _is_shard(about: Any) -> bool:
    return (
        isinstance(about, dict) and _is_text(about.get("file")) and _is_count(about.get("records"))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value <= 1 << 60
