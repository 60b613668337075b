"""RandAugment for clips: the same random operations on all frames (Cubuk et al., arXiv 1909.13719).

The set whose strength grows with the magnitude, each operation applied with chance 0.5 at a
magnitude drawn around the given one, as the fine-tuning of VideoMAE has it ("rand-m7-n4-mstd0.5-
inc1" of timm, named there). Pillow does the work. VideoMAE applies them before its crop, here they
act on the resized crop, which costs a fraction.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

FILL = (128, 128, 128)  # what a moved picture uncovers
DEVIATION = 0.5  # of the magnitude
CHANCE = 0.5

Operation = tuple[str, float]


def draw(magnitude: int, count: int, rng: np.random.Generator) -> tuple[Operation, ...]:
    """`count` names of OPERATIONS, drawn with replacement, with their strengths; about half stay.

    Strengths are signed where an operation has two directions.
    """
    drawn = []
    for name in rng.choice(sorted(OPERATIONS), count):
        level = np.clip(rng.normal(magnitude, DEVIATION), 0, 10) / 10
        sign = -1.0 if rng.random() < 0.5 else 1.0
        if rng.random() < CHANCE:
            drawn.append((str(name), float(level * sign)))
    return tuple(drawn)


def apply(
    frame: UInt8[np.ndarray, "h w 3"], operations: tuple[Operation, ...]
) -> UInt8[np.ndarray, "h w 3"]:
    """The operations in turn on one frame, RGB."""
    picture = Image.fromarray(frame)
    for name, level in operations:
        picture = OPERATIONS[name](picture, level)
    return np.asarray(picture)


def _moved(picture: Image.Image, matrix: tuple[float | int, ...]) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL
    )


def _enhanced(kind: Callable) -> Callable:
    return lambda picture, level: kind(picture).enhance(1 + 0.9 * level)


def _solarize_add(picture: Image.Image, level: float) -> Image.Image:
    add = int(abs(level) * 110)
    table = [min(255, i + add) if i < 128 else i for i in range(256)]
    return picture.point(table * 3)


# Strengths are from -1 to 1; where there is one direction, the sign is not looked at.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda picture, _: ImageOps.autocontrast(picture),
    "equalize": lambda picture, _: ImageOps.equalize(picture),
    "invert": lambda picture, _: ImageOps.invert(picture),
    "posterize": lambda picture, level: ImageOps.posterize(
        picture, max(1, 4 - int(abs(level) * 4))
    ),
    "solarize": lambda picture, level: ImageOps.solarize(picture, 256 - int(abs(level) * 256)),
    "solarize_add": _solarize_add,
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "rotate": lambda picture, level: picture.rotate(
        30 * level, Image.Resampling.BICUBIC, fillcolor=FILL
    ),
    "shear_x": lambda picture, level: _moved(picture, (1, 0.3 * level, 0, 0, 1, 0)),
    "shear_y": lambda picture, level: _moved(picture, (1, 0, 0, 0.3 * level, 1, 0)),
    "translate_x": lambda picture, level: _moved(
        picture, (1, 0, 0.45 * level * picture.size[0], 0, 1, 0)
    ),
    "translate_y": lambda picture, level: _moved(
        picture, (1, 0, 0, 0, 1, 0.45 * level * picture.size[1])
    ),
}
