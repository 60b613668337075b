"""Clips that overlap, video by video: a frame that many of them show is decoded once.

A clip of 16 frames around every frame of a video shows each frame 16 times. Here frames go through
a window: read, decoded, cropped and resized on threads, kept while a clip to come may show them.
"""

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from surgjax.data import transforms
from surgjax.data.clip import Unreadable
from surgjax.data.decode import UNREADABLE, pictures
from surgjax.data.plan import ClipShape
from surgjax.data.store import Store
from surgjax.data.transforms import Augmentation

TOGETHER = 16  # frames a thread decodes at once, and the rest of their record
AHEAD = 16  # such parts that are decoded before they are asked for


def sliding_clips(
    store: Store,
    rows: np.ndarray,
    clip: ClipShape,
    augment: Augmentation = transforms.CENTRE,
    *,
    workers: int = 2,
) -> Iterator[UInt8[np.ndarray, "t h w c"]]:
    """The clips of rows (n,) of plan.ROW, one after the other, bit for bit those of `decode_clip`.

    Held are the resized frames that lie within the span of one clip, and those decoded ahead,
    however long the video is.

    Args:
      rows: in order of video, then start.
      augment: without anything random, so that clips agree about their common frames.
      workers: threads that decode.

    Raises:
      Unreadable: as `decode_clip`, at the first clip that shows a damaged frame; the clips before
        it came.
      ValueError: rows in another order, or a random augmentation.
    """
    if (rows[["video", "start"]] != np.sort(rows[["video", "start"]])).any():
        raise ValueError("rows are not in order of video, then start")
    if augment.is_random:
        raise ValueError(f"{augment} gives every clip a crop or colours of its own")
    parts = (
        (store, video, frames, clip.size, augment)
        for video, wanted in _windows(store, rows, clip)
        for frames in _parts(np.unique(wanted), store.frames_per_record)
    )
    clips = ((video, frames) for video, wanted in _windows(store, rows, clip) for frames in wanted)
    held: collections.OrderedDict[tuple[int, int], _Shown | Unreadable] = collections.OrderedDict()
    with ThreadPoolExecutor(workers) as pool:
        decoded = _in_order(pool, parts)
        for video, frames in clips:
            while held and next(iter(held)) < (video, frames[0]):
                held.popitem(last=False)
            while (video, frames[-1]) not in held:
                held |= next(decoded)
            yield _clip([held[video, frame] for frame in frames], frames)


class _Shown(NamedTuple):
    """A frame's part in a clip, and the (height, width) of the whole frame."""

    picture: UInt8[np.ndarray, "s s c"]
    size: tuple[int, int]


def _windows(
    store: Store, rows: np.ndarray, clip: ClipShape
) -> Iterator[tuple[int, Int[np.ndarray, "k t"]]]:
    """Each video and the stored frames of its clips; at an end of the video its last are repeated,
    as in `decode_window`."""
    ends = [*np.flatnonzero(np.diff(rows["video"])) + 1, len(rows)]
    for first, end in itertools.pairwise([0, *ends] if len(rows) else []):
        video = int(rows["video"][first])
        offsets = np.arange(clip.frames) * clip.stride_in(store, video)
        wanted = rows["start"][first:end, None] + offsets
        yield video, np.clip(wanted, 0, store.frames[video] - 1)


def _parts(frames: Int[np.ndarray, "n"], frames_per_record: int) -> Iterator[list[int]]:
    """Frames in ascending order, in parts that end where a record ends: a block is decoded once."""
    part: list[int] = []
    for _, of_record in itertools.groupby(frames.tolist(), lambda i: i // frames_per_record):
        part += of_record
        if len(part) >= TOGETHER:
            yield part
            part = []
    if part:
        yield part


def _in_order(pool: ThreadPoolExecutor, parts: Iterable[tuple]) -> Iterator[dict]:
    """What `_decode` makes of every part, AHEAD of them under way."""
    parts = iter(parts)
    waiting = collections.deque(pool.submit(_decode, *p) for p in itertools.islice(parts, AHEAD))
    while waiting:
        done = waiting.popleft().result()
        waiting += [pool.submit(_decode, *p) for p in itertools.islice(parts, 1)]
        yield done


def _decode(
    store: Store, video: int, frames: list[int], size: int, augment: Augmentation
) -> dict[tuple[int, int], _Shown | Unreadable]:
    """(video, frame) -> the frame, or why there is none; frames after a damaged one are there."""
    found: dict[tuple[int, int], _Shown | Unreadable] = {}
    while len(found) < len(frames):
        left = frames[len(found) :]
        decoded, drawn = pictures(store, video, left), None
        for frame in left:
            try:
                picture = next(decoded)
            except UNREADABLE as error:
                found[video, frame] = Unreadable(frame, str(error))
                break
            if drawn is None:
                drawn = transforms.draw(augment, *picture.shape[:2], size, 0)
            small = np.empty((size, size, 3), np.uint8)
            drawn.write(picture, small)
            found[video, frame] = _Shown(small, picture.shape[:2])
    return found


def _clip(
    shown: Sequence[_Shown | Unreadable], frames: Int[np.ndarray, "t"]
) -> UInt8[np.ndarray, "t h w c"]:
    for frame, found in zip(frames, shown, strict=True):
        if isinstance(found, Unreadable):
            raise found
        if found.size != shown[0].size:
            sizes = f"frame of {found.size} pixels in a video of {shown[0].size}"
            raise Unreadable(int(frame), sizes)
    return np.stack([found.picture for found in shown])
