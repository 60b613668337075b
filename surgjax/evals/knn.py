"""Leave-case-out nearest neighbours: no training, so the quickest look at an encoder.

Each clip of a held-out case is classified by the K nearest clips of all other cases. Features are
standardised with the mean and deviation of the neighbours' pool, nearness is the cosine, and a
neighbour votes with its cosine (negative ones with nothing). Of several classes each has a vote of
its own, in which the neighbours take part whose label of it is known.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from surgjax.benchmark.metrics import ratio
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.classification import all_features, finish
from surgjax.evals.features import in_words, labelled_clips, moments, unit_length
from surgjax.evals.model import Model

AT_ONCE = 2**24  # cosines: 128 MiB


@dataclass(frozen=True)
class Evaluator:
    """Leave-case-out nearest neighbours.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n or multi_label task of it.
      split: name of the split whose test cases are classified.
      every_s: seconds between clips of a video.
      anchor: place of the labelled frame in its clip, "middle" or "last".
      unit: "frame", or "video" for stores whose videos have one label each.
      segments: clips of a video whose mean stands for it, with unit "video".
      neighbours: K.
      batch_size: clips an encoder takes at once.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    every_s: float = 1.0
    anchor: str = "middle"
    unit: str = "frame"
    segments: int = 1
    neighbours: int = 20
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet, metrics.json and pictures into `out`; returns scalars.

        Raises:
          UserError: the store lacks the task, the split, or test cases beside other cases.
        """
        if self.neighbours < 1:
            raise UserError(f"neighbours is {self.neighbours}; expected at least 1")
        store = open_store(self.store)
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
            unit=self.unit,
        )
        tested = clips.split == "test"
        if not tested.any() or len(np.unique(clips.case)) < 2:
            raise UserError(
                f"{self.store} has {int(tested.sum())} labelled test clips of split "
                f"{self.split!r} in {len(np.unique(clips.case))} cases; expected test clips and "
                f"at least two cases"
            )
        found = all_features(
            *(store, clips, model, self.batch_size), unit=self.unit, segments=self.segments
        )
        probs = {}
        for name, values in found.items():
            probs[name] = np.zeros((len(clips), len(clips.classes)), np.float32)
            for case in np.unique(clips.case[tested]):
                model.go_on()
                query, pool = tested & (clips.case == case), clips.case != case
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
            protocol=f"leave-case-out, cosine, K = {self.neighbours}, "
            + in_words(self.unit, self.segments, self.every_s, self.anchor),
            store=store,
            details={"task": self.task, "neighbours": self.neighbours},
            out=out,
            step=step,
        )


def vote(
    query: Float[np.ndarray, "q d"],
    pool: Float[np.ndarray, "p d"],
    label: Int[np.ndarray, "p"] | Float[np.ndarray, "p classes"],
    classes: int,
    neighbours: int,
) -> Float[np.ndarray, "q classes"]:
    """Share of the K nearest neighbours' cosine that each class has, float32.

    Of one class a clip, rows sum to one. Of several, a class's share is that of the neighbours
    whose label of it is known; where none is, its share of the pool. Where no neighbour has a
    positive cosine all K count alike.
    """
    mean, deviation = moments(pool)
    query, pool = (unit_length((values - mean) / deviation) for values in (query, pool))
    neighbours = min(neighbours, pool.shape[0])
    made = []
    for some in np.array_split(query, max(1, -(-len(query) * len(pool) // AT_ONCE))):
        cosine = some @ pool.T
        near = nearest(cosine, neighbours)
        weight = np.clip(np.take_along_axis(cosine, near, axis=1), 0, None)
        weight[weight.sum(1) == 0] = 1
        if label.ndim == 1:
            votes = np.zeros((len(some), classes))
            np.add.at(votes, (np.arange(len(some))[:, None], label[near]), weight)
            made.append(votes / votes.sum(1, keepdims=True))
        else:
            made.append(_votes_of_several(label, near, weight))
    return np.concatenate(made).astype(np.float32)


def nearest(cosine: Float[np.ndarray, "q p"], count: int) -> Int[np.ndarray, "q count"]:
    """Columns of the largest values of each row, in falling order, of equal ones the first: so that
    ties never depend on the machine. Much faster than sorting whole rows."""
    least = np.partition(cosine, -count, axis=1)[:, -count]
    near = np.empty((len(cosine), count), np.int64)
    for row, values in enumerate(cosine):
        some = np.flatnonzero(values >= least[row])
        near[row] = some[np.argsort(-values[some], kind="stable")[:count]]
    return near


def _votes_of_several(label: np.ndarray, near: np.ndarray, weight: np.ndarray) -> np.ndarray:
    known = ~np.isnan(label)
    filled = np.where(known, label, 0)
    share = np.nan_to_num(ratio(filled.sum(0), known.sum(0)))
    for_it = np.einsum("qk,qkc->qc", weight, filled[near])
    heard = np.einsum("qk,qkc->qc", weight, known[near].astype(np.float64))
    return np.where(heard > 0, np.nan_to_num(ratio(for_it, heard)), share)
