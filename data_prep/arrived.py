"""Whether a file that came over a network is whole: its beginning, middle and end decode."""

from pathlib import Path

import av

from data_prep import media
from data_prep.media import Unreadable
from data_prep.video import Header, probe

STEP_SECONDS = 2.0  # of the end that has to decode


def whole_video(path: Path) -> Header:
    """The header of a video, a frame of whose beginning and middle and all near the end decode.

    Raises:
      Unreadable: as `video.probe`; damaged or truncated.
    """
    header = probe(path)
    end = max(0.0, header.seconds - STEP_SECONDS)
    try:
        start, last = _decode_some(path, header.seconds, end)
    except Unreadable as error:
        raise Unreadable("damaged", error.detail) from error
    if end and (last is None or last - start < end - max(STEP_SECONDS, 0.05 * header.seconds)):
        reached = 0.0 if last is None else last - start
        raise Unreadable("truncated", f"ends after {reached:.1f} of {header.seconds:.1f} seconds")
    return header


def check_sound(path: Path) -> None:
    """Raises Unreadable where no sound decodes."""
    with media.opened(path) as container:
        if not container.streams.audio or next(container.decode(audio=0), None) is None:
            raise Unreadable("damaged", "no sound decodes")


def _decode_some(path: Path, seconds: float, end: float) -> tuple[float, float | None]:
    """(time of the beginning, of the last frame that decodes from `end` on), seconds."""
    with media.opened(path) as container:
        stream = media.video_stream(container)
        start = (container.start_time or 0) / av.time_base
        for at in (0.0, seconds / 2):
            _seek(container, start + at)
            if next(container.decode(stream), None) is None:
                raise Unreadable("damaged", f"nothing decodes at {at:.1f} seconds")
        _seek(container, start + end)
        last = None
        for packet in media.packets(container, stream):
            for frame in packet.decode():
                last = frame.time if frame.time is not None else last
        return start, last


def _seek(container: av.container.InputContainer, seconds: float) -> None:
    container.seek(int(seconds * av.time_base))
