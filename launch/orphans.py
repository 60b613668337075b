"""Child processes, in groups of their own, that do not outlive their launcher."""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent(number: int) -> None:
    """For subprocess's preexec_fn: Linux sends this process signal `number` when its parent dies.

    Also when the parent was killed with SIGKILL; on other systems nothing happens.
    """
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, number)


def send(group: int, number: int) -> None:
    """Send a signal to a process group, which may have ended."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
