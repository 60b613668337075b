"""Real processes of `python -m surgjax.main` on the smallest run, and what a fault cost them."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from runs import users_environment

from surgjax.checkpoint import read_params
from surgjax.digests import completed_steps, damaged_files

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("small_config.py")
TRAIN = (sys.executable, "-m", "surgjax.main")
LAST = 8  # steps of a run
EVERY = 2  # steps between its checkpoints
PATIENCE_S = 180.0  # only what hangs takes longer
NUMBERS = ("step", "loss", "lr", "grad_norm", "skipped")  # of a line; the others are rates
JOB = "SURGJAX_JOB_OF_THE_TESTS"  # variable that tells the processes of a job, whoever started them


@dataclass(frozen=True)
class Job:
    """The started processes of a run, one a rank, and where each writes."""

    run: Path
    processes: tuple[subprocess.Popen, ...]
    logs: tuple[Path, ...]

    def output(self, rank: int = 0) -> str:
        return self.logs[rank].read_text(errors="replace")

    def send(self, number: int, rank: int = 0) -> None:
        self.processes[rank].send_signal(number)

    def codes(self, within: float = PATIENCE_S) -> list[int]:
        """Exit codes of all ranks (negative: the signal), waiting so many seconds at most."""
        end = time.monotonic() + within
        try:
            return [p.wait(max(0.0, end - time.monotonic())) for p in self.processes]
        except subprocess.TimeoutExpired:
            told = "\n".join(map(self.output, range(len(self.logs))))
            raise AssertionError(f"still there after {within:g} s:\n{told}") from None

    def finish(self, within: float = PATIENCE_S) -> tuple[int, str]:
        """(exit code, output) of rank 0."""
        return self.codes(within)[0], self.output()


Start = Callable[..., Job]


@contextmanager
def starter(store: Path, logs: Path) -> Iterator[Start]:
    """A function that starts jobs; what is left of them afterwards is killed.

    Its arguments: the run folder, then fields of the config ("total_steps=40") and flags
    ("--strict"); `fault`, as SURGJAX_FAULT; `processes` and `devices` of each; `environment`
    beside the user's; `limit`, shell commands before the program ("ulimit -f 100"); `through`,
    the words of a launcher before it; `config`, another variant or file.
    """
    started: list[Job] = []

    def start(
        run: Path,
        *settings: str,
        fault: str = "",
        processes: int = 1,
        devices: int = 1,
        environment: dict[str, str] | None = None,
        limit: str = "",
        through: tuple[str, ...] = (),
        config: str = str(CONFIG),
    ) -> Job:
        stores = [] if any(s.startswith("data.stores=") for s in settings) else [f"{store}"]
        fields = [*(f"data.stores={s}" for s in stores), *settings]
        command = [*through, *TRAIN, f"--config={config}", f"--workdir={run}"]
        command += [s if s.startswith("--") else f"--config.{s}" for s in fields]
        if limit:
            command = ["bash", "-c", f'{limit}; exec "$@"', "bash", *command]
        everywhere = _environment(run, fault, devices) | (environment or {})
        ranks = _ranks(processes)
        files = [logs / f"{len(started)}.{rank}.log" for rank in range(processes)]
        running = []
        for rank, file in zip(ranks, files, strict=True):
            with file.open("wb") as log:
                running.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env=everywhere | rank,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        started.append(Job(run, tuple(running), tuple(files)))
        return started[-1]

    try:
        yield start
    finally:
        for job in started:
            end(job)


def end(job: Job) -> None:
    """Kill what is left of a job: its ranks, and what launchers and loaders started."""
    while left := processes_of(job.run):
        for pid in left:
            _kill(pid)
        for process in job.processes:
            process.wait()
        time.sleep(0.02)
    for process in job.processes:
        process.wait()


def processes_of(run: Path, rank: int | None = None) -> list[int]:
    """Ids of the living processes of a run's job, in no order; those of one rank where given."""
    marks = [f"{JOB}={run}"] + ([] if rank is None else [f"JAX_PROCESS_ID={rank}"])
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended, or is somebody else's
            continue
        if all(mark in words for mark in marks):
            found.append(int(folder.name))
    return found


def wait_until(condition: Callable[[], object], within: float = PATIENCE_S, job: Job | None = None):
    """Poll until a condition holds; AssertionError when it does not in time, or the job ended."""
    end = time.monotonic() + within
    while not (found := condition()):
        left = job is None or job.processes[0].poll() is None
        assert time.monotonic() < end and left, job.output() if job else "not in time"
        time.sleep(0.01)
    return found


def last_step(run: Path) -> int:
    """The newest step in metrics.jsonl, 0 without any."""
    return max((line["step"] for line in _lines(run)), default=0)


def newest_whole(run: Path) -> int:
    """The newest step of a run whose files match their digests, 0 without any."""
    folder = run / "checkpoints"
    whole = (s for s in reversed(completed_steps(folder)) if not damaged_files(folder / str(s)))
    return next(whole, 0)


def first_step(output: str) -> int | None:
    """The step a process went on from, as its output tells; None when it did not get that far."""
    if found := re.search(r"restored step (\d+)", output):
        return int(found[1])
    found = re.search(r"^step (\d+)/", output, re.MULTILINE)
    return int(found[1]) - 1 if found else None


def bytes_lost(run: Path, undisturbed: Path, step: int) -> int:
    """Bytes of the arrays of checkpoint `step`, and of the metrics up to it, that differ."""
    lost = 0
    if step:
        pairs = zip(_arrays(run, step), _kept_arrays(undisturbed, step), strict=True)
        lost += sum(b.nbytes for a, b in pairs if not np.array_equal(a, b))
    there = {line["step"]: line for line in _lines(run) if "loss" in line}
    for line in _lines(undisturbed):
        if "loss" in line and line["step"] <= step and there.get(line["step"]) != line:
            lost += len(json.dumps(line))
    return lost


@dataclass
class Injection:
    """One fault, as the table of the suite tells it.

    Attributes:
      fault: name of the row.
      times: how often it struck.
      survived: the run ended as an undisturbed one does, or as the row asks.
      steps: most steps done again that a completed checkpoint had.
      bytes: of completed checkpoints and of the metrics up to them that were gone or differed.
    """

    fault: str
    undisturbed: Path
    times: int = 0
    survived: bool = False
    steps: int = 0
    bytes: int = 0
    _newest: int = field(default=0, repr=False)

    def struck(self, run: Path, *, newest: int | None = None) -> None:
        """Take stock once the fault has struck; `newest`: the newest checkpoint before it."""
        whole = newest_whole(run)
        self.times += 1
        self._newest = whole if newest is None else newest
        self.bytes += bytes_lost(run, self.undisturbed, whole)

    def continued(self, output: str) -> None:
        """Compare with where the run went on, if it did."""
        if (start := first_step(output)) is not None:
            self.steps = max(self.steps, self._newest - start)

    def goes_on(self, job: Job, run: Path, last: int = LAST) -> str:
        """The same command again ends as the undisturbed run; returns what it printed."""
        code, output = job.finish()
        assert code == 0, output
        self.continued(output)
        self.ended(run, last)
        return output

    def ended(self, run: Path, last: int = LAST) -> None:
        """The run is done: its last checkpoint and all metrics are those of the undisturbed."""
        assert newest_whole(run) == last
        assert bytes_lost(run, self.undisturbed, last) == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its log, its lock and STATUS, which tell of attempts too."""
    told = (".lock", "train.log", "STATUS")
    files = (f for f in folder.rglob("*") if f.is_file() and f.name not in told)
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def _environment(run: Path, fault: str, devices: int) -> dict[str, str]:
    more = {"SURGJAX_TESTING": "1", JOB: str(run)}
    more["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # what takes long is compiled once
    if fault:
        more["SURGJAX_FAULT"] = fault
    more["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles sooner
    if devices > 1:
        more["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
        more["NPROC"] = str(2 * devices)  # fewer threads than devices can wait for ever
    return users_environment(**more)


def _ranks(processes: int) -> list[dict[str, str]]:
    if processes == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    job = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(processes)}
    return [job | {"JAX_PROCESS_ID": str(rank)} for rank in range(processes)]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _lines(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without rates; one that was being written is left out."""
    file, found = run / "metrics.jsonl", []
    for text in file.read_text().splitlines() if file.is_file() else ():
        try:
            found.append({k: v for k, v in json.loads(text).items() if k in NUMBERS})
        except ValueError:
            continue
    return found


def _arrays(run: Path, step: int) -> list[np.ndarray]:
    items = (read_params(run, step, item)[0] for item in ("params", "opt_state"))
    return [leaf for item in items for leaf in jax.tree.leaves(item)]


_kept_arrays = functools.cache(_arrays)  # of runs that nothing disturbs
