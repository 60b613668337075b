"""The trained classifier itself on labelled clips, its probabilities averaged over views.

Frames: every labelled frame (or one in so many seconds) is classified from the clip around it.
Videos: where a video has one label, it is classified from clips spread over its length (segments).
Each clip may be seen in three crops along its long side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from surgjax.benchmark import multi_label, predictions
from surgjax.data.store import Store, open_store
from surgjax.data.transforms import Augmentation
from surgjax.errors import UserError
from surgjax.evals.classification import finish
from surgjax.evals.features import LabelledClips, features, labelled_clips
from surgjax.evals.model import Model

CROPS = {1: ("middle",), 3: ("left", "middle", "right")}


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
      crops: 1 or 3.
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
        about, columns = self._columns(model)
        store = open_store(self.store)
        if about["classes"] != store.meta.get("tasks", {}).get(self.task, {}).get("classes"):
            raise UserError(
                f"the head's classes of {self.task!r} are not those of {self.store}; expected "
                f"equal names in equal order"
            )
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
            kind=about["kind"],
        )
        clips = clips.where(clips.split == self.part)
        if not len(clips):
            raise UserError(
                f"{self.store} has no labelled clips in part {self.part!r} of split {self.split!r}"
            )
        views = [clips]
        if self.unit == "video":
            views = segments(store, one_of_each_video(clips), model, self.segments)
        probs = np.mean(
            [
                features(
                    *(store, view, model.clip, {"head": model.classify}),
                    batch_size=self.batch_size,
                    augment=Augmentation(crop),
                )["head"][:, columns]
                for view in views
                for crop in CROPS[self.crops]
            ],
            axis=0,
        )
        protocol = (
            f"mean probability of {len(views)} segments x {self.crops} crops a video"
            if self.unit == "video"
            else f"labelled frame {self.anchor} in its clip, one in {self.every_s:g} s, "
            f"{self.crops} crops"
        )
        if about["kind"] == "one_of_n":
            return self._one_of_n(model, views[0], probs, protocol, store, out, step)
        return self._multi_label(model, views[0], probs, protocol, store, out, step)

    def _columns(self, model: Model) -> tuple[Mapping, slice]:
        if self.unit not in ("frame", "video") or self.crops not in CROPS:
            raise UserError(
                f"unit={self.unit!r}, crops={self.crops}; expected frame or video, 1 or 3 crops"
            )
        if self.segments < 1 or (self.unit == "frame" and self.segments > 1):
            raise UserError(
                f"segments={self.segments} with unit={self.unit!r}; a labelled frame has one clip: "
                f"expected 1, or unit='video'"
            )
        if model.classify is None or self.task not in model.labels:
            raise UserError(
                f"this run has no head for {self.task!r}; it has {sorted(model.labels) or 'none'}; "
                f"train with objective.name=classify and that task"
            )
        first = 0
        for name, about in model.labels.items():
            if name == self.task:
                break
            first += len(about["classes"])
        return about, slice(first, first + len(about["classes"]))

    def _one_of_n(self, model, clips, probs, protocol, store, out, step) -> dict[str, float]:
        return finish(
            replace(model, name="trained"),
            clips,
            {"trained": probs.astype(np.float32)},
            clips.label,  # the majority of what is tested: the strongest constant answer
            name="trained_head",
            protocol=protocol,
            store=store,
            details={"task": self.task, "part": self.part},
            out=out,
            step=step,
        )

    def _multi_label(
        self, model: Model, clips: LabelledClips, probs, protocol, store, out: Path, step: int
    ) -> dict[str, float]:
        names = ("dataset", "split", "video_id", "case", "t_ms")
        columns = {name: getattr(clips, name) for name in names}
        columns |= {
            "model": np.repeat("trained", len(clips)),
            "protocol": np.repeat(f"trained_head: {protocol}", len(clips)),
        }
        file = out / "predictions.parquet"
        out.mkdir(parents=True, exist_ok=True)
        predictions.write(file, columns, probs.astype(np.float32), clips.label, clips.classes)
        result = {
            "evaluation": "trained_head",
            "protocol": protocol,
            "step": int(step),
            "store": store.name,
            "task": self.task,
            "part": self.part,
            "classes": clips.classes,
            "saw_test": model.saw(store, clips.case),
            **multi_label.score(file),
        }
        predictions.write_json(out / "metrics.json", result)
        mean = result["map_pooled"]
        print(
            f"trained_head {self.task} at step {step} ({protocol}); model saw test cases: "
            f"{result['saw_test']}\n{'mean average precision':24s} {mean['value']:.3f} "
            f"[{mean['low']:.3f}, {mean['high']:.3f}], chance {result['chance']:.3f}",
            flush=True,
        )
        return {"map": mean["value"], "map_low": mean["low"], "map_chance": result["chance"]}


def one_of_each_video(clips: LabelledClips) -> LabelledClips:
    """The first clip of each video.

    Raises:
      UserError: a video with two labels.
    """
    _, first, which = np.unique(clips.video_id, return_index=True, return_inverse=True)
    same = clips.label == clips.label[first][which]
    if not same.all():
        video = clips.video_id[~same.reshape(len(clips), -1).all(axis=1)][0]
        raise UserError(
            f"video {video} has more than one label; unit='video' is for stores whose videos have "
            f"one each; use unit='frame'"
        )
    mask = np.zeros(len(clips), bool)
    mask[first] = True
    return clips.where(mask)


def segments(store: Store, clips: LabelledClips, model: Model, count: int) -> list[LabelledClips]:
    """The clips moved to `count` starts spread evenly from the video's first to its last clip."""
    strides, views = model.clip.strides(store), []
    for nth in range(count):
        rows = clips.rows.copy()
        for row in rows:
            video = row["video"]
            last = max(0, int(store.frames[video] - (model.clip.frames - 1) * strides[video] - 1))
            share = nth / (count - 1) if count > 1 else 0.5
            row["start"] = round(share * last)
        views.append(replace(clips, rows=rows))
    return views
