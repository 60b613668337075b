"""Processes of a job that die, come late or change in number: the run ends in time and goes on."""

import os
import signal
import sys
import time

import pytest
from fault_runs import EVERY, LAST, bytes_lost, last_step, newest_whole, processes_of, wait_until
from runs import losses

pytestmark = pytest.mark.faults
TWO = {"processes": 2}
HEARTBEAT_S = 10
SHORT = {"SURGJAX_HEARTBEAT_S": str(HEARTBEAT_S), "SURGJAX_JOIN_S": "60"}
RESTARTED = (75, -signal.SIGABRT, -signal.SIGKILL, 128 + signal.SIGABRT)


def supervised(processes: int) -> tuple[str, ...]:
    job = ("launch/local_multiproc.py", "--processes", str(processes), "--devices", "1", "--")
    supervisor = ("launch/supervisor.py", "--delay", "0.2", "--max-delay", "1", "--")
    return (sys.executable, *supervisor, sys.executable, *job)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("point, step", [("before_step", 5), ("inside_save", 6), ("data", 3)])
def test_the_peers_of_a_lost_process_end_in_time(
    start, undisturbed_run, tmp_path, injected, point, step, rank
):
    """They leave with a code that a supervisor starts again."""
    with injected("host lost", undisturbed_run(**TWO)) as injection:
        job = start(tmp_path, fault=f"{point}:sigkill:{step}:{rank}", environment=SHORT, **TWO)
        assert job.processes[rank].wait(120) == -signal.SIGKILL, job.output(rank)
        lost = time.monotonic()
        code = job.processes[1 - rank].wait(120)
        assert time.monotonic() - lost < HEARTBEAT_S + 15
        assert code in RESTARTED, job.output(1 - rank)
        injection.struck(tmp_path)
        job = start(tmp_path, environment=SHORT, **TWO)
        assert job.codes() == [0, 0], job.output() + job.output(1)
        injection.continued(job.output())
        injection.ended(tmp_path)


def test_a_process_that_does_not_come(start, tmp_path):
    """One clear line, and a code that a supervisor starts again."""
    job = start(tmp_path, environment=SHORT | {"SURGJAX_JOIN_S": "5"}, **TWO)
    job.send(signal.SIGKILL, 1)
    code = job.processes[0].wait(60)
    assert code == 75 and "Traceback" not in job.output(), job.output()
    assert "SURGJAX_JOIN_S" in job.output()
    assert not (tmp_path / "STATUS").exists()


def test_a_process_that_comes_late(start, undisturbed_run, tmp_path, injected):
    """Stopped while it starts, and let go on: the others wait for it."""
    with injected("late process", undisturbed_run(**TWO)) as injection:
        job = start(tmp_path, environment=SHORT, **TWO)
        job.send(signal.SIGSTOP, 1)
        time.sleep(8)
        job.send(signal.SIGCONT, 1)
        assert job.codes() == [0, 0], job.output() + job.output(1)
        injection.struck(tmp_path)
        injection.ended(tmp_path)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_supervisor_resumes_a_job_that_lost_a_process(
    start, undisturbed_run, tmp_path, injected, victim
):
    long = ("total_steps=40",)
    with injected("host lost, supervised", undisturbed_run(*long, **TWO)) as injection:
        job = start(tmp_path, *long, through=supervised(2), environment=SHORT)
        wait_until(lambda: newest_whole(tmp_path) >= EVERY, job=job)
        for pid in processes_of(tmp_path, rank=victim):
            os.kill(pid, signal.SIGKILL)
        injection.struck(tmp_path)
        code, output = job.finish()
        assert code == 0 and "1 restarts" in output, output
        injection.continued(output.split("start 2:")[1].replace("[0] ", ""))
        injection.ended(tmp_path, 40)


def test_a_supervisor_does_not_repeat_a_mistake(start, tmp_path):
    job = start(tmp_path, "batch_size=7", through=supervised(2), environment=SHORT)
    code, output = job.finish()
    assert code == 2 and "1 starts, 0 restarts" in output, output


@pytest.mark.parametrize("counts", [(8, 4, 1), (1, 2, 8)])
def test_other_numbers_of_devices_and_other_meshes(
    start, undisturbed_run, tmp_path, injected, counts
):
    """The checkpoint is the same wherever it is restored; what is learnt next agrees to 1e-5."""
    undisturbed = undisturbed_run()
    config = "tests/faults/small_config.py:sharded"
    with injected("other devices and mesh", undisturbed) as injection:
        for count, stop in zip(counts, (3, 6, LAST), strict=True):
            mesh = f"mesh.fsdp={max(1, count // 2)}" if stop != 3 else f"mesh.fsdp={count}"
            job = start(tmp_path, mesh, f"stop_at_step={stop}", devices=count, config=config)
            code, output = job.finish()
            assert code == 0, output
            assert stop == 3 or f"restored step {3 if stop == 6 else 6}" in output, output
            injection.times += 1
        found, expected = losses(tmp_path), losses(undisturbed)
        assert found == pytest.approx(expected, rel=1e-5) and len(found) == LAST


@pytest.mark.parametrize("first, second", [(2, 1), (1, 2)])
def test_another_number_of_processes(start, undisturbed_run, tmp_path, injected, first, second):
    with injected("other number of processes", undisturbed_run()) as injection:
        for processes, stop in ((first, 4), (second, LAST)):
            job = start(tmp_path, f"stop_at_step={stop}", processes=processes, environment=SHORT)
            assert not any(job.codes()), job.output()
        assert "restored step 4" in job.output()
        injection.times += 1
        assert losses(tmp_path) == pytest.approx(losses(undisturbed_run()), rel=1e-5)


def test_a_restore_on_other_devices_changes_no_bit(start, undisturbed, tmp_path):
    """Restored and saved again without a step between: a finished run, told to stop where it is."""
    assert start(tmp_path, "stop_at_step=4").finish()[0] == 0
    code, output = start(
        tmp_path,
        *("stop_at_step=4", "mesh.fsdp=4"),
        devices=4,
        config="tests/faults/small_config.py:sharded",
    ).finish()
    assert code == 0 and "restored step 4" in output, output
    assert bytes_lost(tmp_path, undisturbed, 4) == 0 and last_step(tmp_path) == 4
