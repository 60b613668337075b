"""What a job needs of its machines, looked at by all its processes before it starts.

    python launch/check_env.py --dir RUN                     this machine
    launch/local.sh --devices 8 -- python launch/check_env.py
    srun --gpu-bind=none python launch/check_env.py --dir RUN     every process of a SLURM job

Looks at what surgjax.doctor looks at, sums a number over all devices of all processes, and at
limits, clocks, and whether DIR is one folder everywhere and can be written. Process 1 prints all,
the others only their problems. Exit code 1 when something stops training; lines with "note" do not.
"""

import argparse
import os
import resource
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from surgjax import doctor, multihost  # noqa: E402
from surgjax.errors import DAMAGE, UserError, run  # noqa: E402

GIB = 2**30
NUMBERS = 2**20  # float32 of every device in the all-reduce: 4 MiB
SKEW_S = 5  # clocks further apart make logs and time stamps of files misleading
# name -> (limit, letter of ulimit, below it training stops, below it a note, what it is for)
LIMITS = {
    "open files": (resource.RLIMIT_NOFILE, "n", 256, 4096, "shards, workers and sockets"),
    "processes": (resource.RLIMIT_NPROC, "u", 256, 4096, "threads count as well"),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dir", type=Path, default=Path("."), help="where the run will be")
    parser.add_argument("--multihost", default="auto", help="auto, on or off, as surgjax.main")
    parser.add_argument("--dry-run", action="store_true", help="say what is looked at, do nothing")
    args = parser.parse_args()
    if args.dry_run:
        kind, processes = multihost.launcher()
        print(f"would join {processes} processes ({kind}), sum over all devices, look at packages,")
        print(f"disk, /dev/shm, limits and clocks, and write and delete a file in {args.dir}")
        return 0
    with multihost.job(args.multihost) as joined:
        import jax

        rank = jax.process_index()
        lines, problems = doctor.examine(args.dir)
        lines[:0] = [f"{'processes':13s} {joined}"]
        lines += all_reduce(problems)
        lines += limits(problems)
        lines += clocks()
        lines += folder(args.dir, problems)
    if rank == 0:
        print("\n".join(lines))
    for problem in problems:
        print(f"process {rank + 1} on {socket.gethostname()}: {problem}")
    if rank == 0 and not problems:
        print("\nnothing here stops training")
    return DAMAGE if problems else 0


def all_reduce(problems: list[str]) -> list[str]:
    """The sum of 1 to n over n devices, and the time of a second one."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from surgjax.sharding import make_mesh

    count = jax.device_count()
    mesh = make_mesh()

    def rows(index):
        return np.full((1, NUMBERS), index[0].start + 1 if count > 1 else 1, np.float32)

    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    numbers = jax.make_array_from_callback((count, NUMBERS), split, rows)
    add = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    add(numbers).block_until_ready()
    began = time.perf_counter()
    total = add(numbers).block_until_ready()
    took = time.perf_counter() - began
    low, high = float(total.min()), float(total.max())
    expected = count * (count + 1) // 2
    if not low == high == expected:
        problems.append(
            f"the sum of 1 to {count} over {count} devices is {low:g} to {high:g}, not {expected}; "
            f"a device or link is broken: try fewer nodes, and NCCL_DEBUG=INFO says which"
        )
    size = NUMBERS * 4 >> 20
    return [f"{'all-reduce':13s} {count} devices, {size} MiB each: {1e3 * took:.1f} ms"]


def limits(problems: list[str]) -> list[str]:
    """ulimits, with what raises them."""
    lines = []
    for name, (limit, letter, needed, wanted, purpose) in LIMITS.items():
        soft, hard = resource.getrlimit(limit)
        text = _count(soft)
        if 0 <= soft < wanted:
            fix = f"ulimit -{letter} {wanted}" if hard < 0 or hard >= wanted else _raise(name, hard)
            text += f"; note: {fix} ({purpose})"
            if soft < needed:
                problems.append(f"at most {soft} {name}; {fix} ({purpose})")
        lines.append(f"{name:13s} {text}")
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    text = "unlimited" if soft < 0 else f"{soft >> 10} KiB"
    if soft >= 0 and Path("/sys/class/infiniband").is_dir():
        text += "; note: NCCL over InfiniBand wants ulimit -l unlimited"
    lines.append(f"{'locked memory':13s} {text}")
    return lines


def clocks() -> list[str]:
    """How far the clocks of the processes are apart, at one moment."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [f"{'clock':13s} {time.strftime('%F %T UTC', time.gmtime())}"]
    multihost.together("clocks")
    now = np.array(divmod(time.time_ns() // 10**6, 2**30), np.int32)  # jax has no 64 bits here
    high, low = np.asarray(multihost_utils.process_allgather(now), np.int64).T
    milliseconds = high * 2**30 + low
    apart = np.ptp(milliseconds) / 1e3
    note = f"; note: process {milliseconds.argmin() + 1} is behind, look at its NTP"
    return [f"{'clocks':13s} {apart:.3f} s apart{note if apart > SKEW_S else ''}"]


def folder(place: Path, problems: list[str]) -> list[str]:
    """Whether all processes can use `place`, and how its file server's clock differs from ours."""
    import jax

    found = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place) as file:
            behind = time.time() - os.fstat(file.fileno()).st_mtime
        free = shutil.disk_usage(place).free
        if free < GIB:
            found.append(f"{free >> 20} MiB free at {place}; choose another --dir, or make room")
    except OSError as error:
        found.append(f"cannot write in {place} ({error.strerror}); choose another --dir")
    try:
        multihost.check_shared(place)  # all processes have to come here
    except UserError as error:
        found.append(str(error))
    problems += found
    if found:
        return []
    note = f"; note: its clock is {behind:.0f} s behind ours" if abs(behind) > SKEW_S else ""
    of = f", one folder for all {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return [f"{'folder':13s} {place} can be written{of}{note}"]


def _count(limit: int) -> str:
    return "unlimited" if limit < 0 else str(limit)


def _raise(name: str, hard: int) -> str:
    return f"{hard} is the most your account may have: ask for more {name} in limits.conf"


if __name__ == "__main__":
    run(main)
