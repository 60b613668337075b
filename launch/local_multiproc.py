"""Start a command N times on this machine as the processes of one job.

    python launch/local_multiproc.py --processes 2 --devices 4 -- python -m surgjax.main ...

Each process gets M fake CPU devices (--devices) and the variables that surgjax.multihost reads.
The output of rank r is prefixed with [r]. When one process fails the others are ended; SIGTERM and
Ctrl-C are passed on to all. The exit code is that of the first process that failed.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

GRACE_S = 30  # between SIGTERM and SIGKILL for what is left when one process failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument(
        "--devices", type=int, default=1, help="CPU devices of each; 0: real devices"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT ...]")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.processes < 1:
        parser.error("give at least one process and a command after --")
    workers = [
        _start(command, rank, args.processes, args.devices) for rank in range(args.processes)
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: _send(workers, n))
    return _wait(workers)


def _start(command: list[str], rank: int, count: int, devices: int) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{_port()}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(rank),
    }
    if devices:
        flags = re.sub(
            r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", "")
        )
        environment["XLA_FLAGS"] = (
            f"{flags} --xla_force_host_platform_device_count={devices}".strip()
        )
        environment["JAX_PLATFORMS"] = "cpu"
        # Devices wait for each other: with fewer threads than devices they can wait for ever.
        environment.setdefault("NPROC", str(max(2 * devices, os.cpu_count() or 1)))
    worker = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C of the terminal reaches it once, through us
    )
    threading.Thread(target=_copy_output, args=(worker, rank)).start()
    return worker


def _port(found: list[int] = []) -> int:  # noqa: B006 - chosen once for all ranks
    if not found:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            found.append(probe.getsockname()[1])
    return found[0]


def _copy_output(worker: subprocess.Popen, rank: int) -> None:
    for line in worker.stdout:
        sys.stdout.write(f"[{rank}] {line}")
        sys.stdout.flush()


def _send(workers: list[subprocess.Popen], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            os.killpg(worker.pid, number)


def _wait(workers: list[subprocess.Popen]) -> int:
    failed, deadline = 0, None
    while any(worker.poll() is None for worker in workers):
        codes = [worker.returncode for worker in workers if worker.returncode]
        if codes and deadline is None:
            failed, deadline = codes[0], time.monotonic() + GRACE_S
            _send(workers, signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            _send(workers, signal.SIGKILL)
        time.sleep(0.1)
    codes = [worker.returncode for worker in workers if worker.returncode]
    failed = failed or (codes[0] if codes else 0)
    return 128 - failed if failed < 0 else failed


if __name__ == "__main__":
    sys.exit(main())
