"""The TPU scripts with a `gcloud` that has its machines here."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from launch_stubs import ROOT, calls, environment, install, metadata, sh

# Says the state from STATES, a line a call; makes and deletes machines, the homes in MACHINES; runs
# a --command on each with its own home and metadata, and ends with the first code that is not 0.
GCLOUD = """
import os, pathlib, shutil, subprocess, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
verb, homes = sys.argv[4], pathlib.Path(os.environ["MACHINES"])
servers = os.environ["SERVERS"].split(",")
if verb == "describe":
    states = pathlib.Path(os.environ["STATES"])
    first, *rest = states.read_text().split()
    states.write_text(" ".join(rest or [first]))
    if first == "NONE":
        sys.exit(1)
    print(first)
if verb == "create":
    for number in range(len(servers)):
        (homes / str(number)).mkdir(parents=True)
if verb == "delete":
    shutil.rmtree(homes, ignore_errors=True)
if verb == "ssh":
    if os.environ.get("NO_CONNECTION"):
        sys.exit(1)
    (command,) = [a.partition("=")[2] for a in sys.argv if a.startswith("--command=")]
    machines = [
        subprocess.Popen(["bash", "-c", command], cwd=homes / str(number), env=os.environ | {
            "GCE_METADATA_IP": server, "HOME": str(homes / str(number))})
        for number, server in enumerate(servers)]
    codes = [machine.wait() for machine in machines]
    sys.exit(next(filter(None, codes), 0))
"""
NAME = ["mine", "zone-b"]
TYPE = ["v4-16", "tpu-ubuntu2204-base"]
SETUP = f"ln -sfn {ROOT} surgjax && echo done >>~/setups"


@pytest.fixture
def cloud(tmp_path):
    """The environment with a gcloud of two machines, which are not made yet."""
    stubs = install(tmp_path / "stubs", gcloud=GCLOUD)
    with ExitStack() as servers:
        endpoints = "0:a:127.0.0.1,1:b:127.0.0.2"
        addresses = [servers.enter_context(metadata(endpoints, number)) for number in (0, 1)]
        yield environment(
            stubs,
            STATES=str(tmp_path / "states"),
            MACHINES=str(tmp_path / "machines"),
            SERVERS=",".join(addresses),
            SURGJAX_POLL_S="0.02",
        )


def states(cloud, *names: str) -> None:
    Path(cloud["STATES"]).write_text(" ".join(names))


def make_machines(cloud) -> Path:
    """Their homes, with the repository in each."""
    homes = Path(cloud["MACHINES"])
    for number in (0, 1):
        (homes / str(number)).mkdir(parents=True)
        (homes / str(number) / "surgjax").symlink_to(ROOT)
    return homes


def verbs(cloud) -> list[str]:
    return [line.split()[3] for line in calls(Path(cloud["CALLS"]).parent)]


def create(cloud, *more):
    return sh("launch/tpu/create.sh", *NAME, *TYPE, *more, env=cloud)


def on_workers(cloud, *command):
    script = "launch/tpu/run_on_all_workers.sh"
    return sh(script, *NAME, "surgjax", "--", *command, env=cloud)


def test_create_asks_and_waits(cloud):
    states(cloud, "NONE", "CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = create(cloud, "--spot")
    assert done.returncode == 0, done.stderr
    assert verbs(cloud) == ["describe", "create", *["describe"] * 4]
    asked = "create mine --node-id=mine --zone=zone-b --accelerator-type=v4-16 --runtime-version="
    assert f"{asked}tpu-ubuntu2204-base --spot" in calls(Path(cloud["CALLS"]).parent)[1]


def test_create_waits_for_what_was_asked_before(cloud):
    states(cloud, "PROVISIONING", "ACTIVE")
    assert create(cloud).returncode == 0
    assert verbs(cloud) == ["describe", "describe"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_deletes_what_was_taken_and_says_when_it_is_taken_again(cloud, state):
    states(cloud, state, "CREATING", state)
    assert create(cloud).returncode == 75
    assert verbs(cloud) == ["describe", "delete", "create", "describe", "describe"]


def test_the_command_runs_on_all_machines_as_one_job(cloud):
    homes = make_machines(cloud)
    program = (
        "import os, sys; names = 'COORDINATOR_ADDRESS NUM_PROCESSES PROCESS_ID'.split()\n"
        "home = os.path.expanduser('~/said')\n"
        "print(*(os.environ['JAX_' + n] for n in names), os.getcwd(), sys.argv[1:],"
        " file=open(home, 'w'))"
    )
    done = on_workers(cloud, sys.executable, "-c", program, "a 'b' $c")
    assert done.returncode == 0, done.stderr
    said = [(homes / str(number) / "said").read_text() for number in (0, 1)]
    assert said == [f"127.0.0.1:8476 2 {rank} {ROOT} [\"a 'b' $c\"]\n" for rank in (0, 1)]


@pytest.mark.parametrize("code", [1, 2, 75, 130, 137])
def test_the_code_of_the_command_is_the_answer(cloud, code):
    make_machines(cloud)
    assert on_workers(cloud, "bash", "-c", f"exit $((JAX_PROCESS_ID * {code}))").returncode == code


def test_a_lost_connection_is_no_failure_of_the_command(cloud):
    make_machines(cloud)
    assert on_workers(cloud | {"NO_CONNECTION": "1"}, "true").returncode == 255


def test_a_missing_repository_is_a_mistake(cloud):
    make_machines(cloud)
    script = "launch/tpu/run_on_all_workers.sh"
    done = sh(script, *NAME, "elsewhere", "--", "true", env=cloud)
    assert done.returncode == 2 and "elsewhere" in done.stderr


def test_the_command_of_before_is_ended_first(cloud):
    homes = make_machines(cloud)
    program = "trap 'echo saved >>~/said; exit 75' TERM; echo started >>~/said; sleep 60 & wait"
    script = ["launch/tpu/run_on_all_workers.sh", *NAME, "surgjax", "--", "bash", "-c", program]
    lost = subprocess.Popen(script, cwd=ROOT, env=cloud, start_new_session=True)
    said = [homes / str(number) / "said" for number in (0, 1)]
    deadline = time.monotonic() + 30
    while not all(file.exists() for file in said):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(lost.pid, signal.SIGKILL)  # the connection; the command has a session of its own
    lost.wait()
    done = on_workers(cloud, "bash", "-c", "echo next >>~/said")
    assert done.returncode == 0 and done.stderr.count("ending the command of before") == 2
    assert [file.read_text().split() for file in said] == [["started", "saved", "next"]] * 2


def test_babysit_asks_again_when_the_machines_are_taken(cloud, tmp_path):
    # One set of machines until the command ends with 75, as when they are told to stop; the next
    # start finds them suspended. The run is outside of them.
    states(cloud, "NONE", "ACTIVE", "SUSPENDED", "CREATING", "ACTIVE")
    run = tmp_path / "run"
    run.mkdir()
    program = (
        f"cd {run}; echo x >>log-$JAX_PROCESS_ID; (($(wc -l <log-$JAX_PROCESS_ID) > 1)) || exit 75"
    )
    arguments = [*NAME, *TYPE, "surgjax", SETUP, "--", "bash", "-c", program]
    done = sh("launch/tpu/babysit.sh", *arguments, env=cloud | {"SURGJAX_TPU_FLAGS": "--spot"})
    assert done.returncode == 0, done.stderr
    assert "2 starts, 1 restarts, exit 0" in done.stderr
    first = ["describe", "create", "describe", "ssh", "ssh"]
    second = ["describe", "delete", "create", "describe", "describe", "ssh", "ssh"]
    assert verbs(cloud) == first + second
    assert [(run / f"log-{rank}").read_text() for rank in (0, 1)] == ["x\nx\n"] * 2
    assert (Path(cloud["MACHINES"]) / "1" / "setups").read_text() == "done\n"


def test_babysit_sets_machines_up_once_and_ends_with_a_mistake(cloud):
    states(cloud, "NONE", "ACTIVE")
    # 75 the first time, 2 the second: the same machines.
    program = "echo x >>~/log; (($(wc -l <~/log) > 1)) && exit 2; exit 75"
    arguments = [*NAME, *TYPE, "surgjax", SETUP, "--", "bash", "-c", program]
    done = sh("launch/tpu/babysit.sh", *arguments, env=cloud)
    assert done.returncode == 2, done.stderr
    assert (Path(cloud["MACHINES"]) / "0" / "setups").read_text() == "done\n"
    assert verbs(cloud).count("create") == 1
