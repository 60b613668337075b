"""Text that was drawn over a recording: names, dates, clocks, title cards.

What is drawn over a picture stays where it is while the picture moves. Edges that have the same
place, strength and direction in all samples of a few seconds are gathered to boxes; a box counts as
text when its strokes alternate as letters do, and when what surrounds it moves or is plain. Text
that belongs to the scene, as a name on an instrument, moves with it and is not found. Text that
lies over a picture that never moves is not found either, unless its surroundings are plain.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MIN_SECONDS, MIN_SAMPLES = 4.0, 3  # of a window, in which even a slow picture moves
STRONG = 12.0  # grey levels a pixel; a letter of 5 pixels has 20 to 60
STEADY = 0.6  # of the mean gradient, that every sample of a window must have in its direction
DARK = 16  # grey value of a border
MIN_PICTURE = 0.1  # share of all pixels; a smaller bright part is no picture with an outline
NEAR_EDGE = 4  # pixels on both sides of the outline of a round view that are not looked at
JOIN = (9, 3)  # width and height of gaps that are closed: between letters, not between lines
MIN_WIDTH, MIN_HEIGHT, MAX_HEIGHT = 12, 3, 0.25  # pixels, pixels, share of the picture
MIN_ASPECT = 1.5  # of a word
MIN_FILL = 0.35  # share of a box that is edges; arcs and lines have less
MIN_STROKES = 4  # changes between rising and falling edges along a row of a box
RING = 6  # pixels around a box that are compared with it
MOVED = 6.0  # mean grey levels by which moving surroundings change in a window
PLAIN = 0.05  # share of edges in plain surroundings
CARD = 0.6  # share of a picture with one grey value that makes it a title card
BRIDGED = 3  # samples in which a text is taken to be there because it is before and after
SAME_PLACE = 0.3  # overlap over union of boxes in following windows that hold one text


@dataclass
class TextBox:
    """start and end in seconds, first and last sample with it; fractions of width and height."""

    start: float
    end: float
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass
class _Track:
    """Text in following windows; `edges` (2, height, width) are its mean gradients, 0 elsewhere."""

    start: float
    end: float
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels
    sure: bool
    place: tuple[slice, slice]
    edges: np.ndarray


@dataclass(frozen=True)
class _Sample:
    seconds: float
    gradient: np.ndarray  # (2, h, w): to the right, down
    grey: np.ndarray


def find_text(seconds: Sequence[float], grey: Callable[[int], np.ndarray]) -> list[TextBox]:
    """Boxes of burnt-in text, in order of time.

    Args:
      seconds: times of the samples, in order.
      grey: the picture of a sample by its number, (h, w) uint8, some 240 pixels high, all of one
        size; asked for a second time where there is text.
    """
    tracks = _tracks(seconds, grey)
    if not tracks:
        return []
    # What a window does not show clearly is looked for again by its edges, one sample at a time.
    there = np.zeros((len(tracks), len(seconds)), bool)
    for i, time in enumerate(seconds):
        gradient = _gradient(grey(i))
        for own, (_, members) in zip(there, tracks, strict=True):
            own[i] = any(t.start <= time <= t.end or _shows(gradient, t) for t in members)
    height, width = gradient.shape[1:]
    found = []
    for own, (box, _) in zip(there, tracks, strict=True):
        for a, b in runs(~own):
            own[a:b] |= 0 < a and b < len(own) and b - a <= BRIDGED
        x0, y0, x1, y1 = box[0] / width, box[1] / height, box[2] / width, box[3] / height
        found += [TextBox(seconds[a], seconds[b - 1], x0, y0, x1, y1) for a, b in runs(own)]
    return sorted(found, key=lambda box: (box.start, box.y0, box.x0))


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """(first, one past the last) of each run of true values."""
    ends = np.flatnonzero(np.diff(np.r_[False, mask, False]))
    return [(int(a), int(b)) for a, b in ends.reshape(-1, 2)]


def _tracks(
    seconds: Sequence[float], grey: Callable[[int], np.ndarray]
) -> list[tuple[tuple[int, int, int, int], list[_Track]]]:
    """(box, texts that were seen there)."""
    window: deque[_Sample] = deque()
    done: list[_Track] = []
    running: list[_Track] = []
    for i, time in enumerate(seconds):
        picture = grey(i)
        window.append(_Sample(time, _gradient(picture), picture))
        while len(window) > MIN_SAMPLES and time - window[1].seconds >= MIN_SECONDS:
            window.popleft()
        new = _on_card(window[-1])
        if len(window) >= MIN_SAMPLES and time - window[0].seconds >= MIN_SECONDS:
            new += _static(list(window))
        running = _follow(running, new, done)
    places: list[tuple[tuple[int, int, int, int], list[_Track]]] = []
    for track in [track for track in done + running if track.sure]:
        same = [place for place in places if _overlap(place[0], track.box) > SAME_PLACE]
        places = [place for place in places if not any(place is other for other in same)]
        box, members = track.box, [track]
        for other_box, others in same:
            box, members = _union(box, other_box), members + others
        places.append((box, members))
    return places


def _shows(gradient: np.ndarray, track: _Track) -> bool:
    """Whether a picture has the edges of a text, half as strong at least."""
    here = gradient[:, *track.place]
    return float((here * track.edges).sum()) > 0.5 * float((track.edges**2).sum())


def _gradient(grey: np.ndarray) -> np.ndarray:
    """(2, h, w) float32: change of grey value a pixel to the right and down."""
    return np.stack(
        [cv2.Sobel(grey, cv2.CV_32F, *order, ksize=3) / 8 for order in ((1, 0), (0, 1))]
    )


def _static(window: list[_Sample]) -> list[_Track]:
    """Text whose edges stay in a window; sure where its surroundings move or are plain."""
    mean = np.mean([sample.gradient for sample in window], axis=0)
    strength = np.hypot(*mean)
    edges = strength > STRONG
    for sample in window:
        edges &= (sample.gradient * mean).sum(0) >= STEADY * strength**2
    outline = _outline(np.max([sample.grey for sample in window], axis=0))
    edges &= ~outline
    first = window[0].grey.astype(np.int16)
    moved = np.max([np.abs(sample.grey - first) for sample in window[1:]], axis=0)
    found, boxes = [], _text_like(edges, mean[0])
    for box in boxes:
        ring = _ring(box, boxes, first.shape) & ~outline
        sure = ring.any() and (moved[ring].mean() > MOVED or _plain(window[-1], ring))
        found.append(_track(box, window[0], window[-1], mean * edges, bool(sure)))
    return found


def _on_card(sample: _Sample) -> list[_Track]:
    """Text on a picture that is mostly of one grey value, in a single sample."""
    counts = np.bincount((sample.grey // 8).ravel(), minlength=33)
    if (counts[:-1] + counts[1:]).max() < CARD * sample.grey.size:
        return []
    outline = _outline(sample.grey)
    edges = (np.hypot(*sample.gradient) > STRONG) & ~outline
    boxes = _text_like(edges, sample.gradient[0])
    return [
        _track(box, sample, sample, sample.gradient * edges, True)
        for box in boxes
        if _plain(sample, _ring(box, boxes, sample.grey.shape) & ~outline)
    ]


def _track(box, first: _Sample, last: _Sample, edges: np.ndarray, sure: bool) -> _Track:
    place = slice(box[1], box[3]), slice(box[0], box[2])
    return _Track(first.seconds, last.seconds, box, sure, place, edges[:, *place])


def _outline(brightest: np.ndarray) -> np.ndarray:
    """Pixels near the outline of the picture proper, (h, w) bool, where it does not fill all."""
    # Opening takes text off that stands in the border; closing fills dark spots in the picture.
    bright = cv2.morphologyEx(np.uint8(brightest > DARK), cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    bright = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    _, parts, about, _ = cv2.connectedComponentsWithStats(bright)
    areas = about[1:, cv2.CC_STAT_AREA]
    if areas.max(initial=0) < MIN_PICTURE * brightest.size:
        return np.zeros(brightest.shape, bool)
    picture = np.uint8(parts == 1 + areas.argmax())
    kernel = np.ones((2 * NEAR_EDGE + 1,) * 2, np.uint8)
    return (cv2.dilate(picture, kernel) > 0) & (cv2.erode(picture, kernel, borderValue=1) == 0)


def _text_like(edges: np.ndarray, dx: np.ndarray) -> list[tuple[int, int, int, int]]:
    closed = cv2.morphologyEx(np.uint8(edges), cv2.MORPH_CLOSE, np.ones(JOIN[::-1], np.uint8))
    count, parts, about, _ = cv2.connectedComponentsWithStats(closed)
    boxes = []
    for part in range(1, count):
        x, y, width, height, _ = map(int, about[part])
        if not (
            width >= max(MIN_WIDTH, MIN_ASPECT * height)
            and MIN_HEIGHT <= height <= MAX_HEIGHT * edges.shape[0]
        ):
            continue
        inside = slice(y, y + height), slice(x, x + width)
        own = edges[inside] & (parts[inside] == part)
        if own.mean() >= MIN_FILL and _strokes(own, dx[inside]) >= MIN_STROKES:
            boxes.append((x, y, x + width, y + height))
    return boxes


def _strokes(edges: np.ndarray, dx: np.ndarray) -> float:
    """How often rising and falling edges take turns along a row; the median of the rows."""
    turns = []
    for row, mask in zip(dx, edges, strict=True):
        signs = np.sign(row[mask & (np.abs(row) > STRONG / 2)])
        turns.append(int(np.count_nonzero(np.diff(signs))))
    return float(np.median(turns))


def _ring(
    box: tuple[int, int, int, int], boxes: list[tuple[int, int, int, int]], shape: tuple[int, int]
) -> np.ndarray:
    """The surroundings of a box without the other boxes, (h, w) bool."""
    ring = np.zeros(shape, bool)
    for (x0, y0, x1, y1), margin in ((box, RING + 2), *((other, 2) for other in boxes)):
        rows = slice(max(0, y0 - margin), y1 + margin)
        ring[rows, max(0, x0 - margin) : x1 + margin] = margin > 2
    return ring


def _plain(sample: _Sample, ring: np.ndarray) -> bool:
    edges = np.hypot(*sample.gradient[:, ring]) > STRONG
    return edges.size > 0 and bool(edges.mean() < PLAIN)


def _follow(running: list[_Track], new: list[_Track], done: list[_Track]) -> list[_Track]:
    """Texts that are there in this window; those that are not go to `done`."""
    after: list[_Track] = []
    for text in new:
        near = (t for t in (*after, *running) if _overlap(t.box, text.box) > SAME_PLACE)
        known = next(near, text)
        if not any(known is track for track in after):
            after.append(known)
        known.box = _union(known.box, text.box)
        known.start, known.end = min(known.start, text.start), text.end
        if text.sure or not known.sure:  # its edges are those seen best
            known.sure, known.place, known.edges = text.sure, text.place, text.edges
    done += [track for track in running if not any(track is other for other in after)]
    return after


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def _union(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int, int, int]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
