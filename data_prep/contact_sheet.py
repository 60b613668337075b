"""A picture of many samples of one recording, with what was found in them."""

import cv2
import numpy as np
import simplejpeg

from data_prep.keyframes import Samples
from data_prep.review import FLAGS, PRIVACY
from data_prep.scan import Scan

# Those of Okabe and Ito (2008), told apart with any common colour vision.
COLOURS = {
    "out_of_body": "#D55E00",
    "text": "#E69F00",
    "black": "#56B4E9",
    "frozen": "#0072B2",
    "blurred": "#CC79A7",
    "duplicate": "#009E73",
}
THUMB = 160  # pixels, the longer side
COLUMNS, MOST = 8, 48  # thumbs in a row, and of a recording
FRAME, LABEL, GAP = 4, 14, 2  # pixels: coloured frame, line of text, distance
QUALITY = 85
PAPER, INK = (255, 255, 255), (40, 40, 40)


def draw(samples: Samples, scan: Scan) -> bytes:
    """A JPEG: samples left to right and down, framed in the colour of their first flag.

    Boxes of text and the picture box are drawn into them; `cut` marks a sample unlike the last.
    """
    chosen = choose(scan.flagged, len(samples))
    tiles = [_tile(samples, scan, i) for i in chosen]
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // COLUMNS)
    sheet = np.full((rows * height, min(COLUMNS, len(tiles)) * width, 3), PAPER, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = height * (place // COLUMNS), width * (place % COLUMNS)
        sheet[y : y + height, x : x + width] = tile
    return simplejpeg.encode_jpeg(sheet, QUALITY, "RGB", "420")


def choose(flagged: dict[str, np.ndarray], count: int) -> list[int]:
    """Numbers of at most MOST samples: half spread over all, half over those with privacy flags."""
    private = np.flatnonzero(np.any([flagged[flag] for flag in PRIVACY], axis=0))
    half = MOST // 2 if len(private) else MOST
    chosen = set(_spread(np.arange(count), half)) | set(_spread(private, MOST - half))
    if count <= MOST:
        chosen = set(range(count))
    return sorted(chosen)


def _spread(values: np.ndarray, most: int) -> list[int]:
    if not len(values):
        return []
    places = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return values[places].tolist()


def _tile(samples: Samples, scan: Scan, i: int) -> np.ndarray:
    image = samples[i]
    scale = THUMB / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    thumb = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if scan.box != (0.0, 0.0, 1.0, 1.0):
        _rectangle(thumb, scan.box, (150, 150, 150))
    seconds = samples.seconds[i]
    for text in scan.texts:
        if text.start <= seconds <= text.end:
            _rectangle(thumb, (text.x0, text.y0, text.x1, text.y1), _rgb(COLOURS["text"]))
    flag = next((flag for flag in FLAGS if flag in scan.flagged and scan.flagged[flag][i]), None)
    colour = _rgb(COLOURS[flag]) if flag else PAPER
    edge = FRAME + GAP
    tile = np.full((size[1] + 2 * edge + LABEL, size[0] + 2 * edge, 3), PAPER, np.uint8)
    tile[GAP : size[1] + 2 * FRAME + GAP, GAP:-GAP] = colour
    tile[edge : edge + size[1], edge : edge + size[0]] = thumb
    label = f"{seconds:.1f} s" + (" cut" if i in scan.cuts else "")
    at = (edge, tile.shape[0] - GAP - 2)
    cv2.putText(tile, label, at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, INK, 1, cv2.LINE_AA)
    return tile


def _rectangle(image: np.ndarray, box: tuple[float, ...], colour: tuple[int, ...]) -> None:
    height, width = image.shape[:2]
    (x0, y0), (x1, y1) = (
        (round(x * (width - 1)), round(y * (height - 1))) for x, y in (box[:2], box[2:])
    )
    cv2.rectangle(image, (x0, y0), (x1, y1), colour, 1)


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(colour[1:]))
