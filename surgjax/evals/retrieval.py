"""Retrieval between held-out clips and their captions, text to video and video to text.

Nothing is trained. Both sides are embedded once and saved; the numbers are those of
surgjax/benchmark/retrieval.py, over all captions and within each level.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgjax.benchmark import predictions
from surgjax.benchmark import retrieval as scoring
from surgjax.data.captioned import Captions, Chosen, choose, frames_of
from surgjax.data.clip import decode_frames
from surgjax.data.plan import ClipShape
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError
from surgjax.evals.features import embed_clips
from surgjax.evals.model import Model, Space


@dataclass(frozen=True)
class Evaluator:
    """Retrieval of captions and clips.

    Attributes:
      store: folder of a store with captions.
      split: name of the split whose `part` is asked.
      part: test, val or train of it.
      most: pairs asked, spread evenly over the captions; 0 for all.
      levels, filter_pairs, enhanced_captions, text_preprocess, min_duration, max_duration, clips:
        as in training, see data/captioned.py; clips show the middle frames.
      batch_size: clips an encoder takes at once.
    """

    store: str
    split: str = "official"
    part: str = "test"
    most: int = 0
    levels: str = "coarse,mid,fine"
    filter_pairs: bool = True
    enhanced_captions: bool = True
    text_preprocess: bool = True
    min_duration: float = 0.0
    max_duration: float = 500.0
    clips: str = "spread"
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes embeddings.parquet and metrics.json into `out`; returns scalars.

        Raises:
          UserError: the model has no text tower, the store lacks captions or the split, or fewer
            than two captions are left.
        """
        if model.space is None:
            raise UserError(
                "evals.retrieval needs an objective with a text tower, as clip; leave "
                "evals.retrieval.store empty"
            )
        store, options = open_store(self.store), self._options()
        chosen, split = self._held_out(store, options)
        spaces = {model.name: model.space}
        if model.random_space is not None:
            spaces["random"] = model.random_space
        embedded = embed_pairs(store, chosen, model.clip, options, spaces, self.batch_size)
        case = store.videos["case"][chosen.video].astype(str)
        protocol = (
            f"{self.part} of split {self.split}, captions of {self.levels}, "
            f"{model.clip.frames} frames {self.clips}"
        )
        columns = {
            "dataset": store.videos["dataset"][chosen.video].astype(str),
            "split": np.full(len(chosen), split),
            "video_id": store.videos["video_id"][chosen.video].astype(str),
            "case": case,
            "caption_id": chosen.caption_id.astype(str),
            "level": chosen.level.astype(str),
            "text": chosen.text.astype(str),
            "start_ms": chosen.span_ms[:, 0],
            "end_ms": chosen.span_ms[:, 1],
            "protocol": np.full(len(chosen), f"retrieval: {protocol}"),
        }
        scoring.write_embeddings(out / "embeddings.parquet", columns, embedded)
        result = {
            "evaluation": "retrieval",
            "protocol": protocol,
            "step": int(step),
            "saw_test": model.saw(store, case),
            "store": store.name,
            **scoring.score(out / "embeddings.parquet"),
        }
        predictions.write_json(out / "metrics.json", result)
        print(f"retrieval at step {step} ({protocol}); model saw test cases: {result['saw_test']}")
        print(scoring.text_table(result), flush=True)
        return _scalars(result, model.name)

    def _options(self) -> Captions:
        names = ("levels", "filter_pairs", "enhanced_captions", "text_preprocess")
        names += ("min_duration", "max_duration", "clips")
        return Captions(**{name: getattr(self, name) for name in names})

    def _held_out(self, store: Store, options: Captions) -> tuple[Chosen, str]:
        column = f"split_{self.split}"
        if column not in store.split_columns:
            known = [name.removeprefix("split_") for name in store.split_columns]
            raise UserError(f"{self.store} has no split {self.split!r}; it has {known or 'none'}")
        chosen = choose(store, store.videos[column] == self.part, options)
        if len(chosen) < 2:
            raise UserError(
                f"{self.store} has {len(chosen)} captions in {self.part} of split {self.split!r}; "
                f"expected at least two; see `python -m data_prep inspect {self.store}`"
            )
        if self.most and self.most < len(chosen):
            kept = np.zeros(len(chosen), bool)
            kept[np.linspace(0, len(chosen) - 1, self.most).round().astype(int)] = True
            chosen = chosen.where(kept)
        return chosen, self.part


def embed_pairs(
    store: Store,
    chosen: Chosen,
    clip: ClipShape,
    options: Captions,
    spaces: dict[str, Space],
    batch_size: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> float32 embeddings (n, d) of the captions' clips and of their texts; each clip is
    decoded once, and each text embedded once."""

    def load(i: int) -> np.ndarray:
        frames = frames_of(store, chosen.video[i], chosen.span_ms[i], clip, options)
        return decode_frames(store, chosen.video[i], frames, clip)

    encoders = {name: space.video for name, space in spaces.items()}
    video = embed_clips(len(chosen), load, encoders, batch_size=batch_size)
    texts, place = np.unique(chosen.text.astype(str), return_inverse=True)
    return {
        name: (video[name], np.asarray(space.text(texts.tolist()), np.float32)[place])
        for name, space in spaces.items()
    }


def _scalars(result: dict, name: str) -> dict[str, float]:
    found = result["groups"]["all"]
    scalars = {}
    for direction in scoring.DIRECTIONS:
        short = "t2v" if direction == "text_to_video" else "v2t"
        row, chance = found["models"][name][direction], found["chance"][direction]
        scalars |= {f"{short}_r{k}": row[f"recall_{k}"] for k in scoring.RECALLS}
        scalars[f"{short}_r1_chance"] = chance["recall_1"]
        scalars[f"{short}_median_rank"] = row["median_rank"]
        scalars[f"{short}_median_rank_chance"] = chance["median_rank"]
    return scalars
