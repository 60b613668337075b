"""A temporal head on features of whole videos: the two-stage baseline of phase recognition.

The encoder, frozen or fine-tuned, gives a feature for every labelled frame of a video (one in so
many seconds); a head of surgjax/models/temporal.py then learns from the training videos, a whole
video a step, as TeCNO does (arXiv 2003.10751): Adam, cross-entropy averaged over the stages. Frames
without a label of the task are left out of the sequences. Features are standardised with the
training frames' mean and deviation. Where a split has validation cases, the epoch with the best
macro-F1 per video (several labels: mean average precision) on them is taken, else the last one.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from surgjax.data.store import open_store
from surgjax.errors import UserError, nearest
from surgjax.evals.classification import all_features, finish
from surgjax.evals.features import LabelledClips, in_words, labelled_clips, moments
from surgjax.evals.linear_probe import parts_of, validation_score
from surgjax.evals.model import Model
from surgjax.models.temporal import SQUASH, MultiStageTcn, WindowTransformer
from surgjax.state import Params, rebuild, split

HEADS = ("tcn", "transformer")
LAYERS = 16  # that many already see 36 hours at a frame a second
SHORTEST = 64  # frames; shorter videos are filled up
TRUNCATION = 4.0  # of the smoothing loss, in log-probability (MS-TCN, section 3.3)
LOGGED = 10  # lines a training

log = logging.getLogger("surgjax")


@dataclass(frozen=True)
class Evaluator:
    """A temporal head trained on features.

    Attributes:
      store: folder of a store with labels.
      task: of one class or of several at once.
      split: name of a split with train and test cases, perhaps val.
      head: "tcn" (multi-stage TCN) or "transformer".
      causal: online recognition; else the head sees the whole video.
      anchor: place of the labelled frame in its clip, "last" (online) or "middle".
      every_s: seconds between frames.
      epochs: passes over the training videos.
      lr: of Adam, constant. Published (SurgVISTA's comparison with TeCNO): 7e-5 for Cholec80, 1e-4
        for M2CAI16, 5e-4 for Cataract-101.
      stages, layers: of the TCN; depth, window: of the transformer, in blocks and frames.
      maps: channels of either. dropout: share of them left out while training.
      class_weights: classes count by the inverse of their frequency (median frequency balancing,
        as in TeCNO), of tasks of one class.
      smoothing: weight of MS-TCN's loss on changes between neighbouring frames, 0.15 published.
      seed: of the head's start, the order of the videos, and dropout.
      batch_size: clips an encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    head: str = "tcn"
    causal: bool = True
    anchor: str = "last"
    every_s: float = 1.0
    epochs: int = 50
    lr: float = 5e-4
    stages: int = 2
    layers: int = 9
    depth: int = 2
    window: int = 256
    maps: int = 64
    dropout: float = 0.5
    class_weights: bool = True
    smoothing: float = 0.0
    seed: int = 0
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet, metrics.json and pictures into `out`; returns scalars.

        Raises:
          UserError: an unknown head or a number that is not one; the store lacks the task, the
            split, or clips to learn from or to test on.
        """
        if self.head not in HEADS:
            raise UserError(
                f"head is {self.head!r}{nearest(self.head, HEADS)}; choose tcn or transformer"
            )
        for name in ("epochs", "stages", "layers", "depth", "window", "maps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.layers > LAYERS:
            raise UserError(f"layers is {self.layers}; expected at most {LAYERS}")
        if not self.lr > 0:
            raise UserError(f"lr is {self.lr:g}; expected a rate above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout:g}; expected from 0 to below 1")
        store = open_store(self.store)
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
        )
        parts = parts_of(clips, self.store, self.split)
        probs, epochs = {}, {}
        for name, values in all_features(store, clips, model, self.batch_size).items():
            probs[name], epochs[name] = self.fit(values, clips, parts, name, model.go_on)
        tested = clips.where(parts["test"])
        score = "macro-F1 per video" if clips.kind == "one_of_n" else "mean average precision"
        choice = f"best by {score} on validation cases" if parts["val"].any() else "the last one"
        return finish(
            model,
            tested,
            probs,
            clips.label[parts["train"]],
            name="temporal",
            protocol=f"{'causal' if self.causal else 'offline'} {self.head} on features of whole "
            f"videos, {in_words('frame', 1, self.every_s, self.anchor)}, {self.epochs} epochs, "
            f"{choice}, seed {self.seed}",
            store=store,
            details={
                "task": self.task,
                "epochs": epochs,
                "clips_by_part": {part: int(mask.sum()) for part, mask in parts.items()},
            },
            out=out,
            step=step,
        )

    def fit(
        self,
        values: Float[np.ndarray, "n d"],
        clips: LabelledClips,
        parts: dict[str, np.ndarray],
        name: str = "",
        go_on: Callable[[], None] = lambda: None,
    ) -> tuple[Float[np.ndarray, "m c"], int]:
        """(probabilities of the test clips float32, epoch taken from 1), learnt from the training
        clips alone.

        Args:
          name: in the log.
          go_on: called before each epoch.
        """
        mean, deviation = moments(values[parts["train"]])
        values = ((values - mean) / deviation).astype(np.float32)
        train, val, test = (
            _videos(values, clips, parts[part]) for part in ("train", "val", "test")
        )
        weight = np.ones(len(clips.classes), np.float32)
        if self.class_weights and clips.kind == "one_of_n":
            weight = balanced(clips.label[parts["train"]], len(clips.classes))
        classes = len(clips.classes)
        graphdef, params = split(self._head(values.shape[1], classes, clips.kind))
        adam = optax.adam(self.lr).init(params)
        learn = partial(_step, graphdef, clips.kind, self.lr, self.smoothing)
        answer = lambda params, videos: _answers(graphdef, clips.kind, params, videos)  # noqa: E731
        judged, best, kept, taken = clips.where(parts["val"]), -1.0, params, self.epochs
        for epoch in range(1, self.epochs + 1):
            go_on()
            order = np.random.default_rng((self.seed, epoch)).permutation(len(train))
            losses = []
            for nth, at in enumerate(order):
                key = np.uint32([self.seed, (epoch - 1) * len(train) + nth])
                params, adam, loss = learn(params, adam, train[at].arrays, weight, key)
                losses.append(loss)
            if val:
                found = validation_score(answer(params, val), judged)
                if found > best:
                    best, kept, taken = found, params, epoch
            if epoch % max(1, self.epochs // LOGGED) == 0:
                log.info(
                    "temporal %s: epoch %d of %d, loss %.4f%s",
                    *(name, epoch, self.epochs, np.mean(losses)),
                    f", validation {found:.4f}" if val else "",
                )
        return answer(kept if val else params, test), taken

    def _head(self, inputs: int, classes: int, kind: str) -> nnx.Module:
        given = dict(causal=self.causal, dropout=self.dropout, rngs=nnx.Rngs(self.seed))
        if self.head == "tcn":
            shape = dict(stages=self.stages, layers=self.layers, maps=self.maps)
            return MultiStageTcn(inputs, classes, kind=kind, **shape, **given)
        shape = dict(depth=self.depth, width=self.maps, window=self.window)
        return WindowTransformer(inputs, classes, **shape, **given)


def balanced(label: Int[np.ndarray, "n"], classes: int) -> Float[np.ndarray, "c"]:
    """Median frequency balancing (Eigen & Fergus, arXiv 1411.4734, section 6.3.2, with shares of
    all frames): the median share of the classes that occur by the class's own, 1 for others."""
    share = np.bincount(label, minlength=classes) / len(label)
    occurs = share > 0
    weight = np.median(share[occurs]) / np.where(occurs, share, 1)
    return np.where(occurs, weight, 1).astype(np.float32)


def loss_of(
    scores: Float[Array, "stages t c"],
    target: Float[Array, "t c"],
    weight: Float[Array, "c"],
    kind: str,
    smoothing: float,
) -> Float[Array, ""]:
    """Mean over stages of the loss of known frames and classes, and `smoothing` times MS-TCN's
    truncated mean squared change of log-probabilities from a frame to the next (section 3.3).

    Args:
      target: 1, 0, and NaN where unknown or filled up.
    """
    known = ~jnp.isnan(target)
    wanted = jnp.where(known, target, 0)
    if kind == "one_of_n":
        logs = jax.nn.log_softmax(scores)
        counted = wanted * weight
        each = -logs
    else:
        logs = jax.nn.log_sigmoid(scores)
        counted = known.astype(jnp.float32)
        each = jnp.logaddexp(0.0, scores) - wanted * scores
    loss = (each * counted).sum((1, 2)).mean() / jnp.maximum(counted.sum(), 1e-6)
    if smoothing:
        change = jnp.square(logs[:, 1:] - jax.lax.stop_gradient(logs[:, :-1]))
        pairs = known.any(-1)[1:] & known.any(-1)[:-1]
        cut = jnp.minimum(change, TRUNCATION**2) * pairs[:, None]
        loss += smoothing * cut.mean((0, 2)).sum() / jnp.maximum(pairs.sum(), 1)
    return loss


@dataclass(frozen=True)
class _Video:
    """A video filled up to one of few lengths, so that little is compiled.

    Attributes:
      arrays: features (t d) float32, seen (t) bool, target (t c) float32.
      frames: how many there are.
    """

    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    frames: int


def _videos(
    values: Float[np.ndarray, "n d"], clips: LabelledClips, mask: np.ndarray
) -> list[_Video]:
    """Sequences of the clips of a mask, in the order of the clips."""
    classes, found = len(clips.classes), []
    for video in np.unique(clips.rows["video"][mask]):
        at = np.flatnonzero(mask & (clips.rows["video"] == video))
        length = filled_length(len(at))
        features = np.zeros((length, values.shape[1]), np.float32)
        target = np.full((length, classes), np.nan, np.float32)
        features[: len(at)] = values[at]
        label = clips.label[at]
        target[: len(at)] = np.eye(classes)[label] if label.ndim == 1 else label
        found.append(_Video((features, np.arange(length) < len(at), target), len(at)))
    return found


def filled_length(frames: int) -> int:
    """The least of 64, 96, 128, 192, 256, ... that holds so many frames."""
    length = SHORTEST
    while length < frames:
        length = length * 3 // 2 if length & (length - 1) == 0 else length * 4 // 3
    return length


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _step(
    graphdef: nnx.GraphDef,
    kind: str,
    lr: float,
    smoothing: float,
    params: Params,
    adam: Any,
    video: tuple,
    weight: Array,
    key: Array,
) -> tuple[Params, Any, Array]:
    features, seen, target = video
    rng = jax.random.fold_in(jax.random.key(key[0]), key[1])

    def loss(params: Params) -> Array:
        scores = rebuild(graphdef, params)(features[None], seen[None], rng=rng)[:, 0]
        return loss_of(scores, target, weight, kind, smoothing)

    value, grads = jax.value_and_grad(loss)(params)
    updates, adam = optax.adam(lr).update(grads, adam, params)
    return optax.apply_updates(params, updates), adam, value


@partial(jax.jit, static_argnums=(0, 1))
def _answer(graphdef: nnx.GraphDef, kind: str, params: Params, features: Array, seen: Array):
    return SQUASH[kind](rebuild(graphdef, params)(features[None], seen[None])[-1, 0])


def _answers(graphdef, kind: str, params: Params, videos: list[_Video]) -> np.ndarray:
    """Probabilities (n c) of the videos' frames, float32."""
    found = []
    for video in videos:
        features, seen, _ = video.arrays
        found.append(np.asarray(_answer(graphdef, kind, params, features, seen))[: video.frames])
    return np.concatenate(found).astype(np.float32)
