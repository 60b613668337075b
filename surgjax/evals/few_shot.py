"""A linear probe that learns from few labels, drawn many times.

What is learnt from is drawn from the training part: so many labelled videos, so many clips of each
class (shots), or a share of the videos (the 12.5 % and 25 % of SelfSupSurg, arXiv 2207.00449). The
draws follow from a seed alone and are the same for every encoder. The strength of the probe is
chosen as in linear_probe.py, on the validation cases.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from surgjax.benchmark import few_shot as scoring
from surgjax.data.store import open_store
from surgjax.errors import UserError
from surgjax.evals.classification import (
    all_features,
    constant_answers,
    write_blocks,
    write_metrics,
)
from surgjax.evals.features import LabelledClips, in_words, labelled_clips
from surgjax.evals.linear_probe import FIXED, MIN_CASES, choice_in_words, parts_of, probe
from surgjax.evals.model import Model

SHARES = "selfsupsurg"
SIZES = {"videos": "1,2,4,8,16,all", "shots": "1,2,4,8,16", SHARES: "0.125,0.25,1"}
FEW, DRAWS_OF_FEW = 2, 10  # so small sets differ much: as many draws at least


@dataclass(frozen=True)
class Evaluator:
    """Few-shot linear probe.

    Attributes:
      store: folder of a store with labels.
      task: a one_of_n or multi_label task of it.
      split: name of a split with train and test cases, perhaps val.
      by: "videos", "shots" (clips a class) or "selfsupsurg" (shares of the training videos).
      sizes: with commas, "all" being all training videos; empty: those of SIZES.
      draws: of each size; at least DRAWS_OF_FEW of one and two videos or shots. Sets of videos
        differ, so all videos are drawn once.
      seed: of the draws.
      every_s, anchor, unit, segments, batch_size: as in linear_probe.py.
    """

    store: str
    task: str = "phase"
    split: str = "official"
    by: str = "videos"
    sizes: str = ""
    draws: int = 5
    seed: int = 0
    every_s: float = 1.0
    anchor: str = "middle"
    unit: str = "frame"
    segments: int = 1
    batch_size: int = 16

    def run(self, model: Model, *, out: Path, step: int) -> dict[str, float]:
        """Writes predictions.parquet and metrics.json into `out`; returns scalars.

        Raises:
          UserError: the store lacks the task, the split, or clips in its train or test part; an
            unknown `by` or sizes that are none.
        """
        store = open_store(self.store)
        clips = labelled_clips(
            *(store, self.task, model.clip),
            every_s=self.every_s,
            split=self.split,
            anchor=self.anchor,
            unit=self.unit,
        )
        parts = parts_of(clips, self.store, self.split)
        settings = self._settings(clips, parts["train"])
        found = all_features(
            *(store, clips, model, self.batch_size), unit=self.unit, segments=self.segments
        )
        tested = clips.where(parts["test"])
        choice = choice_in_words(clips, parts)
        if not parts["val"].any():
            choice += f", {FIXED:g} with fewer than {MIN_CASES}"
        protocol = (
            f"linear probe from few {'videos' if self.by == SHARES else self.by}, {choice}, "
            f"{in_words(self.unit, self.segments, self.every_s, self.anchor)}, seed {self.seed}"
        )
        blocks = []
        for name, values in found.items():
            for setting, drawn in settings.items():
                for draw, train in enumerate(drawn):
                    model.go_on()
                    probs, _ = probe(values, clips, {**parts, "train": train})
                    blocks.append(({"model": name, "setting": setting, "draw": draw}, probs))
        last = {"setting": [*settings][-1], "draw": 0}
        for name, probs in constant_answers(tested, clips.label[parts["train"]]).items():
            blocks.append(({"model": name, **last}, probs))
        line = {"protocol": f"few_shot: {protocol}"}
        blocks = [(about | line, probs) for about, probs in blocks]
        write_blocks(out / "predictions.parquet", model, store, tested, blocks)
        result = write_metrics(
            *(model, store, tested),
            {"task": self.task, "by": self.by, **scoring.score(out / "predictions.parquet")},
            **dict(name="few_shot", protocol=protocol, out=out, step=step),
        )
        print(f"few_shot at step {step} ({protocol}); model saw test cases: {result['saw_test']}")
        print(scoring.text_table(result), flush=True)
        values = result["models"][model.name]
        return {
            f"{result['metric'].removesuffix('_per_video').removesuffix('_pooled')}"
            f"_{setting.replace(' ', '_')}": of[result["metric"]]["value"]
            for setting, of in values.items()
        }

    def _settings(
        self, clips: LabelledClips, train: Bool[np.ndarray, "n"]
    ) -> dict[str, list[Bool[np.ndarray, "n"]]]:
        """Setting -> the training clips of each draw."""
        if self.by not in SIZES or self.draws < 1:
            raise UserError(
                f"by={self.by!r}, draws={self.draws}; expected {', '.join(SIZES)}, and draws from 1"
            )
        videos = np.unique(clips.video_id[train])
        made = {}
        for text in (self.sizes or SIZES[self.by]).split(","):
            size = self._size(text.strip(), len(videos))
            if self.by == "videos" and size > len(videos):
                continue  # no more than all
            count = size if self.by != SHARES else max(1, round(size * len(videos)))
            is_few = self.by != SHARES and count <= FEW
            number = max(self.draws, DRAWS_OF_FEW) if is_few else self.draws
            name = f"{100 * size:g} %" if self.by == SHARES else f"{count:g} {self.by}"
            name = name if count != 1 else name.removesuffix("s")
            if self.by == "shots":
                made[name] = [
                    draw_shots(clips, train, int(count), (self.seed, draw))
                    for draw in range(number)
                ]
            else:
                drawn = draw_videos(videos, int(count), number, self.seed)
                made[name] = [train & np.isin(clips.video_id, chosen) for chosen in drawn]
        if not made:
            raise UserError(
                f"sizes={self.sizes!r}, but the training part has {len(videos)} videos; expected "
                f"at most that many, or all"
            )
        return made

    def _size(self, text: str, videos: int) -> float:
        try:
            size = float(videos if text == "all" and self.by == "videos" else text)
        except ValueError:
            size = 0.0
        size = size if math.isfinite(size) else 0.0
        if not (0 < size <= 1 if self.by == SHARES else size >= 1 and size == int(size)):
            wanted = "shares from above 0 to 1" if self.by == SHARES else "whole numbers from 1"
            raise UserError(f"sizes={self.sizes!r} has {text!r}; expected {wanted}, with commas")
        return size


def draw_videos(
    videos: Shaped[np.ndarray, "n"], count: int, draws: int, seed: int
) -> list[np.ndarray]:
    """Different sets of so many videos, fewer where there are not as many."""
    found: dict[tuple, np.ndarray] = {}
    for draw in itertools.count():
        if len(found) == min(draws, math.comb(len(videos), count)):
            return list(found.values())
        chosen = np.sort(np.random.default_rng((seed, draw)).permutation(videos)[:count])
        found.setdefault(tuple(chosen.tolist()), chosen)


def draw_shots(
    clips: LabelledClips, train: Bool[np.ndarray, "n"], count: int, seed: tuple[int, int]
) -> Bool[np.ndarray, "n"]:
    """So many training clips of each class, fewer of a class that has not as many; of several
    classes a clip, the clips drawn for any of them."""
    chosen = np.zeros(len(clips), bool)
    rng = np.random.default_rng(seed)
    for number in range(len(clips.classes)):
        is_class = (
            clips.label == number if clips.kind == "one_of_n" else clips.label[:, number] > 0.5
        )
        chosen[rng.permutation(np.flatnonzero(train & is_class))[:count]] = True
    return chosen
