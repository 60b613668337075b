"""SIGTERM and Ctrl-C wherever a run is: saved, the code says so, and it goes on as undisturbed."""

import json
import random
import signal
import time

import pytest
from fault_runs import EVERY, LAST, end, last_step, newest_whole, processes_of, wait_until

from surgjax.digests import completed_steps, damaged_files

pytestmark = pytest.mark.faults
TWO = {"processes": 2}


@pytest.fixture
def continues(start, tmp_path):
    """Stops were saved: the same command ends as undisturbed."""

    def check(injection, code, expected, *settings, last=LAST, **options):
        job_code, output = code
        assert job_code == expected, output
        assert "Traceback" not in output, output
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path, *settings, **options), tmp_path, last)

    return check


@pytest.mark.parametrize("action, code", [("sigterm", 75), ("sigint", 130)])
@pytest.mark.parametrize(
    "point, step",
    [("compile", 1), ("data", 5), ("before_step", 5), ("after_step", 5), ("inside_save", 4)],
)
def test_at_a_point(start, undisturbed, tmp_path, injected, continues, point, step, action, code):
    what = {"compile": "in a compilation", "inside_save": "in a save"}.get(point, "at a step")
    kind = {"sigterm": "SIGTERM", "sigint": "Ctrl-C"}[action]
    with injected(f"{kind} {what}", undisturbed) as injection:
        stopped = start(tmp_path, fault=f"{point}:{action}:{step}").finish()
        continues(injection, stopped, code)


def test_what_was_saved_on_sigterm_is_the_step_it_was_at(start, undisturbed, tmp_path):
    code, output = start(tmp_path, "checkpoint.every=100", fault="before_step:sigterm:5").finish()
    assert code == 75, output
    assert newest_whole(tmp_path) == 5
    assert (tmp_path / "STATUS").read_text() == "preempted\n"


@pytest.mark.parametrize("step", [4, LAST])
def test_in_an_evaluation(start, store, undisturbed_run, tmp_path, injected, continues, step):
    settings = (f"evals.knn.store={store}", "evals.knn.every=4", "checkpoint.every=4")
    with injected("SIGTERM in an evaluation", undisturbed_run(*settings)) as injection:
        stopped = start(tmp_path, *settings, fault=f"evaluation:sigterm:{step}").finish()
        continues(injection, stopped, 75, *settings)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "knn/done" in line] == [4, LAST]


def test_one_rank_of_two(start, undisturbed_run, tmp_path, injected, continues):
    """The other learns of it in the same step: both save it and leave with 75."""
    with injected("SIGTERM to one rank of two", undisturbed_run(**TWO)) as injection:
        job = start(tmp_path, "checkpoint.every=100", fault="before_step:sigterm:5:1", **TWO)
        assert job.codes() == [75, 75], job.output() + job.output(1)
        assert 5 <= newest_whole(tmp_path) < LAST
        assert completed_steps(tmp_path / "checkpoints") == [newest_whole(tmp_path)]
        continues(injection, job.finish(), 75, "checkpoint.every=100", **TWO)


def test_one_rank_of_two_while_its_loader_hangs(
    start, undisturbed_run, tmp_path, injected, continues
):
    with injected("SIGTERM to one rank of two", undisturbed_run(**TWO)) as injection:
        job = start(tmp_path, "checkpoint.every=100", fault="loader_item:sleep:4:1", **TWO)
        wait_until(lambda: last_step(tmp_path) >= 3, job=job)
        time.sleep(1)
        for rank in (0, 1):
            job.send(signal.SIGTERM, rank)
        assert job.codes(90) == [75, 75], job.output() + job.output(1)
        assert newest_whole(tmp_path) >= 3
        continues(injection, job.finish(), 75, "checkpoint.every=100", **TWO)


@pytest.mark.parametrize("seed", range(4))
def test_a_second_sigterm_and_then_no_more_time(start, undisturbed_run, tmp_path, injected, seed):
    """What a scheduler does: twice the signal, then SIGKILL. No checkpoint is committed in part."""
    long, draw = "total_steps=40", random.Random(seed)
    undisturbed = undisturbed_run(long)
    with injected("second SIGTERM, then SIGKILL", undisturbed) as injection:
        job = start(tmp_path, long)
        wait_until(lambda: last_step(tmp_path) >= 5, job=job)
        for _ in range(2):
            job.send(signal.SIGTERM)
            time.sleep(draw.uniform(0, 0.05))
        job.send(signal.SIGKILL)
        code, output = job.finish()
        assert code in (75, -signal.SIGKILL), output
        steps = completed_steps(tmp_path / "checkpoints")
        assert steps and not any(damaged_files(tmp_path / "checkpoints" / str(s)) for s in steps)
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path, long), tmp_path, 40)


def test_nothing_is_left_running_after_sigterm(start, tmp_path):
    """Loading processes end with the run."""
    job = start(tmp_path, "data.workers=2", fault="before_step:sigterm:3")
    code, output = job.finish()
    assert code == 75, output
    wait_until(lambda: not processes_of(tmp_path), within=10)
    end(job)
    assert newest_whole(tmp_path) >= EVERY
