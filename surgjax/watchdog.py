"""Where a run's time goes, and an end to a run that no longer moves.

A hung file system, loader or collective would hold its machines for ever. Who makes no step for
long writes the stacks of all its threads and dies by a signal, as the peers of a lost process do,
so that a supervisor starts it again from the newest checkpoint.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from surgjax.progress import clock

PARTS = ("steps", "data wait", "compile", "restore", "save", "evaluation", "start")
CHECKS = 20  # looks at the clock within the time allowed
LAST_WORDS_S = 30  # that the end may take; what hangs may be the file system they are written to


class Goodput:
    """The share of this process's time in each part of a run; steps are what it is for."""

    def __init__(self):
        self.part = "start"
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._since = time.monotonic()

    def enter(self, part: str) -> None:
        """What comes now is `part`, one of PARTS."""
        now = time.monotonic()
        self._seconds[self.part] += now - self._since
        self.part, self._since = part, now

    def percent(self) -> dict[str, float]:
        """Shares of all time so far; they add up to 100."""
        self.enter(self.part)
        whole = max(sum(self._seconds.values()), 1e-9)
        return {part: 100 * seconds / whole for part, seconds in self._seconds.items()}

    def line(self) -> str:
        """For the log, the largest share first."""
        shares = sorted(self.percent().items(), key=lambda item: -item[1])
        listed = ", ".join(f"{part} {share:.1f} %" for part, share in shares if share >= 0.05)
        whole = clock(sum(self._seconds.values()))
        return f"goodput {dict(shares)['steps']:.1f} % of {whole}: {listed}"


class Watchdog:
    """Ends this process when `beat` is not called for too long.

    Args:
      timeout_s: seconds; 0 never does.
      stacks: file for the stacks of all threads, which go to stderr too.
      goodput: for the part that is named.
      last_words: called with the reason before the end.
    """

    def __init__(
        self, timeout_s: float, stacks: Path, goodput: Goodput, last_words: Callable[[str], None]
    ):
        self._timeout_s, self._stacks = timeout_s, stacks
        self._goodput, self._last_words = goodput, last_words
        self._beat, self._over = time.monotonic(), threading.Event()
        self._is_paused = False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if timeout_s:
            self._thread.start()

    def beat(self) -> None:
        """The run moved."""
        self._beat, self._is_paused = time.monotonic(), False

    def pause(self) -> None:
        """Until the next beat the run waits for another process, whose own watchdog looks."""
        self._is_paused = True

    def close(self) -> None:
        self._over.set()
        if self._timeout_s:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        while not self._over.wait(self._timeout_s / CHECKS):
            # What hangs may hold the interpreter, and this thread with it: then C code prints the
            # stacks, and the system's alarm, which nobody handles, ends the process.
            faulthandler.dump_traceback_later(2 * self._timeout_s, file=sys.__stderr__)
            signal.setitimer(signal.ITIMER_REAL, 2 * self._timeout_s + LAST_WORDS_S)
            if not self._is_paused and time.monotonic() - self._beat > self._timeout_s:
                self._end()

    def _end(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, LAST_WORDS_S)
        reason = f"no step for {self._timeout_s:g} s (in {self._goodput.part})"
        faulthandler.dump_traceback(sys.__stderr__)
        print(
            f"error: {reason}; ended, to be started again (raise log.watchdog_s where that may "
            f"take so long); stacks are above and in {self._stacks}",
            file=sys.__stderr__,
            flush=True,
        )
        try:
            self._last_words(reason)
            with self._stacks.open("w") as file:
                faulthandler.dump_traceback(file)
        finally:
            os.kill(os.getpid(), signal.SIGABRT)
