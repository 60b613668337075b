"""Clips around labelled frames, for supervised training: the plan of plan.py over other samples.

A sample is a labelled stored frame of a training case. A batch then also holds `labels`: the
classes of all tasks side by side, so that one-of-n, multi-label and several tasks at once are the
same array. Where a video has one label, an epoch may have a clip of each video instead.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from surgjax.data.batch import UNKNOWN
from surgjax.data.permutation import hash_words, permute
from surgjax.data.plan import ORDER, START, ClipShape, Plan
from surgjax.data.store import Store
from surgjax.errors import UserError

KINDS = ("one_of_n", "multi_label")
SLACK = 1.5  # milliseconds by which a stored frame's rounded time may lie before a full second


def task_labels(stores: Sequence[Store], names: str) -> dict[str, dict[str, Any]]:
    """Task -> {"kind", "classes"} of comma-separated `names`, equal in all stores.

    Raises:
      UserError: a store lacks a task, has other classes, or the task is of another kind.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in (name.strip() for name in names.split(",")):
        for store in stores:
            tasks = store.meta.get("tasks", {})
            if name not in tasks:
                raise UserError(
                    f"{store.path} has no task {name!r}; it has {sorted(tasks) or 'none'}; set "
                    f"objective.task"
                )
            about = {key: tasks[name][key] for key in ("kind", "classes")}
            if about["kind"] not in KINDS:
                raise UserError(
                    f"task {name!r} of {store.path} is {about['kind']}; expected "
                    f"{' or '.join(KINDS)}"
                )
            if found.setdefault(name, about) != about:
                raise UserError(
                    f"task {name!r} of {store.path} has other classes than that of "
                    f"{stores[0].path}; train on stores with equal classes"
                )
    return found


def columns_of(tasks: Mapping[str, Mapping[str, Any]], task: str) -> slice:
    """The columns of a task among the classes of all `tasks`, which lie side by side in order."""
    first = 0
    for name, about in tasks.items():
        if name == task:
            return slice(first, first + len(about["classes"]))
        first += len(about["classes"])
    raise KeyError(task)


class LabelledPlan(Plan):
    """The order of a supervised run.

    Args:
      stores, masks, clip, batch_size, seed, weights, repeats: as in `Plan`; `masks` are the
        training videos.
      tasks: as `task_labels` makes it.
      anchor: where in its clip the labelled frame lies: "last", so that nothing after it is seen
        (online recognition), or "middle". A clip that reaches over an end of the video repeats the
        frame there.
      unit: "frame", or "video" for stores whose videos have one label each: an epoch then shows
        every video once, at a random place where the clip fits.

    Raises:
      UserError: no labelled frame in a store, a video with several labels where it should have
        one, or as in `Plan`.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        masks: Sequence[np.ndarray],
        clip: ClipShape,
        batch_size: int,
        seed: int,
        weights: str = "",
        *,
        tasks: Mapping[str, Mapping[str, Any]],
        anchor: str = "last",
        unit: str = "frame",
        repeats: int = 1,
    ):
        if unit not in ("frame", "video"):
            raise UserError(f"data.unit is {unit!r}; choose frame or video")
        self._tasks, self._unit = tasks, unit
        self._before = frames_before(clip, anchor)
        super().__init__(stores, masks, clip, batch_size, seed, weights, repeats=repeats)
        if unit == "video":
            for samples in self._samples:
                samples.refuse_several_labels()

    @property
    def epoch_steps(self) -> float:
        """Steps after which as many clips were delivered as there are frames, or videos."""
        if self._unit == "frame":
            return super().epoch_steps
        return sum(len(samples.videos) for samples in self._samples) / self.batch_size

    def extras(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """{"labels": uint8 (n, classes of all tasks)}"""
        local = rows["index"] % self.num_samples - self._offsets[rows["store"]]
        columns = sum(len(about["classes"]) for about in self._tasks.values())
        labels = np.empty((len(rows), columns), np.uint8)
        for number, samples in enumerate(self._samples):
            of_store = rows["store"] == number
            labels[of_store] = samples.labels[local[of_store]]
        return {"labels": labels}

    def _nth_sample(self, store: int, nth: np.ndarray) -> np.ndarray:
        if self._unit == "frame":
            return super()._nth_sample(store, nth)
        samples = self._samples[store]
        epoch, turn = np.divmod(nth, np.uint64(len(samples.videos)))
        turn = permute(turn, len(samples.videos), hash_words(self.seed, ORDER, store, epoch))
        return samples.random(samples.videos[turn], hash_words(self.seed, START, store, nth))

    def _numbered(self, store: Store, mask: np.ndarray) -> "_LabelledFrames":
        return _LabelledFrames(store, mask, self._tasks, self.clip, self._before)


def frames_before(clip: ClipShape, anchor: str) -> int:
    """Frames of a clip before its labelled one.

    Raises:
      UserError: an unknown anchor.
    """
    places = {"last": clip.frames - 1, "middle": (clip.frames - 1) // 2}
    if anchor not in places:
        raise UserError(f"data.anchor is {anchor!r}; choose last or middle")
    return places[anchor]


def first_in_every(
    every_s: float, video: Int[np.ndarray, "n"], t_ms: Int[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Whether a frame is the first of its video in its `every_s` seconds.

    Of a recording at 29.97 Hz kept once a second a frame may have the time 32999 ms: it is that of
    second 33, as where stores are made (data_prep/video.py).

    Args:
      video, t_ms: in order of video, then time.
    """
    slack = min(SLACK, 250 * every_s)
    bucket = np.floor((t_ms + slack) / (1000 * every_s)).astype(np.int64)
    first = np.ones(len(video), bool)
    first[1:] = (video[1:] != video[:-1]) | (bucket[1:] != bucket[:-1])
    return first


class _LabelledFrames:
    """The numbered samples of one store: its labelled frames, video by video.

    Attributes:
      count: how many.
      labels: uint8 (count, classes of all tasks).
      videos: those with samples, rows of videos.parquet.
    """

    def __init__(
        self, store: Store, mask: np.ndarray, tasks: Mapping, clip: ClipShape, before: int
    ):
        self._store, self._before, self._after = store, before, clip.frames - 1 - before
        self._strides = clip.strides(store)
        given = {name: store.labels(name) for name in tasks}
        places = np.concatenate(
            [np.stack([of["video"], of["t_ms"]], axis=1) for of in given.values()]
        ).astype(np.int64)
        places = np.unique(places[mask[places[:, 0]]], axis=0)
        self._video, self._t_ms = places[:, 0].astype(np.int32), places[:, 1]
        parts = []
        for name, of in given.items():
            columns = np.full((len(places), len(tasks[name]["classes"])), UNKNOWN, np.uint8)
            at, known = _positions(places, of)
            if "label" in of:
                label = of["label"][known]
                columns[at] = label[:, None] == np.arange(columns.shape[1])
                columns[at[label < 0]] = UNKNOWN
            else:
                values = of["values"][known]
                columns[at] = np.where(np.isnan(values), UNKNOWN, values > 0.5)
            parts.append(columns)
        labels = np.concatenate(parts, axis=1)
        told = (labels != UNKNOWN).any(axis=1)
        self.labels, self._video, self._t_ms = labels[told], self._video[told], self._t_ms[told]
        self.count = len(self._video)
        if not self.count:
            raise UserError(
                f"no training video of {store.path} has labels of {', '.join(tasks)}; check "
                f"data.split and objective.task"
            )
        # Where every stored frame has a label, its number says which frame it is.
        counts = np.bincount(self._video, minlength=len(store))
        self._first, self._counts = np.cumsum(counts) - counts, counts
        self._is_dense = counts == store.frames
        self.videos = np.flatnonzero(counts)

    def random(self, video: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """A sample number (n,) of each video (n,) by keys (n,): of those whose clip lies within the
        video, where every frame has a label and any does, else of all."""
        count, dense = self._counts[video], self._is_dense[video]
        low = np.where(dense, np.minimum(self._before * self._strides[video], count - 1), 0)
        end = np.where(dense, count - self._after * self._strides[video], count)
        choices = np.maximum(end - low, 1).astype(np.uint64)
        return self._first[video] + low + (keys % choices).astype(np.int64)

    def refuse_several_labels(self) -> None:
        """Raises UserError for a video whose samples have different labels."""
        odd = (self.labels != self.labels[self._first[self._video]]).any(axis=1)
        if odd.any():
            raise UserError(
                f"video {self._store.video_id(self._video[odd][0])} of {self._store.path} has more "
                f"than one label; data.unit='video' is for stores whose videos have one each; use "
                f"data.unit='frame'"
            )

    def window(self, local: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Video (n,), start (1, n) and sample number (1, n) of n clips; k is 1."""
        video = self._video[local]
        frame = local - self._first[video]
        for i in np.flatnonzero(~self._is_dense[video]):
            frame[i] = self._store.frames_at(int(video[i]), [self._t_ms[local[i]]])[0]
        start = frame - self._before * self._strides[video]
        return video, start[None], local[None]


def _positions(places: np.ndarray, of: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """(rows of `places`, which are sorted, rows of `of`) that are the same video and time."""
    if not len(places):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    span = 1 + max(places[:, 1].max(), of["t_ms"].max())
    keys = places[:, 0] * span + places[:, 1]
    asked = of["video"].astype(np.int64) * span + of["t_ms"]
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    known = np.flatnonzero(keys[at] == asked)
    return at[known], known
