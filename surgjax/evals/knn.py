"""Leave-case-out nearest neighbours: no training, so the quickest look at an encoder.

Each clip of a held-out case is classified by the K nearest clips of all other cases. Features are
standardised with the mean and deviation of the neighbours' pool, nearness is the cosine, and a
neighbour votes with its cosine (negative ones with nothing).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.classification import all_features, finish
from surgjax.evals.features import labelled_clips
from surgjax.evals.model import Model


@dataclass(frozen=True)
class Evaluator:
    """Leave-case-out nearest neighbours.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n task of it.
      split: name of the split whose test cases are classified.
      every_s: seconds between clips of a video.
      neighbours: K.
      batch_size: clips an encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    every_s: float = 1.0
    neighbours: int = 20
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet, metrics.json and pictures into `out`; returns scalars.

        Raises:
          UserError: the store lacks the task, the split, or test cases beside other cases.
        """
        store = open_store(self.store)
        clips = labelled_clips(store, self.task, model.clip, every_s=self.every_s, split=self.split)
        tested = clips.split == "test"
        if not tested.any() or len(np.unique(clips.case)) < 2:
            raise UserError(
                f"{self.store} has {int(tested.sum())} labelled test clips of split "
                f"{self.split!r} in {len(np.unique(clips.case))} cases; expected test clips and "
                f"at least two cases"
            )
        probs = {}
        for name, values in all_features(store, clips, model, self.batch_size).items():
            probs[name] = np.zeros((len(clips), len(clips.classes)), np.float32)
            for case in np.unique(clips.case[tested]):
                query, pool = clips.case == case, clips.case != case
                probs[name][query] = vote(
                    values[query],
                    values[pool],
                    clips.label[pool],
                    len(clips.classes),
                    self.neighbours,
                )
        return finish(
            model,
            clips.where(tested),
            {name: values[tested] for name, values in probs.items()},
            clips.label[~tested] if (~tested).any() else clips.label,
            name="knn",
            protocol=f"leave-case-out, cosine, K = {self.neighbours}, one clip in "
            f"{self.every_s:g} s",
            store=store,
            details={"task": self.task, "neighbours": self.neighbours},
            out=out,
            step=step,
        )


def vote(
    query: Float[np.ndarray, "q d"],
    pool: Float[np.ndarray, "p d"],
    label: Int[np.ndarray, "p"],
    classes: int,
    neighbours: int,
) -> Float[np.ndarray, "q classes"]:
    """Share of the K nearest neighbours' cosine that each class has, float32; rows sum to one.

    Where no neighbour has a positive cosine all K count alike.
    """
    mean, deviation = pool.mean(0), pool.std(0)
    deviation = np.where(deviation > 1e-6 * (1 + np.abs(mean)), deviation, 1)
    query, pool = (_unit((values - mean) / deviation) for values in (query, pool))
    cosine = query @ pool.T
    neighbours = min(neighbours, pool.shape[0])
    # a stable order, so that ties never depend on the machine
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours]
    weight = np.clip(np.take_along_axis(cosine, near, axis=1), 0, None)
    weight[weight.sum(1) == 0] = 1
    votes = np.zeros((len(query), classes), np.float64)
    np.add.at(votes, (np.arange(len(query))[:, None], label[near]), weight)
    return (votes / votes.sum(1, keepdims=True)).astype(np.float32)


def _unit(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
