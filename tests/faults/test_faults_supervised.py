"""A demo-size job of two processes under the supervisor, with one of its processes killed again and
again: it ends with the weights of an undisturbed one.

    SURGJAX_KILLING_S=600 python -m pytest -s -m "" tests/faults/test_faults_supervised.py

SURGJAX_KILLING_S is for how many seconds processes are killed (600), one every 25 s on average.
"""

import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from fault_runs import last_step, newest_whole, processes_of

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLING_S = float(os.environ.get("SURGJAX_KILLING_S", "600"))
MEAN_S = 25  # between two kills
JOB = ("launch/local_multiproc.py", "--processes", "2", "--devices", "1", "--")
SUPERVISOR = ("launch/supervisor.py", "--delay", "0.5", "--max-delay", "2", "--")
# The demo in half the time: restarts take most of it.
DEMO = (
    "batch_size=32",
    "log.every=5",
    "checkpoint.every=10",
    "checkpoint.keep=2",
    "data.workers=1",
)


def test_a_demo_survives_random_kills(start, undisturbed_run, tmp_path, injected):
    through = (sys.executable, *JOB)
    options = {
        "config": "configs/surgrec_mae.py:demo",
        "environment": {"SURGJAX_HEARTBEAT_S": "10"},
    }
    undisturbed = undisturbed_run(*DEMO, through=through, **options)
    last = newest_whole(undisturbed)
    draw = random.Random(0)
    with injected("random kill -9 under the supervisor", undisturbed) as injection:
        job = start(tmp_path, *DEMO, through=(sys.executable, *SUPERVISOR, *through), **options)
        supervisor, began, killed = job.processes[0], time.monotonic(), []
        while supervisor.poll() is None:
            pause = draw.expovariate(1 / MEAN_S)
            if time.monotonic() - began + pause > KILLING_S:
                break
            time.sleep(pause)
            victims = [pid for pid in processes_of(tmp_path) if pid != supervisor.pid]
            if not victims:
                continue
            victim = draw.choice(sorted(victims))
            killed.append((time.monotonic() - began, last_step(tmp_path), _what(victim)))
            os.kill(victim, signal.SIGKILL)
            injection.times += 1
        code, output = job.finish(1800)
        print(f"\n{len(killed)} kills in {time.monotonic() - began:.0f} s, {last} steps")
        for seconds, step, what in killed:
            print(f"  after {seconds:5.1f} s, at step {step:3}: {what}")
        assert code == 0, output
        assert killed and len(re.findall(r"supervisor: start \d+", output)) > 1, output
        injection.ended(tmp_path, last)


def _what(pid: int) -> str:
    """The name of a process of the job, for the list of kills."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        rank = re.search(rb"JAX_PROCESS_ID=(\d+)", Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return "ended by itself"
    if rank is None:
        return "the launcher"
    return f"{'process' if b'surgjax.main' in words else 'loader'} of rank {int(rank[1])}"
