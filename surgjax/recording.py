"""Clips of a recording as it is read: every frame is decoded once and soon forgotten.

Frames are those that a store of the recording would hold (data_prep/video.py): upright, square
pixels, deinterlaced, and of each clip the largest centred square.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_prep import guarded
from data_prep.video import Seen, kept_frames
from surgjax.data import transforms
from surgjax.data.labelled import frames_before
from surgjax.data.plan import ClipShape
from surgjax.errors import UserError

SHORT_SIDE = 320  # pixels, that of stores unless told otherwise
SLACK = 1.0  # milliseconds, to which containers round times
AHEAD = 32  # frames decoded before they are asked for
FINEST = 64  # a clip's frames are kept at most so many times as densely as it shows them


@dataclass(frozen=True)
class Sampling:
    """Which clips are made of a recording.

    Attributes:
      frames, size: of a clip; size is pixels a side.
      rate: frames a second inside a clip.
      fps: clips a second, at 0, 1 / fps, 2 / fps, ... seconds.
      anchor: place of that time in its clip: "last", so that nothing after it is seen, or "middle".

    Raises:
      UserError: a number that is not positive.
    """

    frames: int
    size: int
    rate: float
    fps: float = 1.0
    anchor: str = "last"

    def __post_init__(self):
        for name in ("rate", "fps"):
            if not 0 < getattr(self, name) <= 1000:
                raise UserError(
                    f"--{name} is {getattr(self, name):g}; expected a number above 0, up to 1000"
                )

    @property
    def kept_fps(self) -> float | None:
        """The lowest rate at which every frame of every clip is kept; None for all frames."""
        for finer in range(1, FINEST + 1):
            ratio = finer * self.rate / self.fps
            if abs(ratio - round(ratio)) < 1e-6 and ratio > 0.5:
                return finer * self.rate
        return None


def recording_clips(
    path: Path, sampling: Sampling, *, threads: int = 1
) -> Iterator[tuple[int, UInt8[np.ndarray, "t h w c"]]]:
    """(time in milliseconds, clip) in order of time, read while the clips before are worked on.

    A time has the first frame at or after it, whose own time is given; where the recording is
    slower than `fps` no frame is given twice. A clip that reaches over an end of the recording
    repeats the frame there. Held are the resized frames within the span of a clip. A process with
    limits of time and memory decodes.

    Args:
      threads: of the decoder.

    Raises:
      data_prep.media.Unreadable: as `kept_frames`, or the decoder broke down; clips may have come
        before.
    """
    clip = ClipShape(sampling.frames, 1, sampling.size)
    before = frames_before(clip, sampling.anchor)
    offsets = (np.arange(sampling.frames) - before) * 1000 / sampling.rate - SLACK
    held: collections.deque[tuple[int, np.ndarray]] = collections.deque()
    number, given = 0, -1

    def made() -> Iterator[tuple[int, np.ndarray]]:
        """The clip of the next time, unless its frame was given before."""
        nonlocal number, given
        times = np.array([t_ms for t_ms, _ in held])
        wanted = np.searchsorted(times, number * 1000 / sampling.fps + offsets)
        wanted = wanted.clip(max=len(held) - 1)
        t_ms, number = int(times[wanted[before]]), number + 1
        if t_ms > given:
            given = t_ms
            yield t_ms, np.stack([held[i][1] for i in wanted])

    squares = guarded.results(_squares, path, sampling, threads, threads=threads)
    with closing(squares), closing(_ahead(squares)) as pictures:
        for t_ms, picture in pictures:
            held.append((t_ms, picture))
            while number * 1000 / sampling.fps + offsets[-1] <= t_ms:
                yield from made()
            while len(held) > 1 and held[0][0] < number * 1000 / sampling.fps + offsets[0]:
                held.popleft()
    while number * 1000 / sampling.fps + offsets[before] <= held[-1][0]:
        yield from made()


def _squares(path: Path, sampling: Sampling, threads: int) -> Iterator[tuple[int, np.ndarray]]:
    """(time, uint8 (size, size, 3)) of the frames that clips may show."""
    size, drawn = sampling.size, None
    options = dict(fps=sampling.kept_fps, short_side=max(SHORT_SIDE, size), threads=threads)
    for frame in kept_frames(path, seen=Seen(), **options):
        if drawn is None:
            drawn = transforms.draw(transforms.CENTRE, *frame.image.shape[:2], size, 0)
        square = np.empty((size, size, 3), np.uint8)
        drawn.write(frame.image, square)
        yield frame.t_ms, square


def _ahead(items: Iterator) -> Iterator:
    """The same items, made on a thread."""
    with ThreadPoolExecutor(1) as pool:
        try:
            waiting = collections.deque(pool.submit(next, items, None) for _ in range(AHEAD))
            while (item := waiting.popleft().result()) is not None:
                waiting.append(pool.submit(next, items, None))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
