"""One fault of every kind, in the default run; the rest of the suite is marked `faults`."""

import json
import shutil
import signal

import numpy as np
from damage import flip, largest_file
from fault_runs import LAST, bytes_lost, last_step, newest_whole, wait_until

from surgjax.checkpoint import read_params
from surgjax.state import flatten


def test_killed_inside_a_save_it_ends_as_undisturbed(start, undisturbed, tmp_path, injected):
    with injected("kill -9 at a named point", undisturbed) as injection:
        code, output = start(tmp_path, fault="inside_save:sigkill:4").finish()
        assert code == -signal.SIGKILL, output
        injection.struck(tmp_path)
        output = injection.goes_on(start(tmp_path), tmp_path)
        assert "restored step 2" in output, output


def test_sigterm_while_the_loader_hangs(start, undisturbed, tmp_path, injected):
    with injected("SIGTERM while the loader hangs", undisturbed) as injection:
        job = start(tmp_path, fault="loader_item:sleep:4")
        wait_until(lambda: last_step(tmp_path) == 4, job=job)
        job.send(signal.SIGTERM)
        code, output = job.finish(60)
        assert code == 75, output
        assert (tmp_path / "STATUS").read_text() == "preempted\n"
        assert newest_whole(tmp_path) == 4
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path), tmp_path)


def test_a_flipped_bit_in_a_checkpoint_costs_that_checkpoint(
    start, undisturbed, tmp_path, injected
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    flip(largest_file(run / "checkpoints" / str(LAST) / "params"))
    with injected("flipped bit in the newest checkpoint", undisturbed, may_lose=1) as injection:
        code, output = start(run, "--strict").finish()
        assert code == 2 and "is damaged" in output and "Traceback" not in output, output
        injection.struck(run, newest=LAST)
        output = injection.goes_on(start(run), run)
        assert "falling back" in output, output


def test_an_update_that_is_not_finite_is_skipped_and_never_saved(
    start, undisturbed, tmp_path, injected
):
    with injected("loss is NaN at a step", undisturbed) as injection:
        every = ("checkpoint.every=1", "checkpoint.keep=1000")
        code, output = start(tmp_path, *every, fault="before_step:nan:4").finish()
        assert code == 0, output
        lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        skipped = {line["step"]: line["skipped"] for line in lines if "loss" in line}
        assert [skipped[step] for step in range(1, LAST + 1)] == [0, 0, 0, 1, 1, 1, 1, 1]
        saved = [flatten(read_params(tmp_path, step)[0]) for step in (3, 4, LAST)]
        assert all(np.isfinite(x).all() for params in saved for x in params.values())
        assert all(np.array_equal(saved[0][path], x) for path, x in saved[1].items())
        assert not all(np.array_equal(saved[0][path], x) for path, x in saved[2].items())
        assert bytes_lost(tmp_path, undisturbed, 3) == 0
        injection.times += 1


def test_a_fault_outside_tests_is_refused(start, tmp_path):
    fault = {"fault": "before_step:sigkill:1", "environment": {"SURGJAX_TESTING": ""}}
    code, output = start(tmp_path / "run", **fault).finish()
    assert code == 2 and "SURGJAX_TESTING=1" in output, output
    assert "Traceback" not in output and not (tmp_path / "run").exists()
