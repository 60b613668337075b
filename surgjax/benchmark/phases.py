"""Phase recognition: accuracy, precision, recall, Jaccard and F1, per video and pooled.

`count` looks at the frames once; every metric is computed from its counts, so that a bootstrap
over videos only resamples a few numbers a video. All values are shares in [0, 1]. The protocol is
part of a number's name, since one prediction scores tens of points apart under two of them:

    strict              a frame is right where the prediction is the label
    relaxed_10s         next to a transition, 10 seconds of the phases before or after are right too
    relaxed_10s_tmrnet  the same as TMRNet's Evaluate.m computes it, with its errors

The relaxed rules are those of Evaluate.m (TMRNet, code/eval/result/matlab-eval; reused by
Trans-SVNet, LoViT and Surgformer). The program has two errors that only relaxed_10s_tmrnet repeats:
the frames to forgive at the end of a segment are looked up at the end but forgiven at the start,
and a phase that was never predicted has precision 1 where some of its frames are forgiven. Its
reader also drops the first frame of every file without a header line; leave out these rows to
reproduce a number to the last digit.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from surgjax.benchmark import metrics, segments

PROTOCOLS = ("strict", "relaxed_10s", "relaxed_10s_tmrnet")
SHARES = ("precision", "recall", "jaccard", "f1")
METRICS = ("image_accuracy", "video_accuracy", *SHARES, *(f"{name}_pooled" for name in SHARES))
TOLERANCE_S = 10

# (late, early) of a phase: values of prediction - label that are forgiven at the start of its
# segments, where the phase before may last a little, and at their end, where the next may begin.
GENERAL = ((-1,), (1,))
SKIPS_NEXT = ((-1,), (1, 2))
SKIPS_BOTH = ((-1, -2), (1, 2))
CHOLEC80 = (GENERAL,) * 3 + (SKIPS_NEXT,) * 2 + (SKIPS_BOTH,) * 2
FORGIVEN = {
    "cholec80": CHOLEC80,
    "autolaparo": CHOLEC80,  # its papers evaluate with the Cholec80 program
    "m2cai16": (GENERAL, *CHOLEC80),
}


@dataclass(frozen=True)
class Counts:
    """Numbers of frames of each video, all int64.

    Attributes:
      protocol: one of PROTOCOLS.
      videos: their names.
      frames, correct: all frames, and those that are right.
      hit: frames that are right among those labelled or predicted as the phase. Relaxed, a forgiven
        frame is a hit of both phases, so there can be more of them than labels or predictions.
      true, predicted, either: frames labelled as the phase, predicted as it, at least one of both.
    """

    protocol: str
    videos: list[str]
    frames: Int[np.ndarray, "v"]
    correct: Int[np.ndarray, "v"]
    hit: Int[np.ndarray, "v c"]
    true: Int[np.ndarray, "v c"]
    predicted: Int[np.ndarray, "v c"]
    either: Int[np.ndarray, "v c"]

    def of(self, rows: Int[np.ndarray, "r"]) -> "Counts":
        """The counts of these videos; one that is named twice counts twice."""
        arrays = ("frames", "correct", "hit", "true", "predicted", "either")
        return dataclasses.replace(
            self,
            videos=[self.videos[row] for row in rows],
            **{name: getattr(self, name)[rows] for name in arrays},
        )


def count(
    label: Int[np.ndarray, "n"],
    pred: Int[np.ndarray, "n"],
    video: Shaped[np.ndarray, "n"],
    classes: int,
    *,
    protocol: str,
    dataset: str | None = None,
    t_ms: Num[np.ndarray, "n"] | None = None,
    fps: float | int | None = None,
) -> Counts:
    """Counts of each video, in sorted order of their names.

    Args:
      label, pred: phases from 0 in the order of the operation, which the relaxed rules rely on.
      dataset: relaxed only: a name of FORGIVEN, or any other for the general rule.
      t_ms: relaxed only: time of each frame in milliseconds. The rate of the labels is one over the
        median time between two frames of a video.
      fps: instead of `t_ms`: labels a second, the rows of each video being in order.

    Raises:
      ValueError: an unknown protocol; a label or prediction outside 0..classes-1; relaxed: neither
        or both of `t_ms` and `fps`, no positive `fps`, no data set, another number of phases than
        the data set has, or two frames of a video at one time.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    names, matrices = metrics.by_video(label, pred, video, classes)
    hit = np.diagonal(matrices, axis1=1, axis2=2).copy()
    true, predicted = matrices.sum(2), matrices.sum(1)
    correct, either = hit.sum(1), true + predicted - hit
    if protocol != "strict":
        rules = _rules(protocol, dataset, classes)
        if (t_ms is None) == (fps is None):
            raise ValueError(f"{protocol} needs t_ms or fps, since its tolerance is in seconds")
        if fps is not None and not fps > 0:
            raise ValueError(f"fps is {fps}, expected the labels a second, above 0")
        for i, rows in enumerate(segments.in_order(video, t_ms)[1]):
            rate = fps if t_ms is None else _rate(t_ms[rows])
            window = round(TOLERANCE_S * rate)
            misplaced = protocol == "relaxed_10s_tmrnet"
            right = _right(label[rows], pred[rows], rules, window, misplaced=misplaced)
            correct[i] = right.sum()
            hit[i] = _either_right(label[rows], pred[rows], right, classes)
    return Counts(protocol, names, matrices.sum((1, 2)), correct, hit, true, predicted, either)


def value(counts: Counts, metric: str) -> float:
    """One of METRICS over all videos; NaN where it is not defined.

    image_accuracy is the share of all frames that are right, video_accuracy the mean of the videos'
    shares. The others are the mean of `per_phase` over phases. As in TMRNet's Main.m, a phase that
    no video shows makes recall and jaccard NaN, and f1 with them, while precision leaves out the
    phases without a value. The pooled ones leave them out too.

    Raises:
      ValueError: no such metric.
    """
    if metric == "image_accuracy":
        return float(metrics.ratio(counts.correct.sum(), counts.frames.sum()))
    if metric == "video_accuracy":
        return _mean(metrics.ratio(counts.correct, counts.frames))
    return _mean(_averaged(counts, metric))


def spread(counts: Counts, metric: str) -> float:
    """Standard deviation (n - 1) that papers print behind the value: of video_accuracy over videos,
    of the others over phases. NaN for image_accuracy and where fewer than two values are.

    Raises:
      ValueError: no such metric.
    """
    if metric == "image_accuracy":
        return float("nan")
    if metric == "video_accuracy":
        values = metrics.ratio(counts.correct, counts.frames)
    else:
        values = _averaged(counts, metric)
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def per_phase(counts: Counts, metric: str) -> Float[np.ndarray, "c"]:
    """A metric of each phase; with TP the hits, precision = TP / predicted, recall = TP / true,
    jaccard = TP / either, f1 = 2 TP / (true + predicted). Relaxed, they are cut to 1.

    Without "_pooled": of each video that shows the phase, then the mean over these videos; false
    alarms in other videos do not count, and a video where the phase was never predicted has no
    precision. Source: TMRNet's Evaluate.m and Main.m, which have no f1; it follows their rules for
    recall.

    With "_pooled": of the frames of all videos together, as TeCNO's paper and as scikit-learn's
    scores of a class with zero_division=nan. NaN for a phase neither true nor predicted; recall
    also for one that is never true, precision for one that is never predicted.

    Raises:
      ValueError: no such metric.
    """
    name = metric.removesuffix("_pooled")
    if name not in SHARES:
        raise ValueError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}")
    hit, true, predicted, either = (
        x.sum(0) if metric.endswith("_pooled") else x
        for x in (counts.hit, counts.true, counts.predicted, counts.either)
    )
    below = {"precision": predicted, "recall": true, "jaccard": either, "f1": true + predicted}
    shares = np.minimum(metrics.ratio(hit * (2 if name == "f1" else 1), below[name]), 1)
    if metric.endswith("_pooled"):
        return shares
    if name == "precision" and counts.protocol == "relaxed_10s_tmrnet":
        shares[(predicted == 0) & (hit > 0)] = 1  # the program's x / 0 = Inf, cut to 100
    shares[true == 0] = np.nan
    known = ~np.isnan(shares)
    return metrics.ratio(np.where(known, shares, 0).sum(0), known.sum(0))


def _rules(protocol: str, dataset: str | None, classes: int) -> tuple:
    if dataset is None:
        raise ValueError(f"{protocol} needs the data set's name: what is forgiven depends on it")
    rules = FORGIVEN.get(dataset, (GENERAL,) * classes)
    if len(rules) != classes:
        raise ValueError(f"{classes} classes, expected the {len(rules)} phases of {dataset}")
    return rules


def _rate(t_ms: np.ndarray) -> float:
    """Labels a second. The median, since one missing frame must not change the tolerance."""
    return 1000 / float(np.median(np.diff(t_ms))) if len(t_ms) > 1 else 1.0


def _right(
    label: np.ndarray, pred: np.ndarray, rules: tuple, window: int, *, misplaced: bool
) -> np.ndarray:
    """Which frames of one video, in order of time, are right or forgiven."""
    difference = pred.astype(np.int64) - label.astype(np.int64)
    for phase, start, end in zip(*segments.runs(label), strict=True):
        late, early = rules[phase]
        near = min(window, end - start)
        head, tail = difference[start : start + near], difference[end - near : end]
        head[np.isin(head, late)] = 0
        forgiven = np.isin(tail, early)
        (head if misplaced else tail)[forgiven] = 0
    return difference == 0


def _either_right(
    label: np.ndarray, pred: np.ndarray, right: np.ndarray, classes: int
) -> np.ndarray:
    forgiven = right & (pred != label)
    labelled = np.bincount(label[right], minlength=classes)
    return labelled + np.bincount(pred[forgiven], minlength=classes)


def _averaged(counts: Counts, metric: str) -> np.ndarray:
    """The values of the phases that a mean over phases takes."""
    values = per_phase(counts, metric)
    if metric == "precision" or metric.endswith("_pooled"):
        return values[~np.isnan(values)]
    return values


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
