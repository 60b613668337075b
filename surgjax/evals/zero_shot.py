"""Classification without training: a clip belongs to the class whose prompts are nearest.

Prompts are a csv file, each beside the number and the name of its class, so that no order of a list
can be misread:

    class_id,class,prompt
    0,Preparation,In preparation phase I insert trocars
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from surgjax.data.captioned import clean
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.classification import finish
from surgjax.evals.features import features, labelled_clips
from surgjax.evals.model import Model, Space

COLUMNS = ("class_id", "class", "prompt")
SCALE = 100.0  # of the cosines in saved probabilities: CLIP's largest


@dataclass(frozen=True)
class Evaluator:
    """Zero-shot classification of labelled clips.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n task of it.
      split: name of the split whose test clips are classified.
      prompts: csv file as above; a class may have several prompts, whose mean counts. Empty: the
        names of the classes in words.
      text_preprocess: prompts go through `captioned.clean`, as captions did in training.
      every_s: seconds between clips of a video.
      batch_size: clips an encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    prompts: str = ""
    text_preprocess: bool = True
    every_s: float = 1.0
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet, metrics.json and pictures into `out`; returns scalars.

        Raises:
          UserError: the model has no text tower, the store lacks the task, the split or test
            clips, or prompts that are not those of the task's classes.
        """
        if model.space is None:
            raise UserError(
                "evals.zero_shot needs an objective with a text tower, as clip; leave "
                "evals.zero_shot.store empty"
            )
        store = open_store(self.store)
        clips = labelled_clips(store, self.task, model.clip, every_s=self.every_s, split=self.split)
        tested = clips.split == "test"
        if not tested.any():
            raise UserError(f"{self.store} has no labelled test clips of split {self.split!r}")
        prompts = read_prompts(Path(self.prompts) if self.prompts else None, clips.classes)
        if self.text_preprocess:
            prompts = [[clean(prompt) for prompt in own] for own in prompts]
        spaces = {model.name: model.space}
        if model.random_space is not None:
            spaces["random"] = model.random_space
        held_out = clips.where(tested)
        encoders = {name: space.video for name, space in spaces.items()}
        video = features(store, held_out, model.clip, encoders, batch_size=self.batch_size)
        probs = {
            name: probabilities(video[name], class_embeddings(space, prompts))
            for name, space in spaces.items()
        }
        source = Path(self.prompts).name if self.prompts else "class names"
        return finish(
            model,
            held_out,
            probs,
            clips.label[~tested] if (~tested).any() else clips.label,
            name="zero_shot",
            protocol=f"prompts of {source}, one clip in {self.every_s:g} s",
            store=store,
            details={"task": self.task, "prompts": prompts},
            out=out,
            step=step,
        )


def read_prompts(path: Path | None, classes: list[str]) -> list[list[str]]:
    """Prompts of every class, in the order of the classes; without a file, their names in words.

    Raises:
      UserError: no such file, an id or name that is not the task's, or a class without a prompt.
    """
    if path is None:
        return [[_words(name)] for name in classes]
    try:
        table = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); expected a csv file of prompts: "
            f"{','.join(COLUMNS)}"
        ) from error
    if [name.strip() for name in table.fieldnames or []] != list(COLUMNS):
        raise UserError(f"{path}: columns are {table.fieldnames}; expected {','.join(COLUMNS)}")
    found: list[list[str]] = [[] for _ in classes]
    for row in table:
        where = f"{path.name}, row {table.line_num}"
        row = {name: (row[name] or "").strip() for name in COLUMNS}
        known = [str(i) for i, name in enumerate(classes) if name == row["class"]]
        if [row["class_id"]] != known:
            raise UserError(
                f"{where}: class {row['class_id']} {row['class']!r}; the task has "
                f"{', '.join(f'{i} {name}' for i, name in enumerate(classes))}"
            )
        if not row["prompt"]:
            raise UserError(f"{where}: prompt is empty")
        found[int(row["class_id"])].append(row["prompt"])
    for name, own in zip(classes, found, strict=True):
        if not own:
            raise UserError(f"{path} has no prompt for class {name!r}")
    return found


def class_embeddings(space: Space, prompts: list[list[str]]) -> Float[np.ndarray, "c d"]:
    """Mean of each class's prompts in the common space, of length 1 before and after."""
    flat = _unit(np.asarray(space.text([p for own in prompts for p in own]), np.float64))
    of_class = np.repeat(np.arange(len(prompts)), [len(own) for own in prompts])
    return _unit(np.stack([flat[of_class == c].mean(axis=0) for c in range(len(prompts))]))


def probabilities(
    video: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"]
) -> Float[np.ndarray, "n c"]:
    """Softmax of SCALE times the cosines, float32."""
    logits = SCALE * _unit(video.astype(np.float64)) @ classes.T
    exact = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exact / exact.sum(axis=1, keepdims=True)).astype(np.float32)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def _words(name: str) -> str:
    """ "CalotTriangleDissection" -> "calot triangle dissection"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", name).lower()
