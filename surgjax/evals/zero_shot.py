"""Classification without training: a clip belongs to the class whose prompts are nearest.

Prompts are a csv file, each beside the number and the name of its class, so that no order of a list
can be misread:

    class_id,class,prompt
    0,Preparation,In preparation phase I insert trocars

How prompts are worded changes the numbers, so by default several sets are asked. Those of
surgjax/evals/prompts are called <dataset>_<task>_<set>.csv:

    names     the classes' names
    ours      a sentence a class
    ensemble  three wordings a class
    readme    SurgLaVi's printed sentences for the phases of Cholec80, beside the right numbers

Of tasks of one class the softmax of the similarities is saved, of several classes the similarities
as they are: average precision needs no threshold.
"""

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_prep.sources import read_rows
from surgjax.benchmark import prompt_sets as scoring
from surgjax.data.captioned import clean
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError, nearest
from surgjax.evals.classification import (
    constant_answers,
    mean_features,
    write_blocks,
    write_metrics,
)
from surgjax.evals.features import (
    LabelledClips,
    in_words,
    labelled_clips,
    unit_length,
    views_of,
)
from surgjax.evals.model import Model, Space

COLUMNS = ("class_id", "class", "prompt")
SHIPPED = Path(__file__).parent / "prompts"
ALL, NAMES = "all", "names"
SCALE = 100.0  # of the cosines in saved probabilities: CLIP's largest


@dataclass(frozen=True)
class PromptSet:
    """Prompts of every class of a task, in the order of the classes.

    Attributes:
      name: of the set.
      sha256: of the file.
      prompts: of each class, one or more.
    """

    name: str
    sha256: str
    prompts: list[list[str]]

    def in_words(self) -> str:
        """Which prompts these are, for a protocol's line."""
        return f"prompts {self.name} (sha256 {self.sha256[:12]})"


@dataclass(frozen=True)
class Evaluator:
    """Zero-shot classification of labelled clips.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n or multi_label task of it.
      split: name of the split whose test clips are classified.
      prompts: names of sets or csv files as above, with commas; "all" for every set there is for
        the data set and the task, or else the names. A class may have several prompts, whose mean
        counts.
      text_preprocess: prompts go through `captioned.clean`, as captions did in training.
      exclude: names of classes, with commas, whose clips are not tested; of a task of one class.
      every_s: seconds between clips of a video.
      anchor: place of the labelled frame in its clip, "middle" (SurgCLIP's) or "last".
      unit: "frame", or "video" for stores whose videos have one label each.
      segments: clips of a video whose mean stands for it, with unit "video".
      batch_size: clips an encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    prompts: str = ALL
    text_preprocess: bool = True
    exclude: str = ""
    every_s: float = 1.0
    anchor: str = "middle"
    unit: str = "frame"
    segments: int = 1
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet and metrics.json into `out`; returns scalars.

        Raises:
          UserError: the model has no text tower, the store lacks the task, the split or test
            clips, or prompts that are not those of the task's classes.
        """
        store = open_store(self.store)
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
            unit=self.unit,
        )
        sets = prompt_sets(self.prompts, clips, self.task)
        is_test, asked_for = clips.split == "test", ~_excluded(clips, self.exclude)
        tested, others = clips.where(is_test & asked_for), clips.where(~is_test & asked_for)
        if not len(tested):
            raise UserError(f"{self.store} has no labelled test clips of split {self.split!r}")
        spaces = spaces_of(model, "zero_shot")
        video = space_features(
            *(store, tested, model, spaces, self.batch_size),
            unit=self.unit,
            views=self.segments,
        )
        constant = constant_answers(tested, (others if len(others) else tested).label)
        where = in_words(self.unit, self.segments, self.every_s, self.anchor)
        if self.exclude:
            where += f", without {self.exclude}"
        blocks = []
        for asked in sets:
            prompts = self._read(asked)
            answers = {
                name: scores(video[name], class_embeddings(space, prompts), tested.kind)
                for name, space in spaces.items()
            }
            line = {"setting": asked.name, "protocol": f"zero_shot: {asked.in_words()}, {where}"}
            blocks += [({"model": name, **line}, of) for name, of in (answers | constant).items()]
        file = out / "predictions.parquet"
        write_blocks(file, model, store, tested, blocks)
        listed = {asked.name: self._listed(asked, tested.classes) for asked in sets}
        protocol = f"{', '.join(asked.in_words() for asked in sets)}, {where}"
        result = write_metrics(
            *(model, store, tested),
            {"task": self.task, "prompts": listed, **scoring.score(file)},
            **dict(name="zero_shot", protocol=protocol, out=out, step=step),
        )
        print(f"zero_shot at step {step}; model saw test cases: {result['saw_test']}")
        print(scoring.text_table(result), flush=True)
        return scoring.scalars(result)

    def _read(self, asked: PromptSet) -> list[list[str]]:
        if not self.text_preprocess:
            return asked.prompts
        return [[clean(prompt) for prompt in own] for own in asked.prompts]

    def _listed(self, asked: PromptSet, classes: Sequence[str]) -> dict:
        rows = enumerate(zip(classes, self._read(asked), strict=True))
        return {
            "sha256": asked.sha256,
            "prompts": [{"class_id": i, "class": name, "prompts": own} for i, (name, own) in rows],
        }


def prompt_sets(names: str, clips: LabelledClips, task: str) -> list[PromptSet]:
    """The sets of prompts that `names` asks for, as `Evaluator.prompts`, of the clips' classes.

    Raises:
      UserError: a name that is not known, twice the same, or as `read_prompts`.
    """
    datasets = sorted(set(clips.dataset.tolist()))
    shipped = {}
    if len(datasets) == 1:
        stem = f"{datasets[0]}_{task}_"
        shipped = {
            file.stem.removeprefix(stem): file for file in sorted(SHIPPED.glob(f"{stem}*.csv"))
        }
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wanted == [ALL]:
        wanted = list(shipped) or [NAMES]
    found = {}
    for name in wanted:
        path = shipped.get(name)
        if path is None and name.endswith(".csv"):
            path, name = Path(name), Path(name).stem
        if path is None and name != NAMES:
            known = [*shipped, *({NAMES} - set(shipped)), ALL]
            raise UserError(
                f"prompts of task {task!r} of {', '.join(datasets)}: no set {name!r}"
                f"{nearest(name, known)}; choose from {', '.join(known)}, or name a csv file"
            )
        if name in found:
            raise UserError(f"prompts are {names!r}; name the set {name!r} once")
        prompts = read_prompts(path, clips.classes)
        content = path.read_bytes() if path else as_csv(clips.classes, prompts).encode()
        found[name] = PromptSet(name, hashlib.sha256(content).hexdigest(), prompts)
    if not found:
        raise UserError(f"prompts are {names!r}; name sets or csv files, or {ALL}")
    return list(found.values())


def read_prompts(path: Path | None, classes: list[str]) -> list[list[str]]:
    """Prompts of every class, in the order of the classes; without a file, their names in words.

    Raises:
      UserError: no such file, an id or name that is not the task's, or a class without a prompt.
    """
    if path is None:
        return [[_words(name)] for name in classes]
    try:
        rows = list(read_rows(path, list(COLUMNS)))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); expected a csv file of prompts: "
            f"{','.join(COLUMNS)}"
        ) from error
    found: list[list[str]] = [[] for _ in classes]
    for where, row in rows:
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


def as_csv(classes: Sequence[str], prompts: Sequence[Sequence[str]]) -> str:
    """What `read_prompts` reads."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for number, (name, own) in enumerate(zip(classes, prompts, strict=True)):
        table.writerows([number, name, prompt] for prompt in own)
    return text.getvalue()


def spaces_of(model: Model, name: str) -> dict[str, Space]:
    """The space of the model under test first, then that of fresh weights.

    Args:
      name: of the evaluation, for a message.

    Raises:
      UserError: the model has no text tower.
    """
    if model.space is None:
        raise UserError(
            f"evals.{name} needs an objective with a text tower, as clip; leave "
            f"evals.{name}.store empty"
        )
    fresh = {} if model.random_space is None else {"random": model.random_space}
    return {model.name: model.space} | fresh


def space_features(
    store: Store,
    clips: LabelledClips,
    model: Model,
    spaces: Mapping[str, Space],
    batch_size: int,
    *,
    unit: str,
    views: int,
) -> dict[str, Float[np.ndarray, "n d"]]:
    """float32 vectors of the clips in each space, or means over so many clips of each video."""
    of_views = views_of(store, clips, model.clip, unit, views)
    encoders = {name: space.video for name, space in spaces.items()}
    own = {model.name: model.identity, "random": model.random_identity}
    identities = {name: own[name] and f"{own[name]} in its space" for name in spaces}
    return mean_features(store, of_views, model, encoders, identities, batch_size)


def class_embeddings(space: Space, prompts: list[list[str]]) -> Float[np.ndarray, "c d"]:
    """Mean of each class's prompts in the common space, of length 1 before and after."""
    flat = unit_length(np.asarray(space.text([p for own in prompts for p in own])))
    of_class = np.repeat(np.arange(len(prompts)), [len(own) for own in prompts])
    return unit_length(np.stack([flat[of_class == c].mean(axis=0) for c in range(len(prompts))]))


def scores(
    video: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], kind: str
) -> Float[np.ndarray, "n c"]:
    """What is saved of each class, float32: `probabilities` of a one_of_n task, else similarities.

    A similarity is the product with the clip's vector, which is the mean of the cosines where that
    is a mean over frames.
    """
    if kind == "one_of_n":
        return probabilities(video, classes)
    return (video.astype(np.float64) @ classes.T).astype(np.float32)


def probabilities(
    video: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "c d"], scale: float = SCALE
) -> Float[np.ndarray, "n c"]:
    """Softmax of the scaled similarities, float32."""
    logits = scale * video.astype(np.float64) @ classes.T
    exact = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exact / exact.sum(axis=1, keepdims=True)).astype(np.float32)


def _excluded(clips: LabelledClips, names: str) -> np.ndarray:
    excluded = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in excluded if name not in clips.classes]
    if unknown or (excluded and clips.kind != "one_of_n"):
        raise UserError(
            f"exclude is {names!r}; expected classes of a task of one class, here "
            f"{', '.join(clips.classes)}"
        )
    numbers = [clips.classes.index(name) for name in excluded]
    return np.isin(clips.label, numbers) if numbers else np.zeros(len(clips), bool)


def _words(name: str) -> str:
    """ "CalotTriangleDissection" -> "calot triangle dissection"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_,]", " ", name).lower()
