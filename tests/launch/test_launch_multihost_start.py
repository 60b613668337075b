"""Processes find each other, say it when they do not, and never wait for a lost one for ever."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from surgjax import multihost
from surgjax.errors import REQUEUE, USER, Stopped, UserError

ROOT = Path(__file__).resolve().parents[2]
JOB = {"JAX_COORDINATOR_ADDRESS": "localhost:61999", "JAX_NUM_PROCESSES": "2"}
SLURM = {
    "SLURM_JOB_ID": "4103",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(rank: int, port: int, *arguments: str, **environment: str) -> subprocess.Popen:
    ours = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    ours |= {"JAX_PROCESS_ID": str(rank), "SURGJAX_HEARTBEAT_S": "4", "SURGJAX_JOIN_S": "120"}
    # gRPC reads these; nobody answers there.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    return subprocess.Popen(
        [sys.executable, "tests/launch/one_of_two.py", *arguments],
        cwd=ROOT,
        env=os.environ | proxies | ours | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pair(*arguments: str) -> list[tuple[int, str, str]]:
    """(code, stdout, stderr) of both processes of a job, through a dead web proxy."""
    port = free_port()
    both = [start(rank, port, *arguments) for rank in range(2)]
    try:
        output = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(both, output, strict=True)]


def test_folders_that_only_seem_shared_are_told(tmp_path):
    here, there = tmp_path / "here", tmp_path / "new" / "there"
    for number, (code, output, errors) in enumerate(pair("shared", str(here), str(there))):
        assert f"process {number + 1} of 2" in output
        assert code == USER, errors
        assert "is not the same folder everywhere" in errors and "Traceback" not in errors
        assert f"there for process 2 on {socket.gethostname()}; put --workdir on" in errors
    assert list(here.iterdir()) == [] and not there.exists()


@pytest.mark.parametrize("what, code", [("fails", USER), ("dies", -9)])
def test_the_loss_of_one_ends_the_other_with_a_line(what, code):
    first, second = pair(what)
    assert second[0] == code
    if first[0] == -signal.SIGABRT:  # Gloo did not notice; JAX did, by its missing heartbeats
        assert "heartbeat" in first[2], first[2]
        return
    assert first[0] == REQUEUE, first
    (line,) = (s for s in first[2].splitlines() if "lost another process of the job" in s)
    assert line.startswith("error: ") and "Traceback" not in first[2]


@pytest.mark.slow
def test_at_a_good_end_one_waits_longer_than_the_dead_are_waited_for():
    assert [code for code, *_ in pair("evaluates")] == [0, 0]


def test_who_waits_for_absent_ones_says_so():
    alone = [start(rank, free_port(), "joins", SURGJAX_JOIN_S="2") for rank in range(2)]
    for rank, process in enumerate(alone):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == REQUEUE
        (line,) = errors.splitlines()
        assert f"process {rank + 1} of 2 on {socket.gethostname()} waited 2 s" in line


def set_only(monkeypatch, **variables):
    names = [name for name in os.environ if name.startswith(("JAX_", "SLURM_", "TPU_", "CUDA_"))]
    for name in names:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("slurm", [False, True])
def test_a_port_in_use_is_told(monkeypatch, slurm):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        if slurm:
            set_only(monkeypatch, **SLURM, JAX_COORDINATOR_PORT=str(port))
        else:
            address = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
            set_only(monkeypatch, **JOB | address, JAX_PROCESS_ID="0")
        with pytest.raises(Stopped, match=f"port {port} of .* cannot be used") as stop:
            multihost.join()
    assert stop.value.code == REQUEUE


@pytest.mark.parametrize(
    "variables, message",
    [
        (JOB, "JAX_NUM_PROCESSES is set but not JAX_PROCESS_ID"),
        (JOB | {"JAX_PROCESS_ID": "2"}, "expected HOST:PORT and an id below"),
        (JOB | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID=one in the environment"),
        (JOB | {"JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "host"}, "expected HOST:PORT"),
        (JOB | {"JAX_PROCESS_ID": "0", "SURGJAX_JOIN_S": "5m"}, "SURGJAX_JOIN_S=5m"),
        ({}, "--multihost=on but no launcher described the job"),
    ],
)
def test_variables_that_make_no_job_are_told(monkeypatch, variables, message):
    set_only(monkeypatch, **variables)
    with pytest.raises(UserError, match=message):
        multihost.join("on")
    assert multihost.join("off").startswith("multihost=off found=none process 1 of 1")


def test_an_interactive_slurm_step_is_one_process(monkeypatch):
    set_only(monkeypatch, **SLURM, SLURM_STEP_NUM_TASKS="1")
    assert multihost.launcher() == ("slurm", 1)
    assert "process 1 of 1" in multihost.join()


def test_steps_of_one_slurm_job_meet_at_different_ports(monkeypatch):
    set_only(monkeypatch, **SLURM)
    ports = []
    for step in ("0", "1", "2"):
        monkeypatch.setenv("SLURM_STEP_ID", step)
        ports.append(multihost.slurm_port())
    assert ports[0] == 61440 + 4103 % 4096 and len(set(ports)) == 3
    assert all(61440 <= port < 65536 for port in ports)


@pytest.mark.parametrize(
    "variables, devices",
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, [5]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, [5]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "CUDA_VISIBLE_DEVICES": "0"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, []),
        ({"SLURM_TASKS_PER_NODE": "1"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "JAX_LOCAL_DEVICE_IDS": "2,3"}, [2, 3]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1,8"}, [5]),
    ],
)
def test_gpus_of_a_slurm_task(monkeypatch, variables, devices):
    """By jax's own reading of the arguments that it is given and of the environment."""
    from jax._src.clusters import ClusterEnv

    set_only(monkeypatch, **SLURM | {"SLURM_PROCID": "1", "SLURM_LOCALID": "5"}, **variables)
    given = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **named: given.update(named))
    multihost.join()
    monkeypatch.undo()
    assert given["num_processes"] == 2 and given["process_id"] == 1
    ids = given.get("local_device_ids")
    if ids is None and "JAX_LOCAL_DEVICE_IDS" in variables:
        ids = [2, 3]
    if ids is None:
        set_only(monkeypatch, **SLURM | {"SLURM_LOCALID": "5"})
        ids = ClusterEnv.auto_detect_unset_distributed_params(None, 2, 1, None, None, 1)[3]
    assert ids == devices
