"""train.sbatch under bash, with an `srun` that starts its tasks here with SLURM's variables."""

import os
import sys
from pathlib import Path

import pytest
from launch_stubs import RECORDER, ROOT, SRUN, calls, environment, install, sh

# `python` of the tasks: its arguments and rank to the log, and the exit code of that rank.
PYTHON = """
import os, signal, sys, time
rank = int(os.environ["SLURM_PROCID"])
print(rank, os.environ["SLURM_NTASKS"], os.environ["OMP_NUM_THREADS"], *sys.argv[1:], flush=True)
def leave(number, _):
    signal.signal(number, signal.SIG_IGN)  # as surgjax does: srun passes on what was sent to all
    sys.exit(75)
if os.environ.get("STUB_WAITS"):
    signal.signal(signal.SIGTERM, leave)
    open(f"{os.environ['STUB_WAITS']}{rank}", "w").close()
    time.sleep(60)
sys.exit(int(os.environ.get("STUB_CODES", "0,0").split(",")[rank]))
"""
REQUEUE = "scontrol requeue 123456789"


@pytest.fixture
def cluster(tmp_path) -> Path:
    """A folder with the repository's launch/ in it, as it is submitted from."""
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    install(tmp_path / "stubs", srun=SRUN, scontrol=RECORDER, squeue=RECORDER)
    return tmp_path


def job(cluster, *arguments, python=PYTHON, before=(), **more):
    """train.sbatch as job 123456789 with two tasks; `python` is theirs, `before` runs it all."""
    stubs = install(cluster / "stubs", python=python)
    env = environment(stubs, SLURM_JOB_ID="123456789", SLURM_JOB_NAME="mae", STUB_TASKS="2")
    env |= {"SLURM_CPUS_PER_TASK": "3", "STUB_ANSWER": "RUNNING", "HOME": str(cluster)} | more
    env.pop("XLA_FLAGS", None)  # which would be tried
    script = ROOT / "launch/slurm/train.sbatch"
    return sh(*before, "bash", str(script), *arguments, env=env, cwd=cluster)


def logs(cluster) -> list[str]:
    return [file.read_text() for file in sorted((cluster / "mae-123456789").glob("rank-*.log"))]


def requeued(cluster) -> bool:
    return REQUEUE in calls(cluster / "stubs")


def test_every_task_has_its_log_and_a_second_start_adds_to_it(cluster):
    for _ in range(2):
        done = job(cluster, "--config=a", "--workdir=my run")
        assert done.returncode == 0, done.stderr
    line = "2 3 -m surgjax.main --config=a --workdir=my run\n"
    assert logs(cluster) == [f"{rank} {line}" * 2 for rank in (0, 1)]
    assert not requeued(cluster)


@pytest.mark.parametrize(
    ("codes", "code", "again"),
    [("75,75", 75, True), ("2,2", 2, False), ("1,0", 1, False), ("0,130", 130, False)],
)
def test_only_75_is_queued_again(cluster, codes, code, again):
    done = job(cluster, STUB_CODES=codes)
    assert done.returncode == code, done.stderr
    assert requeued(cluster) == again


@pytest.mark.parametrize(
    "more",
    [{"STUB_ANSWER": "COMPLETING"}, {"STUB_ANSWER": "CANCELLED"}, {"SLURM_RESTART_COUNT": "200"}],
)
def test_a_cancelled_or_endless_job_is_not_queued_again(cluster, more):
    done = job(cluster, STUB_CODES="75,75", **more)
    assert done.returncode == 75 and "not queued again" in done.stdout
    assert not requeued(cluster)


def test_a_signal_to_script_and_tasks_is_outlived_by_the_script(cluster):
    # As on preemption, where SLURM tells all processes of the job.
    mark = cluster / "waits"
    tell = (
        f"import os, subprocess, sys, time\n"
        f"p = subprocess.Popen(sys.argv[1:], start_new_session=True)\n"
        f"while not all(os.path.exists(f'{mark}{{rank}}') for rank in (0, 1)): time.sleep(0.01)\n"
        f"os.killpg(p.pid, 15); sys.exit(p.wait())"
    )
    done = job(cluster, before=(sys.executable, "-c", tell), STUB_WAITS=str(mark))
    assert done.returncode == 75, done.stderr
    assert requeued(cluster)


def test_elsewhere_than_in_the_repository_it_says_so(tmp_path):
    env = environment(install(tmp_path / "stubs"))
    done = sh("bash", str(ROOT / "launch/slurm/train.sbatch"), env=env, cwd=tmp_path)
    assert done.returncode == 2 and "submit from the repository" in done.stderr


def test_the_directives():
    lines = (ROOT / "launch/slurm/train.sbatch").read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    # Without B: the signal goes to the processes, which save, and not to the script.
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= options
    assert "--dependency=singleton" in options


def test_every_task_sees_all_gpus_and_none_outlives_a_failed_one(tmp_path):
    env = environment(install(tmp_path / "stubs"))
    printed = sh("bash", "launch/slurm/train.sbatch", "--dry-run", env=env).stdout
    options = {word for word in printed.split() if word.startswith("--")}
    expected = {"--kill-on-bad-exit=1", "--gpu-bind=none", "--open-mode=append"}
    assert options == expected | {"--output=surgjax-train-JOB/rank-%t.log"}


def test_a_mistake_in_a_config_ends_all_real_tasks_with_2(cluster, store):
    stubs = cluster / "stubs"
    python = [
        f"os.chdir({str(ROOT)!r})",
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])",
    ]
    done = job(
        cluster,
        *["--config=configs/surgrec_mae.py:demo", f"--workdir={cluster / 'run'}"],
        *[f"--config.data.stores={store}", "--config.batch_size=7"],
        python="\n".join(["import os, sys", *python]),
        JAX_PLATFORMS="cpu",
        HOME=os.environ["HOME"],
    )
    assert done.returncode == 2, (done.stderr, logs(cluster))
    assert not (stubs / "calls").exists()
    first, second = logs(cluster)
    assert "found=slurm process 1 of 2" in first
    assert "batch_size=7 is not divisible" in first and "batch_size=7 is not divisible" in second


def test_check_env_under_srun(tmp_path):
    stubs = install(tmp_path / "stubs", srun=SRUN)
    fake = "--xla_force_host_platform_device_count=2"
    env = environment(stubs, STUB_TASKS="2", JAX_PLATFORMS="cpu", XLA_FLAGS=fake)
    folder = tmp_path / "run"
    check = ["python", "launch/check_env.py", "--dir", str(folder)]
    done = sh("srun", *check, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found=slurm process 1 of 2, 2 of 4 cpu devices" in done.stdout
    assert "all-reduce    4 devices, 4 MiB each: " in done.stdout
    assert f"{folder} can be written, one folder for all 2 processes" in done.stdout
    assert done.stdout.count("nothing here stops training") == 1
    assert list(folder.iterdir()) == []
