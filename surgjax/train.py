"""The one training loop: build, restore, then step, log, save and evaluate until done.

Stop it anywhere and start it again with the same command: it continues bit for bit, because the
order of the clips and everything random are functions of (seed, step), and what is on disk is
exactly the state.
"""

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from surgjax import build, config, evaluate
from surgjax.checkpoint import Checkpoints, read_frozen, write_frozen
from surgjax.complete import complete
from surgjax.data.loader import train_batches
from surgjax.errors import INTERRUPTED, Stopped, UserError
from surgjax.files import write_whole
from surgjax.preemption import StopSignal
from surgjax.progress import Meter, line
from surgjax.sharding import batch_sharding, host_rows, make_mesh, put_batch
from surgjax.state import TrainState, flatten, unflatten
from surgjax.testing import fault
from surgjax.writers import Metrics, RunFolder

MAX_SKIPPED_IN_A_ROW = 10
MAX_UNREADABLE_SHARE = 0.01

log = logging.getLogger("surgjax")


def train(cfg: ConfigDict, workdir: Path, *, strict: bool = False) -> TrainState:
    """Train what `cfg` describes in `workdir`, from scratch or from its newest whole checkpoint.

    Returns the final state. Raises UserError for the user's mistakes and Stopped after SIGTERM or
    Ctrl-C, with everything saved.
    """
    config.check(cfg)
    cfg = complete(cfg)
    run = RunFolder(workdir) if jax.process_index() == 0 else None
    try:
        with StopSignal() as signal, ExitStack() as closing:
            state = _train(cfg, workdir, run, signal, strict, closing)
        status = "done"
        return state
    except Stopped as stop:
        status = "interrupted" if stop.code == INTERRUPTED else "preempted"
        raise
    except BaseException as error:
        status = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise
    finally:
        if run is not None:
            run.status(status)
            run.close()


def _train(
    cfg: ConfigDict,
    workdir: Path,
    run: RunFolder | None,
    signal: StopSignal,
    strict: bool,
    closing: ExitStack,
) -> TrainState:
    mesh = make_mesh(**config.to_dict(cfg.mesh))
    first_row, end_row = host_rows(mesh, cfg.batch_size)
    if cfg.batch_size % (cfg.accumulation * mesh.devices.size):
        raise UserError(
            f"batch_size={cfg.batch_size} is not divisible by accumulation={cfg.accumulation} x "
            f"{mesh.devices.size} devices"
        )
    learner = build.make_learner(cfg)
    abstract = learner.abstract(mesh)
    teacher = build.load_teacher(cfg, learner, mesh)
    data = build.open_data(cfg)
    _print_leakage(data.leakage, cfg.data.held_out)

    checkpoints = Checkpoints(
        workdir / "checkpoints", cfg.checkpoint.keep, cfg.checkpoint.keep_every
    )
    closing.callback(checkpoints.close)
    if run is not None:
        _claim(run, cfg)
    start = checkpoints.newest_whole(strict)
    if start is None:
        start = 0
        state, provenance = build.init_state(learner, cfg, abstract)
        if run is not None:
            write_frozen(workdir, state.frozen)
    else:
        state, meta = checkpoints.restore(start, abstract)
        _refuse_other_files(meta, teacher, data)
        state = _with_frozen(state, abstract, workdir)
        provenance = meta["init_from"]
        log.info("restored step %d of %s", start, workdir)
        if data.words is not None:
            data.words.refuse_others(workdir)
    if run is not None and data.words is not None:
        data.words.keep(workdir)
    taught_by = teacher.provenance if teacher else None
    meta = build.describe(cfg, data, provenance, taught_by, learner.ema_of)
    last = min(cfg.total_steps, cfg.stop_at_step or cfg.total_steps)
    metrics = None
    if run is not None:
        run.status("running")
        metrics = Metrics(workdir, start, cfg.log.wandb, config.to_dict(cfg))
        closing.callback(metrics.close)
    meter = Meter(cfg.batch_size, learner.flops_per_clip, start, last)
    closing.callback(meter.close)
    step_fn = build.make_step(learner, cfg, mesh, abstract, teacher.module if teacher else None)
    teacher_params = teacher.params if teacher else None
    evaluators = evaluate.Evaluators(
        *(cfg, learner, data.clip, meta["used_cases"], workdir, signal),
        tokenizer=data.words.tokenizer if data.words else None,
    )
    stop_flags = _StopFlags(mesh, signal)
    before: dict[str, jax.Array] | None = None

    if start and metrics is not None and not signal.code:
        evaluators.run(state, start, metrics, only=evaluators.due(start, last) - metrics.evaluated)
    batches = train_batches(
        data.plan,
        data.plan.stores,
        clip=data.clip,
        start_step=start,
        stop_step=last,
        host=first_row // (end_row - first_row),
        num_hosts=cfg.batch_size // (end_row - first_row),
        workers=cfg.data.workers,
        augment=data.augment,
        max_bad_share=MAX_UNREADABLE_SHARE,
    )
    closing.callback(batches.close)
    for step in range(start + 1, last + 1):  # `step` is the state's step after the update
        fault("before_step", step)
        batch, stats = next(batches)
        state, scalars = step_fn(
            state, put_batch(mesh, batch, cfg.batch_size), stop_flags.put(), teacher_params
        )
        meter.add(stats)
        # The flags of the step before: all processes read the same, and one step stays in flight.
        code = _agreed_code(before, step, checkpoints) if before is not None else 0
        before = scalars

        if metrics is not None and (step % cfg.log.every == 0 or step in (start + 1, last)):
            values = {k: float(v) for k, v in scalars.items() if k != "stop"}
            values |= meter.read(step)
            metrics.write(step, values)
            log.info(line(step, last, values))
            meter.warn(step, values)
            meter.restart(step)
        if step % cfg.checkpoint.every == 0 or step == last or code:
            checkpoints.save(state, step, meta | {"step": step})
            fault("inside_save", step)
        checkpoints.poll()
        fault("after_step", step)
        if code:
            checkpoints.wait()
            raise Stopped(f"stopped at step {step}, saved in {workdir}", code)
        due = evaluators.due(step, last)
        if due:
            evaluators.run(state, step, metrics, only=due)
            meter.restart(step)
    checkpoints.wait()
    log.info("done: %d steps, %s", last, workdir)
    return state


class _StopFlags:
    """This process's wish to stop, as a global array that the step reduces."""

    def __init__(self, mesh, signal: StopSignal):
        self._signal, self._devices = signal, mesh.devices.size
        self._sharding = batch_sharding(mesh)
        local = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
        self._local = local

    def put(self) -> jax.Array:
        flags = np.full(self._local, self._signal.code, np.int32)
        return jax.make_array_from_process_local_data(self._sharding, flags, (self._devices,))


def _agreed_code(before: dict[str, jax.Array], step: int, checkpoints: Checkpoints) -> int:
    skipped = int(before["skipped_in_a_row"])
    if skipped >= MAX_SKIPPED_IN_A_ROW:
        checkpoints.wait()
        whole = checkpoints.steps()
        raise UserError(
            f"{skipped} updates in a row had a loss or gradient that is not finite, up to step "
            f"{step - 1}; newest checkpoint: {whole[-1] if whole else 'none'}; lower "
            f"optim.peak_lr or set optim.clip_norm and start again"
        )
    return int(before["stop"])


def _claim(run: RunFolder, cfg: ConfigDict) -> None:
    """Write config.json once; a continuation may only differ where that changes no number."""
    file, new = run.path / "config.json", config.to_dict(cfg)
    if file.is_file() and Checkpoints(run.path / "checkpoints").steps():
        config.refuse_changes(json.loads(file.read_text()), new, str(run.path))
    write_whole(file, json.dumps(new, indent=2) + "\n")


def _refuse_other_files(
    meta: dict[str, Any], teacher: build.Teacher | None, data: build.Data
) -> None:
    if meta.get("clips") != data.clips:
        raise UserError(
            "data.clips is not the list that the run was started with: the file has changed; put "
            "it back or use a new --workdir"
        )
    now = (teacher.provenance if teacher else None) or {}
    before = meta.get("teacher") or {}
    if before.get("sha256") != now.get("sha256"):
        raise UserError(
            f"objective.teacher.weights are not those the run was started with "
            f"({before.get('source')}): the file has changed; put it back or use a new --workdir"
        )


def _with_frozen(state: TrainState, abstract: TrainState, run: Path) -> TrainState:
    if not abstract.frozen:
        return state
    saved = flatten(read_frozen(run))
    places = flatten(abstract.frozen)
    frozen = {p: build.place_array(saved[p], x.sharding) for p, x in places.items()}
    return TrainState(state.step, state.params, unflatten(frozen), state.opt_state, state.ema)


def _print_leakage(report: dict[str, Any], held_out: str) -> None:
    if held_out != "every":
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
