"""What a recording shows, measured on samples of it: quality, privacy, picture box, cuts, hashes.

Flags of quality: black, frozen, blurred and duplicate; they inform. Flags of privacy: out_of_body
and text; what has them is left out of stores unless a person decides otherwise. A sample stands for
the time until the next one, the first one also for the time before; flags of privacy are widened by
a sample on both sides, because what happens between two samples is not known.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data_prep.burnt_in import TextBox, find_text, runs
from data_prep.keyframes import Samples
from data_prep.out_of_body import Scorer, outside, score
from data_prep.overlap import FLAT, PROBES, _picture_box, hash_picture

SMALL = (160, 90)  # pixels; enough for brightness, colours and changes

BLACK_MEAN, BLACK_DEVIATION = 16.0, 12.0  # grey levels below which nothing is to be seen
# Grey levels between two samples: of a repeated frame, compressed again, up to 0.1; of a still
# camera over living tissue 8 and more. A clock that runs changes few pixels, but much.
FROZEN_MEAN, FROZEN_PIXEL, FROZEN_SHARE = 0.5, 8, 0.001
FROZEN_SECONDS = 4.0  # shorter stops are common when a recorder is slow
# Variance of the Laplacian over the variance of the grey values, of a picture of 240 lines: 0.15 to
# 0.4 in sharp real views, 0.01 in the softest rendered ones, 0.002 to 0.005 when blurred by 9 of
# 720 lines (standard deviation).
BLURRED = 0.007
CUT = 0.8  # distance of two histograms of hue and saturation; 1: no colour in common
BORDER = 16  # grey value up to which a pixel that never gets brighter is border
BORDER_SHARE = 0.02  # of a row or column that must be brighter for it to be picture
MIN_BOX = 0.6  # share of the picture's area; a smaller box is a mistake


@dataclass(frozen=True)
class Span:
    """A stretch of a recording in seconds, `end` not included.

    Attributes:
      score: highest of the out-of-body scores, share of frames for duplicates, else 1.
    """

    start: float
    end: float
    flag: str
    score: float


@dataclass(frozen=True)
class Scan:
    """What was found in one recording.

    Attributes:
      length: seconds.
      box: x0, y0, x1, y1 of the picture without its border, fractions of width and height.
      shares: of the time, by flag.
      texts: boxes of text for as long as they may be there, somewhat larger than the letters.
      cuts: numbers of the samples before which the picture changes altogether.
      flagged: samples with each flag, (n,) bool.
      t_ms, bits: perceptual hashes, (m,) int64 and uint64; samples that show too little have none.
    """

    length: float
    box: tuple[float, float, float, float]
    shares: dict[str, float]
    cuts: list[int]
    spans: list[Span]
    texts: list[TextBox]
    flagged: dict[str, np.ndarray]
    t_ms: np.ndarray
    bits: np.ndarray


def scan(samples: Samples, scorer: Scorer | None) -> Scan:
    """Everything that is measured on one recording; duplicates take more than one.

    Raises:
      UserError: the scorer fails or returns no scores.
    """
    seconds, n = np.array(samples.seconds), len(samples)
    spread = sorted({round(i) for i in np.linspace(0, n - 1, min(PROBES, n))})
    brightest = np.max([samples.grey(i) for i in spread], axis=0)
    measures = measure(samples, brightest)
    flagged = {
        "black": measures["black"],
        "frozen": frozen(measures["same"] & ~measures["black"], seconds),
        "blurred": (measures["sharpness"] < BLURRED) & ~measures["black"],
    }
    scores = np.zeros(n, np.float32)
    if scorer is not None:
        scores = score(scorer, (samples[i] for i in range(n)))
    flagged["out_of_body"] = widened(outside(scores, seconds, samples.every))
    texts = find_text(samples.seconds, samples.grey)
    within = [(text.start <= seconds) & (seconds <= text.end) for text in texts]
    flagged["text"] = widened(np.any([np.zeros(n, bool), *within], axis=0))

    starts, ends = np.append(0.0, seconds[1:]), np.append(seconds[1:], samples.length)
    spans, shares = [], {}
    for flag, mask in flagged.items():
        shares[flag] = float((ends - starts)[mask].sum() / samples.length)
        for a, b in runs(mask):
            height = float(scores[a:b].max()) if flag == "out_of_body" else 1.0
            spans.append(Span(float(starts[a]), float(ends[b - 1]), flag, height))
    hashed = [i for i in range(n) if measures["hashed"][i]]
    return Scan(
        samples.length,
        picture_box(brightest, samples.width, samples.height),
        shares,
        np.flatnonzero(measures["distance"] > CUT).tolist(),
        sorted(spans, key=lambda span: (span.start, span.flag)),
        [_around(text, starts, ends, samples) for text in texts],
        flagged,
        np.round(1000 * seconds[hashed]).astype(np.int64),
        measures["bits"][hashed],
    )


def measure(samples: Samples, brightest: np.ndarray) -> dict[str, np.ndarray]:
    """(n,) each: black, same (as the sample before), sharpness, distance (of colours from the
    sample before, 0 to 1), hashed (shows enough for a hash) and bits.

    Args:
      brightest: (h, w) uint8, the highest grey value of each pixel.
    """
    # Away from the outline of a round view, whose sharp edge says nothing about the picture.
    field = cv2.erode(np.uint8(brightest > BORDER), np.ones((9, 9), np.uint8), borderValue=1) > 0
    rows, columns = _picture_box(iter([brightest]))
    mask = np.uint8(cv2.resize(np.uint8(field), SMALL, interpolation=cv2.INTER_NEAREST))
    last_small = last_colours = None
    found = []
    for i in range(len(samples)):
        image = samples[i]
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(image, SMALL, interpolation=cv2.INTER_AREA)
        colours = _colours(small, mask)
        small = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int16)
        black = small.mean() < BLACK_MEAN and small.std() < BLACK_DEVIATION
        inside = grey[rows, columns]
        hashed = inside.std() >= FLAT
        found.append(
            {
                "black": black,
                "same": last_small is not None and _same(small, last_small),
                "sharpness": sharpness(grey, field),
                "distance": 0.0 if last_colours is None else 1 - _common(colours, last_colours),
                "hashed": hashed,
                "bits": hash_picture(inside) if hashed else np.uint64(0),
            }
        )
        last_small, last_colours = small, colours
    return {name: np.array([row[name] for row in found]) for name in found[0]}


def sharpness(grey: np.ndarray, field: np.ndarray) -> float:
    """Variance of the Laplacian by that of the grey values, within `field`; 1 where it is flat.

    Pech-Pacheco et al. 2000 measure focus by the first alone; contrast and light then count too.
    """
    inside = grey[field].astype(np.float32)
    if inside.size == 0 or inside.var() < 1:
        return 1.0
    return float(cv2.Laplacian(grey, cv2.CV_32F)[field].var() / inside.var())


def frozen(same: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Samples in runs without change of FROZEN_SECONDS and more; (n,) bool each."""
    found = np.zeros(len(same), bool)
    for a, b in runs(same):  # the first of equal samples is not the same as the one before it
        if seconds[b - 1] - seconds[a - 1] >= FROZEN_SECONDS:
            found[a - 1 : b] = True
    return found


def widened(mask: np.ndarray) -> np.ndarray:
    """With one more sample on both sides of every run."""
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    return wide


def picture_box(
    brightest: np.ndarray, width: int, height: int
) -> tuple[float, float, float, float]:
    """The picture without a black border, as fractions x0, y0, x1, y1 of `width` and `height`.

    In pixels of the recording they are even. The box around a round view is as far as it goes.

    Args:
      brightest: (h, w) uint8, the highest grey value that each pixel has in samples of the whole.
    """
    bright = brightest > BORDER
    ends = []
    for axis, size in ((0, width), (1, height)):
        lit = np.flatnonzero(bright.mean(axis) > BORDER_SHARE)
        if not len(lit):
            return 0.0, 0.0, 1.0, 1.0
        scale = size / bright.shape[1 - axis]
        first, last = int(lit[0] * scale) // 2 * 2, -(-int(np.ceil((lit[-1] + 1) * scale)) // 2) * 2
        ends.append((first / size, min(1.0, last / size)))
    (x0, x1), (y0, y1) = ends
    if (x1 - x0) * (y1 - y0) < MIN_BOX:
        return 0.0, 0.0, 1.0, 1.0
    return x0, y0, x1, y1


def _around(text: TextBox, starts: np.ndarray, ends: np.ndarray, samples: Samples) -> TextBox:
    """Half a line larger on all sides, and a sample longer, so that covering it covers all."""
    a, b = np.searchsorted(samples.seconds, (text.start, text.end))
    high = (text.y1 - text.y0) / 2
    wide = high * samples.height / samples.width
    return TextBox(
        float(starts[max(0, a - 1)]),
        float(ends[min(len(ends) - 1, b + 1)]),
        max(0.0, text.x0 - wide),
        max(0.0, text.y0 - high),
        min(1.0, text.x1 + wide),
        min(1.0, text.y1 + high),
    )


def _colours(small: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Histogram of hue and saturation within `mask`; it stands for light and camera motion."""
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1], mask, [18, 8], [0, 180, 0, 256])
    return counts / max(1.0, float(counts.sum()))


def _common(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.minimum(a, b).sum())


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    change = np.abs(a - b)
    return bool(change.mean() < FROZEN_MEAN and (change > FROZEN_PIXEL).mean() < FROZEN_SHARE)
