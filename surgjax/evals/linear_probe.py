"""A linear classifier on frozen features: the number by which encoders are compared.

Features are standardised with the training clips' mean and deviation. The strength of the
regularisation is the one of STRENGTHS with the best macro-F1 per video on the validation cases, of
several classes a clip the best mean average precision; the same grid for every encoder. The
classifier is fitted on training cases alone and tested on test cases once. Without validation cases
every fifth training case stands in for them, and then all training cases are fitted; with fewer
than MIN_CASES the strength is FIXED.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from surgjax.benchmark import metrics
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.classification import all_features, finish
from surgjax.evals.features import LabelledClips, in_words, labelled_clips, moments
from surgjax.evals.model import Model

# Inverse strength of the L2 penalty (scikit-learn's C), strongest first.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FIXED, MIN_CASES = 1e-2, 5
Classifier = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Evaluator:
    """Linear probe.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n or multi_label task of it.
      split: name of a split with train and test cases, perhaps val.
      every_s: seconds between clips of a video.
      anchor: place of the labelled frame in its clip, "middle" or "last".
      unit: "frame", or "video" for stores whose videos have one label each.
      segments: clips of a video whose mean stands for it, with unit "video".
      batch_size: clips an encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    every_s: float = 0.5
    anchor: str = "middle"
    unit: str = "frame"
    segments: int = 1
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet, metrics.json and pictures into `out`; returns scalars.

        Raises:
          UserError: the store lacks the task, the split, or clips in its train or test part.
        """
        store = open_store(self.store)
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
            unit=self.unit,
        )
        parts = parts_of(clips, self.store, self.split)
        found = all_features(
            *(store, clips, model, self.batch_size), unit=self.unit, segments=self.segments
        )
        probs, strengths = {}, {}
        for name, values in found.items():
            model.go_on()
            probs[name], strengths[name] = probe(values, clips, parts)
        return finish(
            model,
            clips.where(parts["test"]),
            probs,
            clips.label[parts["train"]],
            name="linear_probe",
            protocol=f"logistic regression on frozen mean-pooled features, "
            f"{choice_in_words(clips, parts)}, "
            + in_words(self.unit, self.segments, self.every_s, self.anchor),
            store=store,
            details={
                "task": self.task,
                "strengths": strengths,
                "clips_by_part": {part: int(mask.sum()) for part, mask in parts.items()},
            },
            out=out,
            step=step,
        )


def parts_of(clips: LabelledClips, store: str, split: str) -> dict[str, Bool[np.ndarray, "n"]]:
    """The clips of "train", "val" and "test".

    Raises:
      UserError: no training or no test clips, or training clips that do not differ.
    """
    parts = {part: clips.split == part for part in ("train", "val", "test")}
    for part in ("train", "test"):
        if not parts[part].any():
            raise UserError(
                f"{store} has no labelled clips in part {part!r} of split {split!r}; expected "
                f"train and test, and val where there is one"
            )
    label = clips.label[parts["train"]]
    if (np.isnan(label) | (label == label[0])).all():
        raise UserError(f"all training clips of {store} have one label; expected at least two")
    return parts


def choice_in_words(clips: LabelledClips, parts: Mapping[str, np.ndarray]) -> str:
    """How the strength is chosen, for a protocol's line."""
    if parts["val"].any():
        return "strength chosen on validation cases"
    if len(np.unique(clips.case[parts["train"]])) < MIN_CASES:
        return f"no validation cases: strength {FIXED:g}"
    return "no validation cases: strength chosen on every fifth training case, all of them fitted"


def probe(
    values: Float[np.ndarray, "n d"], clips: LabelledClips, parts: Mapping[str, np.ndarray]
) -> tuple[Float[np.ndarray, "m c"], float]:
    """(class probabilities of the test clips float32, strength chosen).

    The stronger penalty wins a tie.
    """
    train, val, test = (parts[name] for name in ("train", "val", "test"))
    fitted, strength = None, FIXED
    if val.any():
        fitted, strength = _choose(values, clips, train, val)
    elif len(cases := np.unique(clips.case[train])) >= MIN_CASES:
        judged = train & np.isin(clips.case, cases[MIN_CASES - 1 :: MIN_CASES])
        _, strength = _choose(values, clips, train & ~judged, judged)
    fitted = fitted or fit(values[train], clips.label[train], strength, len(clips.classes))
    return fitted(values[test]).astype(np.float32), strength


def fit(
    values: Float[np.ndarray, "n d"],
    label: Int[np.ndarray, "n"] | Float[np.ndarray, "n c"],
    strength: float,
    classes: int,
) -> Classifier:
    """Logistic regression: features (m, d) -> probabilities (m, classes), float64.

    Of one class a row multinomial, of several one regression a class on the rows where its label is
    known. A class without two kinds of labels has its share of the rows as its probability.
    """
    values = values.astype(np.float64)
    mean, deviation = moments(values)
    fitted = (_fit_one_of_n if label.ndim == 1 else _fit_several)(
        (values - mean) / deviation, label, strength, classes
    )
    return lambda asked: fitted((asked.astype(np.float64) - mean) / deviation)


def validation_score(probs: np.ndarray, clips: LabelledClips) -> float:
    """Macro-F1 per video, or mean average precision; 0 where no class occurs."""
    if clips.kind == "one_of_n":
        counts = metrics.by_video(clips.label, probs.argmax(1), clips.video_id, len(clips.classes))
        return float(metrics.macro_f1(counts[1]).mean())
    found = metrics.mean_known(metrics.average_precision(clips.label, probs))
    return 0.0 if np.isnan(found) else found


def _choose(
    values: np.ndarray, clips: LabelledClips, train: np.ndarray, judged: np.ndarray
) -> tuple[Classifier, float]:
    best, chosen = -1.0, None
    for strength in STRENGTHS:
        fitted = fit(values[train], clips.label[train], strength, len(clips.classes))
        score = validation_score(fitted(values[judged]), clips.where(judged))
        if score > best:
            best, chosen = score, (fitted, strength)
    return chosen


def _fit_one_of_n(
    values: np.ndarray, label: Int[np.ndarray, "n"], strength: float, classes: int
) -> Classifier:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    only = np.unique(label)
    if len(only) == 1:
        return lambda asked: np.tile(np.eye(classes)[only], (len(asked), 1))
    # One thread: the problem is small, and sums then do not depend on the number of cores.
    with threadpool_limits(1), warnings.catch_warnings():
        # Two thousand steps of L-BFGS: what still moves then moves no prediction.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=strength, max_iter=2000, tol=1e-4).fit(values, label)

    def probabilities(asked: np.ndarray) -> np.ndarray:
        made = np.zeros((len(asked), classes))
        made[:, fitted.classes_] = fitted.predict_proba(asked)
        return made

    return probabilities


def _fit_several(
    values: np.ndarray, label: Float[np.ndarray, "n c"], strength: float, classes: int
) -> Classifier:
    """All classes in one minimisation: they share no weights, but every product with `values`."""
    from scipy.optimize import minimize
    from scipy.special import expit
    from threadpoolctl import threadpool_limits

    known = ~np.isnan(label)
    true = np.where(known, label, 0.0).astype(np.float64)
    share = np.nan_to_num(metrics.ratio(true.sum(0), known.sum(0)))
    fitted = np.flatnonzero((share > 0) & (share < 1))
    known, true, width = known[:, fitted], true[:, fitted], values.shape[1]
    scale = 1 / (strength * len(values))  # as scikit-learn's: the tolerance is of a mean

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(len(fitted), width + 1)
        logits = values @ weights[:, :-1].T + weights[:, -1]
        each = np.where(known, np.logaddexp(0, logits) - true * logits, 0)
        error = np.where(known, expit(logits) - true, 0) / len(values)
        slope = np.concatenate([error.T @ values, error.sum(0)[:, None]], axis=1)
        slope[:, :-1] += scale * weights[:, :-1]
        value = each.sum() / len(values) + scale / 2 * np.square(weights[:, :-1]).sum()
        return float(value), slope.ravel()

    start = np.zeros((len(fitted), width + 1))
    start[:, -1] = np.log(share[fitted] / (1 - share[fitted]))
    weights = start
    if len(fitted):
        options = {"maxiter": 2000, "gtol": 1e-5, "ftol": 64 * np.finfo(float).eps}
        with threadpool_limits(1):
            found = minimize(
                *(loss_and_gradient, start.ravel()), jac=True, method="L-BFGS-B", options=options
            )
        weights = found.x.reshape(start.shape)

    def probabilities(asked: np.ndarray) -> np.ndarray:
        made = np.tile(share, (len(asked), 1))
        made[:, fitted] = expit(asked @ weights[:, :-1].T + weights[:, -1])
        return made

    return probabilities
