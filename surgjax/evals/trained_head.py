"""The trained classifier itself on labelled clips, its probabilities averaged over views.

Frames: every labelled frame (or one in so many seconds) is classified from the clip around it.
Videos: where a video has one label, it is classified from clips spread over its length (segments).
Each clip may be seen in three crops along its long side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from surgjax.data.labelled import columns_of
from surgjax.data.store import open_store
from surgjax.data.transforms import Augmentation
from surgjax.errors import UserError
from surgjax.evals.classification import finish, mean_features
from surgjax.evals.features import in_words, labelled_clips, views_of
from surgjax.evals.model import Model

CROPS = {0: ("whole",), 1: ("middle",), 3: ("left", "middle", "right")}


@dataclass(frozen=True)
class Evaluator:
    """Test of a trained head.

    Attributes:
      store: folder of a store with labels.
      task: one of the head's tasks.
      split, part: which cases are tested.
      unit: "frame", or "video" for stores whose videos have one label each.
      anchor: place of the labelled frame in its clip, as in training: "last" or "middle".
      every_s: seconds between tested frames of a video.
      segments: clips of a video, spread over its length; 1 for unit "frame".
      crops: 1 or 3; 0 squeezes the whole frame into a square, as SurgVISTA tests.
      batch_size: clips the network takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    part: str = "test"
    unit: str = "frame"
    anchor: str = "last"
    every_s: float = 1.0
    segments: int = 1
    crops: int = 1
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet and metrics.json into `out`; returns scalars.

        Raises:
          UserError: a model without a head for the task, a store without such clips, settings that
            do not fit each other.
        """
        columns = self._columns(model)
        store = open_store(self.store)
        self.check(model.labels, store.meta.get("tasks", {}))
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
            unit=self.unit,
        )
        tested, train = clips.where(clips.split == self.part), clips.split == "train"
        if not len(tested):
            raise UserError(
                f"{self.store} has no labelled clips in part {self.part!r} of split {self.split!r}"
            )
        views = views_of(store, tested, model.clip, self.unit, self.segments)
        identity = model.identity and f"{model.identity}, head"
        seen = [
            mean_features(
                *(store, views, model, {"head": model.classify}, {"head": identity}),
                self.batch_size,
                Augmentation(crop),
            )["head"][:, columns]
            for crop in CROPS[self.crops]
        ]
        which = in_words(self.unit, self.segments, self.every_s, self.anchor)
        return finish(
            replace(model, name="trained"),
            tested,
            {"trained": np.mean(seen, axis=0)},
            clips.label[train] if train.any() else tested.label,
            name="trained_head",
            protocol=f"{which}, crops: {self.crops}",
            store=store,
            details={"task": self.task, "part": self.part},
            out=out,
            step=step,
        )

    def check(self, labels: Mapping[str, Any], tasks: Mapping[str, Any]) -> None:
        """Raises UserError when a head with these labels has not the classes of a store's tasks."""
        head = labels.get(self.task)
        if head and head["classes"] != tasks.get(self.task, {}).get("classes"):
            raise UserError(
                f"the head's classes of {self.task!r} are not those of {self.store}; expected "
                f"equal names in equal order"
            )

    def _columns(self, model: Model) -> slice:
        if self.unit not in ("frame", "video") or self.crops not in CROPS:
            raise UserError(
                f"unit={self.unit!r}, crops={self.crops}; expected frame or video, and 0, 1 or 3"
            )
        if model.classify is None or self.task not in model.labels:
            raise UserError(
                f"this run has no head for {self.task!r}; it has {sorted(model.labels) or 'none'}; "
                f"train with objective.name=classify and that task"
            )
        return columns_of(model.labels, self.task)
