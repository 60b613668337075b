"""Segments of a frame-wise prediction: edit score, F1 at an overlap, the SAR-RARP50 score.

A segment is a longest run of one class. Frame accuracy hides a prediction that flickers; these
metrics count it. All values are shares in [0, 1], of one video; the papers on JIGSAWS, SAR-RARP50
and PitVis report the mean over videos.
"""

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

OVERLAPS = (10, 25, 50)  # percent


def by_video(
    label: Int[np.ndarray, "n"],
    pred: Int[np.ndarray, "n"],
    video: Shaped[np.ndarray, "n"],
    *,
    t_ms: Num[np.ndarray, "n"] | None = None,
    background: int | None = None,
) -> tuple[list[str], dict[str, Float[np.ndarray, "v"]]]:
    """(names of the videos in sorted order, {"accuracy", "edit", "f1_10", "f1_25", "f1_50": one
    value a video}).

    Args:
      t_ms: time of each frame in milliseconds; without it, the rows of a video are in order.
      background: a class whose segments do not count, neither true nor predicted ones. The accuracy
        is over all frames, as in SAR-RARP50's program.

    Raises:
      ValueError: two frames of a video at one time.
    """
    names, rows = in_order(video, t_ms)
    values = {name: [] for name in ("accuracy", "edit", *(f"f1_{k}" for k in OVERLAPS))}
    for chosen in rows:
        true, guess = label[chosen], pred[chosen]
        values["accuracy"].append(np.mean(true == guess))
        values["edit"].append(edit_score(true, guess, background=background))
        for k in OVERLAPS:
            values[f"f1_{k}"].append(f1_at(true, guess, k / 100, background=background))
    return names, {name: np.array(column, np.float64) for name, column in values.items()}


def edit_score(
    label: Int[np.ndarray, "n"], pred: Int[np.ndarray, "n"], *, background: int | None = None
) -> float:
    """1 - Levenshtein distance of the two orders of segments / the larger number of segments.

    Source: Lea et al., "Segmental spatiotemporal CNNs", ECCV 2016, section 4; PitVis uses the same.
    NaN where neither has a segment.
    """
    true, guess = (_foreground(values, background)[0] for values in (label, pred))
    longer = max(len(true), len(guess))
    return 1 - _distance(true, guess) / longer if longer else float("nan")


def f1_at(
    label: Int[np.ndarray, "n"],
    pred: Int[np.ndarray, "n"],
    overlap: float,
    *,
    background: int | None = None,
) -> float:
    """F1 of segments, all classes together: 2 TP / (segments predicted + segments true).

    Each predicted segment, in order of time, is held against the true segment of its class with the
    largest intersection over union. It is a true positive where that is at least `overlap` (in
    (0, 1]) and no earlier segment was matched to it, else a false positive, even if another true
    segment would still be free. NaN where neither has a segment; 0 where one of them has none.

    Source: Lea et al., "Temporal convolutional networks for action segmentation and detection",
    CVPR 2017, section 4; SAR-RARP50's program. MS-TCN's program differs: it adds the counts of all
    videos before the division.
    """
    if not 0 < overlap <= 1:
        raise ValueError(f"overlap is {overlap}, expected a share above 0 and at most 1")
    true, true_start, true_end = _foreground(label, background)
    guess, start, end = _foreground(pred, background)
    if not len(true) or not len(guess):
        return 0.0 if len(true) or len(guess) else float("nan")
    start, end = start[:, None], end[:, None]
    shared = np.minimum(end, true_end) - np.maximum(start, true_start)
    # Only of segments that meet is this their union; where they do not, `shared` is not positive.
    union = np.maximum(end, true_end) - np.minimum(start, true_start)
    share = np.where(guess[:, None] == true, shared / union, 0.0)
    nearest = share.argmax(1)
    matched = nearest[share.max(1) >= overlap]
    # Of the predictions that reach one true segment the first is right and the others are not.
    return 2 * len(np.unique(matched)) / (len(true) + len(guess))


def sar_score(accuracy: Float[np.ndarray, "v"], f1_10: Float[np.ndarray, "v"]) -> float:
    """sqrt(mean accuracy x mean F1 at 10 % overlap), both means over videos.

    Source: Psychogyios et al., "SAR-RARP50", 2023, action recognition score; no background class.
    """
    return float(np.sqrt(np.mean(accuracy) * np.mean(f1_10)))


def runs(
    values: Int[np.ndarray, "n"],
) -> tuple[Int[np.ndarray, "s"], Int[np.ndarray, "s"], Int[np.ndarray, "s"]]:
    """(class, first frame, frame after the last) of each longest run of one class."""
    edges = np.flatnonzero(np.diff(values)) + 1
    start = np.concatenate([np.zeros(min(len(values), 1), np.int64), edges])
    end = np.append(start[1:], len(values)) if len(start) else start
    return values[start], start, end


def in_order(
    video: Shaped[np.ndarray, "n"], t_ms: Num[np.ndarray, "n"] | None
) -> tuple[list[str], list[Int[np.ndarray, "_"]]]:
    """(names of the videos in sorted order, the rows of each in order of time).

    Raises:
      ValueError: two frames of a video at one time.
    """
    names, which = np.unique(np.asarray(video).astype(str), return_inverse=True)
    rows = [np.flatnonzero(which == i) for i in range(len(names))]
    if t_ms is not None:
        rows = [chosen[np.argsort(t_ms[chosen], kind="stable")] for chosen in rows]
        for name, chosen in zip(names, rows, strict=True):
            same = np.flatnonzero(np.diff(t_ms[chosen]) == 0)
            if len(same):
                raise ValueError(
                    f"video {name} has two rows at t_ms {t_ms[chosen[same[0]]]}, expected one"
                )
    return names.tolist(), rows


def _foreground(values: np.ndarray, background: int | None) -> tuple[np.ndarray, ...]:
    found = runs(values)
    kept = np.full(len(found[0]), True) if background is None else found[0] != background
    return tuple(column[kept] for column in found)


def _distance(first: np.ndarray, second: np.ndarray) -> int:
    """Levenshtein distance, a row of the table at once."""
    step = np.arange(len(second) + 1)
    row = step
    for number, one in enumerate(first, start=1):
        without_gap = np.minimum(row[:-1] + (second != one), row[1:] + 1)
        # Going right in a row costs 1 each: a running minimum once that cost is taken off.
        row = np.minimum.accumulate(np.append(number, without_gap) - step) + step
    return int(row[-1])
