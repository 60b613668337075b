"""Crops, resizing and colour of decoded frames: drawn once a clip and used for all its frames.

Resizing is cv2's bilinear filter without antialiasing. VideoMAE resizes with Pillow, whose bilinear
filter is antialiased; on laparoscopic frames of short side 320 the two differ by 44 dB PSNR for the
largest crop (320 to 224) and 49 dB or more for the others, less than the stored JPEG differs from
its source (41 dB), while the area filter that comes closest costs more than decoding the JPEG.
"""

import math
import re
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from surgjax.data import rand_augment
from surgjax.errors import UserError

CROPS = ("multiscale", "resized", "centre", "left", "middle", "right", "whole")
SCALES = (1.0, 0.875, 0.75, 0.66)
SNAP = 2  # pixels
# Thirteen places of a crop in quarters of the free space (x, y): corners and centre, middles of the
# edges, quarter points.
ANCHORS = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)

cv2.setNumThreads(0)  # frames are small, and clips are already loaded in parallel


@dataclass(frozen=True)
class Box:
    """A rectangle of a frame in pixels, top left corner and extent."""

    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True)
class Augmentation:
    """What happens to a clip between its stored frames and the batch.

    Attributes:
      crop: "multiscale" (VideoMAE's pretraining), "resized" (a box of random area and aspect),
        "centre" (the largest centred square), "left", "middle", "right" (squares of the short side
        along the long one, from its start to its end, for testing on several crops), or "whole"
        (the frame squeezed into a square).
      area: smallest and largest share of the frame, of "resized".
      aspect: smallest and largest width / height, of "resized"; drawn log-uniformly.
      flip: chance of a mirrored clip. Sides matter in surgery: off unless set.
      rand_augment: "" or as "m7-n4": magnitude 7 of 10, 4 operations (see rand_augment.py).

    Raises:
      UserError: a value out of range.
    """

    crop: str = "centre"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    rand_augment: str = ""

    def __post_init__(self):
        if self.crop not in CROPS:
            raise UserError(f"data.crop is {self.crop!r}; choose one of {', '.join(CROPS)}")
        for name in ("area", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "area" and high > 1):
                raise UserError(
                    f"data.crop_{name} is {low:g} to {high:g}; expected two numbers above 0, the "
                    f"smaller first" + (", at most 1" if name == "area" else "")
                )
        if not 0 <= self.flip <= 1:
            raise UserError(f"data.flip is {self.flip}; expected a chance from 0 to 1")
        if self.rand_augment and not re.fullmatch(r"m\d+-n\d+", self.rand_augment):
            raise UserError(
                f"data.rand_augment is {self.rand_augment!r}; expected a magnitude and a number "
                f"of operations, as in 'm7-n4', or nothing"
            )

    @property
    def is_random(self) -> bool:
        random_crop = self.crop in ("multiscale", "resized")
        return random_crop or self.flip > 0 or bool(self.rand_augment)


CENTRE = Augmentation()
MULTISCALE = Augmentation("multiscale")


@dataclass(frozen=True)
class Drawn:
    """An augmentation with its dice thrown, for frames of one size.

    Attributes:
      box: the part of a frame that is shown.
      flipped: whether it is mirrored.
      operations: see `rand_augment.draw`.
    """

    box: "Box"
    flipped: bool
    operations: tuple

    def write(self, frame: UInt8[np.ndarray, "h w c"], out: UInt8[np.ndarray, "s s c"]) -> None:
        """The frame's part in the clip, a square picture."""
        resize(frame, self.box, out)
        if self.flipped:
            out[:] = out[:, ::-1].copy()
        if self.operations:
            out[:] = rand_augment.apply(out, self.operations)


def draw(
    augmentation: Augmentation, height: int, width: int, size: int, crop_seed: int | np.integer
) -> Drawn:
    """What a clip of frames (height, width) gets, a function of its seed alone."""
    rng = rng_of(crop_seed) if augmentation.is_random else None
    crop = augmentation.crop
    if crop == "multiscale":
        box = multi_scale_crop(height, width, size, rng)
    elif crop == "resized":
        box = resized_crop(height, width, augmentation.area, augmentation.aspect, rng)
    elif crop == "centre":
        box = centre_crop(height, width)
    elif crop == "whole":
        box = Box(0, 0, height, width)
    else:
        box = side_crop(height, width, ("left", "middle", "right").index(crop))
    flipped = augmentation.flip > 0 and bool(rng.random() < augmentation.flip)
    operations = ()
    if augmentation.rand_augment:
        magnitude, count = map(int, re.findall(r"\d+", augmentation.rand_augment))
        operations = rand_augment.draw(magnitude, count, rng)
    return Drawn(box, flipped, operations)


def rng_of(crop_seed: int | np.integer) -> np.random.Generator:
    """The generator of a clip's crop, a function of its seed alone."""
    return np.random.Generator(np.random.Philox(key=int(crop_seed)))


def multi_scale_crop(height: int, width: int, size: int, rng: np.random.Generator) -> Box:
    """VideoMAE's GroupMultiScaleCrop (Tong et al. 2022, arXiv:2203.12602, as in its released code).

    Sides are the short side times SCALES, those within SNAP pixels of `size` become `size`; width
    and height differ by at most one scale; the place is one of ANCHORS. Both are drawn uniformly.
    """
    short = min(height, width)
    sides = [int(short * scale) for scale in SCALES]
    sides = [size if abs(side - size) <= SNAP and size <= short else side for side in sides]
    sides = [max(side, 1) for side in sides]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    right, down = ANCHORS[rng.integers(len(ANCHORS))]
    return Box((height - h) // 4 * down, (width - w) // 4 * right, h, w)


def centre_crop(height: int, width: int) -> Box:
    """The largest centred square: with `resize` the same as short side to size, then centre."""
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def resized_crop(
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """A box of uniform area share and log-uniform aspect, as torchvision's RandomResizedCrop.

    After ten draws that do not fit, the largest centred box within the aspect range.
    """
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return Box(int(y), int(x), h, w)
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def side_crop(height: int, width: int, nth: int) -> Box:
    """One of three squares of the short side along the long side: its start, middle and end."""
    side = min(height, width)
    return Box((height - side) * nth // 2, (width - side) * nth // 2, side, side)


def resize(frame: UInt8[np.ndarray, "h w c"], box: Box, out: UInt8[np.ndarray, "s s c"]) -> None:
    """Write a box of a frame into a square picture, bilinear."""
    crop = frame[box.y : box.y + box.height, box.x : box.x + box.width]
    if crop.shape == out.shape:
        out[:] = crop
    else:
        cv2.resize(crop, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_LINEAR)
