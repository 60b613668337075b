"""A few frames of a recording, small, for looking through it: key frames where they are enough.

Key frames are stored whole, so that reading them alone is some hundred times faster than decoding
everything. Other frames are decoded where key frames are far apart, at both ends of a recording, in
short recordings, and where the times of a file cannot be trusted. Times are those of video.py:
seconds from the first frame.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import simplejpeg

from data_prep import media
from data_prep.media import Unreadable
from data_prep.video import (
    Scaler,
    Seen,
    Still,
    kept_frames,
    list_images,
    probe,
    read_image,
    stored_size,
)

SHORT_SIDE = 240  # pixels: an overlay's letters, 24 of 1080 lines, are still 5 high
QUALITY = 95  # of the JPEGs in memory: hours of samples would not fit unpacked
SHORT = 60.0  # seconds of a recording that is decoded whole, as it has few key frames
USUAL_SAMPLES = 16  # of a recording, even of a short one


@dataclass
class Samples:
    """Samples of one recording, in order.

    Attributes:
      width, height: of the recording, upright, with square pixels.
      length: seconds from the first frame to the end of the last.
      every: seconds from a sample to the next that were asked for.
      seconds: time of each sample.
      jpegs: its picture; `samples[i]` unpacks it.
    """

    width: int
    height: int
    length: float
    every: float
    seconds: list[float]
    jpegs: list[bytes]

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, i: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB, the short side at most SHORT_SIDE."""
        return simplejpeg.decode_jpeg(self.jpegs[i], "RGB")

    def grey(self, i: int) -> np.ndarray:
        """(h, w) uint8."""
        return simplejpeg.decode_jpeg(self.jpegs[i], "GRAY")[:, :, 0]


class _OddTimes(Exception):
    """The times of the packets are missing or go back."""


def read_samples(
    path: Path,
    every: float,
    max_gap: float,
    frames_fps: float | None = None,
    frames_pattern: str = "",
) -> Samples:
    """The first frame, then a sample every `every` seconds or less often, as key frames come.

    Two samples are at most `max_gap` or twice `every` apart, whichever is longer, and the last one
    less than `every` from the end, as far as there are frames. Short recordings have more samples.

    Args:
      max_gap: seconds between key frames above which the frames between are decoded.
      frames_fps: rate of a folder of frames; None for files.
      frames_pattern: as of `video.list_images`.
    Raises:
      Unreadable: nothing decodes.
    """
    header = probe(path, frames_fps, frames_pattern)
    length = header.seconds or math.inf  # some files do not say how long they are
    step = min(every, max(length / USUAL_SAMPLES, 1 / header.fps))
    found = Samples(header.width, header.height, 0.0, step, [], [])
    if path.is_dir():
        source = _from_folder(path, step, frames_fps, frames_pattern, found)
    elif length <= SHORT:
        source = _all_decoded(path, step, found)
    else:
        source = _from_file(path, step, max_gap, found)
    try:
        for seconds, image in source:
            if seconds > media.MAX_SECONDS:
                raise Unreadable("refused", f"longer than {media.MAX_SECONDS // 3600} hours")
            if seconds > SHORT and seconds - found.seconds[-1] < every - 0.001:
                continue  # longer than its header says
            if found.jpegs and image.shape != shape:  # changed within the file
                image = cv2.resize(image, shape[1::-1], interpolation=cv2.INTER_AREA)
            shape = image.shape
            found.seconds.append(round(seconds, 3))
            found.jpegs.append(simplejpeg.encode_jpeg(image, QUALITY, "RGB", "444"))
    except MemoryError as error:
        raise media.too_large() from error
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise Unreadable("not readable", media.short_error(error)) from error
    if not found.jpegs:
        raise Unreadable("no frames", "nothing could be decoded")
    if (shape[1] > shape[0]) != (found.width > found.height):
        found.width, found.height = found.height, found.width  # marked as rotated
    found.length = round(max(found.length, found.seconds[-1] + 1 / header.fps), 3)
    return found


def _from_folder(
    path: Path, step: float, fps: float, pattern: str, found: Samples
) -> Iterator[tuple[float, np.ndarray]]:
    next_time, scaled = 0.0, None
    images = list_images(path, pattern)
    found.length = (images[-1][0] + 1) / fps
    scaler = Scaler(1)
    for index, file in images:
        if index / fps + 0.001 < next_time:
            continue
        image = read_image(file)
        if image is None:
            continue
        scaled = scaled or stored_size(image.shape[1], image.shape[0], SHORT_SIDE)
        yield index / fps, scaler(Still(image), *scaled)
        next_time = index / fps + step


def _all_decoded(path: Path, step: float, found: Samples) -> Iterator[tuple[float, np.ndarray]]:
    seen = Seen()
    for frame in kept_frames(path, fps=1 / step, short_side=SHORT_SIDE, seen=seen):
        yield frame.t_ms / 1000, frame.image
    found.length = seen.seconds + 1 / seen.native_fps


def _from_file(
    path: Path, step: float, max_gap: float, found: Samples
) -> Iterator[tuple[float, np.ndarray]]:
    last = -math.inf
    try:
        for seconds, image in _filled(path, step, max_gap, found):
            yield seconds, image
            last = seconds
    except _OddTimes:
        for seconds, image in _all_decoded(path, step, found):
            if seconds > last + step / 2:
                yield seconds, image


def _filled(
    path: Path, step: float, max_gap: float, found: Samples
) -> Iterator[tuple[float, np.ndarray]]:
    """The first frame, key frames, and frames between those that are far apart or after the last.

    Raises:
      _OddTimes: the frames between cannot be reached.
    """
    scaler, (origin, first) = Scaler(1), _first_frame(path)
    size = stored_size(found.width, found.height, SHORT_SIDE)
    yield 0.0, scaler(first, *size)  # a recording cut without coding it again begins between keys
    last, most = 0.0, max(max_gap, 2 * step)
    for seconds, picture in itertools.chain(_key_frames(path, step, origin, found), [(None, None)]):
        at_end = picture is None
        end, allowed = (found.length, step) if at_end else (seconds, max_gap)
        if end - last > allowed:
            until = math.inf if at_end else end - step / 2
            for between, other in _decoded_between(path, step, origin, last, until):
                if between - last > most:  # not every format can be sought exactly
                    raise _OddTimes
                yield between, scaler(other, *size)
                last = between
            if end - last > most:
                raise _OddTimes
        if not at_end:
            yield seconds, scaler(picture, *size)
            last = seconds


def _first_frame(path: Path) -> tuple[float, av.VideoFrame]:
    """The first frame that is shown, an edit list may hide some before, and its time stamp, s."""
    with media.opened(path) as container:
        if container.format.name == "avi":  # keeps no presentation times
            raise _OddTimes
        for frame in _decoded(container, media.video_stream(container)):
            if frame.pts is None:
                break
            return float(frame.pts * frame.time_base), frame
    raise _OddTimes


def _key_frames(path: Path, step: float, origin: float, found: Samples) -> Iterator[tuple]:
    """(seconds, frame) of key frames `step` or more from the start and each other; sets the length.

    Raises:
      _OddTimes: a packet without time, or the clock of the file starts again.
    """
    with media.opened(path) as container:
        stream = media.video_stream(container)
        stream.codec_context.skip_frame = "NONKEY"
        next_time, clock, last = step, -math.inf, 0.0
        for packet in media.packets(container, stream):
            if packet.size:
                decoded_at = clock if packet.dts is None else packet.dts
                if packet.pts is None or decoded_at < clock:
                    raise _OddTimes
                clock = decoded_at
                seconds = float(packet.pts * packet.time_base) - origin
                duration = float((packet.duration or 0) * packet.time_base)
                found.length = max(found.length, seconds + duration)
                if not packet.is_keyframe or seconds + 0.001 < next_time:
                    continue
                next_time = seconds + step
            try:
                frames = packet.decode()
                if packet.size:  # else one key frame waits for the next, to be put in order
                    frames += stream.codec_context.decode(None)
                    stream.codec_context.flush_buffers()
            except av.error.EOFError:
                break
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                continue
            for frame in frames:  # of the waiting ones the time base is not filled in
                if frame.pts is None or frame.is_corrupt:
                    continue
                seconds = float(frame.pts * stream.time_base) - origin
                if seconds > last:
                    yield seconds, frame
                    last = seconds


def _decoded_between(
    path: Path, step: float, origin: float, start: float, until: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Frames at least `step` apart after `start` and before `until`, seconds."""
    with media.opened(path) as container:
        stream = media.video_stream(container)
        container.seek(round((origin + start) / stream.time_base), stream=stream)
        next_time = start + step
        for frame in _decoded(container, stream):
            if frame.pts is None:
                continue
            seconds = float(frame.pts * frame.time_base) - origin
            if seconds >= until:
                return
            if seconds + 0.001 >= next_time:
                yield seconds, frame
                next_time = seconds + step


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator:
    """Frames without the damaged ones, from where the container is."""
    for packet in media.packets(container, stream):
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)
