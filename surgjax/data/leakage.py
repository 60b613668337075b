"""Held-out cases never reach pretraining (contract 8 of DESIGN.md).

A case that is validation or test in any split of any of the given stores is dropped from all of
them: Cholec80 frames at 1 fps in one store and at 25 fps in another are the same patients.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from surgjax.data.store import Store
from surgjax.errors import UserError


def usable_videos(stores: list[Store]) -> tuple[list[np.ndarray], dict]:
    """Which videos pretraining may use.

    Returns:
      One bool array (videos,) a store, and a report: {"kept", "dropped": videos over all stores,
      "splits": {column: {value: videos}}, "stores": [{"name", "kept", "dropped"}], "cases": sorted
      ids of the cases in use, "held_out": number of cases dropped}.

    Raises:
      UserError: nothing of a store is left.
    """
    held_out = _held_out_cases(stores)
    masks, report_stores, used = [], [], []
    for store in stores:
        cases = store.column("case")
        keep = np.ones(len(store), bool)
        if len(held_out):
            keep = ~pc.is_in(cases, value_set=held_out).to_numpy(zero_copy_only=False)
        if not keep.any():
            raise UserError(
                f"all {len(keep)} videos of {store.path} are validation or test cases of a known "
                "split, nothing is left for pretraining; add a store with training cases"
            )
        masks.append(keep)
        used.append(pc.unique(cases.filter(pa.array(keep))))
        report_stores.append(
            {"name": store.name, "kept": int(keep.sum()), "dropped": int((~keep).sum())}
        )
    report = {
        "kept": sum(s["kept"] for s in report_stores),
        "dropped": sum(s["dropped"] for s in report_stores),
        "splits": _count_splits(stores),
        "stores": report_stores,
        "cases": _sorted(_union(used)),
        "held_out": len(held_out),
    }
    return masks, report


def _held_out_cases(stores: list[Store]) -> pa.Array:
    """Cases with any split value but train or null: an unknown name may well mean a test set."""
    found = []
    for store in stores:
        for name in store.split_columns:
            held = pc.fill_null(pc.not_equal(store.column(name), "train"), False)
            found.append(pc.unique(store.column("case").filter(held)))
    return _union(found)


def _count_splits(stores: list[Store]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for store in stores:
        for name in store.split_columns:
            into = counts.setdefault(name, {})
            for entry in pc.value_counts(store.column(name)).to_pylist():
                value = entry["values"] or "none"
                into[value] = into.get(value, 0) + entry["counts"]
    return counts


def _union(columns: list[pa.Array]) -> pa.Array:
    if not columns:
        return pa.array([], pa.string())
    return pc.unique(pa.concat_arrays([c.cast(pa.string()) for c in columns])).drop_null()


def _sorted(column: pa.Array) -> list[str]:
    return column.take(pc.sort_indices(column)).to_pylist()
