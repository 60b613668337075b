"""Checkpoints that can be trusted: asynchronous Orbax saves, a digest of every file, and fallback.

    RUN/checkpoints/<step>/{params,opt_state,ema,meta}/   written by Orbax, in the background
    RUN/checkpoints/<step>/DIGESTS.json                   sha256 of every file, written last
    RUN/frozen/                                           leaves that do not learn, written once

Orbax does not checksum payloads, so a step without DIGESTS.json is not trusted. Restoring verifies,
and falls back to the newest step that is whole. Any mesh restores what any other has saved. The
only file that imports Orbax, where it is needed: at a start the step is being compiled meanwhile.
`python -m surgjax.checkpoint ls|verify|prune RUN` looks after them.
"""

if __name__ == "__main__":  # before jax is imported, for seconds, which the verbs do not need
    from surgjax.checkpoint_verbs import main
    from surgjax.errors import run

    run(main)

import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from surgjax import migrations
from surgjax.digests import (
    DIGESTS,
    MODEL,
    completed_steps,
    damaged_files,
    digest,
    find_step,
    leftovers,
    outdated,
    read_meta,
    remove_step,
)
from surgjax.errors import REQUEUE, Stopped, UserError
from surgjax.files import absolute, is_remote, parse_json, remove_folder, write_whole
from surgjax.multihost import largest
from surgjax.state import Params, TrainState, flatten, unflatten
from surgjax.testing import fault

ITEMS = ("params", "opt_state", "ema", "meta")
log = logging.getLogger("surgjax")
# Orbax warns that an item read by itself has no step metadata beside it; ours is in `meta`.
logging.getLogger("absl").addFilter(lambda r: "_CHECKPOINT_METADATA" not in r.getMessage())


class Checkpoints:
    """The checkpoints of one run. Every process makes one; rank 0 alone digests and deletes.

    Raises UserError for s3://, which Orbax cannot write.

    Args:
      folder: RUN/checkpoints.
      keep: how many of the newest steps stay.
      keep_every: steps divisible by it stay too; 0 keeps no others.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0):
        _refuse_s3(folder)
        self.folder, self.keep, self.keep_every = absolute(folder), keep, keep_every
        self._manager: Any = None  # Orbax's CheckpointManager
        self._saving: int | None = None
        self._digesting: threading.Thread | None = None
        self._failure: Exception | None = None

    def steps(self) -> list[int]:
        """Steps that have digests, oldest first (not verified again)."""
        return completed_steps(self.folder)

    def newest_whole(self, strict: bool = False) -> int | None:
        """The newest step whose files match their digests; None when nothing was ever completed.

        Damaged steps newer than it are named in the log and moved aside to `damaged/`, steps that
        were never completed are removed. Rank 0 decides for all. Raises UserError when every
        completed step is damaged, and with `strict` when the newest is.
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

        What an older surgjax wrote is read as numpy arrays, brought to today's format and placed.
        Raises UserError when the files belong to another model or a newer surgjax.
        """
        import orbax.checkpoint as ocp

        folder = self.folder / str(step)
        meta = read_meta(folder)
        wanted = {"params": abstract.params, "opt_state": abstract.opt_state}
        if abstract.ema is not None:
            wanted["ema"] = abstract.ema
        present = [item for item in ("params", "opt_state", "ema") if (folder / item).is_dir()]
        if _is_old(folder):
            saved = {item: _leaves(folder, item) for item in present}
            _refuse_other_shapes(folder, saved, wanted)
            read = {item: _place(saved[item], tree) for item, tree in wanted.items()}
        else:
            _refuse_other_shapes(folder, {i: _metadata(folder / i) for i in present}, wanted)
            arguments = {i: ocp.args.StandardRestore(tree) for i, tree in wanted.items()}
            read = self._open().restore(step, args=ocp.args.Composite(**arguments))
        placed = jax.device_put(np.int32(step), abstract.step.sharding)
        ema = read["ema"] if abstract.ema is not None else None
        state = TrainState(placed, read["params"], abstract.frozen, read["opt_state"], ema)
        return state, meta

    def save(self, state: TrainState, step: int, meta: dict[str, Any]) -> None:
        """Start saving; returns as soon as the arrays are copied. Finishes the save before it."""
        import orbax.checkpoint as ocp

        self.wait()
        arguments = {
            "params": ocp.args.StandardSave(state.params),
            "opt_state": ocp.args.StandardSave(state.opt_state),
            "meta": ocp.args.JsonSave(
                meta | {"format": migrations.FORMAT, "saved_from": _saved_from(state)}
            ),
        }
        if state.ema is not None:
            arguments["ema"] = ocp.args.StandardSave(state.ema)
        with _disk_errors(self.folder):
            fault("before_save", step)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_space(state)
            self._saving = step
            self._open().save(step, args=ocp.args.Composite(**arguments), force=True)
            fault("inside_save", step)

    def _check_space(self, state: TrainState) -> None:
        """Refuse before anything is written: a save that fails half-way is noticed, but noisy."""
        if is_remote(self.folder):
            return
        leaves = jax.tree.leaves((state.params, state.opt_state, state.ema))
        needed, free = sum(x.nbytes for x in leaves), shutil.disk_usage(self.folder).free
        if largest(int(jax.process_index() == 0 and free < needed)):  # all refuse, or none
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

    def _open(self) -> Any:
        if self._manager is None:
            import orbax.checkpoint as ocp

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
                fault("before_commit", step)
                write_whole(
                    self._digests(step), json.dumps(digest(self.folder / str(step)), indent=1)
                )
            fault("after_commit", step)
            for old in outdated(self.steps(), self.keep, self.keep_every):
                _remove(self.folder / str(old))
        except Exception as error:  # raised again by wait() on the main thread
            self._failure = error

    def _clean_and_pick(self, strict: bool) -> int:
        for path in leftovers(self.folder):
            log.warning("%s was never completed; removing it", path)
            _remove(path)
        damaged: list[Path] = []
        for step in reversed(self.steps()):
            folder = self.folder / str(step)
            damage = damaged_files(folder)
            if not damage:
                for other in damaged:
                    _move_aside(other)
                return step
            what = f"checkpoint {folder} is damaged: {', '.join(damage[:3])}"
            if strict:
                raise UserError(f"{what}; drop --strict to continue from an older one")
            log.error("%s; falling back to an older one", what)
            damaged.append(folder)
        if damaged:  # they stay where they are: the same command must not start anew
            raise UserError(
                f"every checkpoint of {self.folder.parent} is damaged; put back a copy, or use a "
                f"new --workdir to start again"
            )
        return -1

    def _digests(self, step: int) -> Path:
        return self.folder / str(step) / DIGESTS


def read_params(
    path: Path, step: int | None = None, item: str = "params", below: Sequence[str] = ()
) -> tuple[Params, dict[str, Any]]:
    """(parameters as nested dict of numpy arrays, meta) of a run or step folder, of any mesh.

    Args:
      item: "params" with the frozen ones, "ema" or "opt_state".
      below: prefixes of paths ("encoder", "decoder/head"): only these leaves are read from disk.

    Raises:
      UserError: no step that is whole, or one of a newer surgjax.
    """
    folder = find_step(path, step, (*MODEL, item))
    meta = read_meta(folder)
    leaves = _leaves(folder, item, lambda path: _is_below(path, below))
    if item == "params":
        leaves |= _frozen_leaves(folder.parent.parent, lambda path: _is_below(path, below))
    return unflatten(leaves), meta


def read_model(folder: Path, below: Sequence[str] = ()) -> tuple[Params, dict[str, Any]]:
    """(what a step is used as, meta): parameters, averages in the place of what they average.

    Args:
      folder: of a step, as `find_step` gives it.
      below: as in `read_params`.
    """
    meta = read_meta(folder)
    average = meta.get("ema_of")
    is_read = lambda path: (  # noqa: E731
        _is_below(path, below) and not (average and _is_below(path, (average,)))
    )
    leaves = _leaves(folder, "params", is_read)
    leaves |= _frozen_leaves(folder.parent.parent, is_read)
    if average:
        averages = _leaves(folder, "ema", lambda path: _is_below(f"{average}/{path}", below))
        leaves |= {f"{average}/{path}": leaf for path, leaf in averages.items()}
    return unflatten(leaves), meta


def write_frozen(run: Path, frozen: Params) -> None:
    """Frozen leaves, written once a run in the layout of a checkpoint item; by all processes."""
    if not frozen:
        return
    import orbax.checkpoint as ocp

    folder = absolute(run) / "frozen"
    saver = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    saver.save(folder, args=ocp.args.PyTreeSave(frozen), force=True)
    if jax.process_index() == 0:
        write_whole(folder / "meta.json", json.dumps({"format": migrations.FORMAT}) + "\n")
        write_whole(folder / DIGESTS, json.dumps(digest(folder), indent=1))


def read_frozen(run: Path) -> Params:
    """Frozen leaves of a run as numpy arrays. Raises UserError: damaged or missing."""
    folder = absolute(run) / "frozen"
    if not folder.is_dir():
        raise UserError(
            f"{folder} is missing, and checkpoints do not hold what was there; put back a copy, or "
            f"use a new --workdir to start again"
        )
    return unflatten(_frozen_leaves(folder.parent))


def _everything(path: str) -> bool:
    return True


def _is_below(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a path is one of `prefixes` or below it; everything is below none at all."""
    return not prefixes or any(f"{path}/".startswith(f"{prefix}/") for prefix in prefixes)


def _frozen_leaves(
    run: Path, is_wanted: Callable[[str], bool] = _everything
) -> dict[str, np.ndarray]:
    folder = run / "frozen"
    if not folder.is_dir():
        return {}
    if (folder / DIGESTS).is_file():  # not in format 0
        if damage := damaged_files(folder):
            raise UserError(
                f"{folder} is damaged ({', '.join(damage[:3])}), and checkpoints do not hold what "
                f"is there; put back a copy, or use a new --workdir to start again"
            )
    about = folder / "meta.json"
    meta = parse_json(about.read_text()) if about.is_file() else {}
    return _in_todays_format(folder, "frozen", meta, is_wanted, run)


def _leaves(
    folder: Path, item: str, is_wanted: Callable[[str], bool] = _everything
) -> dict[str, np.ndarray]:
    """{path: array} of one item of a step in today's format, whatever mesh it was saved from."""
    return _in_todays_format(folder / item, item, _written_meta(folder), is_wanted, folder)


def _in_todays_format(
    folder: Path, item: str, meta: dict, is_wanted: Callable[[str], bool], where: Path
) -> dict[str, np.ndarray]:
    if meta.get("format", 0) == migrations.FORMAT:
        return _read(folder, is_wanted)
    # What is wanted may have had another name, or be made of several.
    items, _ = migrations.migrate({item: _read(folder, _everything)}, meta, where)
    return {path: leaf for path, leaf in items[item].items() if is_wanted(path)}


def _is_old(folder: Path) -> bool:
    return _written_meta(folder).get("format", 0) < migrations.FORMAT


def _written_meta(folder: Path) -> dict[str, Any]:
    return parse_json((folder / "meta" / "metadata").read_text())


def _metadata(folder: Path) -> dict[str, Any]:
    """{path: something with a shape} of what was saved as one item."""
    import orbax.checkpoint as ocp

    _refuse_s3(folder)
    saved = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).metadata(folder)
    return flatten(saved.item_metadata.tree)


def _read(folder: Path, is_wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """{path: array} of what was saved as one item; nothing else is read."""
    tree = unflatten({p: leaf for p, leaf in _metadata(folder).items() if is_wanted(p)})
    if not tree:
        return {}
    import orbax.checkpoint as ocp

    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    arguments = ocp.args.PyTreeRestore(item=tree, restore_args=as_numpy, partial_restore=True)
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    return flatten(handler.restore(folder, args=arguments))


def _by_path(tree: Any) -> dict[str, Any]:
    """{path: leaf} of any tree, by the names that Orbax gives its leaves."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in named}


def _place(leaves: Mapping[str, np.ndarray], abstract: Any) -> Any:
    """Arrays that every process has, as a tree like `abstract` on its shardings."""
    placed = [
        jax.device_put(np.asarray(leaves[path], x.dtype), x.sharding)
        for path, x in _by_path(abstract).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), placed)


def _refuse_other_shapes(
    folder: Path, saved: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any]
) -> None:
    """Compare shapes before anything is placed. Raises UserError where they differ."""
    for item in ("params", "ema", "opt_state"):
        there = {path: tuple(leaf.shape) for path, leaf in saved.get(item, {}).items()}
        here = {path: tuple(leaf.shape) for path, leaf in _by_path(wanted.get(item, {})).items()}
        odd = sorted(path for path in there | here if there.get(path) != here.get(path))
        if odd:
            raise UserError(
                f"checkpoint {folder} does not fit this model: {item} {odd[0]} is "
                f"{there.get(odd[0], 'missing')} there, expected {here.get(odd[0], 'none')} "
                f"({len(odd)} such leaves); use the configuration it was trained with or a new "
                f"--workdir"
            )


def _saved_from(state: TrainState) -> dict[str, Any]:
    """Where the arrays of a state live: {processes, devices, kind, mesh}."""
    sharding = state.step.sharding
    mesh = getattr(sharding, "mesh", None)
    return {
        "processes": jax.process_count(),
        "devices": len(sharding.device_set),
        "kind": next(iter(sharding.device_set)).platform,
        "mesh": dict(mesh.shape) if mesh is not None else {},
    }


def _refuse_s3(path: Path) -> None:
    if str(path).startswith("s3://"):
        raise UserError(
            f"{path}: Orbax reads and writes folders and gs://, but not s3:// (google/orbax pull "
            f"request 2739); mount the bucket and give its folder, or copy the run to a disk"
        )


def _remove(step: Path) -> None:
    try:
        remove_step(step)
    except OSError as error:  # on NFS, while somebody reads it; the next start removes the rest
        log.warning("%s cannot be removed now: %s", step, error)


def _move_aside(step: Path) -> None:
    """RUN/checkpoints/<step> -> RUN/damaged/<step>, in the place of an earlier one."""
    aside = step.parent.parent / "damaged" / step.name
    if aside.is_dir():
        remove_folder(aside)
    aside.parent.mkdir(exist_ok=True)
    step.rename(aside)


class _disk_errors:
    """Turns what a disk raises that is full or another's, of whatever type, into one clear line.

    Orbax gives up after 20 minutes, by a clock that may be set meanwhile: such a step is not
    trusted, and another start may go well.
    """

    SIGNS = ("no space left", "file too large", "out_of_range", "resource_exhausted", "quota")

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, TimeoutError):
            raise Stopped(f"a save to {self.folder} took too long: {error}", REQUEUE) from error
        is_full = any(sign in str(error).lower() for sign in self.SIGNS)
        if isinstance(error, OSError) or (isinstance(error, Exception) and is_full):
            free, why = "", "disk full or over quota" if is_full else error.strerror or error
            if not is_remote(self.folder) and self.folder.is_dir():
                free = f" ({shutil.disk_usage(self.folder).free / 1e9:.1f} GB free)"
            logging.getLogger("asyncio").disabled = True  # it repeats this for every other file
            raise UserError(
                f"could not write a checkpoint to {self.folder}{free}: {why}; make room for it and "
                f"run the same command again; older ones are whole"
            ) from error
