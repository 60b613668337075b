"""Stored frames to pixels: JPEG, or the packets of an x264 block.

Blocks are coded I BBB P BBB P ...: only every fourth frame is needed to decode others, so that a
clip of stride 4 that starts at one of them decodes 16 frames of 64. The packets say it themselves:
in the header of a NAL unit nal_ref_idc is 0 for what no other frame refers to (ITU-T H.264, 7.4.1).
"""

import itertools
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from surgjax.data.store import Frames, Store, Whole

# What a damaged record raises: array_record RuntimeError; protobuf, simplejpeg, `decode_block`
# ValueError.
UNREADABLE = (RuntimeError, ValueError)
READ_AHEAD = 16  # frames
MAX_PIXELS = 1 << 25  # of a frame, 8K; what a packet claims would be allocated
CODED_SLICE, IDR_SLICE = 1, 5  # nal_unit_type of pictures

_buffers = threading.local()


def pictures(store: Store, video: Whole, frames: Frames) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """RGB of stored frames in the order asked for; each is good until the next is asked for.

    Raises:
      RuntimeError, ValueError: a record cannot be read or decoded; the frames before it came.
    """
    made = _x264(store, video, frames) if store.codec == "x264" else _jpeg(store, video, frames)
    shape = None
    for picture in made:
        if shape not in (None, picture.shape):
            raise ValueError(f"frame of {picture.shape[:2]} pixels in a video of {shape[:2]}")
        shape = picture.shape
        yield picture


def decode_block(packets: Sequence[bytes], wanted: Sequence[int]) -> list[np.ndarray]:
    """RGB (h, w, 3) uint8 of frames of an x264 block, in the order asked for.

    Args:
      packets: of every frame of the block, in order of presentation.
      wanted: positions in `packets`.

    Raises:
      ValueError: a packet is damaged.
    """
    import av

    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count, decoder.thread_type = 1, "NONE"
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    missing, found = set(wanted), {}
    try:
        for i in itertools.chain(needed(packets, wanted), [None]):
            packet = None
            if i is not None:
                packet = av.Packet(packets[i])
                packet.pts = i
            for frame in decoder.decode(packet):
                if frame.pts in missing:
                    if frame.is_corrupt:
                        raise ValueError(f"frame {frame.pts} of a block is damaged")
                    missing.remove(frame.pts)
                    found[frame.pts] = _rgb(frame)
    except av.error.FFmpegError as error:
        raise ValueError(f"a block does not decode ({type(error).__name__})") from error
    if missing:
        raise ValueError(f"frame {min(missing)} of a block does not decode")
    return [found[i] for i in wanted]


def needed(packets: Sequence[bytes], wanted: Sequence[int]) -> list[int]:
    """Positions of the packets without which the wanted frames cannot be decoded, in decoding
    order: of each group that begins with a key frame, the reference frames up to the first one at
    or after the last wanted frame, each before the wanted frames that it follows in time.

    Raises:
      ValueError: a packet holds no picture, or the block does not begin with a key frame.
    """
    kinds = [_kind(packet) for packet in packets]
    keys = [i for i, (_, is_key) in enumerate(kinds) if is_key]
    if not keys or keys[0] != 0:
        raise ValueError("a block that does not begin with a key frame")
    order, wanted = [], set(wanted)
    for start, end in itertools.pairwise([*keys, len(packets)]):
        own = [i for i in range(start, end) if i in wanted]
        before = start
        for reference in (i for i in range(start, end) if kinds[i][0]):
            if not own or before > own[-1]:
                break
            order.append(reference)
            order += [i for i in range(before, reference) if i in wanted]
            before = reference + 1
    return order


def _jpeg(store: Store, video: Whole, frames: Frames) -> Iterator[np.ndarray]:
    """Decodes into this thread's frame buffer: one frame stays in cache, a clip of fresh arrays
    would be paged in every time."""
    shape, wanted = None, (store.videos["height"][video], store.videos["width"][video])
    for data in _read_ahead(store, video, frames):
        if shape is None:
            shape = (*simplejpeg.decode_jpeg_header(data)[:2], 3)
            if shape[:2] != wanted:  # and it may claim 13 GB of pixels
                raise ValueError(f"frame of {shape[:2]} pixels in a video of {wanted}")
            if getattr(_buffers, "frame", np.empty(0)).size < np.prod(shape):
                _buffers.frame = np.empty(np.prod(shape), np.uint8)
        yield simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True, buffer=_buffers.frame)


def _read_ahead(store: Store, video: Whole, frames: Frames) -> Iterator[bytes]:
    """Reading and decoding in turns costs 7 % more, as each evicts the other's code."""
    for at in range(0, len(frames), READ_AHEAD):
        some = frames[at : at + READ_AHEAD]
        try:
            found = store.read(video, some)
        except UNREADABLE:
            found = store.stream(video, some)  # meets the damage again, now at its frame
        yield from found


def _x264(store: Store, video: Whole, frames: Frames) -> Iterator[np.ndarray]:
    """Neighbouring frames of one block are decoded together."""
    for _, run in itertools.groupby(map(int, frames), lambda i: i // store.frames_per_record):
        found = list(store.records(video, list(run)))
        yield from decode_block(found[0][0].frames, [at for _, at in found])


def _rgb(frame) -> np.ndarray:
    if not hasattr(_buffers, "reformatter"):
        from av.video.reformatter import VideoReformatter

        _buffers.reformatter = VideoReformatter()  # keeps its tables from frame to frame
    return _buffers.reformatter.reformat(frame, format="rgb24").to_ndarray()


def _kind(packet: bytes) -> tuple[bool, bool]:
    """Whether other frames refer to this one, and whether it is a key frame. A packet is NAL units
    behind start codes 00 00 01 (ITU-T H.264, Annex B), of which the first picture's counts."""
    at = packet.find(b"\0\0\1")
    while at >= 0 and at + 3 < len(packet):
        header = packet[at + 3]
        if header & 31 in (CODED_SLICE, IDR_SLICE):
            return header >> 5 & 3 > 0, header & 31 == IDR_SLICE
        at = packet.find(b"\0\0\1", at + 3)
    raise ValueError("a packet of a block without a picture")
