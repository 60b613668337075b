"""Joining the processes of a job, only when a launcher's variables are complete."""

import os

from surgjax.errors import UserError

LAUNCHER = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
TPU = ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")
COORDINATOR_TIMEOUT_S = 300


def launcher() -> tuple[str, int]:
    """(kind, processes) that the environment describes completely; ("none", 1) otherwise."""
    if all(os.environ.get(name) for name in LAUNCHER):
        return "launcher", int(os.environ["JAX_NUM_PROCESSES"])
    if all(os.environ.get(name) for name in SLURM):
        return "slurm", int(os.environ["SLURM_NTASKS"])
    if all(os.environ.get(name) for name in TPU):
        return "tpu", len(os.environ["TPU_WORKER_HOSTNAMES"].split(","))
    return "none", 1


def join(mode: str = "auto") -> str:
    """Join the job if there is one; returns the resolved table as one printable line.

    Args:
      mode: "auto" joins when the variables of surgjax's launcher, SLURM or a TPU pod are complete
        and name more than one process; "on" requires it; "off" never does.

    Raises:
      UserError: unknown mode, or "on" without complete variables.
    """
    import jax

    if mode not in ("auto", "on", "off"):
        raise UserError(f"--multihost={mode!r} is none of auto, on, off")
    kind, processes = launcher()
    if mode == "on" and kind == "none":
        raise UserError(
            f"--multihost=on but no launcher described the job; expected {', '.join(LAUNCHER)}, "
            f"or the variables of SLURM or a TPU pod"
        )
    if mode != "off" and processes > 1:
        # Our own SIGTERM handler is the one owner of preemption.
        jax.config.update("jax_enable_preemption_service", False)
        arguments = {}
        if kind == "launcher":
            arguments = {
                "coordinator_address": os.environ["JAX_COORDINATOR_ADDRESS"],
                "num_processes": processes,
                "process_id": int(os.environ["JAX_PROCESS_ID"]),
            }
        jax.distributed.initialize(initialization_timeout=COORDINATOR_TIMEOUT_S, **arguments)
    return (
        f"multihost={mode} found={kind} process {jax.process_index() + 1} of "
        f"{jax.process_count()}, "
        f"{jax.local_device_count()} of {jax.device_count()} {jax.default_backend()} devices"
    )
