"""Local pool, SLURM array and Beam: the same bytes, also when tasks are killed."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import small_videos as make

from data_prep import engines
from data_prep.folder_lock import LOCK, held
from surgjax.errors import Stopped, UserError

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = ("--fps", "native", "--short-side", "48")
FRAMES = [90, 60, 70, 80, 60, 75]  # two do not fit into one part


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Six good videos, one that is known to be bad before and one after decoding."""
    root = tmp_path_factory.mktemp("videos")
    for i, frames in enumerate(FRAMES):
        make.write_video(root / f"{i}.mp4", frames)
    (root / "empty.mp4").write_bytes(b"")
    make.write_video(root / "one.mp4", 1)
    return root


@pytest.fixture(scope="module")
def undisturbed(videos, tmp_path_factory) -> dict[str, bytes]:
    """Every file of the store that one process wrote."""
    out = tmp_path_factory.mktemp("undisturbed") / "s"
    assert make.shards(videos, out, *OPTIONS) == 0
    return make.contents(out)


def array(task: int, count: int, first: int = 0, step: int = 1) -> dict[str, str]:
    """What SLURM tells a task of `--array=FIRST-...:STEP`."""
    values = {"ID": first + step * task, "COUNT": count, "MIN": first, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{word}": str(value) for word, value in values.items()}


def run_task(monkeypatch, videos, out, task, count, *options) -> int:
    """One array task, in this process."""
    for name, value in array(task, count).items():
        monkeypatch.setenv(name, value)
    return make.shards(videos, out, *OPTIONS, "--engine", "slurm", *options)


def start_task(videos, out, task, count, workers, folder) -> subprocess.Popen:
    """The script itself under bash, with an `srun` that only runs its arguments."""
    srun = folder / "srun"
    if not srun.exists():
        srun.write_text('#!/bin/sh\nexec "$@"\n')
        srun.chmod(0o755)
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    arguments = ["--root", str(videos), "--out", str(out), "--workers", str(workers)]
    return subprocess.Popen(
        ["bash", "launch/slurm/prep.sbatch", *arguments, *OPTIONS],
        cwd=REPOSITORY,
        env=os.environ | array(task, count) | {"PATH": path, "SLURM_CPUS_PER_TASK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_two_workers_write_the_same_bytes(videos, undisturbed, tmp_path):
    make.shards(videos, tmp_path / "s", *OPTIONS, workers=2)
    assert make.contents(tmp_path / "s") == undisturbed


def test_array_tasks_one_after_another(videos, undisturbed, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s"
    for task in (0, 1):
        assert run_task(monkeypatch, videos, out, task, 3) == 0
        assert not (out / "store.json").exists() and (out / LOCK).exists()
    assert "left to other tasks: 4; " in capsys.readouterr().out
    assert run_task(monkeypatch, videos, out, 2, 3) == 0
    assert make.contents(out) == undisturbed
    assert run_task(monkeypatch, videos, out, 1, 3) == 0  # as a task that starts late
    assert "nothing to do" in capsys.readouterr().out
    assert make.contents(out) == undisturbed


def test_another_number_of_tasks_continues(videos, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "s"
    run_task(monkeypatch, videos, out, 1, 3)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("*.json")}
    assert len(before) == 2
    run_task(monkeypatch, videos, out, 3, 4)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("*.json")}
    assert before.items() <= after.items()
    run_task(monkeypatch, videos, out, 0, 1)
    assert make.contents(out) == undisturbed


def test_the_script_runs_tasks_beside_each_other(videos, undisturbed, tmp_path):
    tasks = [start_task(videos, tmp_path / "s", k, 3, 1, tmp_path) for k in range(3)]
    outputs = [task.communicate(timeout=60)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], outputs
    assert make.contents(tmp_path / "s") == undisturbed
    assert sum("next: python -m data_prep inspect" in output for output in outputs) == 1, outputs


def test_beam_writes_the_same_bytes(videos, undisturbed, tmp_path):
    pytest.importorskip("apache_beam")
    several = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"
    for name, options in (("one", ""), ("two", several)):
        out = tmp_path / name
        make.shards(videos, out, *OPTIONS, "--engine=beam", f"--beam-options={options}")
        assert make.contents(out) == undisturbed
    with pytest.raises(UserError, match="Unexpected pipeline runner"):
        engines.beam([], "--runner=Nonsense")
    job = {"root": str(tmp_path / "not mounted"), "out": str(tmp_path / "parts")}
    for options in ("", several):
        with pytest.raises(UserError, match="does not see"):
            engines.beam([job], options)


def test_beam_names_its_extra_where_it_is_missing(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[beam\]\""):
        make.shards(videos, tmp_path / "s", *OPTIONS, "--engine", "beam")
    with pytest.raises(UserError, match="--beam-options is for"):
        make.shards(videos, tmp_path / "s", "--beam-options=--runner=DirectRunner")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_shares_are_all_parts_once_and_alike(count):
    rng = random.Random(count)
    jobs = [{"part": i, "videos": [{"frames": rng.randint(1, 1000)}]} for i in range(30)]
    shares = [engines.share(jobs, k, count) for k in range(count)]
    assert sorted(job["part"] for own in shares for job in own) == list(range(30))
    sizes = [engines.frames(own) for own in shares]
    longest = max(engines.frames([job]) for job in jobs)
    assert max(sizes) - min(sizes) <= longest  # no task gets several long parts more than another


def test_position_in_an_array():
    assert engines.array_task(array(3, 8)) == (3, 8)
    assert engines.array_task(array(1, 4, first=5, step=3)) == (1, 4)
    with pytest.raises(UserError, match=r"sbatch --array=0-31 launch/slurm/prep\.sbatch"):
        engines.array_task({})
    for odd in (array(9, 3), array(0, 3) | {"SLURM_ARRAY_TASK_MIN": "7"}):
        with pytest.raises(UserError, match="expected such as --array=0-31"):
            engines.array_task(odd)
    odd = array(1, 3) | {"SLURM_ARRAY_TASK_STEP": "4"}  # the second of --array=0,1,8
    with pytest.raises(UserError, match="expected such as --array=0-31"):
        engines.array_task(odd)


def test_outside_an_array(videos, tmp_path, monkeypatch):
    for name in array(0, 1):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="are not set here; send it with: sbatch"):
        make.shards(videos, tmp_path / "s", "--engine", "slurm")


def test_without_locks_the_user_finishes(videos, undisturbed, tmp_path, monkeypatch, capsys):
    def flock(handle, kind):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    for task in range(2):
        run_task(monkeypatch, videos, tmp_path / "s", task, 2)
    assert "once without --engine" in capsys.readouterr().out
    assert not (tmp_path / "s" / "store.json").exists()
    make.shards(videos, tmp_path / "s", *OPTIONS)
    assert make.contents(tmp_path / "s") == undisturbed


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_an_array_task_says_what_it_waits_for(videos, tmp_path, monkeypatch, capsys, kind):
    out = tmp_path / "s"
    out.mkdir()
    handle = os.open(out / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, kind)
    timer = threading.Timer(0.5, os.close, [handle])
    timer.start()
    began = time.monotonic()
    assert run_task(monkeypatch, videos, out, 0, 1) == 0
    assert time.monotonic() - began > 0.4
    timer.join()
    assert "waiting for the process that plans" in capsys.readouterr().out
    assert (out / "store.json").exists() and not (out / LOCK).exists()


def test_array_tasks_do_not_wait_for_each_other(videos, tmp_path, monkeypatch, capsys):
    run_task(monkeypatch, videos, tmp_path / "s", 0, 3)
    handle = os.open(tmp_path / "s" / LOCK, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as a task that writes its parts
    timer = threading.Timer(5, os.close, [handle])
    timer.start()
    run_task(monkeypatch, videos, tmp_path / "s", 1, 3)
    timer.cancel()
    assert "waiting" not in capsys.readouterr().out
    os.close(handle)


def test_who_waited_holds_the_file_that_is_there(tmp_path):
    got, end = threading.Event(), threading.Event()

    def wait():
        with held(tmp_path, wait_for="the other"):
            got.set()
            end.wait(10)

    waiter = threading.Thread(target=wait)
    with held(tmp_path):
        waiter.start()
        time.sleep(0.1)
        assert not got.is_set()
    assert got.wait(10)  # the file it waited at is removed
    with pytest.raises(UserError, match="another process"), held(tmp_path):
        pass
    end.set()
    waiter.join()
    assert not (tmp_path / LOCK).exists()


def test_tasks_hold_the_folder_together_but_not_beside_others(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with held(tmp_path, shared=True, wait_for="x"), held(tmp_path, shared=True, wait_for="x"):
        with pytest.raises(UserError, match="another process"), held(tmp_path):
            pass
    with held(tmp_path):
        pass
    assert (tmp_path / LOCK).exists()  # as long as there is a plan


def test_nothing_readable(tmp_path, monkeypatch):
    make.write_video(tmp_path / "v" / "a.mp4", 1)  # known only after decoding
    assert run_task(monkeypatch, tmp_path / "v", tmp_path / "s", 1, 2) == 0  # has no part
    with pytest.raises(UserError, match="none of 1 videos"):
        run_task(monkeypatch, tmp_path / "v", tmp_path / "s", 0, 2)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["quarantine.parquet"]


def test_what_a_killed_process_was_writing_is_removed(videos, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "s"
    out.mkdir()
    (out / ".plan.json.1.part").write_text("half")  # before the plan
    run_task(monkeypatch, videos, out, 0, 2)
    for name in (".videos.parquet.1.part", ".store.json.2.part", "parts/.00001-0.3.part"):
        (out / name).write_text("half")
    run_task(monkeypatch, videos, out, 1, 2)
    assert make.contents(out) == undisturbed


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A folder with a video that takes a second, and its store."""
    folder = tmp_path_factory.mktemp("long")
    make.write_video(folder / "v" / "a.mp4", 400, width=480, height=360)
    make.shards(folder / "v", folder / "s", *OPTIONS)
    return folder / "v", make.contents(folder / "s")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_run_says_so_and_continues(long, tmp_path, number, code, workers):
    root, whole = long
    arguments = ["--root", str(root), "--out", str(tmp_path / "s"), *OPTIONS]
    process = subprocess.Popen(
        [sys.executable, "-m", "data_prep", "shards", *arguments, "--workers", str(workers)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: list((tmp_path / "s").glob("parts/*.now")))
    os.killpg(process.pid, number)  # of the whole group, as a terminal and SLURM do
    _, error = process.communicate(timeout=30)
    assert process.returncode == code, error
    assert error.count("\n") == 1 and "same command again to continue" in error, error
    wait_until(lambda: is_gone(process.pid))
    assert not (tmp_path / "s" / "store.json").exists()
    make.shards(root, tmp_path / "s", *OPTIONS)
    assert make.contents(tmp_path / "s") == whole


def test_sigterm_in_this_process_is_exit_code_75():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="same command again") as caught, engines.requeued():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert caught.value.code == 75 and signal.getsignal(signal.SIGTERM) is before


def test_a_killed_task_takes_its_workers_along_and_is_continued(long, tmp_path):
    root, whole = long
    out = tmp_path / "s"
    task = start_task(root, out, 0, 1, 2, tmp_path)
    wait_until(lambda: list(out.glob("parts/*.now")))
    task.kill()
    task.communicate()
    wait_until(lambda: is_gone(task.pid))
    assert not list(out.glob("parts/*.json"))  # its worker has not finished the part
    again = start_task(root, out, 0, 1, 1, tmp_path)
    assert again.communicate(timeout=60)[0] and again.returncode == 0
    assert make.contents(out) == whole


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(6))
def test_tasks_killed_at_random_moments(videos, undisturbed, tmp_path, seed):
    rng, out = random.Random(seed), tmp_path / "s"
    began = time.monotonic()
    start_task(videos, tmp_path / "timing", 0, 1, 1, tmp_path).communicate()
    whole = time.monotonic() - began
    for _ in range(5):  # arrays of which every task is killed
        count = rng.randint(1, 3)
        tasks = [
            start_task(videos, out, k, count, rng.randint(1, 2), tmp_path) for k in range(count)
        ]
        for task in rng.sample(tasks, count):
            time.sleep(rng.uniform(0.5, 1.2) * whole / count)
            task.kill()
            task.communicate()
    for _ in range(2):  # arrays of one task more
        count = rng.randint(1, 3)
        tasks = [
            start_task(videos, out, k, count, rng.randint(1, 2), tmp_path) for k in range(count)
        ]
        outputs = [task.communicate(timeout=60)[0] for task in tasks]
        assert [task.returncode for task in tasks] == [0] * count, outputs
    assert make.contents(out) == undisturbed


@pytest.mark.faults
def test_killed_before_any_file_appears(videos, undisturbed, tmp_path):
    out, count = tmp_path / "s", 0
    while not (out / "store.json").exists():
        count += 1
        arguments = ["shards", "--root", str(videos), "--out", str(out), "--workers=1", *OPTIONS]
        code = KILLED.format(count=count, arguments=arguments)
        done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert count > 5 and make.contents(out) == undisturbed


KILLED = """
import os, signal
replace, left = os.replace, [{count}]
def stop(source, target):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = stop
from data_prep.__main__ import main
main({arguments!r})
"""
