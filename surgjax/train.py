"""The one training loop: build, restore, then step, log, save and evaluate until done.

Stop it anywhere and start it again with the same command: it continues bit for bit, because the
order of the clips and everything random are functions of (seed, step), and what is on disk is
exactly the state.
"""

import logging
from contextlib import ExitStack
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from surgjax import build, config, evaluate, provenance, testing
from surgjax.checkpoint import Checkpoints, read_frozen, write_frozen
from surgjax.complete import complete
from surgjax.data import leakage
from surgjax.data.loader import LoaderLost, train_batches
from surgjax.errors import INTERRUPTED, REQUEUE, Stopped, UserError
from surgjax.multihost import check_shared, largest, together
from surgjax.preemption import StopSignal, Waited
from surgjax.progress import Meter, line
from surgjax.resources import out_of_memory
from surgjax.sharding import host_rows, make_mesh, put_batch
from surgjax.starting import Ahead, collect_again
from surgjax.state import TrainState, flatten, unflatten
from surgjax.stop_flags import StopFlags, read_flags
from surgjax.testing import fault
from surgjax.watchdog import Goodput, Watchdog
from surgjax.writers import Metrics, RunFolder

MAX_SKIPPED_IN_A_ROW = 10
MAX_UNREADABLE_SHARE = 0.01

log = logging.getLogger("surgjax")


def train(cfg: ConfigDict, workdir: Path, *, strict: bool = False) -> TrainState:
    """Train what `cfg` describes in `workdir`, from scratch or from its newest whole checkpoint.

    Returns the final state. Raises UserError for the user's mistakes and Stopped after SIGTERM or
    Ctrl-C, with everything saved.
    """
    testing.check()
    config.check(cfg)
    cfg = complete(cfg)
    mesh = make_mesh(**config.to_dict(cfg.mesh))
    if cfg.batch_size % (cfg.accumulation * mesh.devices.size):
        raise UserError(
            f"batch_size={cfg.batch_size} is not divisible by accumulation={cfg.accumulation} x "
            f"{mesh.devices.size} devices"
        )
    learner = build.make_learner(cfg)
    check_shared(workdir)  # the first that leaves something there
    run = RunFolder(workdir)
    goodput = Goodput()
    status = "failed"
    try:
        run.status("running: start")
        with StopSignal() as signal, ExitStack() as closing:
            stacks = workdir / f"stacks-{jax.process_index()}.txt"
            watchdog = Watchdog(
                cfg.log.watchdog_s, stacks, goodput, lambda why: run.status(f"failed: {why}")
            )
            closing.callback(watchdog.close)
            state = _train(cfg, mesh, learner, run, signal, goodput, watchdog, strict, closing)
        status = "done"
        return state
    except Stopped as stop:
        status = "interrupted" if stop.code == INTERRUPTED else "preempted"
        raise
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        status = _failure(error)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(out_of_memory(cfg, error)) from error
        raise
    except BaseException as error:
        status = _failure(error)
        raise
    finally:
        log.info(goodput.line())
        run.status(status)
        run.close()


def _train(
    cfg: ConfigDict,
    mesh: Mesh,
    learner: build.Learner,
    run: RunFolder,
    signal: StopSignal,
    goodput: Goodput,
    watchdog: Watchdog,
    strict: bool,
    closing: ExitStack,
) -> TrainState:
    workdir = run.path
    first_row, end_row = host_rows(mesh, cfg.batch_size)
    abstract = learner.abstract(mesh)
    teacher = build.load_teacher(cfg, learner, mesh)
    data = build.open_data(cfg)
    leakage.log_report(data.leakage, cfg.data.held_out)

    goodput.enter("restore")
    checkpoints = Checkpoints(
        workdir / "checkpoints", cfg.checkpoint.keep, cfg.checkpoint.keep_every
    )
    closing.callback(checkpoints.close)
    run.claim(config.to_dict(cfg), is_continued=bool(checkpoints.steps()))
    last = min(cfg.total_steps, cfg.stop_at_step or cfg.total_steps)
    compiled = Ahead(lambda: build.compile_step(learner, cfg, mesh, abstract, teacher))
    if checkpoints.steps()[-1:] != [last]:
        compiled.start()
    start = checkpoints.newest_whole(strict)
    watchdog.beat()
    if start is None:
        start = 0
        state, origin = build.init_state(learner, cfg, abstract)
        write_frozen(workdir, state.frozen)
    else:
        state, meta = checkpoints.restore(start, abstract)
        provenance.refuse_other_files(meta, cfg, data, teacher)
        state = _with_frozen(state, abstract, workdir)
        origin = meta["init_from"]
        log.info("restored step %d of %s", start, workdir)
        if data.words is not None:
            data.words.refuse_others(workdir)
    goodput.enter("start")
    if data.words is not None:
        data.words.keep(run)
    taught_by = teacher.provenance if teacher else None
    meta = provenance.describe(cfg, data, origin, taught_by, learner.ema_of)
    metrics = None
    if run.writes:
        metrics = Metrics(workdir, start, cfg.log.wandb, config.to_dict(cfg))
        closing.callback(metrics.close)
    meter = Meter(cfg.batch_size, learner.flops_per_clip, start, last)
    closing.callback(meter.close)

    def moved(step: int) -> None:
        watchdog.beat()
        run.beat(f"step {step} of {last}, {goodput.part}")

    evaluators = evaluate.Evaluators(
        *(cfg, learner, data.clip, meta["used_cases"], workdir, signal),
        tokenizer=data.words.tokenizer if data.words else None,
        moved=moved,
    )

    def stopped(step: int, code: int) -> Stopped:
        checkpoints.wait()
        together("stopped")  # who left before process 0 has saved would be taken for lost
        return Stopped(f"stopped at step {step}, saved in {workdir}", code)

    def evaluate_now(names: set[str], step: int) -> None:
        """On process 0, while the others wait; a stop ends it and is heeded at the next step, or
        here after the last: what was not evaluated is at the next start."""
        goodput.enter("evaluation")
        moved(step)
        evaluators.run(state, step, metrics, only=names)
        if not run.writes:
            watchdog.pause()
        code = largest(signal.code)
        moved(step)
        if code and step == last:
            raise stopped(step, code)

    stop_flags = StopFlags(mesh, signal)
    before: dict[str, jax.Array] = {}
    saved = start
    moved(start)

    if start and (due := evaluators.due(start, last)):  # at a start from what was already saved
        collect_again()
        evaluate_now(due - metrics.evaluated if metrics is not None else due, start)
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
        goodput.enter("data wait")
        has_batch = True
        try:
            with signal.waiting():
                fault("data", step)
                batch, stats = next(batches)
                if step == start + 1:
                    goodput.enter("compile")
                    fault("compile", step)
                step_fn = compiled.result()
        except (Waited, LoaderLost) as error:  # the step is made void, on all processes
            batch, has_batch = batches.blank(), False
            if isinstance(error, LoaderLost):
                log.error("%s; saved to be started again", error)
                signal.code = signal.code or REQUEUE
            if step == start + 1 and jax.process_count() == 1:
                raise stopped(start, signal.code) from None  # nothing has changed
            step_fn = compiled.result()
        collect_again()
        goodput.enter("steps")
        fault("before_step", step)
        state, scalars = step_fn(
            state,
            put_batch(mesh, batch, cfg.batch_size),
            stop_flags.put(has_batch),
            teacher.params if teacher else None,
        )
        if has_batch:
            meter.add(stats)
        # All processes read the same flags: this step's where its numbers are needed, else those of
        # the step before, so that one step stays in flight.
        due = evaluators.due(step, last)
        is_logged = step % cfg.log.every == 0 or step in (start + 1, last)
        is_saved = step % cfg.checkpoint.every == 0 or step == last
        read = scalars if is_logged or is_saved or due else before
        before = scalars
        _refuse_more_skipped(read, checkpoints)
        code, is_void = read_flags(read["stop"])
        if code:
            step = int(state.step)  # void steps do not count
        moved(step)

        if metrics is not None and is_logged and not is_void:
            values = {k: float(v) for k, v in scalars.items() if k != "stop"}
            values |= meter.read(step) | {"goodput_percent": goodput.percent()["steps"]}
            metrics.write(step, values)
            log.info(line(step, last, values))
            meter.warn(step, values)
            meter.restart(step)
        goodput.enter("save")
        if (is_saved or code) and step != saved:
            checkpoints.save(state, step, meta | {"step": step})
            saved = step
        checkpoints.poll()
        fault("after_step", step)
        if code:
            raise stopped(step, code)
        if due:
            evaluate_now(due, step)
            meter.restart(step)
    goodput.enter("save")
    checkpoints.wait()
    together("end")
    log.info("done: %d steps, %s", last, workdir)
    return state


def _refuse_more_skipped(scalars: dict[str, jax.Array], checkpoints: Checkpoints) -> None:
    skipped = int(scalars["skipped_in_a_row"])
    if skipped >= MAX_SKIPPED_IN_A_ROW:
        checkpoints.wait()
        whole = checkpoints.steps()
        raise UserError(
            f"{skipped} updates in a row had a loss or gradient that is not finite; newest "
            f"checkpoint: {whole[-1] if whole else 'none'}; lower optim.peak_lr or set "
            f"optim.clip_norm and start again"
        )


def _failure(error: BaseException) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _with_frozen(state: TrainState, abstract: TrainState, run: Path) -> TrainState:
    if not abstract.frozen:
        return state
    saved = flatten(read_frozen(run))
    places = flatten(abstract.frozen)
    frozen = {p: build.place_array(saved[p], x.sharding) for p, x in places.items()}
    return TrainState(state.step, state.params, unflatten(frozen), state.opt_state, state.ema)
