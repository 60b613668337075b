"""What keeps a start short: what takes long is made beside the rest, and no garbage is looked for
while there is none.
"""

import gc
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Ahead(Generic[Result]):
    """A call that a thread makes from `start` on, or when its result is asked for."""

    def __init__(self, call: Callable[[], Result]):
        self._call, self._thread = call, ThreadPoolExecutor(1, "ahead")
        self._made: Future[Result] | None = None

    def start(self) -> None:
        self._made = self._made or self._thread.submit(self._call)

    def result(self) -> Result:
        """What the call returns, once it has. Raises what it raises."""
        self.start()
        return self._made.result()


def collect_nothing() -> None:
    """Imports and tracing make some million objects and hardly any garbage; the collector, which
    walks over all of them again and again, takes a sixth of a start."""
    gc.disable()


def collect_again() -> None:
    """Only among what is made from now on, where `collect_nothing` was called."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
