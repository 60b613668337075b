"""The labels of a store in place of the targets of a file of predictions."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from surgjax.benchmark import predictions
from surgjax.benchmark.predictions import Predictions
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError, nearest


def of_store(file: Path, folder: Path, task: str) -> Predictions:
    """The predictions with targets from the store's labels, classes in the store's order.

    The store's task is the one of that name, else the one with the classes of the file.

    Raises:
      UserError: as `predictions.read`; the store has no such task; a row whose video or labelled
        frame the store does not have; a labelled frame of these videos that the file lacks.
    """
    store = open_store(folder)
    name = _task(store, task, predictions.classes_of(file))
    table = predictions.read(file, store.meta["tasks"][name]["classes"])
    if "t_ms" not in table:
        raise UserError(f"{file} lacks t_ms; --labels finds a frame by its video and time")
    labels = store.labels(name)
    ids = store.videos["video_id"].astype(str)
    asked, which = np.unique(table["video_id"], return_inverse=True)
    if strange := sorted(set(asked.tolist()) - set(ids.tolist())):
        raise UserError(
            f"{file} names video {strange[0]!r}, which {folder} does not have"
            f"{nearest(strange[0], ids)}"
        )
    number = {video: i for i, video in enumerate(ids.tolist())}
    video = np.array([number[video] for video in asked.tolist()], np.int64)[which]
    values = labels["label"] if "label" in labels else labels["values"]
    told = values >= 0 if values.ndim == 1 else ~np.isnan(values).all(1)
    own = np.isin(labels["video"], video)
    span = 1 + int(max(labels["t_ms"].max(initial=0), table["t_ms"].max(initial=0)))
    known = labels["video"][own].astype(np.int64) * span + labels["t_ms"][own]
    wanted = video * span + table["t_ms"].astype(np.int64)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], wanted), max(0, len(known) - 1))
    found = known[order][at] == wanted if len(known) else np.zeros(len(wanted), bool)
    if not found.all():
        row = int((~found).argmax())
        raise UserError(
            f"{file}, row {row}: {table['video_id'][row]} has no {name} label at "
            f"{table['t_ms'][row]} ms in {folder}"
        )
    needed = known[told[own]]
    for model in table.models:
        mine = wanted[table["model"] == model] if "model" in table else wanted
        if len(left := np.setdiff1d(needed, mine)):
            raise UserError(
                f"{file} lacks {len(left)} of {len(needed)} labelled frames of its videos, "
                f"{ids[left[0] // span]} at {left[0] % span} ms is the first; predict all of them"
            )
    target = values[own][order][at]
    if target.ndim == 1:
        return replace(table, target=target.astype(np.int64)).where(target >= 0)
    return replace(table, target=target.astype(np.float32))


def _task(store: Store, task: str, classes: list[str]) -> str:
    tasks = store.meta.get("tasks", {})
    if task in tasks:
        return task
    same = [name for name, of in tasks.items() if sorted(of["classes"]) == sorted(classes)]
    if len(same) != 1:
        raise UserError(
            f"{store.path} has no labels of task {task!r} or with the classes "
            f"{', '.join(classes[:5])}, ...; it has {', '.join(tasks) or 'none'}"
        )
    return same[0]
