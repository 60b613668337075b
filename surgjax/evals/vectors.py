"""Features of every labelled frame as a file, for use elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from surgjax.benchmark import vectors
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.features import labelled_clips
from surgjax.evals.kept import kept_features
from surgjax.evals.model import Model


@dataclass(frozen=True)
class Evaluator:
    """Writes features.parquet.

    Attributes:
      store: folder of a store with labels.
      task, split: a task and a split of it; frames without a label of the task have no vector.
      every_s: seconds between frames of a video.
      anchor: place of the labelled frame in its clip, "middle" or "last".
      batch_size: clips the encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    every_s: float = 1.0
    anchor: str = "middle"
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes features.parquet into `out`; no scalars.

        Raises:
          UserError: the store lacks the task or the split, or the model has no encoder.
        """
        if model.encode is None:
            raise UserError(
                "evals.vectors needs an encoder; leave evals.vectors.store empty where features "
                "are given"
            )
        store = open_store(self.store)
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
        )
        made = kept_features(
            *(store, clips, model.clip, {model.name: model.encode}),
            *({model.name: model.identity}, model.kept),
            batch_size=self.batch_size,
        )[model.name]
        about = dict(model.about) | {"used_cases": model.used_cases and list(model.used_cases)}
        about |= {"clip": str(model.clip), "anchor": self.anchor, "store": store.name}
        vectors.write(out / "features.parquet", clips.video_id, clips.t_ms, made, about)
        print(f"{len(made):,} vectors of {made.shape[1]} in {out / 'features.parquet'}", flush=True)
        return {}
