"""launch/check_env.py: what stops a training is found. Several processes: test_launch_slurm.py."""

import sys

import jax
import pytest
from launch_stubs import ROOT, environment, install, sh

sys.path.insert(0, str(ROOT / "launch"))
import check_env  # noqa: E402


def test_a_machine_that_cannot_train_is_exit_code_1(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    env = environment(install(tmp_path / "stubs"))
    check = f"{sys.executable} launch/check_env.py --dir {folder}"
    done = sh("bash", "-c", f"ulimit -S -n 200; ulimit -H -n 250; exec {check}", env=env)
    assert done.returncode == 1, done.stderr
    problems = [line for line in done.stdout.splitlines() if line.startswith("process 1 on ")]
    assert len(problems) == 2
    assert "at most 200 open files; 250 is the most your account may have" in problems[0]
    assert f"cannot write in {folder} (Not a directory); choose another --dir" in problems[1]
    assert "nothing here stops training" not in done.stdout


def test_dry_run_looks_at_nothing(tmp_path):
    folder = tmp_path / "run"
    env = environment(install(tmp_path / "stubs"), JAX_PLATFORMS="no such platform")
    done = sh(sys.executable, "launch/check_env.py", "--dry-run", "--dir", str(folder), env=env)
    assert done.returncode == 0 and f"write and delete a file in {folder}" in done.stdout
    assert not folder.exists()


def test_a_wrong_sum_is_found(monkeypatch):
    problems: list[str] = []
    (line,) = check_env.all_reduce(problems)
    assert line.startswith(f"all-reduce    {jax.device_count()} devices, 4 MiB each: ")
    assert problems == []
    right = jax.make_array_from_callback

    def wrong(shape, sharding, rows):
        def one_bit(index):
            value = rows(index)
            value[0, -1] += index[0].start == 3  # the fourth device
            return value

        return right(shape, sharding, one_bit)

    monkeypatch.setattr(jax, "make_array_from_callback", wrong)
    check_env.all_reduce(problems)
    assert (
        len(problems) == 1 and "the sum of 1 to 8 over 8 devices is 36 to 37, not 36" in problems[0]
    )


@pytest.mark.parametrize(("free", "count"), [(2**29, 1), (2**31, 0)])
def test_a_full_disk_is_found(tmp_path, monkeypatch, free, count):
    usage = check_env.shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(check_env.shutil, "disk_usage", lambda _: usage)
    problems: list[str] = []
    check_env.folder(tmp_path, problems)
    assert len(problems) == count and all("512 MiB free at" in problem for problem in problems)
