"""V-JEPA 2's attentive probe on a frozen encoder's tokens (arXiv 2506.09985, appendix on probes).

A head is learnt for every rate and weight decay of GRID, the same grid for every encoder. All of
them learn at once: a batch of clips is decoded and encoded once, and no epoch's tokens are kept.
AdamW on the cross-entropy, the decay on all parameters, half a cosine down to 0 without warm-up.
After the last epoch the point with the best macro-F1 per video on the validation cases, of several
classes a clip the best mean average precision, is tested once. Without validation cases FIXED alone
is learnt. Training clips are boxes of random area and place, tested ones the centred square.
"""

import hashlib
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from surgjax.data.clip import decode_clip
from surgjax.data.store import Store, open_store
from surgjax.data.transforms import Augmentation
from surgjax.errors import UserError
from surgjax.evals.classification import finish, mean_features
from surgjax.evals.features import (
    LabelledClips,
    in_words,
    labelled_clips,
    read_ahead,
    views_of,
)
from surgjax.evals.kept import digest
from surgjax.evals.linear_probe import parts_of, validation_score
from surgjax.evals.model import Model
from surgjax.evals.progress import Progress
from surgjax.evals.temporal import loss_of
from surgjax.files import sha256, whole
from surgjax.models.heads import AttentivePool
from surgjax.models.temporal import SQUASH
from surgjax.state import Params, rebuild, split

# Of the published rates (also 5e-3) and decays (also 0.8); assumed: the ends are not needed.
RATES, DECAYS = (3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4)
GRID = tuple(itertools.product(RATES, DECAYS))
FIXED = (1e-3, 0.1)  # assumed: the middle, as configs/finetune.py:attentive
CHANNELS = 64  # of an attention head; the published 16 heads of 1024 channels
# Assumed, as configs/finetune.py; published are boxes from 8 % and RandAugment.
AUGMENT = Augmentation("resized", area=(0.7, 1.0))
ADAM = optax.scale_by_adam()  # PyTorch's defaults: 0.9, 0.999, 1e-8

log = logging.getLogger("surgjax")


@dataclass(frozen=True)
class Evaluator:
    """Attentive probe.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n or multi_label task of it.
      split: name of a split with train and test cases, perhaps val.
      every_s: seconds between clips of a video.
      anchor: place of the labelled frame in its clip, "middle" or "last".
      unit: "frame", or "video" for stores whose videos have one label each.
      segments: clips of a video, with unit "video": all are learnt from, and their mean answers.
      depth: self-attention blocks below the query: 3 published, 0 for V-JEPA 1's probe.
      epochs: passes over the training clips, 20 published.
      seed: of the heads' start, which is the same for the grid, and of the training clips' order
        and boxes.
      random: a probe of the same network with fresh weights stands beside, at the same cost.
      batch_size: clips a step, and that an encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    every_s: float = 1.0
    anchor: str = "middle"
    unit: str = "frame"
    segments: int = 1
    depth: int = 3
    epochs: int = 20
    seed: int = 0
    random: bool = True
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet, metrics.json and pictures into `out`; returns scalars.

        Raises:
          UserError: a model without tokens; a number that is too small, or segments of frames; the
            store lacks the task, the split, or clips in its train or test part.
        """
        if model.tokens is None:
            raise UserError(
                "features made elsewhere are one vector a clip, and an attentive probe needs the "
                "encoder's tokens; expected a run or a public model, or use linear_probe"
            )
        for name, least in (("depth", 0), ("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least {least}")
        store = open_store(self.store)
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
            unit=self.unit,
        )
        parts = parts_of(clips, self.store, self.split)
        models = [model]
        if self.random and model.random_tokens is not None:
            fresh = {"tokens": model.random_tokens, "identity": model.random_identity}
            models.append(replace(model, name="random", **fresh))
        probs, chosen = {}, {}
        for one in models:
            probs[one.name], chosen[one.name] = self.fit(store, clips, parts, one)
        choice = f"best of {len(GRID)} rates and decays on validation cases"
        if not parts["val"].any():
            choice = "no validation cases: rate {:g}, decay {:g}".format(*FIXED)
        return finish(
            model,
            clips.where(parts["test"]),
            probs,
            clips.label[parts["train"]],
            name="attentive_probe",
            protocol=f"{self.depth} blocks and a query on frozen tokens, {self.epochs} epochs, "
            f"{choice}, {in_words(self.unit, self.segments, self.every_s, self.anchor)}, "
            f"seed {self.seed}",
            store=store,
            details={
                "task": self.task,
                "chosen": chosen,
                "clips_by_part": {part: int(mask.sum()) for part, mask in parts.items()},
            },
            out=out,
            step=step,
        )

    def fit(
        self, store: Store, clips: LabelledClips, parts: dict[str, np.ndarray], model: Model
    ) -> tuple[Float[np.ndarray, "m c"], dict[str, float]]:
        """(probabilities of the test clips float32; rate, decay and, where there are validation
        cases, the score on them)."""
        has_choice = bool(parts["val"].any())
        grid = GRID if has_choice else (FIXED,)
        graphdef, params, identity = self._learn(store, clips.where(parts["train"]), model, grid)
        point, about = 0, {}
        if has_choice:
            judged = clips.where(parts["val"])
            answers = self._answers(store, judged, model, graphdef, params, identity)
            scores = [
                validation_score(probs, judged) if np.isfinite(probs).all() else -1.0
                for probs in answers.swapaxes(0, 1)
            ]
            point = int(np.argmax(scores))
            about = {"validation": scores[point]}
        taken = jax.tree.map(lambda leaf: leaf[point : point + 1], params)
        tested = clips.where(parts["test"])
        name = f"{identity} point {point}" if identity else ""
        probs = self._answers(store, tested, model, graphdef, taken, name)[:, 0]
        return probs, dict(zip(("rate", "decay"), grid[point], strict=True)) | about

    def _learn(
        self,
        store: Store,
        clips: LabelledClips,
        model: Model,
        grid: Sequence[tuple[float, float]],
    ) -> tuple[nnx.GraphDef, Params, str]:
        """(definition of a head, parameters of all, what distinguishes them or "")."""
        size, clip = self.batch_size, model.clip
        views = views_of(store, clips, clip, self.unit, self.segments)
        rows = np.concatenate([view.rows for view in views])
        label = np.concatenate([view.label for view in views])
        target = np.eye(len(clips.classes))[label] if label.ndim == 1 else label
        target = target.astype(np.float32)
        steps = max(1, len(rows) // size)  # of an epoch; a last part of a batch is left out
        blank = np.zeros((size, clip.frames, clip.size, clip.size, 3), np.uint8)
        width = model.tokens(blank).shape[-1]
        graphdef, heads = start(width, len(clips.classes), self.depth, len(grid), self.seed)
        rates, decays = np.float32(grid).T
        identity = model.identity and digest(
            [model.identity, sha256(store.path / "store.json"), repr(self)]
            + [str(clip), grid, hashlib.sha256(rows.tobytes() + target.tobytes()).hexdigest()]
        )
        file = model.kept / f"{identity}.npz" if model.kept and identity else None
        first, heads = _load(file, heads) if file and file.is_file() else (0, heads)
        progress = Progress(self.epochs * steps * size)
        progress.skip(first * steps * size)
        progress.begin((self.epochs - first) * steps * size)
        for epoch in range(first, self.epochs):
            draws = np.random.default_rng((self.seed, epoch))
            order = np.resize(draws.permutation(len(rows)), steps * size)
            some = rows[order]
            some["crop_seed"] = draws.integers(2**63, size=len(some))
            load = lambda i, some=some: decode_clip(store, some[i], clip, AUGMENT)  # noqa: E731
            ahead, losses = read_ahead(len(some), load, size), []
            for nth, at in enumerate(order.reshape(steps, size)):
                tokens = model.tokens(np.stack([*itertools.islice(ahead, size)]))
                fall = (1 + np.cos(np.pi * (epoch + nth / steps) / self.epochs)) / 2
                lr = np.float32(rates * fall)
                heads, loss = learn(graphdef, clips.kind, heads, tokens, target[at], lr, decays)
                losses.append(loss)
                progress.add(size)
            if file:
                _save(file, epoch + 1, heads)
            mean = np.mean(losses, axis=0)
            log.info(
                "attentive_probe %s: epoch %d of %d, losses of %d heads %.4f to %.4f",
                *(model.name, epoch + 1, self.epochs, len(grid), mean.min(), mean.max()),
            )
        return graphdef, heads[0], identity

    def _answers(
        self,
        store: Store,
        clips: LabelledClips,
        model: Model,
        graphdef: nnx.GraphDef,
        params: Params,
        identity: str,
    ) -> Float[np.ndarray, "n g c"]:
        """Probabilities of every head, float32, mean over a video's clips."""

        def encode(video: np.ndarray) -> np.ndarray:
            made = np.asarray(answer(graphdef, clips.kind, params, model.tokens(video)))
            return made.swapaxes(0, 1).reshape(len(video), -1)

        views = views_of(store, clips, model.clip, self.unit, self.segments)
        made = mean_features(
            *(store, views, model, {"probe": encode}, {"probe": identity}, self.batch_size)
        )["probe"]
        return made.reshape(len(clips), -1, len(clips.classes))


def start(
    width: int, classes: int, depth: int, count: int, seed: int
) -> tuple[nnx.GraphDef, tuple[Params, Any]]:
    """(definition of a head, (parameters, Adam's state) of `count` equal ones, stacked)."""
    heads = max(1, width // CHANNELS)
    while width % heads:
        heads -= 1
    graphdef, params = split(
        AttentivePool(width, classes, heads=heads, depth=depth, rngs=nnx.Rngs(seed))
    )
    repeat = lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], count, axis=0)  # noqa: E731
    return graphdef, jax.tree.map(repeat, (params, ADAM.init(params)))


@partial(jax.jit, static_argnums=(0, 1))
def learn(
    graphdef: nnx.GraphDef,
    kind: str,
    heads: tuple[Params, Any],
    tokens: Float[Array, "b n d"],
    target: Float[Array, "b c"],
    rates: Float[Array, "g"],
    decays: Float[Array, "g"],
) -> tuple[tuple[Params, Any], Float[Array, "g"]]:
    """A step of AdamW (arXiv 1711.05101) for each of g heads: (heads, losses before it).

    Args:
      heads: parameters and Adam's state, every leaf (g, ...).
      target: 1, 0, and NaN where unknown.
    """
    even = jnp.ones(target.shape[-1])

    def loss_of_one(params: Params) -> Array:
        scores = rebuild(graphdef, params)(tokens)
        return loss_of(scores[None], target, even, kind, 0.0)

    def learn_one(given):
        (params, adam), rate, decay = given
        loss, grads = jax.value_and_grad(loss_of_one)(params)
        direction, adam = ADAM.update(grads, adam)
        params = jax.tree.map(lambda p, d: p - rate * (d + decay * p), params, direction)
        return (params, adam), loss

    # One after the other: a head has more intermediate results than all the tokens.
    return jax.lax.map(learn_one, (heads, rates, decays))


@partial(jax.jit, static_argnums=(0, 1))
def answer(
    graphdef: nnx.GraphDef, kind: str, params: Params, tokens: Float[Array, "b n d"]
) -> Float[Array, "g b c"]:
    """Class probabilities of each head."""
    return jax.lax.map(lambda own: SQUASH[kind](rebuild(graphdef, own)(tokens)), params)


def _save(file: Path, epochs: int, heads: tuple[Params, Any]) -> None:
    """The state after so many epochs, in the place of an earlier one."""
    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(heads))}
    with whole(file) as part, part.open("wb") as stream:
        np.savez(stream, epochs=epochs, **leaves)


def _load(file: Path, heads: tuple[Params, Any]) -> tuple[int, tuple[Params, Any]]:
    """(epochs, state) of `_save`; `heads` lends its structure."""
    with np.load(file) as saved:
        leaves = [jnp.asarray(saved[str(i)]) for i in range(len(saved.files) - 1)]
        return int(saved["epochs"]), jax.tree.unflatten(jax.tree.structure(heads), leaves)
