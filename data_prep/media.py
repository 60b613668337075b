"""Opening recordings that nobody has looked at: what is never opened, and what FFmpeg may read.

A file is opened as one of the formats below and with the protocol `file` alone, so whatever it
holds, nothing else is read and no address is asked. Every packet passes through here, where limits
on time and length are kept.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import av.subtitles.stream  # PyAV would with the first file, when there may be no memory for it

from data_prep import limits

VIDEO_SUFFIXES = frozenset(
    "3g2 3gp asf avi divx dv f4v flv gif h264 hevc ivf m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf "
    "nut ogm ogv ts vob webm wmv y4m".split()
)
# Files that name other files or addresses; opening one could read anything this user can read.
PLAYLIST_SUFFIXES = frozenset(
    "asx concat ffconcat ism m3u m3u8 mpd pls sdp smil strm wpl xspf".split()
)
PLAYLIST_STARTS = (
    b"#EXTM3U",
    b"ffconcat",
    b"[playlist]",
    b"<?xml",
    b"<MPD",
    b"<asx",
    b"<smil",
    b"v=0",
)
# By FFmpeg's names, because a suffix can lie; none of them opens another file.
FORMATS = frozenset(
    "asf asf_o av1 avi dv flv gif gxf h264 hevc ivf m4v matroska mjpeg mov mpeg mpegts mpegvideo "
    "mxf nut obu ogg rm vc1 vc1test vvc webm wtv yuv4mpegpipe".split()
)
MAX_PIXELS = 2**27  # larger frames are an attack or a mistake
MAX_SECONDS = 100 * 3600  # so are longer recordings
MAX_PACKETS = 2**25  # and ones of more frames than 38 hours at 240 a second

# Titles of any encoding, which nobody reads here; PyAV 19 takes them without being asked.
LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


class Unreadable(Exception):
    """This recording cannot be used. `reason` is a short constant, `detail` says what was seen."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """A recording, open in the block.

    Raises:
      Unreadable: no file that may be opened, or FFmpeg or PyAV fails, also in the block.
    """
    refuse_odd_files(path)
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(sorted(FORMATS)),
        "max_pixels": str(MAX_PIXELS),  # of the frames that are decoded to learn their size
    }
    try:
        # The prefix keeps a colon in a file name from being read as a protocol.
        with limits.in_force(), av.open(f"file:{path}", options=options, **LENIENT) as container:
            yield container
    except MemoryError as error:
        raise too_large() from error
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise Unreadable("not readable", short_error(error)) from error


def video_stream(container: av.container.InputContainer, threads: int = 1) -> av.VideoStream:
    """The first stream of moving pictures, to be decoded by `threads`. Raises Unreadable."""
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        raise Unreadable("no video", "audio only" if container.streams.audio else "no video stream")
    codec = streams[0].codec_context
    if codec is None:
        raise Unreadable("not readable", "no decoder for its codec")
    codec.thread_count = threads
    codec.thread_type = "AUTO" if threads > 1 else "NONE"
    codec.options = {"max_pixels": str(MAX_PIXELS)}
    return streams[0]


def packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """All packets of a stream from where the container is, the empty one at the end included.

    Raises:
      Unreadable: there is no end of them.
    """
    for number, packet in enumerate(container.demux(stream)):
        limits.beat()
        if number > MAX_PACKETS:
            raise Unreadable("refused", f"more than {MAX_PACKETS:,} packets")
        yield packet


def refuse_odd_files(path: Path) -> None:
    """Raises Unreadable for what is no file, empty, or a list of other files."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("refused", "not a regular file")
        if status.st_size == 0:
            raise Unreadable("empty file", "0 bytes")
        with path.open("rb") as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    except OSError as error:
        raise Unreadable("not readable", short_error(error)) from error
    if suffix(path.name) in PLAYLIST_SUFFIXES or start.startswith(PLAYLIST_STARTS):
        raise Unreadable("refused", "a playlist names other files or addresses")


def suffix(name: str) -> str:
    """Lower-case file suffix without the dot."""
    return os.path.splitext(name)[1][1:].lower()


def too_large() -> Unreadable:
    """Of a recording for which the memory of its process is not enough."""
    return Unreadable("refused", "decoding it takes more memory than is allowed")


def short_error(error: Exception) -> str:
    """The error without the file's path, which must not reach the store."""
    return str(getattr(error, "strerror", None) or type(error).__name__)[:200]
