"""launch/local_multiproc.py for real: signals, failures, and more processes than two."""

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


def test_sigterm_to_the_launcher_saves_on_all_processes(store, tmp_path):
    process = job(
        store, tmp_path, 2, 1, "--config.total_steps=5000", "--config.checkpoint.every=9999"
    )
    deadline = time.monotonic() + 200
    while read(tmp_path / "metrics.jsonl").count("\n") < 4:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75, output
    assert "process 1 of 2" in output
    assert (tmp_path / "STATUS").read_text() == "preempted\n"
    (saved,) = (tmp_path / "checkpoints").glob("*/DIGESTS.json")
    assert int(saved.parent.name) == max(losses(tmp_path)) >= 4


@pytest.mark.slow
def test_four_processes_with_sharded_parameters_train_as_one(store, tmp_path):
    mesh = ["--config.mesh.data=1", "--config.mesh.fsdp=4"]
    for name, processes, devices, more in (("one", 1, 2, []), ("four", 4, 1, mesh)):
        code, output = finish(job(store, tmp_path / name, processes, devices, *more))
        assert code == 0, output
    assert losses(tmp_path / "four") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert close(tmp_path / "four", tmp_path / "one")


def launch(*arguments, timeout=60) -> subprocess.CompletedProcess:
    command = [*LAUNCH, "--processes", "2", "--", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize(("last", "code"), [("sys.exit(5)", 5), ("os.kill(os.getpid(), 9)", 137)])
def test_a_failing_last_process_ends_the_others(last, code):
    program = f"import os, sys, time; {last} if os.environ['JAX_PROCESS_ID'] == '1' else 0; "
    done = launch(
        sys.executable, "-c", program + "print('still here', flush=True); time.sleep(600)"
    )
    assert done.returncode == code and done.stdout in ("", "[0] still here\n")


def test_killed_itself_it_takes_the_processes_with_it(tmp_path):
    program = (
        "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()} '); time.sleep(600)"
    )
    command = ["--", sys.executable, "-c", program, str(tmp_path / "pids")]
    process = subprocess.Popen([*LAUNCH, "--processes", "2", *command], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (pids := read(tmp_path / "pids").split())[1:]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    while any(read(Path(f"/proc/{pid}/cmdline")) for pid in pids):  # empty of a zombie
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def test_a_command_that_is_not_there_is_a_mistake():
    done = launch("/no/such/program")
    assert done.returncode == 2
    assert done.stderr == "error: cannot start /no/such/program: No such file or directory\n"
