"""What jax.distributed finds in the environments of SLURM and TPUs, and what we find in them."""

import json
import os
import subprocess
import sys

from launch_stubs import ROOT, metadata, sh

from surgjax import multihost

# Answers for every environment given as JSON; a process of its own, as jax looks at some variables
# when it is imported.
PROGRAM = """
import json, os, sys
sys.path.insert(0, {root!r})
import jax
from jax._src.clusters import ClusterEnv
from surgjax import multihost
os.environ.pop("TPU_SKIP_MDS_QUERY", None)  # which jax sets where it sees no TPU
answers = []
for environment in json.loads(sys.argv[1]):
    os.environ.update(environment)
    address, count, number, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 5)
    answers.append([[address, count, number, devices], multihost.launcher()])
    for name in environment:
        del os.environ[name]
print(json.dumps(answers))
"""
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node001",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
}
HOSTLISTS = {
    "node001": "node001",
    "node001,other2": "node001",
    "node[001-016]": "node001",
    "node[007,009-012],other2": "node007",
    "gpu-a[3-4]": "gpu-a3",
    "rack1-node5.cluster": "rack1-node5.cluster",
}
NOBODY = [None, None, None, None]


def answers(environments: list[dict[str, str]], **more: str) -> list:
    """[[address, processes, number, local devices] as jax finds, launcher()] for each."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "JAX_C", "TPU_"))}
    program = [sys.executable, "-c", PROGRAM.format(root=str(ROOT)), json.dumps(environments)]
    done = subprocess.run(program, env=ours | more, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_slurm():
    partial = [{k: v for k, v in SLURM.items() if k != left_out} for left_out in SLURM]
    large = {"SLURM_JOB_ID": str(2**31 - 2)}
    cases = [SLURM | {"SLURM_STEP_NODELIST": given} for given in HOSTLISTS]
    found = answers([*cases, SLURM | large, *partial])
    for host, (theirs, ours) in zip(HOSTLISTS.values(), found, strict=False):
        assert theirs == [f"{host}:61447", 16, 11, [3]]
        assert ours == ["slurm", 16]
    theirs, ours = found[len(cases)]
    assert theirs == ["node001:65534", 16, 11, [3]] and ours == ["slurm", 16]
    # As after ssh into an allocation: the processes are not started by srun.
    assert found[len(cases) + 1 :] == [[NOBODY, ["none", 1]]] * len(SLURM)


def test_tpu(monkeypatch, tmp_path):
    gke = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "localhost,b.svc,c.svc,d.svc"}
    there = gke | {  # as Kubernetes sets it, here the second of two slices
        "TPU_SKIP_MDS_QUERY": "true",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
    }
    with metadata("127.0.0.1,127.0.0.2,127.0.0.3", number=2) as address:
        server = {"GCE_METADATA_IP": address}
        kubernetes, machines = answers([there, server], JAX_FORCE_TPU_INIT="1")
        # Nothing in the environment of a virtual machine: worker.sh asks the metadata, as jax does.
        names = "COORDINATOR_ADDRESS NUM_PROCESSES PROCESS_ID"
        program = f"import os; print(*(os.environ['JAX_' + n] for n in '{names}'.split()))"
        worker = ["launch/tpu/worker.sh", sys.executable, "-c", program]
        done = sh(*worker, env=os.environ | server | {"HOME": str(tmp_path)})
    assert kubernetes == [["localhost:8482", 8, 6, None], ["tpu", 8]]
    assert machines == [["127.0.0.1:8482", 3, 2, None], ["none", 1]]
    assert done.stdout == "127.0.0.1:8476 3 2\n", done.stderr
    for name, value in gke.items():
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            assert multihost.launcher() == ("none", 1)
