"""A demo-size job of two processes under the supervisor, with one of its processes killed again and
again: it ends with the weights of an undisturbed one.

    SURGJAX_KILLING_S=600 python -m pytest -s -m "" tests/faults/test_faults_supervised.py

SURGJAX_KILLING_S is for how many seconds processes are killed (600), one every 20 s on average.
"""

import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from fault_runs import last_step, newest_whole, processes_of, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow]
KILLING_S = float(os.environ.get("SURGJAX_KILLING_S", "600"))
MEAN_S = 20  # between two kills
JOB = ("launch/local_multiproc.py", "--processes", "2", "--devices", "1", "--")
AGAIN = ("--delay", "0.5", "--max-delay", "2", "--max-restarts", "99")
# No end but SIGTERM's: a machine gets as far as it can meanwhile.
DEMO = ("batch_size=32", "total_steps=1000000", "log.every=1", "checkpoint.every=10")
KEPT = ("checkpoint.keep=2", "data.workers=1")


def test_a_demo_survives_random_kills(start, undisturbed_run, tmp_path, injected):
    job_alone = (sys.executable, *JOB)
    through = (sys.executable, "launch/supervisor.py", *AGAIN, "--", *job_alone)
    config = {"config": "configs/surgrec_mae.py:demo"}
    draw = random.Random(0)
    with injected("random kill -9 under the supervisor", tmp_path) as injection:
        job = start(
            tmp_path,
            *DEMO,
            *KEPT,
            through=through,
            environment={"SURGJAX_HEARTBEAT_S": "10"},
            **config,
        )
        supervisor, began = job.processes[0], time.monotonic()
        while (pause := draw.expovariate(1 / MEAN_S)) < KILLING_S - (time.monotonic() - began):
            time.sleep(pause)
            assert supervisor.poll() is None, job.output()
            if victims := [p for p in processes_of(tmp_path) if p != supervisor.pid]:
                victim = draw.choice(sorted(victims))
                passed, step = time.monotonic() - began, last_step(tmp_path)
                print(f"after {passed:5.1f} s, at step {step}: kill -9 of {_what(victim)}")
                os.kill(victim, signal.SIGKILL)
                injection.times += 1
        reached = last_step(tmp_path)
        wait_until(lambda: last_step(tmp_path) > reached + 10, job=job)
        job.send(signal.SIGTERM)
        code, output = job.finish()
        assert code == 75, output
        print(re.findall(r"supervisor: (.*restarts, exit.*)", output))
        assert injection.times and "supervisor: start 2" in output
        last = newest_whole(tmp_path)
        injection.undisturbed = undisturbed_run(
            *DEMO, *KEPT, f"stop_at_step={last}", through=job_alone, **config
        )
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
