"""Overlap of boxes: where a model says that a named instrument is.

A box is left, top, right, bottom, in pixels or in shares of the picture, the same for both sides.
"""

import numpy as np
from jaxtyping import Float


def iou(
    first: Float[np.ndarray, "n 4"], second: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "n"]:
    """Intersection over union of each pair; NaN where both areas are 0 or a number is not finite.

    A box whose right is not beyond its left, or bottom not below its top, has area 0.
    """
    finite = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    first, second = (
        np.where(finite[:, None], box, 0).astype(np.float64) for box in (first, second)
    )
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    union = _area(first) + _area(second) - shared
    return np.divide(shared, union, out=np.full(len(union), np.nan), where=finite & (union > 0))


def iou_or_zero(
    truth: Float[np.ndarray, "n 4"], pred: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "n"]:
    """IoU of each question, 0 where the answer is missing or unreadable (a row with NaN).

    Raises:
      ValueError: a true box without area.
    """
    bad = ~(np.isfinite(truth).all(1) & (_area(truth) > 0))
    if bad.any():
        raise ValueError(f"true box {truth[bad][0].tolist()}, expected left, top, right, bottom")
    return np.nan_to_num(iou(truth, pred), nan=0.0)


def mean_iou(truth: Float[np.ndarray, "n 4"], pred: Float[np.ndarray, "n 4"]) -> float:
    """Mean of `iou_or_zero` over all questions; NaN without questions.

    The localisation score of SurgVLM-Bench. Its paper does not print the formula: one box a
    question and the mean over questions are this project's reading.
    """
    values = iou_or_zero(truth, pred)
    return float(values.mean()) if len(values) else float("nan")


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
