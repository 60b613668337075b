"""CoOp: vectors learnt in the place of words before the names of classes (arXiv 2109.01134).

A class's prompt is [start] v1 ... vM name [end]. Both towers stay as they are; gradients reach the
vectors through the text tower. They are learnt from k clips of each class of the training cases,
for a fixed number of epochs, so nothing is chosen on validation or test cases.

From the paper, section 4.1: 16 vectors, drawn with deviation 0.02; SGD from 0.002 down a cosine,
with 1e-5 in the first epoch; 50 epochs for 1 clip a class, 100 for 2 and 4, 200 for 8 and 16; means
over draws. From its released code: batches of 32, momentum 0.9, weight decay 5e-4. Unlike there,
clips are not augmented, so that each is embedded once, and all training clips can be taken, for 50
epochs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from surgjax.benchmark import few_shot as scoring
from surgjax.data.captioned import clean
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.classification import constant_answers, write_blocks, write_metrics
from surgjax.evals.features import LabelledClips, in_words, labelled_clips
from surgjax.evals.few_shot import DRAWS_OF_FEW, FEW, draw_shots
from surgjax.evals.linear_probe import parts_of
from surgjax.evals.model import Model, TextTower
from surgjax.evals.zero_shot import (
    NAMES,
    probabilities,
    prompt_sets,
    space_features,
    spaces_of,
)

DEVIATION = 0.02
BATCH = 32
RATE, FIRST_RATE = 0.002, 1e-5
MOMENTUM, DECAY = 0.9, 5e-4
EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200}  # and of more shots as of 8
ALL, EPOCHS_OF_ALL = "all", 50


@dataclass(frozen=True)
class Evaluator:
    """Context optimisation.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n task of it.
      split: name of a split with train and test cases.
      shots: clips a class, with commas; "all" for every training clip.
      draws: of each number of shots, and DRAWS_OF_FEW at least of one and two.
      length: learnt vectors before a name.
      class_specific: each class learns vectors of its own.
      epochs: over the clips drawn; 0 for the paper's.
      text_preprocess: names go through `captioned.clean`, as captions did in training.
      seed: of the draws, the first vectors and the order of clips.
      every_s, anchor, unit, segments, batch_size: as in zero_shot.py.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    shots: str = "1,2,4,8,16,all"
    draws: int = 5
    length: int = 16
    class_specific: bool = False
    epochs: int = 0
    text_preprocess: bool = True
    seed: int = 0
    every_s: float = 1.0
    anchor: str = "middle"
    unit: str = "frame"
    segments: int = 1
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet and metrics.json into `out`; returns scalars.

        Raises:
          UserError: the model has no text tower that gradients go through; the store lacks the
            task, the split, training or test clips; a task of several classes; shots that are
            none; vectors that leave no room for a name.
        """
        spaces = spaces_of(model, "coop")
        towers = {name: space.tower for name, space in spaces.items()}
        if None in towers.values():
            raise UserError(
                f"{model.name} gives no gradients through its text tower; expected a run of the "
                f"clip objective; leave evals.coop.store empty"
            )
        store = open_store(self.store)
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
            unit=self.unit,
        )
        if clips.kind != "one_of_n":
            raise UserError(
                f"task {self.task!r} of {self.store} has several classes a clip; CoOp learns one "
                f"of them; choose a one_of_n task"
            )
        parts = parts_of(clips, self.store, self.split)
        settings = self._settings(clips, parts["train"])
        names = [own[0] for own in prompt_sets(NAMES, clips, self.task)[0].prompts]
        if self.text_preprocess:
            names = [clean(name) for name in names]
        # The towers of a model differ in weights alone: one compilation does for all.
        tower = towers[model.name]
        words = with_room(tower, names, self.length)
        compiled, blocks = (make_step(tower.encode), make_embed(tower.encode)), []
        used = np.any([parts["test"], *(of for _, drawn in settings.values() for of in drawn)], 0)
        vectors = space_features(
            *(store, clips.where(used), model, spaces, self.batch_size),
            unit=self.unit,
            views=self.segments,
        )
        protocol = (
            f"CoOp, {self.length} {'class-specific' if self.class_specific else 'shared'} vectors "
            f"before names, {self.epochs or 'paper'} epochs, "
            f"{in_words(self.unit, self.segments, self.every_s, self.anchor)}, seed {self.seed}"
        )
        for name, tower in towers.items():
            video = np.full((len(clips), vectors[name].shape[1]), np.nan, np.float32)
            video[used] = vectors[name]
            for about, probs in self._answers(
                tower, compiled, words, video, clips.label, parts["test"], settings
            ):
                blocks.append(({"model": name, "protocol": f"coop: {protocol}", **about}, probs))
        tested, last = clips.where(parts["test"]), blocks[-1][0]
        for name, probs in constant_answers(tested, clips.label[parts["train"]]).items():
            blocks.append(({**last, "model": name, "draw": 0}, probs))
        write_blocks(out / "predictions.parquet", model, store, tested, blocks)
        found = scoring.score(out / "predictions.parquet")
        result = write_metrics(
            *(model, store, tested, {"task": self.task, "by": "shots", "names": names, **found}),
            **dict(name="coop", protocol=protocol, out=out, step=step),
        )
        print(f"coop at step {step} ({protocol}); model saw test cases: {result['saw_test']}")
        print(scoring.text_table(result), flush=True)
        return {
            f"macro_f1_{setting.replace(' ', '_')}": of["macro_f1_per_video"]["value"]
            for setting, of in result["models"][model.name].items()
        }

    def _answers(
        self,
        tower: TextTower,
        compiled: tuple[Callable, Callable],
        words: Mapping[str, np.ndarray],
        video: Float[np.ndarray, "n d"],
        label: Int[np.ndarray, "n"],
        test: Bool[np.ndarray, "n"],
        settings: Mapping[str, tuple[int, list[np.ndarray]]],
    ) -> Iterator[tuple[dict[str, str | int], Float[np.ndarray, "m c"]]]:
        """({"setting", "draw"}, probabilities of the test clips) of every draw."""
        update, embed = compiled
        for setting, (epochs, drawn) in settings.items():
            for draw, chosen in enumerate(drawn):
                context = learn(
                    *(tower, update, words, video[chosen], label[chosen]),
                    length=self.length,
                    class_specific=self.class_specific,
                    epochs=epochs,
                    seed=(self.seed, draw, 1),
                )
                classes = tower.call(embed, {**words, "context": context})
                probs = probabilities(video[test], classes, tower.scale)
                yield {"setting": setting, "draw": draw}, probs

    def _settings(
        self, clips: LabelledClips, train: Bool[np.ndarray, "n"]
    ) -> dict[str, tuple[int, list[Bool[np.ndarray, "n"]]]]:
        """Setting -> epochs, and the training clips of each draw."""
        if self.draws < 1 or self.length < 1:
            raise UserError(f"draws={self.draws}, length={self.length}; expected at least 1")
        made = {}
        for text in (text.strip() for text in self.shots.split(",")):
            if text == ALL:
                made["all shots"] = self.epochs or EPOCHS_OF_ALL, [train]
                continue
            if not text.isdecimal() or not int(text):
                raise UserError(
                    f"shots={self.shots!r} has {text!r}; expected numbers from 1 or {ALL}, with "
                    f"commas"
                )
            count = int(text)
            epochs = self.epochs or EPOCHS[max(k for k in EPOCHS if k <= count)]
            draws = max(self.draws, DRAWS_OF_FEW) if count <= FEW else self.draws
            made[f"{count} shot{'s' * (count > 1)}"] = (
                epochs,
                [draw_shots(clips, train, count, (self.seed, draw)) for draw in range(draws)],
            )
        return made


def make_step(encode: Callable) -> Callable:
    """One compiled update of the context, to be called by `TextTower.call`.

    Args:
      encode: of a `TextTower`.

    Returns:
      (params, {"context", "velocity" (1 or c, m, w), "rate", "scale", "ids", "mask" (c n), "video"
      (b d), "label", "weight" (b,)}) -> (context, velocity, loss). The loss is the cross-entropy of
      the softmax over classes, averaged by weight. Momentum and weight decay as in PyTorch's SGD.
    """

    def loss_of(context, params, batch):
        text = encode(params, batch["ids"], batch["mask"], context)
        logits = batch["scale"] * batch["video"] @ text.T
        of_label = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)
        return -(of_label[:, 0] * batch["weight"]).sum() / batch["weight"].sum()

    def step(params, batch):
        context = batch["context"]
        loss, gradient = jax.value_and_grad(loss_of)(context, params, batch)
        velocity = MOMENTUM * batch["velocity"] + gradient + DECAY * context
        return context - batch["rate"] * velocity, velocity, loss

    return jax.jit(step)


def make_embed(encode: Callable) -> Callable:
    """The classes that a context makes: (params, {"context", "ids", "mask"}) -> (c, d)."""
    return jax.jit(lambda params, x: encode(params, x["ids"], x["mask"], x["context"]))


def learn(
    tower: TextTower,
    step: Callable,
    words: Mapping[str, np.ndarray],
    video: Float[np.ndarray, "n d"],
    label: Int[np.ndarray, "n"],
    *,
    length: int,
    class_specific: bool,
    epochs: int,
    seed: Sequence[int],
) -> Float[np.ndarray, "k m w"]:
    """A context for all classes (k = 1) or one for each, float32.

    Args:
      step: `make_step` of the tower.
      words: `with_room` of the classes' names.
      video: clips in the common space. label: their classes.
      seed: of the first context and of the order of clips.
    """
    rng = np.random.default_rng(seed)
    count = len(words["ids"]) if class_specific else 1
    context = rng.normal(0, DEVIATION, (count, length, tower.width)).astype(np.float32)
    velocity = np.zeros_like(context)
    for epoch in range(epochs):
        order = rng.permutation(len(label))
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            rows = np.resize(chosen, BATCH)  # one shape, so one compilation
            batch = {
                **words,
                "context": context,
                "velocity": velocity,
                "rate": np.float32(learning_rate(epoch, epochs)),
                "scale": np.float32(tower.scale),
                "video": video[rows],
                "label": label[rows].astype(np.int32),
                "weight": (np.arange(BATCH) < len(chosen)).astype(np.float32),
            }
            context, velocity, _ = tower.call(step, batch)
    return context


def learning_rate(epoch: int, epochs: int) -> float:
    """That of a whole epoch, from 0: a low one first, then the cosine."""
    return FIRST_RATE if epoch == 0 else RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2


def with_room(
    tower: TextTower, names: Sequence[str], length: int
) -> dict[str, Int[np.ndarray, "c n"] | Bool[np.ndarray, "c n"]]:
    """{"ids", "mask"} of sentences, with `length` places between start and name.

    Raises:
      UserError: a name that is then cut off.
    """
    words, end = tower.tokenizer(names), tower.tokenizer.length - length
    # Padding may look like the end of a sentence, which is needed once.
    used = (words["ids"] != tower.tokenizer.pad).sum(axis=1)
    used = used + (tower.tokenizer.pad == tower.tokenizer.eos)
    if (used > end).any():
        worst = int(used.argmax())
        raise UserError(
            f"{length} learnt vectors leave {max(end, 0)} of {tower.tokenizer.length} tokens for a "
            f"class, and {names[worst]!r} has {used[worst]}; set a smaller evals.coop.length"
        )
    room = [tower.starts] * length
    return {
        "ids": np.insert(words["ids"][:, :end], room, 0, axis=1),
        "mask": np.insert(words["mask"][:, :end], room, True, axis=1),
    }
