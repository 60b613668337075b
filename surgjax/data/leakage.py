"""Held-out cases never reach pretraining (contract 8 of DESIGN.md).

A case that is validation or test in any split of any of the given stores is dropped from all of
them: Cholec80 frames at 1 fps in one store and at 25 fps in another are the same patients. So is
one that a store knows under another dataset's name, if it is held out there.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from surgjax.data.store import Store
from surgjax.errors import UserError

EVERY, NONE = "every", "none"
# Cases of lists that do not say whose they are: the clips may be of any other dataset.
NAMELESS = "surgrec_csv/"

log = logging.getLogger("surgjax")


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
    held_out = _held_out_cases(stores, lambda _: [column])
    return _without(names_of(stores, held_out), stores, chosen)


def usable_videos(stores: list[Store], held_out: str = EVERY) -> tuple[list[np.ndarray], dict]:
    """Which videos pretraining may use.

    Args:
      held_out: whose validation and test cases are left out: "every" known split but folds,
        "none", as in some published recipes, or names of splits with commas, to repeat a recipe.
        Tables then say that the model saw what it saw.

    Returns:
      One bool array (videos,) a store, and a report: {"kept", "dropped": videos over all stores,
      "splits": {column: {value: videos}}, "stores": [{"name", "kept", "dropped"}], "cases": sorted
      ids of the cases in use, "names": these and their names in other datasets, "held_out": number
      of names of held-out cases}.

    Raises:
      UserError: an unknown split, or nothing of a store is left.
    """
    everything = [np.ones(len(store), bool) for store in stores]
    return _without(held_out_cases(stores, held_out), stores, everything)


def log_report(report: Mapping[str, Any], held_out: str) -> None:
    """What `usable_videos` or `training_videos` left out, in lines of the run's log."""
    if held_out != EVERY:
        log.warning(
            "data.held_out=%s: other held-out cases are trained on; tables say so", held_out
        )
    log.info(
        "training on %d videos of %d cases; dropped %d videos of held-out cases (%s)",
        report["kept"],
        len(report["cases"]),
        report["dropped"],
        "; ".join(f"{name}: {counts}" for name, counts in report["splits"].items()) or "no splits",
    )
    if others := len(report["names"]) - len(report["cases"]):
        log.info("%d names of these cases in other datasets count as seen too", others)


def held_out_cases(stores: Sequence[Store], held_out: str = EVERY) -> set[str]:
    """Cases that pretraining leaves out, under all their names; `held_out` as in `usable_videos`.

    Raises:
      UserError: no store has such a split.
    """
    if held_out == NONE:
        return set()
    columns_of = lambda store: store.held_out_columns  # noqa: E731
    if held_out != EVERY:
        columns = {f"split_{name.strip()}" for name in held_out.split(",")}
        known = {column for store in stores for column in store.split_columns}
        if unknown := sorted(columns - known):
            names = sorted(column.removeprefix("split_") for column in known)
            raise UserError(
                f"data.held_out={held_out}: no store has a split "
                f"{unknown[0].removeprefix('split_')!r}; expected {EVERY}, {NONE}, or some of "
                f"{', '.join(names) or 'no splits at all'}"
            )
        columns_of = lambda store: [c for c in store.split_columns if c in columns]  # noqa: E731
    found = _held_out_cases(stores, columns_of)
    found |= {row["case"] for s in stores for row in s.same_cases() if row["held_out"]}
    return names_of(stores, found)


def names_of(stores: Iterable[Store], cases: Iterable[str]) -> set[str]:
    """These cases and all names that the stores know for them, those of names included."""
    others: dict[str, set[str]] = {}
    for row in (row for store in stores for row in store.same_cases()):
        others.setdefault(row["case"], set()).add(row["same_as"])
        others.setdefault(row["same_as"], set()).add(row["case"])
    names, new = set(), set(cases)
    while new:
        names |= new
        new = {other for name in new for other in others.get(name, ())} - names
    return names


def saw(store: Store, cases: Iterable[str], used: Collection[str] | None) -> str:
    """Whether a model that was trained on the cases `used` (None: not known) saw any of `cases`,
    under whatever name the store knows for them: "yes", "no" or "unknown"."""
    if used is None:
        return "unknown"
    names = names_of([store], cases)
    if names & set(used):
        return "yes"
    is_unclear = any(name.startswith(NAMELESS) for name in names)
    return "unknown" if is_unclear and any(not c.startswith(NAMELESS) for c in used) else "no"


def _without(
    held_out: set[str], stores: list[Store], chosen: list[np.ndarray]
) -> tuple[list[np.ndarray], dict]:
    """The chosen videos of cases that are not held out, and the report."""
    masks, report_stores, used = [], [], []
    dropped = pa.array(sorted(held_out), pa.string())
    for store, keep in zip(stores, chosen, strict=True):
        cases = store.column("case")
        if held_out:
            keep = keep & ~pc.is_in(cases, value_set=dropped).to_numpy(zero_copy_only=False)
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
    cases = _sorted(_union(used))
    report = {
        "kept": sum(s["kept"] for s in report_stores),
        "dropped": sum(s["dropped"] for s in report_stores),
        "splits": _count_splits(stores),
        "stores": report_stores,
        "cases": cases,
        "names": sorted(names_of(stores, cases)),
        "held_out": len(held_out),
    }
    return masks, report


def _held_out_cases(stores: Sequence[Store], columns_of) -> set[str]:
    """Cases with any split value but train or null: an unknown name may well mean a test set."""
    found = []
    for store in stores:
        for name in columns_of(store):
            held = pc.fill_null(pc.not_equal(store.column(name), "train"), False)
            found.append(pc.unique(store.column("case").filter(held)))
    return set(_union(found).to_pylist())


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
