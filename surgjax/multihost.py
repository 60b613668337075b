"""The processes of a job: joining them, waiting for them, and leaving without hanging the others.

A process that cannot join leaves with 75: the user's files are right, and the host that is late or
absent now may be there at the next start, so a supervisor or SLURM should start the job again.

SURGJAX_JOIN_S is how long processes wait for each other at the start (300 s), SURGJAX_HEARTBEAT_S
how long a process may be silent before the others take it for lost and end (60 s).
"""

import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from surgjax.errors import DAMAGE, INTERRUPTED, REQUEUE, USER, Stopped, UserError

LAUNCHER = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
TPU = ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")
JOIN_S, HEARTBEAT_S = 300, 60
END_S = 7 * 24 * 3600  # at a good end others may still evaluate; dead ones are noticed before
# What a collective says when a process at the other end is gone, on CPUs and on NVIDIA GPUs.
LOST = re.compile(
    r"gloo \w+ failed|connection (closed|reset) by peer|remote process exited|nccl.*network error"
    r"|heartbeat|coordination ?service",
    re.IGNORECASE,
)
SHARED_S = 40  # NFS may show a new folder this late


def launcher() -> tuple[str, int]:
    """(kind, processes) that the environment describes completely; ("none", 1) otherwise.

    Raises:
      UserError: some of the launcher's own variables are missing, or one is no number.
    """
    there = [name for name in LAUNCHER if os.environ.get(name)]
    if len(there) == len(LAUNCHER):
        return "launcher", _number("JAX_NUM_PROCESSES")
    if all(os.environ.get(name) for name in SLURM):
        # An interactive step of one task has the whole allocation's SLURM_NTASKS.
        own = "SLURM_STEP_NUM_TASKS"
        return "slurm", _number(own if os.environ.get(own) else "SLURM_NTASKS")
    if all(os.environ.get(name) for name in TPU):
        hosts = len(os.environ["TPU_WORKER_HOSTNAMES"].split(","))
        slices = _number("MEGASCALE_NUM_SLICES") if os.environ.get("MEGASCALE_NUM_SLICES") else 1
        return "tpu", hosts * slices
    if there:  # as many runs in one folder as there are processes
        missing = [name for name in LAUNCHER if name not in there]
        raise UserError(
            f"{', '.join(there)} is set but not {', '.join(missing)}; set all of "
            f"{', '.join(LAUNCHER)}, or none, or --multihost=off"
        )
    return "none", 1


@contextmanager
def job(mode: str = "auto") -> Iterator[str]:
    """`join` around all that a program does.

    At a good end, processes wait for each other however long one takes. One that fails alone would
    wait for the others for ever, as they wait for it: it leaves with its own exit code after the
    time in which it would be taken for lost. One that lost another leaves at once, with 75.
    """
    import jax

    joined = join(mode)
    try:
        yield joined
    except Stopped:  # all stop together
        raise
    except BaseException as error:
        if jax.process_count() > 1:
            what = " ".join(str(error).split())
            if isinstance(error, RuntimeError | ValueError) and LOST.search(what):
                _say(f"lost another process of the job, whose log says why ({what[:200]})")
                _leave(REQUEUE)
            codes = {UserError: USER, KeyboardInterrupt: INTERRUPTED}
            code = codes.get(type(error), DAMAGE)
            leave = threading.Timer(_seconds("SURGJAX_HEARTBEAT_S", HEARTBEAT_S), _leave, [code])
            leave.daemon = True
            leave.start()
        raise


def join(mode: str = "auto") -> str:
    """Join the job if there is one; returns the resolved table as one printable line.

    Args:
      mode: "auto" joins when the variables of surgjax's launcher, SLURM or a TPU pod are complete
        and name more than one process; "on" requires it; "off" never does.

    Raises:
      UserError: unknown mode, "on" without complete variables, or variables that make no sense.
      Stopped: with 75; the job cannot be joined now. When others do not come within SURGJAX_JOIN_S,
        the process says so and ends with 75 by itself.
    """
    import jax

    if mode not in ("auto", "on", "off"):
        raise UserError(f"--multihost={mode!r} is none of auto, on, off")
    kind, processes = ("none", 1) if mode == "off" else launcher()
    if mode == "on" and kind == "none":
        raise UserError(
            f"--multihost=on but no launcher described the job; expected {', '.join(LAUNCHER)}, "
            f"or the variables of SLURM or a TPU pod"
        )
    if processes > 1:
        _initialize(kind, processes)
    return (
        f"multihost={mode} found={kind} process {jax.process_index() + 1} of "
        f"{jax.process_count()}, "
        f"{jax.local_device_count()} of {jax.device_count()} {jax.default_backend()} devices"
    )


def together(what: str) -> None:
    """Wait until all processes are here; they must call it with the same name."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def largest(number: int) -> int:
    """The largest of all processes' numbers; they wait for each other here."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def check_shared(folder: Path) -> None:
    """See that all processes have the same `folder`, by a file that process 0 writes there.

    The folder is made. All processes must call it, and all raise alike; nothing is left behind.

    Raises:
      UserError: it cannot be written, or is another one on some hosts, which are named.
    """
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    token, problem, is_new = 0, None, False
    if jax.process_index() == 0:
        is_new = not folder.exists()  # others would remember for long that it is not there
        token = secrets.randbelow(2**31 - 1) + 1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _marker(folder, token).write_text(str(token))
        except OSError as error:
            token, problem = 0, error
    token = int(multihost_utils.broadcast_one_to_all(np.int32(token)))
    if not token:
        raise UserError(
            f"process 1 cannot write to {folder}{f' ({problem})' if problem else ''}; choose "
            f"another --workdir"
        )
    host = np.frombuffer(socket.gethostname().encode()[:64].ljust(64), np.uint8)
    sees = np.uint8(_appears(_marker(folder, token), str(token)))
    found = multihost_utils.process_allgather(np.append(host, sees))
    blind = [
        f"process {number + 1} on {bytes(row[:-1]).decode(errors='replace').strip()}"
        for number, row in enumerate(found)
        if not row[-1]
    ]
    if jax.process_index() == 0:
        _marker(folder, token).unlink(missing_ok=True)
        if blind and is_new:
            with suppress(OSError):
                folder.rmdir()
    if blind:
        raise UserError(
            f"{folder} is not the same folder everywhere: a file that process 1 wrote is not there "
            f"for {', '.join(blind)}; put --workdir on a file system that all hosts mount"
        )


def _initialize(kind: str, processes: int) -> None:
    """jax.distributed.initialize, which ends the process where it fails, made to say why."""
    import jax

    join_s = _seconds("SURGJAX_JOIN_S", JOIN_S)
    heartbeat_s = _seconds("SURGJAX_HEARTBEAT_S", HEARTBEAT_S)
    arguments: dict[str, Any] = {}
    added: dict[str, str] = {}
    number = ""
    if kind == "launcher":
        address, rank = os.environ["JAX_COORDINATOR_ADDRESS"], _number("JAX_PROCESS_ID")
        if not re.fullmatch(r".+:\d+", address) or rank >= processes:
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS={address} JAX_PROCESS_ID={rank} "
                f"JAX_NUM_PROCESSES={processes}; expected HOST:PORT and an id below the number"
            )
        arguments = {
            "coordinator_address": address,
            "process_id": rank,
            # Else a SLURM step around the launcher would give all processes one GPU.
            "cluster_detection_method": "deactivate",
        }
        number = f" {rank + 1}"
        if rank == 0:
            _refuse_taken(int(address.rsplit(":", 1)[1]))
    elif kind == "slurm":
        rank, port = _number("SLURM_PROCID"), slurm_port()
        added = {"JAX_COORDINATOR_PORT": str(port)}
        arguments = {"process_id": rank}
        if sees_own_devices():
            arguments["local_device_ids"] = []
        number = f" {rank + 1}"
        if rank == 0:
            _refuse_taken(port)

    def give_up() -> None:
        _say(
            f"process{number} of {processes} on {socket.gethostname()} waited {join_s} s "
            f"(SURGJAX_JOIN_S) for the other processes of the job; look at their logs and start "
            f"the job again"
        )
        _leave(REQUEUE)

    # Our own SIGTERM handler is the one owner of preemption.
    jax.config.update("jax_enable_preemption_service", False)
    timer = threading.Timer(join_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        with _environment(added), _interruptible():
            jax.distributed.initialize(
                num_processes=processes,
                initialization_timeout=join_s + 60,  # it would end the process in a flood of lines
                heartbeat_timeout_seconds=heartbeat_s,
                shutdown_timeout_seconds=END_S,
                **arguments,
            )
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise Stopped(f"could not join the job of {processes} processes: {why}", REQUEUE) from error
    finally:
        timer.cancel()


def slurm_port() -> int:
    """The coordinator's port: JAX_COORDINATOR_PORT, or that of jax in the first step of a job and
    another in each next step, which may run beside it."""
    if os.environ.get("JAX_COORDINATOR_PORT"):
        return _number("JAX_COORDINATOR_PORT")
    job_id, step = _number("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID", "0")
    return 61440 + (job_id + 97 * (int(step) if step.isdigit() else 0)) % 4096


def sees_own_devices() -> bool:
    """True in a SLURM step whose tasks have no GPU in sight that belongs to another task.

    jax takes the GPU with the task's number on its node. Of a node's only task that leaves the
    other GPUs idle, and where SLURM hides other tasks' (--gpus-per-task) there is no such number.
    """
    if os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return False
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE")
    alone = re.fullmatch(r"1(\(x\d+\))?(,1(\(x\d+\))?)*", tasks or "") is not None
    return alone or os.environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0


def _refuse_taken(port: int) -> None:
    """Raise Stopped when another program has the coordinator's port: jax would crash."""
    with socket.socket(socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise Stopped(
                f"port {port} of {socket.gethostname()}, where the processes of the job meet, "
                f"cannot be used ({error.strerror}); start the job again, or set "
                f"JAX_COORDINATOR_PORT (SLURM) or JAX_COORDINATOR_ADDRESS to a free one",
                REQUEUE,
            ) from error


@contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    """Adds variables for a while, and hides web proxies, through which gRPC would send what is
    meant for the next rack, and never connect."""
    before = dict(os.environ)
    for name in before:
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends a process that waits in compiled code; nothing is there to be saved."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _marker(folder: Path, token: int) -> Path:
    return folder / f".shared-{token}"


def _appears(file: Path, text: str) -> bool:
    """True once the file is there with this text; False when that takes too long."""
    deadline = time.monotonic() + SHARED_S
    while True:
        try:
            if file.read_text() == text:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def _seconds(name: str, default: int) -> int:
    return _number(name) if os.environ.get(name) else default


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit():
        raise UserError(f"{name}={text} in the environment; expected a whole number")
    return int(text)


def _say(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)


def _leave(code: int) -> None:
    """End this process without waiting for any other, or for Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
