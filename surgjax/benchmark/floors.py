"""What a model reaches that does not look at the video; printed beside every accuracy and mAP.

Several published results equal the accuracy of one constant class.
"""

import numpy as np
from jaxtyping import Float, Int, Num


def majority_of_train(
    train: Int[np.ndarray, "m"], counts: Int[np.ndarray, "v c c"]
) -> dict[str, int | float]:
    """Scores on the test videos of always answering the most frequent class of the training set.

    Args:
      train: labels of the training frames; of equally frequent classes the first is taken.
      counts: confusion matrices of the test videos, from metrics.by_video; only labels count.

    Returns:
      {"class": int, "image_accuracy": over all frames, "video_accuracy": mean over videos}; shares,
      NaN without frames.

    Raises:
      ValueError: no training labels, or one outside the classes.
    """
    classes = counts.shape[-1]
    if not len(train) or not 0 <= train.min() <= train.max() < classes:
        raise ValueError(f"training labels are empty or outside 0 to {classes - 1}")
    chosen = int(np.bincount(train, minlength=classes).argmax())
    image, video = _constants(counts)
    return {
        "class": chosen,
        "image_accuracy": float(image[chosen]),
        "video_accuracy": float(video[chosen]),
    }


def best_constant(counts: Int[np.ndarray, "v c c"]) -> dict[str, float]:
    """Highest accuracy on the test videos of any one constant class, chosen on the test itself.

    Returns:
      {"image_accuracy": share, "video_accuracy": share}, each with the class that is best for it.
    """
    image, video = _constants(counts)
    return {"image_accuracy": float(image.max()), "video_accuracy": float(video.max())}


def chance_average_precision(label: Num[np.ndarray, "n c"]) -> Float[np.ndarray, "c"]:
    """AP of each class for constant scores: its share of positives; NaN for a class without any.

    NaN labels (unknown) are left out. The mean over the classes that occur is the chance mAP. On
    few frames random scores reach a little more on average.
    """
    known = ~np.isnan(label)
    positive, count = (known & (label > 0.5)).sum(0), known.sum(0)
    return np.divide(positive, count, out=np.full(count.shape, np.nan), where=positive > 0)


def _constants(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy over frames and mean accuracy over videos of each constant class, (c,)."""
    labels = counts.sum(2)
    if not labels.sum():
        return (np.full(labels.shape[1], np.nan),) * 2
    return labels.sum(0) / labels.sum(), (labels / labels.sum(1, keepdims=True)).mean(0)
