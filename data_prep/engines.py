"""Who does the parts: processes of this machine, the tasks of a SLURM array, or Apache Beam.

All of them call `parts.write_part`, which depends on its argument only. So the store does not
depend on the engine, on the number of workers, or on how often they were stopped.
"""

import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from data_prep import limits, parts
from data_prep.guarded import FROM_OUTSIDE, broken_down
from data_prep.limits import DECODING, Limits
from surgjax.errors import REQUEUE, Stopped, UserError
from surgjax.files import write_whole

ENGINES = ("local", "slurm", "beam")
SBATCH = "sbatch --array=0-31 launch/slurm/prep.sbatch --root DIR --out STORE"


def local(
    jobs: list[dict],
    workers: int | None,
    progress: Callable[[int], None],
    within: Limits = DECODING,
) -> None:
    """Do all jobs; in this process when `workers` is None. `progress` hears the frames so far.

    A decoder that takes its process down, or reaches a limit of it, costs its video, never the run.
    This process has no limits.

    Raises:
      UserError: the disk is full, or a worker was killed from outside.
    """
    if workers is None:
        count = itertools.count(1)
        for job in jobs:
            parts.write_part(job, lambda n: progress(next(count)))
        return
    # Long parts first, so that no worker is left alone with one at the end.
    waiting = sorted(jobs, key=lambda job: frames([job]))
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
    counter = context.Value("q", 0)
    team = []
    try:
        team += (
            _Worker(context, counter, jobs[0]["threads"], within)
            for _ in range(min(workers, len(jobs)))
        )
        while waiting or any(worker.job for worker in team):
            for worker in team:
                if worker.job is None and waiting:
                    worker.start(waiting.pop())
            busy = {worker.connection: worker for worker in team if worker.job}
            for connection in multiprocessing.connection.wait(busy, timeout=0.2):
                worker = busy[connection]
                if not worker.finish():
                    waiting.append(worker.job)
                    team[team.index(worker)] = _Worker(context, counter, jobs[0]["threads"], within)
            progress(counter.value)
    finally:
        for worker in team:
            worker.process.kill()
            worker.process.join()


def array_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """(position, number of tasks) of this process in its SLURM job array. Raises UserError."""
    words = {"ID": "", "COUNT": "", "MIN": "", "STEP": "1"}
    try:
        task, count, first, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{word}", default))
            for word, default in words.items()
        )
    except ValueError as error:
        raise UserError(
            f"--engine slurm is for a task of a job array, whose SLURM_ARRAY_TASK_ID, _COUNT and "
            f"_MIN are not set here; send it with: {SBATCH}"
        ) from error
    position, rest = divmod(task - first, max(1, step))
    if rest or not 0 <= position < count:
        raise UserError(
            f"task {task} is not of a range of {count} tasks from {first}; expected such as "
            f"--array=0-31, which also continues what any other array has left"
        )
    return position, count


def share(jobs: list[dict], position: int, count: int) -> list[dict]:
    """What one of `count` processes does: every count-th job of all from long to short."""
    own = sorted(jobs, key=lambda job: -frames([job]))[position::count]
    return sorted(own, key=lambda job: job["part"])


def beam(jobs: list[dict], options: str) -> None:
    """Do all jobs on a runner of Apache Beam, whose workers see the same folders at the same paths.

    A decoder that takes its process down is for the runner to bear; `local` puts the video aside.

    Args:
      options: as on a command line, such as "--runner=DirectRunner".
    Raises:
      UserError: Beam is not installed, an option is wrong, or a worker does not see the folders.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            'Apache Beam is not installed; pip install -e ".[beam]", or leave --engine out'
        ) from error
    try:
        pipeline = apache_beam.Pipeline(options=PipelineOptions(shlex.split(options)))
    except (ValueError, SystemExit) as error:
        raise UserError(
            f"--beam-options {options!r}: {error}; expected such as --runner=DirectRunner"
        ) from error
    for job in jobs:
        Path(job["out"]).mkdir(parents=True, exist_ok=True)
    try:
        with pipeline:
            created = pipeline | apache_beam.Create(jobs)
            spread = created | apache_beam.Reshuffle()  # else one worker may do them all
            _ = spread | apache_beam.Map(_beam_part)
    except RuntimeError as error:  # from another process comes a text
        if found := re.search(r"UserError: (.+)", str(error)):
            raise UserError(found[1]) from error
        raise


def cores() -> int:
    """Those of the array task under SLURM, where a process may see all of the machine."""
    return int(os.environ.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0)))


def frames(jobs: list[dict]) -> int:
    """Expected frames of all jobs."""
    return sum(video["frames"] for job in jobs for video in job["videos"])


class Progress:
    """A bar on a terminal, a line now and then elsewhere; told how many frames are stored."""

    def __init__(self, total: int):
        self.total, self.start, self.said = total, time.monotonic(), time.monotonic()
        self.bar = None

    def __enter__(self):
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit=" frames", smoothing=0.05)
        return self

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(count - self.bar.n)
        elif now - self.said > 30 and count:
            self.said = now
            rate = count / (now - self.start)
            left = max(0, self.total - count) / rate / 60
            print(
                f"{count:,} of {self.total:,} frames, {rate:.0f} a second, {left:.0f} min left",
                flush=True,
            )

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.close()


@contextmanager
def requeued() -> Iterator[None]:
    """SIGTERM ends the block, as Ctrl-C does, by an exception: Stopped, of exit code 75."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Terminated:
        raise Stopped(
            "ended by SIGTERM, finished parts are kept; run the same command again to continue",
            REQUEUE,
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came. Like Ctrl-C it passes every `except Exception`."""


def _beam_part(job: dict) -> None:
    for folder in (job["root"], job["out"]):  # else every video would count as unreadable
        if not Path(folder).is_dir():
            raise UserError(
                f"a Beam worker does not see {folder}; mount it on all workers at this path, or "
                f"use --engine local or slurm"
            )
    parts.write_part(job)


class _Worker:
    """A process that does one part after another."""

    def __init__(self, context, counter, threads: int, within: Limits):
        self.within = within
        self.connection, theirs = context.Pipe()
        about = (theirs, counter, threads, within)
        self.process = context.Process(target=_serve, args=about, daemon=True)
        self.process.start()
        theirs.close()
        self.job: dict | None = None

    def start(self, job: dict) -> None:
        self.job = job
        with suppress(BrokenPipeError):  # of a dead process, which finish() finds
            self.connection.send(job)

    def finish(self) -> bool:
        """Whether the part is done; False after a decoder crashed, with its video marked."""
        try:
            error = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            _blame(self.job, self.process.exitcode, self.within)
            return False
        self.job = None
        if error is not None:
            raise error
        return True


def _serve(connection, counter, threads: int, within: Limits) -> None:
    limits.limit_this_process(within, threads)
    # Ctrl-C, and SLURM's SIGTERM, reach the parent too, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def advance(n: int) -> None:
        with counter.get_lock():
            counter.value += n

    with suppress(EOFError, ConnectionError):  # when the parent is gone
        while True:
            connection.send(_error_of(connection.recv(), advance))


def _error_of(job: dict, advance: Callable[[int], None]) -> Exception | None:
    try:
        parts.write_part(job, advance)
    except UserError as error:
        return error
    except Exception:  # some exceptions do not survive the way to another process
        return RuntimeError(traceback.format_exc())
    return None


def _end_with_parent() -> None:
    """A killed parent has given up the folder, so we may write there no longer."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _blame(job: dict, code: int, within: Limits) -> None:
    """Notes which video broke its process down, and how, for `parts.write_part`."""
    stem = Path(job["out"]) / f"{job['part']:05d}"
    now, crashed = stem.with_suffix(".now"), stem.with_suffix(".crashed")
    before = json.loads(crashed.read_text(encoding="utf-8")) if crashed.exists() else {}
    video = now.read_text(encoding="utf-8") if now.exists() else None
    if code in FROM_OUTSIDE or video is None or video in before:
        raise UserError(
            f"a worker was ended from outside (exit code {code}), perhaps for lack of memory; run "
            f"the same command again to continue, with fewer --workers"
        )
    write_whole(crashed, json.dumps({**before, video: broken_down(code, within).args}))
