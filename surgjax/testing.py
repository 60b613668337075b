"""Faults on purpose, for the tests of stopping and continuing.

SURGJAX_FAULT="point:action:step" acts once the loop reaches that point at that step. Points:
before_step, inside_save, after_step. Actions: sigkill, sigterm, sigint, raise.
"""

import os
import signal

_SIGNALS = {"sigkill": signal.SIGKILL, "sigterm": signal.SIGTERM, "sigint": signal.SIGINT}


def fault(point: str, step: int) -> None:
    """Do what SURGJAX_FAULT asks for here; nothing when it is not set."""
    wanted = os.environ.get("SURGJAX_FAULT")
    if not wanted:
        return
    at, action, when = wanted.split(":")
    if at == point and int(when) == step:
        if action == "raise":
            raise RuntimeError(f"fault at {point} {step}")
        os.kill(os.getpid(), _SIGNALS[action])
