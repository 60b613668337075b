"""A linear classifier on frozen features: the number by which encoders are compared.

Features are standardised with the training clips' mean and deviation. The strength of the
regularisation is the one of STRENGTHS with the best macro-F1 per video on the validation cases, the
same grid for every encoder; the classifier is fitted on training cases alone and tested on test
cases once.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from surgjax.benchmark import metrics
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.classification import all_features, finish
from surgjax.evals.features import LabelledClips, labelled_clips
from surgjax.evals.model import Model

# Inverse strength of the L2 penalty (scikit-learn's C), strongest first.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Evaluator:
    """Linear probe.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n task of it.
      split: name of a split with train, val and test cases.
      every_s: seconds between clips of a video.
      batch_size: clips an encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    every_s: float = 0.5
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet, metrics.json and pictures into `out`; returns scalars.

        Raises:
          UserError: the store lacks the task, the split, or clips in one of its parts.
        """
        store = open_store(self.store)
        clips = labelled_clips(store, self.task, model.clip, every_s=self.every_s, split=self.split)
        parts = {part: clips.split == part for part in ("train", "val", "test")}
        for part, mask in parts.items():
            if not mask.any():
                raise UserError(
                    f"{self.store} has no labelled clips in part {part!r} of split {self.split!r};"
                    f" expected train, val and test"
                )
        if len(np.unique(clips.label[parts["train"]])) < 2:
            raise UserError(
                f"all training clips of {self.store} have one {self.task}; expected at least two"
            )
        probs, strengths = {}, {}
        for name, values in all_features(store, clips, model, self.batch_size).items():
            probs[name], strengths[name] = probe(values, clips, parts)
        return finish(
            model,
            clips.where(parts["test"]),
            probs,
            clips.label[parts["train"]],
            name="linear_probe",
            protocol="logistic regression on frozen mean-pooled features, strength chosen on "
            f"validation cases, one clip in {self.every_s:g} s",
            store=store,
            details={
                "task": self.task,
                "strengths": strengths,
                "clips_by_part": {part: int(mask.sum()) for part, mask in parts.items()},
            },
            out=out,
            step=step,
        )


def probe(
    values: Float[np.ndarray, "n d"], clips: LabelledClips, parts: dict[str, np.ndarray]
) -> tuple[Float[np.ndarray, "m c"], float]:
    """(class probabilities of the test clips float32, strength chosen).

    The stronger penalty wins a tie.
    """
    train, val, test = (parts[name] for name in ("train", "val", "test"))
    values = values.astype(np.float64)
    mean, deviation = values[train].mean(0), values[train].std(0)
    deviation = np.where(deviation > 1e-6 * (1 + np.abs(mean)), deviation, 1)
    values = (values - mean) / deviation
    best, chosen = -1.0, None
    for strength in STRENGTHS:
        fitted = _fit(values[train], clips.label[train], strength)
        pred = fitted.predict(values[val])
        counts = metrics.by_video(clips.label[val], pred, clips.video_id[val], len(clips.classes))
        score = float(metrics.macro_f1(counts[1]).mean())
        if score > best:
            best, chosen = score, (strength, fitted)
    strength, fitted = chosen
    probs = np.zeros((int(test.sum()), len(clips.classes)), np.float32)
    probs[:, fitted.classes_] = fitted.predict_proba(values[test])
    return probs, strength


def _fit(values: np.ndarray, label: Int[np.ndarray, "n"], strength: float):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # One thread: the problem is small, and sums then do not depend on the number of cores.
    with threadpool_limits(1), warnings.catch_warnings():
        # Two thousand steps of L-BFGS: what still moves then moves no prediction.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=2000, tol=1e-4).fit(values, label)
