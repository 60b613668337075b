"""Recordings in, frames out: headers, decoding, and the choice of frames to keep.

A recording is a file PyAV opens or a folder of jpg, png or tif frames. Time always comes from the
presentation timestamps, counted from the first frame; the frame number is the position in decoding
order, which is what label files of one row a frame refer to.
"""

import math
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from data_prep import limits, media
from data_prep.media import Unreadable, suffix

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "tif", "tiff"})
# Of other formats FFmpeg guesses the length, from the bit rate or the last packets.
LENGTH_IN_HEADER = frozenset(
    {"asf", "avi", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mxf"}
)
LENGTH_IS_END = frozenset({"asf", "matroska,webm", "nut"})  # of a clock that may start late
MAX_DAMAGED = 0.05  # share of frames that may be missing or broken before a recording is refused


@dataclass(frozen=True)
class Header:
    """What a recording says about itself; `frames` is estimated where it has no count."""

    frames: int
    fps: float
    seconds: float
    width: int
    height: int


@dataclass
class Seen:
    """What decoding found; filled while `kept_frames` runs, complete when it ends.

    Attributes:
      frames: decoded frames, kept or not.
      damaged: frames that could not be decoded.
      length: of a folder of frames, missing ones included; 0 for files.
      seconds: time from the first to the last frame.
      gaps: smallest and largest time between two frames, seconds.
    """

    frames: int = 0
    damaged: int = 0
    length: int = 0
    seconds: float = 0.0
    gaps: tuple[float, float] = (math.inf, 0.0)
    interlaced: bool = False

    @property
    def native_fps(self) -> float:
        """Mean rate of the recording, to a thousandth."""
        return round((self.frames - 1) / self.seconds, 3) if self.seconds else 0.0

    @property
    def variable_rate(self) -> bool:
        return self.gaps[1] > 2 * self.gaps[0] + 0.002


Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as fractions of the upright picture


class Frame(NamedTuple):
    t_ms: int  # presentation time from the first frame
    index: int  # position among all frames of the recording
    image: np.ndarray  # (h, w, 3) uint8 RGB


def stored_size(width: int, height: int, short_side: int, even: bool = False) -> tuple[int, int]:
    """(width, height) with the short side reduced to `short_side`; smaller frames keep theirs.
    With `even` an odd pixel is lost, for codecs that halve the resolution of colour."""
    short = min(width, height)
    if short > short_side:
        long = max(2, round(max(width, height) * short_side / short / 2) * 2)
        width, height = (short_side, long) if width < height else (long, short_side)
    return (width & ~1, height & ~1) if even else (width, height)


def probe(path: Path, frames_fps: float | None = None, frames_pattern: str = "") -> Header:
    """Header of a recording, without decoding. Raises Unreadable."""
    if path.is_dir():
        images = list_images(path, frames_pattern)
        if not images:
            raise Unreadable("no frames", "folder holds no jpg, png or tif")
        image = read_image(images[0][1])
        if image is None:
            raise Unreadable("damaged", f"{images[0][1].name} does not decode")
        height, width = image.shape[:2]
        frames = images[-1][0] + 1
        return Header(frames, frames_fps, frames / frames_fps, width, height)
    with media.opened(path) as container:
        stream = media.video_stream(container)
        fps = float(stream.average_rate or stream.guessed_rate or 0) or 25.0
        seconds = _declared_seconds(container, stream)
        if (seconds or 0) > media.MAX_SECONDS:
            raise Unreadable("refused", f"says it is {seconds / 3600:,.0f} hours long")
        frames = stream.frames or round((seconds or 0) * fps)
        width, height = _square_pixels(stream.width, stream.height, stream)
        if min(width, height) < 1:
            raise Unreadable("damaged", "the header gives no frame size")
        return Header(frames, fps, seconds or frames / fps, width, height)


def kept_frames(
    path: Path,
    *,
    fps: float | None,
    short_side: int,
    seen: Seen,
    threads: int = 1,
    even: bool = False,
    crop: Box | None = None,
    frames_fps: float | None = None,
    frames_pattern: str = "",
) -> Iterator[Frame]:
    """Frames of a recording at `fps` (None: all of them), upright, square pixels, deinterlaced.

    A frame is kept when its time reaches the next multiple of 1/fps; nothing is ever repeated, so a
    recording slower than `fps` keeps its own rate. Only kept frames are converted.

    Args:
      even: as of `stored_size`.
      crop: what is kept of the picture; its short side is what `short_side` means then.
      frames_fps: rate of a folder of frames; unused for files.
      frames_pattern: as of `list_images`.
    Raises:
      Unreadable: nothing decodes, or more than MAX_DAMAGED of it is missing; may come after frames
        were already yielded.
    """
    if path.is_dir():
        source = _image_folder(list_images(path, frames_pattern), frames_fps, seen)
    else:
        source = _file(path, seen, threads)
    next_time, size, scaler = 0.0, None, Scaler(threads)
    slack = 0.001 if fps is None else min(0.001, 0.25 / fps)  # containers round times to 1 ms
    for seconds, index, picture, stream in source:
        if seconds + slack < next_time:
            continue
        if fps is not None:
            next_time = (math.floor((seconds + slack) * fps) + 1) / fps
        if size is None:
            shape = _square_pixels(picture.width, picture.height, stream)
            size = inside = stored_size(*shape, short_side, even)
            if crop:
                size, inside = _sizes_for_crop(shape, picture, crop, short_side, even)
        try:
            image = scaler(picture, *size)
            if crop:
                image = _cropped(image, crop, *inside)
        except MemoryError as error:
            raise media.too_large() from error
        except (OSError, ValueError, av.error.FFmpegError) as error:
            raise Unreadable("not readable", media.short_error(error)) from error
        yield Frame(round(seconds * 1000), index, image)
    if seen.frames == 0:
        raise Unreadable("no frames", "nothing could be decoded")
    if seen.frames == 1:
        raise Unreadable("one frame", "a video needs at least two frames")
    if seen.damaged > MAX_DAMAGED * (seen.frames + seen.damaged):
        raise Unreadable(
            "damaged", f"{seen.damaged} of {seen.frames + seen.damaged} frames do not decode"
        )


def list_images(folder: Path, pattern: str = "") -> list[tuple[int, Path]]:
    """(frame number from 0, file) of a folder of frames, in order.

    Numbers in the names count when they are evenly spaced, so that a missing file leaves a gap in
    time; otherwise the order of names counts.

    Args:
      pattern: regular expression that the names match from their start.
    """
    wanted = re.compile(pattern).match
    files = [
        Path(entry.path)
        for entry in os.scandir(folder)
        if entry.name[0] != "."
        and wanted(entry.name)
        and suffix(entry.name) in IMAGE_SUFFIXES
        and entry.is_file(follow_symlinks=False)
    ]
    numbers = [re.findall(r"\d+", file.stem) for file in files]
    if not all(numbers):
        return list(enumerate(sorted(files)))
    numbered = sorted(zip((int(n[-1]) for n in numbers), files, strict=True))
    first = numbered[0][0] if numbered else 0
    step = math.gcd(*(number - first for number, _ in numbered)) or 1
    positions = [(number - first) // step for number, _ in numbered]
    if len(set(positions)) < len(positions) or (positions and positions[-1] > 4 * len(positions)):
        return list(enumerate(file for _, file in numbered))
    return [(position, file) for position, (_, file) in zip(positions, numbered, strict=True)]


# --- files -------------------------------------------------------------------------------------


def _declared_seconds(container, stream) -> float | None:
    """The shortest length the headers give: edit lists shorten some, audio lengthens others."""
    rate = stream.average_rate or stream.guessed_rate
    if container.format.name == "avi" and stream.frames and rate:
        return stream.frames / float(rate)  # FFmpeg cuts the other lengths to what the file holds
    is_end = container.format.name in LENGTH_IS_END and stream.start_time
    start = float(stream.start_time * stream.time_base) if is_end else 0.0
    lengths = [
        stream.frames / float(rate) if stream.frames and rate else None,
        float(stream.duration * stream.time_base) - start if stream.duration else None,
        container.duration / av.time_base - start if container.duration else None,
    ]
    return min((x for x in lengths if x and x > 0), default=None)


def _square_pixels(width: int, height: int, stream) -> tuple[int, int]:
    aspect = float((stream and stream.sample_aspect_ratio) or 1)
    return (round(width * aspect), height) if 0.25 <= aspect <= 4 else (width, height)


def _file(path: Path, seen: Seen, threads: int) -> Iterator[tuple]:
    """(seconds, index, frame, stream) of every frame of a file, in presentation order."""
    with media.opened(path) as container:
        stream = media.video_stream(container, threads)
        declared = _declared_seconds(container, stream)
        promises = container.format.name in LENGTH_IN_HEADER
        gap = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        for seconds, index, frame in _deinterlaced(_timed(container, stream, gap, seen), seen):
            yield seconds, index, frame, stream
    missing = declared - (seen.seconds + gap) if declared and promises else 0.0
    if seen.frames > 1 and missing > max(0.5, MAX_DAMAGED * (declared or 0)):
        raise Unreadable(
            "truncated",
            f"ends after {seen.seconds:.1f} of {declared:.1f} seconds the header promises",
        )


def _timed(container, stream, gap: float, seen: Seen) -> Iterator[tuple[float, int, av.VideoFrame]]:
    last, shift = -gap, None
    by_order = container.format.name == "avi"  # keeps no presentation times, only a fixed rate
    for packet in media.packets(container, stream):
        try:
            frames = packet.decode()
        except av.error.EOFError:
            break
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            seen.damaged += 1
            continue
        for frame in frames:
            if frame.is_corrupt:
                seen.damaged += 1
                continue
            pts = frame.dts if by_order or frame.pts is None else frame.pts
            raw = None if pts is None or not frame.time_base else float(pts * frame.time_base)
            if shift is None and raw is not None:
                shift = last + gap - raw
            seconds = last + gap if raw is None else raw + shift
            if seconds < last - 1.0:  # the clock started again: go on from here
                shift, seconds = last + gap - raw, last + gap
            elif seconds <= last:
                seconds = last + 0.001
            if seconds > media.MAX_SECONDS:
                raise Unreadable("refused", f"longer than {media.MAX_SECONDS // 3600} hours")
            if seen.frames:
                low, high = seen.gaps
                seen.gaps = (min(low, seconds - last), max(high, seconds - last))
            last = seen.seconds = seconds
            index = seen.frames + seen.damaged
            seen.frames += 1
            yield seconds, index, frame


def _deinterlaced(frames: Iterator[tuple], seen: Seen) -> Iterator[tuple]:
    """The same frames; from the first marked interlaced on through yadif, one out for one in."""
    graph, shape, waiting = None, None, deque()
    for seconds, index, frame in frames:
        now = (frame.width, frame.height, frame.format.name)
        if frame.interlaced_frame and graph is None or graph is not None and shape != now:
            yield from _drain(graph, waiting)
            graph, shape, seen.interlaced = _yadif(frame), now, True
        if graph is None:
            yield seconds, index, frame
            continue
        waiting.append((seconds, index))
        frame.pts = index  # only the order matters to the filter
        graph.push(frame)
        yield from _pull(graph, waiting)
    yield from _drain(graph, waiting)


def _yadif(frame: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(
        source, graph.add("yadif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    )
    graph.configure()
    return graph


def _pull(graph, waiting: deque) -> Iterator[tuple]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if waiting:
            yield *waiting.popleft(), frame


def _drain(graph, waiting: deque) -> Iterator[tuple]:
    if graph is not None:
        graph.push(None)
        yield from _pull(graph, waiting)
        waiting.clear()


# --- pictures ----------------------------------------------------------------------------------


class Scaler:
    """Shrinks (FFmpeg's area filter) while converting to RGB: a third of the cost of RGB first."""

    def __init__(self, threads: int):
        self.reformatter = av.video.reformatter.VideoReformatter()
        self.threads = threads

    def __call__(self, picture, width: int, height: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB, upright: for a rotated picture width and height change places."""
        if isinstance(picture, Still):
            return picture.scaled(width, height)
        small = self.reformatter.reformat(
            picture, width=width, height=height, format="rgb24", interpolation="AREA"
        )
        return _upright(small.to_ndarray(), picture.side_data.get(SideData.DISPLAYMATRIX))


def _sizes_for_crop(
    shape: tuple[int, int], picture, crop: Box, short_side: int, even: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) to scale the whole picture to, and of its upright crop then."""
    matrix = getattr(picture, "side_data", {}).get(SideData.DISPLAYMATRIX)
    turn = -1 if matrix is not None and np.frombuffer(matrix, np.int32)[0] == 0 else 1
    width, height = shape[::turn]
    across, down = width * (crop[2] - crop[0]), height * (crop[3] - crop[1])
    inside = stored_size(max(2, round(across)), max(2, round(down)), short_side, even)
    whole = round(width * inside[0] / across), round(height * inside[1] / down)
    return whole[::turn], inside


def _cropped(image: np.ndarray, crop: Box, width: int, height: int) -> np.ndarray:
    y = min(round(crop[1] * image.shape[0]), image.shape[0] - height)
    x = min(round(crop[0] * image.shape[1]), image.shape[1] - width)
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def _upright(image: np.ndarray, matrix) -> np.ndarray:
    """Turn and mirror by a display matrix (nine fixed-point numbers; libavutil/display.h)."""
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if a * d - b * c < 0:
        image, a, b = image[:, ::-1], -a, -b
    turns = round(math.degrees(math.atan2(-b, a)) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns))


class Still:
    """A still image with the two attributes of a decoded frame that are used here."""

    def __init__(self, image: np.ndarray):
        self.image = image
        self.height, self.width = image.shape[:2]

    def scaled(self, width: int, height: int) -> np.ndarray:
        if (self.width, self.height) == (width, height):
            return self.image
        import cv2

        return cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)


def _image_folder(images: list[tuple[int, Path]], fps: float, seen: Seen) -> Iterator[tuple]:
    last = None
    for index, file in images:
        seen.length = index + 1
        image = read_image(file)
        if image is None:
            seen.damaged += 1
            continue
        seen.frames += 1
        seen.seconds = index / fps
        if last is not None:
            gap = seen.seconds - last
            seen.gaps = (min(seen.gaps[0], gap), max(seen.gaps[1], gap))
        last = seen.seconds
        yield seen.seconds, index, Still(image), None


def read_image(file: Path) -> np.ndarray | None:
    import cv2

    try:
        with limits.in_force():
            data = np.fromfile(file, np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except (OSError, MemoryError, cv2.error):
        return None
    return image if image is None or image.size <= 3 * media.MAX_PIXELS else None
