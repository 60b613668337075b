"""How far the clips of an evaluation or of `surgjax.embed` are."""

import time

from surgjax.progress import clock

SAY_EVERY = 10.0  # seconds


class Progress:
    """A line every few seconds: clips done, clips a second, time left."""

    def __init__(self, total: int):
        self.total, self.done, self._before = total, 0, 0
        self._left = 0  # clips of the piece still to come: batches are filled up
        self._is_cold = True  # the first batch compiles
        self._began = self._said = time.monotonic()

    def begin(self, clips: int) -> None:
        """The next piece of work has so many clips."""
        self._left = clips

    def skip(self, clips: int) -> None:
        """So many are done already."""
        self.done += clips
        self._before += clips

    def add(self, clips: int) -> None:
        """A batch is done, perhaps filled up."""
        new = min(clips, self._left)
        self._left -= new
        self.done += new
        now = time.monotonic()
        if self._is_cold:
            self._is_cold, self._before, self._began = False, self.done, now
        elif now - self._said >= SAY_EVERY:
            self._said = now
            rate = (self.done - self._before) / max(now - self._began, 1e-9)
            eta = clock((self.total - self.done) / max(rate, 1e-9))
            done = f"{self.done:,} of {self.total:,} clips"
            print(f"{done}, {rate:.1f} clips/s, ETA {eta}", flush=True)
