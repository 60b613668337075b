"""Start a command N times on this machine as the processes of one job.

    python launch/local_multiproc.py --processes 2 --devices 4 -- python -m surgjax.main ...

Each process gets M fake CPU devices (--devices) and the variables that surgjax.multihost reads.
With --devices 0 the machine's GPUs are shared out, GPU r to process r. The output of rank r is
prefixed with [r]. When one process fails the others are ended; SIGTERM and Ctrl-C are passed on to
all. The exit code is that of the first process that failed, 128 + n after signal n.
"""

import argparse
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial

from orphans import end_with_parent, send

GRACE_S = 30  # between SIGTERM and SIGKILL for what is left when one process failed
FAKE_DEVICES = "--xla_force_host_platform_device_count"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument(
        "--devices", type=int, default=1, help="CPU devices of each; 0: real devices"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, start nothing")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT ...]")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.processes < 1 or args.devices < 0:
        parser.error("give at least one process and a command after --")
    address = f"localhost:{_free_port()}"
    added = [
        _environment(address, rank, args.processes, args.devices) for rank in range(args.processes)
    ]
    if args.dry_run:
        for variables in added:
            print(shlex.join(["env", *(f"{k}={v}" for k, v in variables.items()), *command]))
        return 0
    try:
        workers = [_start(command, variables) for variables in added]
    except OSError as error:
        print(f"error: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: _send(workers, n))
    copies = [
        threading.Thread(target=_copy_output, args=(worker, rank), daemon=True)
        for rank, worker in enumerate(workers)
    ]
    for copy in copies:
        copy.start()
    code = _wait(workers)
    for copy in copies:
        copy.join(5)  # something that a process left behind may hold its output open for ever
    return code


def _environment(address: str, rank: int, count: int, devices: int) -> dict[str, str]:
    """What is added to the environment of a rank."""
    added = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(rank),
    }
    if devices:
        flags = re.sub(rf"{FAKE_DEVICES}=\d+", "", os.environ.get("XLA_FLAGS", ""))
        added["XLA_FLAGS"] = " ".join([*flags.split(), f"{FAKE_DEVICES}={devices}"])
        added["JAX_PLATFORMS"] = "cpu"
        # Devices wait for each other: with fewer threads than devices they can wait for ever.
        added["NPROC"] = os.environ.get("NPROC") or str(max(2 * devices, os.cpu_count() or 1))
    elif count > 1:
        added["JAX_LOCAL_DEVICE_IDS"] = str(rank)
    return added


def _start(command: list[str], variables: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C of the terminal reaches it once, through us
        # At once, not with SIGTERM: who starts the job again must not find it still running.
        preexec_fn=partial(end_with_parent, signal.SIGKILL),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _copy_output(worker: subprocess.Popen, rank: int) -> None:
    for line in worker.stdout:
        sys.stdout.write(f"[{rank}] {line}")
        sys.stdout.flush()


def _send(workers: list[subprocess.Popen], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            send(worker.pid, number)


def _wait(workers: list[subprocess.Popen]) -> int:
    failed, deadline = 0, None
    while None in (codes := [worker.poll() for worker in workers]):
        if any(codes) and deadline is None:
            # Peers of one that failed leave with 75, nearly at once; its own code tells more.
            failed = min(filter(None, codes), key=lambda code: code == 75)
            deadline = time.monotonic() + GRACE_S
            _send(workers, signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            _send(workers, signal.SIGKILL)
        time.sleep(0.1)
    failed = failed or next(filter(None, codes), 0)
    if failed:
        for worker in workers:
            send(worker.pid, signal.SIGKILL)  # what it left of its group
    return 128 - failed if failed < 0 else failed


if __name__ == "__main__":
    sys.exit(main())
