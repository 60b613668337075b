"""A run that hangs ends by a signal and says where; time is accounted for in full."""

import os
import signal
import subprocess
import sys
import time

import pytest

from surgjax.preemption import StopSignal, Waited
from surgjax.watchdog import Goodput, Watchdog

HANGS = """
import sys, time
from pathlib import Path
from surgjax import watchdog
from surgjax.watchdog import Goodput, Watchdog
watchdog.LAST_WORDS_S = 0.5
folder = Path(sys.argv[1])
goodput = Goodput()
goodput.enter("data wait")
watchdog = Watchdog(0.4, folder / "stacks", goodput, (folder / "why").write_text)
for _ in range(20):  # moves for longer than it may hang
    time.sleep(0.04)
    watchdog.beat()
def reads_a_lost_disk():
    {hang}
reads_a_lost_disk()
"""
IN_PYTHON = "time.sleep(60)"
KEEPS_ALL_THREADS = (
    "import ctypes; ctypes.PyDLL(None).sleep(60)"  # never lets go of the interpreter
)


@pytest.mark.parametrize(
    "hang, code",
    [(IN_PYTHON, -signal.SIGABRT), (KEEPS_ALL_THREADS, -signal.SIGALRM)],
    ids=["python", "C"],
)
def test_who_makes_no_step_ends_with_its_stacks(tmp_path, hang, code):
    command = [sys.executable, "-c", HANGS.format(hang=hang), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stderr
    assert "in reads_a_lost_disk" in ended.stderr
    if hang == IN_PYTHON:
        assert "in reads_a_lost_disk" in (tmp_path / "stacks").read_text()
        assert (tmp_path / "why").read_text() == "no step for 0.4 s (in data wait)"


def test_a_file_system_that_hangs_does_not_hold_the_end(tmp_path):
    """Opening a pipe that nobody reads stands for it."""
    os.mkfifo(tmp_path / "why")
    command = [sys.executable, "-c", HANGS.format(hang=IN_PYTHON), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGALRM, ended.stderr


def test_who_waits_for_others_or_has_ended_is_left_alone(tmp_path):
    watchdog = Watchdog(0.2, tmp_path / "stacks", Goodput(), lambda why: None)
    watchdog.pause()
    time.sleep(0.3)
    watchdog.beat()
    watchdog.close()
    time.sleep(0.5)  # past the interpreter's own limit as well
    assert not (tmp_path / "stacks").exists()


def test_shares_of_time_are_all_of_it():
    goodput = Goodput()
    for part, seconds in (("compile", 0.02), ("steps", 0.2), ("save", 0.01), ("steps", 0.2)):
        goodput.enter(part)
        time.sleep(seconds)
    shares = goodput.percent()
    assert sum(shares.values()) == pytest.approx(100)
    assert shares["steps"] > 50 > shares["compile"] > 0 == shares["restore"]
    assert goodput.line().startswith(f"goodput {goodput.percent()['steps']:.0f}"[:9])


def test_a_stop_ends_a_wait_and_waits_for_nothing_else():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.code == 75
        with pytest.raises(Waited), stop.waiting():
            pytest.fail("a stop that came before")
    with StopSignal() as stop:
        with pytest.raises(Waited), stop.waiting():
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("a stop that comes now")
        signal.raise_signal(signal.SIGTERM)  # outside it is only noted
        assert stop.code == 75
