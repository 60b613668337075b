"""Exit codes and one-line messages."""

import signal
import subprocess
import sys

import pytest

from surgjax import multihost
from surgjax.errors import (
    INTERRUPTED,
    MOST,
    REQUEUE,
    USER,
    Stopped,
    UserError,
    line_of,
    nearest,
    run,
)


@pytest.mark.parametrize(
    "error, code",
    [
        (UserError("one\nline"), 2),
        (Stopped("saved", REQUEUE), 75),
        (Stopped("saved", INTERRUPTED), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_way_out_has_its_code_and_no_traceback(error, code, capsys, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr("surgjax.errors.LEAVE_S", 3600.0)  # these are the tests' own process
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as leave:
        run(main)
    signal.signal(signal.SIGTERM, handler)
    assert leave.value.code == code
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "Traceback" not in printed


@pytest.mark.parametrize(
    ("error", "code"), [("Stopped('saved', errors.REQUEUE)", REQUEUE), ("UserError('no')", USER)]
)
def test_a_thread_that_hangs_does_not_hold_who_was_stopped_or_failed(error, code):
    program = f"""
import threading, time
from surgjax import errors
def main():
    threading.Thread(target=time.sleep, args=(3600,)).start()
    raise errors.{error}
errors.LEAVE_S = 0.2
errors.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert ended.returncode == code


def test_a_signal_after_the_stop_does_not_change_the_code():
    """As SLURM sends it when another process of the job has left with 75."""
    program = """
import atexit, signal
from surgjax import errors
def main():
    atexit.register(signal.raise_signal, signal.SIGTERM)
    raise errors.Stopped("saved", errors.REQUEUE)
errors.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True)
    assert ended.returncode == REQUEUE


def test_success_and_damage_are_what_main_returns():
    for returned, code in ((None, 0), (0, 0), (1, 1)):
        with pytest.raises(SystemExit) as leave:
            run(lambda returned=returned: returned)
        assert leave.value.code == code


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_nearest_names_what_was_probably_meant():
    assert nearest("peek_lr", ["peak_lr", "seed"]) == " (did you mean 'peak_lr'?)"
    assert nearest("xyz", ["peak_lr"]) == ""


def test_a_job_is_joined_only_when_its_variables_are_complete(monkeypatch):
    for name in (*multihost.LAUNCHER, *multihost.SLURM, *multihost.TPU):
        monkeypatch.delenv(name, raising=False)
    assert multihost.launcher() == ("none", 1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # as after ssh into an allocation
    assert multihost.launcher() == ("none", 1)
    for name in multihost.SLURM:
        monkeypatch.setenv(name, "4")
    assert multihost.launcher() == ("slurm", 4)
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    for name, value in zip(multihost.LAUNCHER, ("localhost:1", "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    assert multihost.launcher() == ("launcher", 2)
    with pytest.raises(UserError, match="none of auto, on, off"):
        multihost.join("maybe")
    for name in (*multihost.LAUNCHER, *multihost.SLURM):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="expected JAX_COORDINATOR_ADDRESS"):
        multihost.join("on")


def test_what_a_file_puts_into_an_error_is_one_line_that_can_be_printed():
    said = line_of(UserError(f"row 2: \x1b[2J\n'a\u202eb' {'9' * 10_000}; expected 1"))
    assert said.startswith("row 2: \\x1b[2J 'a\\u202eb' 999") and said.endswith("999; expected 1")
    assert len(said) < MOST and said.isprintable()
