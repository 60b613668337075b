"""Full disks and folders that cannot be written: one line, exit code 2, older checkpoints whole."""

import os

import pytest
from damage import largest_file
from fault_runs import newest_whole

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    "point, step", [("before_save", 6), ("inside_save", 6), ("before_commit", 6)]
)
def test_a_disk_that_is_full_at_a_point(start, undisturbed, tmp_path, injected, point, step):
    with injected("disk full", undisturbed) as injection:
        code, output = start(tmp_path, fault=f"{point}:enospc:{step}").finish()
        assert code == 2 and "Traceback" not in output, output
        assert output.splitlines()[-1].startswith("error: could not write a checkpoint"), output
        assert newest_whole(tmp_path) >= 4
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path), tmp_path)


def test_files_that_cannot_grow(start, undisturbed, tmp_path, injected):
    """As a full disk or a quota: writing further is an error, not a signal."""
    largest = largest_file(undisturbed / "checkpoints").stat().st_size
    with injected("disk full", undisturbed) as injection:
        assert start(tmp_path, "stop_at_step=2").finish()[0] == 0
        limit = f"trap '' XFSZ; ulimit -f {largest // 4 // 1024}"
        code, output = start(tmp_path, limit=limit).finish()
        assert code == 2 and "Traceback" not in output, output
        assert output.splitlines()[-1].startswith("error: could not write a checkpoint"), output
        injection.struck(tmp_path)
        output = injection.goes_on(start(tmp_path), tmp_path)
        assert "restored step 2" in output, output


def test_metrics_on_a_disk_that_is_full_for_a_while(start, undisturbed, tmp_path, injected):
    """One warning; the line follows with the next one."""
    with injected("metrics cannot be written", undisturbed) as injection:
        code, output = start(tmp_path, fault="metrics:enospc:5").finish()
        assert code == 0 and "Traceback" not in output, output
        assert output.count("metrics.jsonl") == 1, output
        injection.struck(tmp_path)
        injection.ended(tmp_path)


def test_a_mirror_that_cannot_be_written(start, undisturbed, tmp_path, injected):
    """TensorBoard's folder is a file: one warning, metrics.jsonl has everything."""
    (tmp_path / "tensorboard").write_text("")
    with injected("metrics cannot be written", undisturbed) as injection:
        code, output = start(tmp_path).finish()
        assert code == 0 and "Traceback" not in output, output
        assert output.count("tensorboard mirror stopped") == 1, output
        injection.struck(tmp_path)
        injection.ended(tmp_path)


@pytest.mark.parametrize("blocked", ["", "checkpoints", "config.json"])
def test_a_file_where_a_folder_is_expected_and_the_other_way_round(
    start, undisturbed, tmp_path, injected, blocked
):
    run = tmp_path / "run"
    if blocked == "config.json":
        (run / blocked).mkdir(parents=True)
    else:
        (run / blocked).parent.mkdir(parents=True, exist_ok=True)
        (run / blocked).write_text("")
    with injected("folder that cannot be written", undisturbed) as injection:
        code, output = start(run).finish()
        assert code == 2 and "Traceback" not in output, output
        assert output.splitlines()[-1].startswith("error: ") and str(run) in output, output
        injection.struck(run)
        if blocked != "config.json":
            (run / blocked).unlink()
        else:
            (run / blocked).rmdir()
        injection.goes_on(start(run), run)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_others(start, undisturbed, tmp_path, injected):
    run = tmp_path / "run"
    assert start(run, "stop_at_step=2").finish()[0] == 0
    with injected("folder that cannot be written", undisturbed) as injection:
        for folder in (run / "checkpoints", run):
            folder.chmod(0o555)
            code, output = start(run).finish()
            folder.chmod(0o755)
            assert code == 2 and "Traceback" not in output, output
            assert str(run) in output.splitlines()[-1], output
            injection.struck(run)
        injection.goes_on(start(run), run)
