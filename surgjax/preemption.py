"""The one owner of SIGTERM and Ctrl-C: a flag, read by the loop at step and evaluation boundaries.

Install after jax.distributed.initialize: JAX's own preemption service replaces earlier handlers.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from surgjax.errors import INTERRUPTED, REQUEUE


class Waited(Exception):
    """A stop was asked for while waiting for something that may never come."""


class StopSignal:
    """Remembers the first SIGTERM or SIGINT. A second Ctrl-C ends the process at once.

    Attributes:
      code: 0 while nothing came, else the exit code to leave with (75 or 130).
    """

    def __init__(self):
        self.code = 0
        self._is_waiting = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A stop, earlier or now, ends this block with `Waited`."""
        self._is_waiting = True
        try:
            if self.code:
                raise Waited
            yield
        finally:
            self._is_waiting = False

    def note(self, number: int, frame: object) -> None:
        """The handler."""
        if number == signal.SIGINT and self.code:
            os._exit(INTERRUPTED)  # a save in progress is never completed, so never trusted
        self.code = self.code or (REQUEUE if number == signal.SIGTERM else INTERRUPTED)
        if self._is_waiting:
            self._is_waiting = False
            raise Waited
