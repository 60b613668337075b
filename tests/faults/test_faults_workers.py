"""Loaders that are killed, fail or hang: the run ends in time and goes on as undisturbed."""

import signal

import pytest
from fault_runs import last_step, newest_whole, processes_of, wait_until

pytestmark = pytest.mark.faults
WATCHED = "log.watchdog_s=10"


@pytest.fixture
def goes_on(start, tmp_path):
    def check(injection, *settings):
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path, *settings), tmp_path)

    return check


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loading_process_is_killed(start, undisturbed, tmp_path, injected, goes_on, workers):
    """As the system does that is short of memory: saved up to there, and worth another start."""
    settings = (f"data.workers={workers}", "checkpoint.every=100")
    with injected("loader process killed", undisturbed) as injection:
        code, output = start(tmp_path, *settings, fault="loader_item:sigkill:5").finish(90)
        assert code == 75 and "Traceback" not in output, output
        assert "a loading process was killed" in output
        assert (tmp_path / "STATUS").read_text() == "preempted\n"
        assert newest_whole(tmp_path) > 0
        goes_on(injection, *settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_fails(start, undisturbed, tmp_path, injected, goes_on, workers):
    settings = (f"data.workers={workers}",)
    with injected("loader raises", undisturbed) as injection:
        code, output = start(tmp_path, *settings, fault="loader_item:raise:5").finish(60)
        assert code == 1 and "fault at loader_item 5" in output, output
        goes_on(injection, *settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_hangs_is_ended_by_the_watchdog(
    start, undisturbed, tmp_path, injected, goes_on, workers
):
    settings = (f"data.workers={workers}", WATCHED)
    with injected("loader hangs", undisturbed) as injection:
        code, output = start(tmp_path, *settings, fault="loader_item:sleep:5").finish(90)
        assert code == -signal.SIGABRT, output
        assert (tmp_path / "STATUS").read_text().startswith("failed: no step for 10 s")
        stacks = (tmp_path / "stacks-0.txt").read_text()
        assert "loader.py" in stacks and "Thread" in stacks and "loader.py" in output
        goes_on(injection, *settings)


@pytest.mark.parametrize("point", ["data", "before_step", "before_save", "before_commit"])
def test_a_loop_that_hangs_is_ended_by_the_watchdog(
    start, undisturbed, tmp_path, injected, goes_on, point
):
    with injected("the loop or a save hangs", undisturbed) as injection:
        code, output = start(tmp_path, WATCHED, fault=f"{point}:sleep:6").finish(90)
        assert code == -signal.SIGABRT, output
        assert "testing.py" in (tmp_path / "stacks-0.txt").read_text()
        goes_on(injection)


def test_a_killed_run_leaves_no_loading_process_and_no_lock(start, undisturbed, tmp_path, injected):
    """The same command at once: what the killed one left behind is not in its way."""
    settings = ("data.workers=2",)
    with injected("kill -9 with loader processes", undisturbed) as injection:
        job = start(tmp_path, *settings, fault="before_step:sigkill:6")
        wait_until(lambda: last_step(tmp_path) >= 4, job=job)
        assert job.finish()[0] == -signal.SIGKILL
        injection.struck(tmp_path)
        again = start(tmp_path, *settings)
        code, output = again.finish()
        assert code == 0, output
        injection.continued(output)
        injection.ended(tmp_path)
        wait_until(lambda: not processes_of(tmp_path), within=30)
