"""How much memory and time a process that decodes may take, by limits that the system enforces.

A decoder reads bytes that nobody has looked at, and a damaged or malicious file can make one loop
or ask for all memory there is. So worker processes set limits for themselves: beyond its memory an
allocation fails, and one that computes for too long within one packet is ended by the system, which
needs no cooperation of a decoder that hangs. Linux enforces both, macOS the time alone.
"""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a process that decodes may take. The values leave room for frames of 8192 x 4320 pixels
    and for the index of a ten-hour recording at 240 frames a second.

    Attributes:
      memory: bytes beyond what the process has when it opens a file.
      memory_a_thread: bytes more for each thread of a decoder.
      seconds: of computing, over all threads, from one packet to the next.
    """

    memory: int = 4 * 2**30
    memory_a_thread: int = 2**28
    seconds: float = 300.0


DECODING = Limits()


class _Guard:
    """Limits of this process, in force while it has files open. Without limits nothing happens."""

    def __init__(self):
        self.limits: Limits | None = None
        self.threads, self.open, self.lock = 1, 0, threading.Lock()

    def opens(self) -> None:
        with self.lock:
            self.open += 1
            self._restart_clock()
            if self.open == 1:
                more = self.limits.memory + self.threads * self.limits.memory_a_thread
                _allow_data(_data_bytes() + more)

    def closes(self) -> None:
        with self.lock:
            self.open -= 1
            self._restart_clock()
            if self.open == 0:
                _allow_data(resource.RLIM_INFINITY)

    def beats(self) -> None:
        with self.lock:
            self._restart_clock()

    def _restart_clock(self) -> None:
        # Computing time, not time of day: a network drive may keep a good file waiting.
        signal.setitimer(signal.ITIMER_PROF, self.limits.seconds if self.open else 0)


_guard = _Guard()


def limit_this_process(limits: Limits, threads: int = 1) -> None:
    """From now on decoding in this process has these limits; SIGPROF ends it where it hangs.

    It leaves no core file either, in which the frames of a patient would be.

    Args:
      threads: of a decoder.
    """
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _guard.limits, _guard.threads = limits, threads


@contextmanager
def in_force() -> Iterator[None]:
    """A block that decodes; it may be inside another, and in several threads."""
    if _guard.limits is None:
        yield
        return
    _guard.opens()
    try:
        yield
    finally:
        _guard.closes()


def beat() -> None:
    """A packet was done: computing time counts from here."""
    if _guard.limits is not None:
        _guard.beats()


def _allow_data(most: int) -> None:
    """Of the memory that is written to, not of addresses, many of which a thread never uses."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        most = hard if most == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _data_bytes() -> int:
    """What of this process counts for `_allow_data`; where the system does not say, no limit."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmData"))
    except (OSError, StopIteration):
        return 2**62
