"""The supervisor for real, with children that end as trainings do."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from launch_stubs import ROOT

sys.path.insert(0, str(ROOT / "launch"))
import supervisor  # noqa: E402

# Ends in its nth start as the nth word says; a word of several parts does all of them.
CHILD = """
import os, signal, sys, time
from pathlib import Path
log, *words = sys.argv[1:]
with open(log, "a") as file:
    file.write(f"{os.getpid()}\\n")
for part in words[len(open(log).readlines()) - 1].split("+"):
    kind, _, value = part.partition("=")
    if kind == "exit":
        sys.exit(int(value))
    if kind == "signal":
        os.kill(os.getpid(), int(value))
    if kind == "save":
        folder = Path(log).parent / "run" / "checkpoints" / value
        folder.mkdir(parents=True)
        (folder / "DIGESTS.json").touch()
    if kind == "handle":  # as a training does
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    if kind == "ready":
        Path(log).with_name("ready").touch()
    if kind == "child":
        import subprocess
        program = ["sleep", "600"]
        Path(log).with_name("grandchild").write_text(str(subprocess.Popen(program).pid))
    if kind == "sleep":
        time.sleep(float(value))
"""


def start(folder, *words, options=()) -> subprocess.Popen:
    """The supervisor over a child that ends as the words say, one after the other."""
    return subprocess.Popen(
        [
            *[sys.executable, "launch/supervisor.py", "--delay", "0.02", "--max-delay", "0.1"],
            *[*options, "--", sys.executable, "-c", CHILD, str(folder / "log"), *words],
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=60) -> tuple[int, list[str]]:
    _, said = process.communicate(timeout=timeout)
    lines = said.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ supervisor: ", line) for line in lines)
    return process.returncode, [line.split("supervisor: ")[1] for line in lines]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_starts_again_after_75_and_signals_until_done(tmp_path):
    words = ["exit=75", "signal=9", "signal=6", "exit=137", "exit=129", "exit=0"]
    code, lines = finish(start(tmp_path, *words))
    assert code == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 6
    ends = [line for line in lines if line.startswith("ended")]
    for line, number in zip(ends, (75, 137, 134, 137, 129), strict=False):
        match = re.fullmatch(rf"ended with {number} after [\d.]+ s; again in ([\d.]+) s", line)
        assert match and float(match[1]) <= 0.1
    assert re.fullmatch(r"ended with 0 after [\d.]+ s; 6 starts, 5 restarts, exit 0", lines[-1])
    assert [line.startswith("start ") for line in lines] == [True, False] * 6


@pytest.mark.parametrize("code", [0, 1, 2, 130, 127])
def test_these_codes_are_final(tmp_path, code):
    ended, lines = finish(start(tmp_path, f"exit={code}", "exit=0"))
    assert ended == code and lines[-1].endswith(f"1 starts, 0 restarts, exit {code}")


def test_it_gives_up_without_progress(tmp_path):
    code, lines = finish(start(tmp_path, *["signal=9"] * 9, options=["--max-restarts", "2"]))
    assert code == 137
    assert "3 times without progress, giving up; 3 starts, 2 restarts" in lines[-1]


def test_a_newer_checkpoint_is_progress(tmp_path):
    words = [f"save={step}+signal=9" for step in (2, 10, 100)] + ["exit=75", "exit=0"]
    options = ["--max-restarts", "1", "--run", str(tmp_path / "run")]
    code, lines = finish(start(tmp_path, *words, options=options))
    assert code == 0, lines
    assert lines[-1].endswith("5 starts, 4 restarts, exit 0")


def test_the_run_is_the_workdir_of_the_command():
    assert str(supervisor._workdir(["python", "--workdir=a b"])) == "a b"
    assert str(supervisor._workdir(["python", "--workdir", "a"])) == "a"
    assert supervisor._workdir(["python", "--workdir=gs://bucket/run"]) is None
    assert supervisor._workdir(["python", "-m", "x"]) is None


def test_the_wait_doubles_up_to_a_bound():
    waits = [supervisor.back_off(in_vain, 5, 300) for in_vain in (0, 1, 2, 3, 7, 10_000)]
    assert waits == [5, 5, 10, 20, 300, 300]


@pytest.mark.parametrize(
    ("number", "first", "code"),
    [
        (signal.SIGTERM, "handle+", 75),
        (signal.SIGINT, "handle+", 130),
        (signal.SIGTERM, "", 143),  # it handles no signals
    ],
)
def test_a_signal_is_passed_on_and_the_childs_code_is_the_last_word(tmp_path, number, first, code):
    process = start(tmp_path, f"{first}ready+sleep=600", "exit=0")
    wait_for((tmp_path / "ready").exists)
    process.send_signal(number)
    ended, lines = finish(process)
    assert ended == code and lines[-1].endswith(f"1 starts, 0 restarts, exit {code}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_wait_for_a_restart(tmp_path, number, code):
    long = ["--delay", "600", "--max-delay", "600"]
    process = start(tmp_path, "exit=75", "exit=0", options=long)
    while "again in" not in process.stderr.readline():
        pass
    process.send_signal(number)
    ended, lines = finish(process)
    assert ended == code and "told to leave while waiting; 1 starts" in lines[-1]


def test_killed_itself_it_takes_the_child_with_it(tmp_path):
    process = start(tmp_path, "handle+ready+sleep=600")
    wait_for((tmp_path / "ready").exists)
    process.kill()
    process.wait()
    process.stderr.close()
    pid = int((tmp_path / "log").read_text())
    wait_for(lambda: not is_alive(pid), seconds=20)


def test_what_a_killed_child_left_behind_is_ended_before_the_next_start(tmp_path):
    code, _ = finish(start(tmp_path, "child+signal=9", "exit=0"))
    assert code == 0
    wait_for(lambda: not is_alive(int((tmp_path / "grandchild").read_text())), seconds=20)


def test_a_command_that_is_not_there_is_a_mistake():
    command = [sys.executable, "launch/supervisor.py", "--", "/no/such/program"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: cannot start /no/such/program: No such file or directory" in done.stderr


def test_a_killed_rank_of_a_job_starts_the_whole_job_again(tmp_path):
    mark = tmp_path / "was here"
    rank = (
        "import os, pathlib, time; mark = pathlib.Path(os.environ['MARK'])\n"
        "if os.environ['JAX_PROCESS_ID'] == '1' and not mark.exists():\n"
        "    mark.touch(); os.kill(os.getpid(), 9)\n"
        "if not mark.exists(): time.sleep(600)"
    )
    done = subprocess.run(
        [
            *[sys.executable, "launch/supervisor.py", "--delay", "0.02", "--"],
            *[sys.executable, "launch/local_multiproc.py", "--processes", "2"],
            *["--", sys.executable, "-c", rank],
        ],
        cwd=ROOT,
        env=os.environ | {"MARK": str(mark)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "ended with 137" in done.stderr and "2 starts, 1 restarts, exit 0" in done.stderr
