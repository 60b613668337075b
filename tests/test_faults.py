"""Killed at any moment, the same command ends with the numbers of an unbroken run."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import losses, same, users_environment

ROOT = Path(__file__).resolve().parent.parent


def start(store, run, fault="", largest_file=None):
    command = [
        *[sys.executable, "-m", "surgjax.main", "--config=configs/surgrec_mae.py:demo"],
        *[f"--workdir={run}", f"--config.data.stores={store}", "--config.total_steps=8"],
        *["--config.data.size=32", "--config.data.frames=4", "--config.batch_size=8"],
        *["--config.log.every=1", "--config.checkpoint.every=2"],
    ]
    if largest_file:  # as a full disk: writing further is an error, not a signal
        limit = f"trap '' XFSZ; ulimit -f {largest_file // 1024}; exec \"$@\""
        command = ["bash", "-c", limit, "bash", *command]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=users_environment(SURGJAX_FAULT=fault),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


@pytest.fixture(scope="module")
def unbroken(store, tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken")
    code, output = finish(start(store, run))
    assert code == 0, output
    return run


@pytest.mark.fault
def test_killed_inside_a_save_then_on_a_full_disk_then_done(store, unbroken, tmp_path):
    code, _ = finish(start(store, tmp_path, "inside_save:sigkill:4"))
    assert code == -signal.SIGKILL
    largest = max(f.stat().st_size for f in (unbroken / "checkpoints").rglob("*") if f.is_file())
    code, output = finish(start(store, tmp_path, largest_file=largest // 4))
    assert code == 2, output
    assert output.splitlines()[-1].startswith("error: could not write a checkpoint"), output
    assert "Traceback" not in output, output
    code, output = finish(start(store, tmp_path))
    assert code == 0 and "restored step 2" in output, output
    assert same(tmp_path, unbroken) and losses(tmp_path) == losses(unbroken)


@pytest.mark.fault
@pytest.mark.parametrize("point", ["before_step", "after_step", "inside_save"])
@pytest.mark.parametrize("step", [2, 6])
def test_sigkill_before_inside_and_after(store, unbroken, tmp_path, point, step):
    assert finish(start(store, tmp_path, f"{point}:sigkill:{step}"))[0] == -signal.SIGKILL
    assert finish(start(store, tmp_path))[0] == 0
    assert same(tmp_path, unbroken) and losses(tmp_path) == losses(unbroken)


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(10))
def test_sigkill_at_a_random_moment(store, unbroken, tmp_path, seed):
    began = time.monotonic()
    finish(start(store, tmp_path / "timing"))
    whole = time.monotonic() - began
    process = start(store, tmp_path / "run")
    time.sleep(random.Random(seed).uniform(0.2, 1.0) * whole)
    process.kill()
    process.communicate()
    assert finish(start(store, tmp_path / "run"))[0] == 0
    assert same(tmp_path / "run", unbroken) and losses(tmp_path / "run") == losses(unbroken)


@pytest.mark.fault
def test_sigterm_from_outside(store, unbroken, tmp_path):
    process = start(store, tmp_path)
    while not (tmp_path / "metrics.jsonl").is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code in (0, 75), output
    assert finish(start(store, tmp_path))[0] == 0
    assert same(tmp_path, unbroken)
