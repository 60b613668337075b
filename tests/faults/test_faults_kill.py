"""kill -9 at every named point and at random moments: the last save, bit for bit, is the loss."""

import random
import signal
import time

import pytest
from fault_runs import EVERY, LAST, last_step, wait_until

pytestmark = pytest.mark.faults
POINTS = ("data", "before_step", "after_step", "metrics", "loader_item")
SAVING = ("before_save", "inside_save", "before_commit", "after_commit")
LONG = 40  # steps of a run that is killed more than once
KILLS = 5  # of one run


def killed_and_continued(start, run, injection, fault, *settings):
    code, output = start(run, *settings, fault=fault).finish()
    assert code == -signal.SIGKILL, output
    injection.struck(run)
    injection.goes_on(start(run, *settings), run)


@pytest.mark.parametrize("step", [2, 5])
@pytest.mark.parametrize("point", POINTS)
def test_at_a_point_of_a_step(start, undisturbed, tmp_path, injected, point, step):
    with injected("kill -9 at a named point", undisturbed) as injection:
        killed_and_continued(start, tmp_path, injection, f"{point}:sigkill:{step}")


@pytest.mark.parametrize("step", [2, 6, LAST])
@pytest.mark.parametrize("point", SAVING)
def test_at_a_point_of_a_save(start, undisturbed, tmp_path, injected, point, step):
    with injected("kill -9 at a named point", undisturbed) as injection:
        killed_and_continued(start, tmp_path, injection, f"{point}:sigkill:{step}")


@pytest.mark.parametrize("before", [0, 4])
def test_before_the_first_step_is_compiled(start, undisturbed, tmp_path, injected, before):
    """Of the run, and of a continuation."""
    assert not before or start(tmp_path, f"stop_at_step={before}").finish()[0] == 0
    with injected("kill -9 at a named point", undisturbed) as injection:
        killed_and_continued(start, tmp_path, injection, f"compile:sigkill:{before + 1}")


def test_in_an_evaluation(start, store, undisturbed_run, tmp_path, injected):
    evaluated = (f"evals.knn.store={store}", "evals.knn.every=4")
    undisturbed = undisturbed_run(*evaluated)
    with injected("kill -9 at a named point", undisturbed) as injection:
        killed_and_continued(start, tmp_path, injection, "evaluation:sigkill:4", *evaluated)
    tables = [run / "eval" / "knn" / "predictions.parquet" for run in (tmp_path, undisturbed)]
    assert tables[0].read_bytes() == tables[1].read_bytes()


@pytest.fixture(scope="module")
def long_run(undisturbed_run):
    """An undisturbed run, which saves at every step, and about the seconds of a killed one."""
    run = undisturbed_run(f"total_steps={LONG}")
    began = (run / "config.json").stat().st_mtime
    return run, ((run / "STATUS").stat().st_mtime - began) / EVERY


@pytest.mark.parametrize("seed", range(7))
def test_at_random_moments(start, long_run, tmp_path, injected, seed):
    """Five times a run; from the start of the program in one of three, else between two saves."""
    undisturbed, seconds = long_run
    draw = random.Random(seed)
    with injected("kill -9 at a random moment", undisturbed) as injection:
        for kill in range(KILLS):
            before = last_step(tmp_path)
            job = start(tmp_path, f"total_steps={LONG}")
            if kill % 3:
                moves = lambda: last_step(tmp_path) > before or job.processes[0].poll() == 0  # noqa: B023, E731
                wait_until(moves)
                time.sleep(draw.uniform(0, seconds / KILLS))
            else:
                time.sleep(draw.uniform(0.2, 4))
            job.send(signal.SIGKILL)
            code, output = job.finish()
            injection.continued(output)
            if code == 0:  # done before it was killed
                break
            injection.struck(tmp_path)
        injection.goes_on(start(tmp_path, f"total_steps={LONG}"), tmp_path, LONG)
