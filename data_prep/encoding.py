"""The codecs of a store: JPEG frame by frame, or x264 in blocks of frames that decode alone.

A block is coded I BBB P BBB P ... with a key frame every KEY_FRAMES, whatever the pictures show, so
that every fourth frame is a reference frame and the others are not. Entropy coding by CAVLC and no
deblocking make it decode a third faster for a sixth more bytes.
"""

import math
from fractions import Fraction

import av
import numpy as np
import simplejpeg

from surgjax.data.decode import decode_block, needed
from surgjax.data.record import REFERENCE_STEP

KEY_FRAMES = 32
X264_PARAMETERS = (
    f"keyint={KEY_FRAMES}:min-keyint={KEY_FRAMES}:scenecut=0:open-gop=0:repeat-headers=1:annexb=1:"
    f"bframes={REFERENCE_STEP - 1}:b-adapt=0:b-pyramid=none:no-cabac=1:no-deblock=1:"
    "no-mbtree=1"  # with it, equal frames give other bytes in every run
)


class Jpeg:
    """Frames to JPEGs, 4:2:0.

    Attributes:
      psnr, psnr_lowest: None; they are not measured.
    """

    psnr = psnr_lowest = None

    def __init__(self, quality: int):
        self.quality = quality

    def add(self, image: np.ndarray) -> list[bytes]:
        """The frames that are finished, after image (h, w, 3) uint8 RGB."""
        return [simplejpeg.encode_jpeg(image, self.quality, "RGB", "420")]

    def finish(self) -> list[bytes]:
        """The frames that were held back."""
        return []


class X264:
    """Frames to the packets of blocks, each block decoded before it is given out.

    Args:
      crf: constant rate factor of x264, 0 to 51; 6 more halve the bytes.
      frames: of a block.

    Attributes:
      psnr: of all frames so far against their originals, dB, by their mean squared error.
      psnr_lowest: of the frame that is least like its original, dB.
    """

    def __init__(self, crf: int, frames: int):
        self.crf, self.frames = crf, frames
        self.images: list[np.ndarray] = []
        self.errors: list[float] = []

    @property
    def psnr(self) -> float:
        return round(decibels(float(np.mean(self.errors))), 2)

    @property
    def psnr_lowest(self) -> float:
        return round(decibels(max(self.errors)), 2)

    def add(self, image: np.ndarray) -> list[bytes]:
        """As `Jpeg.add`; height and width are even."""
        self.images.append(image)
        return self.finish() if len(self.images) == self.frames else []

    def finish(self) -> list[bytes]:
        """As `Jpeg.finish`.

        Raises:
          RuntimeError: the block does not decode, or every fourth frame of it needs others.
        """
        images, self.images = self.images, []
        if not images:
            return []
        packets = encode_block(images, self.crf)
        self.errors += _check(packets, images)
        return packets


def encode_block(images: list[np.ndarray], crf: int) -> list[bytes]:
    """Packets of frames (h, w, 3) uint8 RGB with even h and w, in order of presentation."""
    height, width = images[0].shape[:2]
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)  # only order matters
    encoder.thread_count = 1  # the number of threads changes the bytes
    encoder.options = {"preset": "medium", "crf": str(crf), "x264-params": X264_PARAMETERS}
    packets = {}
    for i, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = i
        packets |= {packet.pts: bytes(packet) for packet in encoder.encode(frame)}
    packets |= {packet.pts: bytes(packet) for packet in encoder.encode(None)}
    return [packets[i] for i in range(len(images))]


def _check(packets: list[bytes], images: list[np.ndarray]) -> list[float]:
    """Mean squared error of each frame of a block.

    Raises:
      RuntimeError: the block does not decode, or its every fourth frame needs others.
    """
    try:
        decoded = decode_block(packets, range(len(packets)))
        fourth = range(0, len(packets), REFERENCE_STEP)
        sparse = decode_block(packets, fourth)
    except ValueError as error:
        raise RuntimeError(f"x264 made a block that does not decode: {error}") from error
    errors = [squared_error(a, b) for a, b in zip(decoded, images, strict=True)]
    same = all(np.array_equal(decoded[i], a) for i, a in zip(fourth, sparse, strict=True))
    if not same or len(needed(packets, fourth)) > len(fourth):
        raise RuntimeError("x264 made a block whose every fourth frame needs the others")
    return errors


def squared_error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference of two uint8 pictures of one shape."""
    return float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2))


def decibels(error: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error, dB; 98 where all is equal."""
    return 10 * math.log10(255**2 / max(error, 1e-5))
