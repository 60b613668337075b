"""Checkpoints that can be trusted: asynchronous Orbax saves, a digest of every file, and fallback.

    RUN/checkpoints/<step>/{params,opt_state,ema,meta}/   written by Orbax, in the background
    RUN/checkpoints/<step>/DIGESTS.json                   sha256 of every file, written last

Orbax does not checksum payloads, so a step without DIGESTS.json is not trusted. Restoring verifies,
and falls back to the newest step that is whole. The only file that imports Orbax.
"""

import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from surgjax.digests import (
    DIGESTS,
    completed_steps,
    damaged_files,
    digest,
    find_step,
    step_folders,
)
from surgjax.errors import UserError
from surgjax.files import write_whole
from surgjax.state import Params, TrainState, flatten, join, with_average

ITEMS = ("params", "opt_state", "ema", "meta")
log = logging.getLogger("surgjax")
# Orbax warns that an item read by itself has no step metadata beside it; ours is in `meta`.
logging.getLogger("absl").addFilter(lambda r: "_CHECKPOINT_METADATA" not in r.getMessage())


class Checkpoints:
    """The checkpoints of one run. Every process makes one; rank 0 alone digests and deletes.

    Args:
      folder: RUN/checkpoints.
      keep: how many of the newest steps stay.
      keep_every: steps divisible by it stay too; 0 keeps no others.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0):
        self.folder, self.keep, self.keep_every = folder.absolute(), keep, keep_every
        self._manager: ocp.CheckpointManager | None = None
        self._saving: int | None = None
        self._digesting: threading.Thread | None = None
        self._failure: Exception | None = None

    def steps(self) -> list[int]:
        """Steps that have digests, oldest first (not verified again)."""
        return completed_steps(self.folder)

    def newest_whole(self, strict: bool = False) -> int | None:
        """The newest step whose files match their digests; None when nothing was ever completed.

        Damaged steps are named in the log and moved aside to `damaged/`, steps that were never
        completed are removed. Rank 0 decides for all. Raises UserError when every completed step is
        damaged, and with `strict` when the newest is.
        """
        found: list[Any] = [-1]
        if jax.process_index() == 0:
            try:
                found = [self._clean_and_pick(strict)]
            except UserError as error:  # the other ranks must learn of it too
                found = [-2]
                self._failure = error
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            found = [int(multihost_utils.broadcast_one_to_all(np.int32(found[0])))]
        if found[0] == -2:
            raise self._failure or UserError("rank 0 found no checkpoint it can trust")
        return None if found[0] == -1 else found[0]

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """(state, meta) of a step, placed as the shardings of `abstract` say.

        Raises UserError when the files belong to another model.
        """
        arguments = {
            "params": ocp.args.StandardRestore(abstract.params),
            "opt_state": ocp.args.StandardRestore(abstract.opt_state),
            "meta": ocp.args.JsonRestore(),
        }
        if abstract.ema is not None:
            arguments["ema"] = ocp.args.StandardRestore(abstract.ema)
        self._check_fits(step, abstract)
        read = self._open().restore(step, args=ocp.args.Composite(**arguments))
        placed = jax.device_put(np.int32(step), abstract.step.sharding)
        ema = read.ema if abstract.ema is not None else None
        state = TrainState(placed, read.params, abstract.frozen, read.opt_state, ema)
        return state, read.meta

    def _check_fits(self, step: int, abstract: TrainState) -> None:
        """Compare shapes before anything is read."""
        for item, expected in (("params", abstract.params), ("ema", abstract.ema)):
            folder = self.folder / str(step) / item
            saved = flatten(_metadata(folder)) if folder.is_dir() else {}
            saved = {path: tuple(leaf.shape) for path, leaf in saved.items()}
            wanted = {path: tuple(leaf.shape) for path, leaf in flatten(expected or {}).items()}
            odd = sorted(path for path in saved | wanted if saved.get(path) != wanted.get(path))
            if odd:
                raise UserError(
                    f"checkpoint {self.folder / str(step)} does not fit this model: {item} "
                    f"{odd[0]} is {saved.get(odd[0], 'missing')} there, expected "
                    f"{wanted.get(odd[0], 'none')} ({len(odd)} such leaves); use the configuration "
                    f"it was trained with or a new --workdir"
                )

    def save(self, state: TrainState, step: int, meta: dict[str, Any]) -> None:
        """Start saving; returns as soon as the arrays are copied. Finishes the save before it."""
        self.wait()
        arguments = {
            "params": ocp.args.StandardSave(state.params),
            "opt_state": ocp.args.StandardSave(state.opt_state),
            "meta": ocp.args.JsonSave(meta),
        }
        if state.ema is not None:
            arguments["ema"] = ocp.args.StandardSave(state.ema)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_space(state)
        self._saving = step
        with _disk_errors(self.folder):
            self._open().save(step, args=ocp.args.Composite(**arguments), force=True)

    def _check_space(self, state: TrainState) -> None:
        """Refuse before anything is written: a save that fails half-way is noticed, but noisy."""
        leaves = jax.tree.leaves((state.params, state.opt_state, state.ema))
        needed, free = sum(x.nbytes for x in leaves), shutil.disk_usage(self.folder).free
        if jax.process_index() == 0 and free < needed:
            raise UserError(
                f"no room for a checkpoint: {self.folder} has {free / 1e9:.1f} GB free, it takes "
                f"{needed / 1e9:.1f} GB; free space and run the same command again"
            )

    def poll(self) -> None:
        """Complete a save whose files are committed, without waiting for anything."""
        if self._saving is not None and not self._open().is_saving_in_progress():
            self._complete()

    def wait(self) -> None:
        """Wait until the last save is on disk with its digests. Raises UserError on a full disk."""
        if self._saving is not None:
            self._complete()
        if self._digesting is not None:
            self._digesting.join()
            self._digesting = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Finish what is under way. Raises what `wait` raises, once."""
        try:
            self.wait()
        finally:
            manager, self._manager = self._manager, None
            if manager is not None:
                with _disk_errors(self.folder):
                    manager.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(max_to_keep=None, create=False)
            self._manager = ocp.CheckpointManager(self.folder, item_names=ITEMS, options=options)
        return self._manager

    def _complete(self) -> None:
        step, self._saving = self._saving, None
        with _disk_errors(self.folder):
            self._open().wait_until_finished()
        if jax.process_index() == 0:
            self._digesting = threading.Thread(target=self._digest_and_prune, args=(step,))
            self._digesting.start()

    def _digest_and_prune(self, step: int) -> None:
        try:
            with _disk_errors(self.folder):
                write_whole(
                    self._digests(step), json.dumps(digest(self.folder / str(step)), indent=1)
                )
            whole = self.steps()
            for old in whole[: -self.keep]:
                if not (self.keep_every and old % self.keep_every == 0):
                    self._digests(old).unlink()  # first, so that a half-deleted step is not trusted
                    shutil.rmtree(self.folder / str(old))
        except Exception as error:  # raised again by wait() on the main thread
            self._failure = error

    def _clean_and_pick(self, strict: bool) -> int:
        for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover)
        completed = self.steps()
        for step in set(step_folders(self.folder)) - set(completed):
            log.warning("checkpoint %d was never completed; removed", step)
            shutil.rmtree(self.folder / str(step))
        for step in reversed(completed):
            damage = damaged_files(self.folder / str(step))
            if not damage:
                return step
            what = f"checkpoint {self.folder / str(step)} is damaged: {', '.join(damage[:3])}"
            if strict:
                raise UserError(f"{what}; drop --strict to continue from an older one")
            log.error("%s; falling back to an older one", what)
            aside = self.folder.parent / "damaged" / str(step)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            shutil.move(self.folder / str(step), aside)
        if completed:
            raise UserError(
                f"every checkpoint of {self.folder.parent} is damaged (moved to its damaged/); use"
                f"  a new --workdir to start again"
            )
        return -1

    def _digests(self, step: int) -> Path:
        return self.folder / str(step) / DIGESTS


def read_params(path: Path, step: int | None = None, item: str = "params") -> tuple[Params, dict]:
    """(parameters as nested dict of numpy arrays, meta) of a run or step folder, of any mesh."""
    folder = find_step(Path(path).absolute(), step)
    params = _read(folder / item)
    frozen = folder.parent.parent / "frozen"
    if item == "params" and frozen.is_dir():
        params = join(params, read_frozen(folder.parent.parent))
    return params, json.loads((folder / "meta" / "metadata").read_text())


def read_model(path: Path, step: int | None = None) -> tuple[Params, dict]:
    """(what a run or step folder is used as, meta): `read_params`, averages in their places."""
    folder = find_step(Path(path).absolute(), step)
    params, meta = read_params(folder)
    ema = _read(folder / "ema") if meta.get("ema_of") else None
    return with_average(params, ema, meta.get("ema_of")), meta


def write_frozen(run: Path, frozen: Params) -> None:
    """Frozen leaves, written once a run in the layout of a checkpoint item."""
    if frozen and not (run / "frozen").is_dir():
        saver = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        saver.save((run / "frozen").absolute(), args=ocp.args.PyTreeSave(frozen))


def read_frozen(run: Path) -> Params:
    """Frozen leaves of a run as numpy arrays."""
    return _read((run / "frozen").absolute())


def _metadata(folder: Path) -> Params:
    """Shapes and dtypes of what was saved as one item."""
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).metadata(folder).item_metadata.tree


def _read(folder: Path) -> Params:
    """One item as a nested dict of numpy arrays, whatever mesh it was saved from."""
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _metadata(folder))
    return handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


class _disk_errors:
    """Turns what a full disk raises, of whatever type, into one clear line."""

    SIGNS = ("no space left", "file too large", "out_of_range", "resource_exhausted", "quota")

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, Exception) and any(s in str(error).lower() for s in self.SIGNS):
            free = shutil.disk_usage(self.folder).free / 1e9
            logging.getLogger("asyncio").disabled = True  # it repeats this for every other file
            raise UserError(
                f"could not write a checkpoint to {self.folder} ({free:.1f} GB free), disk full or "
                f"over quota; free space and run the same command again; older ones are whole"
            ) from error
