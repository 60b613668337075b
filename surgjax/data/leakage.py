"""Held-out cases never reach pretraining (contract 8 of DESIGN.md).

A case that is validation or test in any split of any of the given stores is dropped from all of
them: Cholec80 frames at 1 fps in one store and at 25 fps in another are the same patients.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from surgjax.data.store import Store
from surgjax.errors import UserError


def training_videos(stores: list[Store], split: str) -> tuple[list[np.ndarray], dict]:
    """Which videos supervised training may use: the training part of one split.

    A case that any of the stores holds out in that split is dropped from all of them; other splits
    of the same cases do not matter, as folds of one cross-validation would leave nothing.

    Returns:
      As `usable_videos`.

    Raises:
      UserError: a store without that split, or nothing of a store is left.
    """
    column = f"split_{split}"
    for store in stores:
        if column not in store.split_columns:
            known = [name.removeprefix("split_") for name in store.split_columns]
            remedy = "set data.split"
            if not known:
                remedy = (
                    "put splits.csv (video,split: train, val or test) beside the videos and give "
                    "the command that made the store again, which decodes nothing"
                )
            raise UserError(
                f"{store.path} has no split {split!r}; it has {known or 'none'}; {remedy}"
            )
    chosen = [
        pc.fill_null(pc.equal(store.column(column), "train"), False).to_numpy(zero_copy_only=False)
        for store in stores
    ]
    return _without(_held_out_cases(stores, [column]), stores, chosen)


def usable_videos(stores: list[Store]) -> tuple[list[np.ndarray], dict]:
    """Which videos pretraining may use.

    Returns:
      One bool array (videos,) a store, and a report: {"kept", "dropped": videos over all stores,
      "splits": {column: {value: videos}}, "stores": [{"name", "kept", "dropped"}], "cases": sorted
      ids of the cases in use, "held_out": number of cases dropped}.

    Raises:
      UserError: nothing of a store is left.
    """
    return _without(_held_out_cases(stores), stores, [np.ones(len(s), bool) for s in stores])


def _without(
    held_out: pa.Array, stores: list[Store], chosen: list[np.ndarray]
) -> tuple[list[np.ndarray], dict]:
    """The chosen videos of cases that are not held out, and the report."""
    masks, report_stores, used = [], [], []
    for store, keep in zip(stores, chosen, strict=True):
        cases = store.column("case")
        if len(held_out):
            keep = keep & ~pc.is_in(cases, value_set=held_out).to_numpy(zero_copy_only=False)
        if not keep.any():
            raise UserError(
                f"all {len(keep)} videos of {store.path} are validation or test cases of a known "
                "split, nothing is left for training; add a store with training cases"
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


def _held_out_cases(stores: list[Store], columns: list[str] | None = None) -> pa.Array:
    """Cases with any split value but train or null: an unknown name may well mean a test set.

    `columns` are the splits looked at; None for all but folds, which would leave nothing.
    """
    found = []
    for store in stores:
        for name in store.held_out_columns if columns is None else columns:
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
