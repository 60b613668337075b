"""Whether confidence can be trusted, and whether a model still tells classes apart."""

import numpy as np
from jaxtyping import Float, Int

BINS = 15
COLLAPSE = 0.95  # share of one class


def reliability_by_video(
    label: Int[np.ndarray, "n"],
    probs: Float[np.ndarray, "n c"],
    video: np.ndarray,
    bins: int = BINS,
) -> tuple[list[str], Float[np.ndarray, "v bins 3"]]:
    """(names of the videos in sorted order; each bin's frames, correct frames, sum of confidences).

    Confidence is the highest probability, the prediction its class, of equal ones the first. Bin m
    of M, from 1, holds the confidences above (m - 1) / M up to and with m / M. Sums add up over
    videos, so that resampling videos needs no predictions.

    Raises:
      ValueError: a probability outside [0, 1].
    """
    if not ((probs >= 0) & (probs <= 1 + 1e-5)).all():  # single precision can exceed 1 a little
        raise ValueError("probabilities outside 0 to 1")
    confidence = np.minimum(probs.max(1).astype(np.float64), 1)
    right = probs.argmax(1) == label
    place = np.searchsorted(np.arange(bins + 1) / bins, confidence, side="left") - 1
    names, which = np.unique(np.asarray(video).astype(str), return_inverse=True)
    cells = which * bins + np.maximum(place, 0)
    sums = [
        np.bincount(cells, weights=weights, minlength=len(names) * bins)
        for weights in (np.ones(len(label)), right, confidence)
    ]
    return names.tolist(), np.stack(sums, axis=-1).reshape(len(names), bins, 3)


def expected_calibration_error(sums: Float[np.ndarray, "*r bins 3"]) -> Float[np.ndarray, "*r"]:
    """ "ece_15": mean of |accuracy - mean confidence| over equal-width bins, weighted by frames.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with 15 bins as there.
    Of all frames give the sum over videos. NaN without frames.
    """
    frames = sums[..., 0].sum(-1)
    gap = np.abs(sums[..., 1] - sums[..., 2]).sum(-1)
    return np.divide(gap, frames, out=np.full(frames.shape, np.nan), where=frames > 0)


def prediction_entropy(counts: Int[np.ndarray, "*r c c"]) -> Float[np.ndarray, "*r"]:
    """Entropy of the histogram of predicted classes divided by log(number of classes).

    1: all classes are predicted equally often; 0: one class only. NaN without predictions or with
    fewer than two classes. It says nothing about the confidence of single predictions.

    Args:
      counts: confusion matrices of metrics.confusion, predicted classes as columns.
    """
    predicted = counts.sum(-2).astype(np.float64)
    total, classes = predicted.sum(-1), counts.shape[-1]
    if classes < 2:
        return np.full(total.shape, np.nan)
    share = predicted / np.maximum(total, 1)[..., None]
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.where(total > 0, np.abs((share * logs).sum(-1)) / np.log(classes), np.nan)


def collapsed(counts: Int[np.ndarray, "c c"]) -> bool:
    """Whether the model answers nearly always the same, from the confusion matrix of all frames.

    The rule: one class has at least 95 % of the predictions but less than 95 % of the labels.
    """
    total = max(counts.sum(), 1)
    true, predicted = counts.sum(1) / total, counts.sum(0) / total
    return bool(((predicted >= COLLAPSE) & (true < COLLAPSE)).any())
