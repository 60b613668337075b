"""Several processes of one job, for real: same numbers, one checkpoint, signals and failures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import everything, losses

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = [sys.executable, "launch/local_multiproc.py"]


def job(store, run, processes, devices, *more, environment=None):
    command = [
        *[*LAUNCH, "--processes", str(processes), "--devices", str(devices), "--"],
        *[sys.executable, "-m", "surgjax.main", "--config=configs/surgrec_mae.py:demo"],
        *[f"--workdir={run}", f"--config.data.stores={store}", "--config.total_steps=4"],
        *["--config.data.size=32", "--config.data.frames=4", "--config.batch_size=8"],
        *["--config.log.every=1", "--config.checkpoint.every=2", *more],
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, timeout=300):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def close(a, b):
    pairs = zip(everything(a), everything(b), strict=True)
    return all(np.allclose(x, y, rtol=0, atol=1e-5) for x, y in pairs)


def test_two_processes_train_as_one_and_save_on_sigterm_to_the_launcher(store, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    long = ["--config.total_steps=5000", "--config.checkpoint.every=9999"]
    process = job(store, two, 2, 1, *long)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        metrics = two / "metrics.jsonl"
        if metrics.is_file() and metrics.read_text().count("\n") >= 4:
            break
        time.sleep(0.02)  # few steps more: sums in another order drift apart
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75, output
    assert "process 1 of 2" in output
    assert (two / "STATUS").read_text() == "preempted\n"
    (saved,) = (two / "checkpoints").glob("*/DIGESTS.json")
    step = int(saved.parent.name)
    assert step >= 4
    code, output = finish(job(store, one, 1, 2, *long, f"--config.stop_at_step={step}"))
    assert code == 0, output
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert close(two, one)


@pytest.mark.slow
def test_four_processes_with_sharded_parameters_train_as_one(store, tmp_path):
    mesh = ["--config.mesh.data=1", "--config.mesh.fsdp=4"]
    for name, processes, devices, more in (("one", 1, 2, []), ("four", 4, 1, mesh)):
        code, output = finish(job(store, tmp_path / name, processes, devices, *more))
        assert code == 0, output
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert close(tmp_path / "four", tmp_path / "one")


def test_a_mistake_ends_all_processes_with_2(store, tmp_path):
    code, output = finish(job(store, tmp_path, 2, 1, "--config.batch_size=7"))
    assert code == 2 and "batch_size=7 is not divisible" in output


def test_a_failing_command_gives_its_code():
    command = [*LAUNCH, "--processes", "2", "--", sys.executable, "-c", "import sys; sys.exit(5)"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 5
