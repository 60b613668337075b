"""Faults on purpose, for the tests of stopping and continuing.

SURGJAX_FAULT="point:action:step[:rank]" acts once that process (any without a rank) reaches the
point at the step. It is refused unless SURGJAX_TESTING=1 says that this is a test.
"""

import errno
import os
import signal
import time

from surgjax.errors import UserError, nearest

POINTS = {
    "data": "before the batch of a step is asked for",
    "compile": "before the first step of a process is compiled",
    "before_step": "before a step",
    "after_step": "after it",
    "before_save": "before anything of a checkpoint is written",
    "inside_save": "while it is written in the background",
    "before_commit": "when all is written but its digests",
    "after_commit": "when the digests are written, before older ones are removed",
    "evaluation": "at every batch an evaluation encodes",
    "metrics": "before a line of metrics is written",
    "loader_item": "in the loader, at a group of steps",
}
SIGNALS = {"sigkill": signal.SIGKILL, "sigterm": signal.SIGTERM, "sigint": signal.SIGINT}
ACTIONS = (*SIGNALS, "raise", "sleep", "enospc", "oom", "nan")


def check() -> None:
    """Raise UserError when SURGJAX_FAULT is set outside tests, or asks for what no point does."""
    asked = os.environ.get("SURGJAX_FAULT")
    if not asked:
        return
    if os.environ.get("SURGJAX_TESTING") != "1":
        raise UserError(
            f"SURGJAX_FAULT={asked} would break this run on purpose; unset it, or set "
            f"SURGJAX_TESTING=1 in a test"
        )
    point, action, *numbers = [*asked.split(":"), ""][:-1]
    if point not in POINTS or action not in ACTIONS:
        wrong, known = (point, POINTS) if point not in POINTS else (action, ACTIONS)
        raise UserError(
            f"SURGJAX_FAULT={asked}: no {wrong!r}{nearest(wrong, known)}; known: {', '.join(known)}"
        )
    if len(numbers) not in (1, 2) or not all(n.isdigit() for n in numbers):
        raise UserError(f"SURGJAX_FAULT={asked}; expected point:action:step[:rank]")


def fault(point: str, step: int) -> None:
    """Do what SURGJAX_FAULT asks for here; nothing when it is not set."""
    action = _action(point)
    if action is None or action[0] == "nan" or action[1] != step:
        return
    name = action[0]
    if name in SIGNALS:
        os.kill(os.getpid(), SIGNALS[name])
    elif name == "raise":
        raise RuntimeError(f"fault at {point} {step}")
    elif name == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif name == "oom":
        import jax

        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: fault on purpose")
    else:
        while True:
            time.sleep(1)


def spoilt(loss, step):
    """The loss, NaN in the update that `before_step:nan:STEP` names; part of the compiled step."""
    action = _action("before_step")
    if action is None or action[0] != "nan":
        return loss
    import jax.numpy as jnp

    return jnp.where(step + 1 == action[1], jnp.nan, loss)


def _action(point: str) -> tuple[str, int] | None:
    """(action, step) when SURGJAX_FAULT names this point and this process."""
    asked = os.environ.get("SURGJAX_FAULT")
    if not asked:
        return None
    at, action, step, *rank = asked.split(":")
    # Not jax's number: loader processes have no jax.
    if at != point or (rank and rank[0] != os.environ.get("JAX_PROCESS_ID", "0")):
        return None
    return action, int(step)
