"""Features of a store's labelled clips, the same clips for every encoder.

A clip belongs to the labelled frame in its middle, unless another anchor is asked for: of t frames,
frame (t - 1) // 2 is the labelled one. A clip that reaches over an end of the video repeats the
first or last frame there. The crop is the largest centred square, unless another is asked for.
Where a video has one label, its clips are spread over its length.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8

from surgjax.data.labelled import KINDS, first_in_every, frames_before
from surgjax.data.plan import ROW, ClipShape
from surgjax.data.sliding import sliding_clips
from surgjax.data.store import Store
from surgjax.data.transforms import CENTRE, Augmentation
from surgjax.errors import UserError

Encoder = Callable[[np.ndarray], np.ndarray]
UNITS = ("frame", "video")
ORDERED = ("skill",)  # tasks whose class numbers rise with what they tell of


@dataclass(frozen=True)
class LabelledClips:
    """Clips of one store with a class each.

    Attributes:
      rows: structured array of plan.ROW, one a clip.
      t_ms: time of the labelled frame, milliseconds.
      label: class number; of a multi-label task 1 and 0 for every class, NaN where unknown.
      classes: names of the classes.
      case, split, video_id, dataset: of the clip's video; split is "" where it has none.
      score: of a task whose classes have an order (skill), the rating behind them, else None.
    """

    rows: np.ndarray
    t_ms: Int[np.ndarray, "n"]
    label: Int[np.ndarray, "n"] | Float[np.ndarray, "n c"]
    classes: list[str]
    case: np.ndarray
    split: np.ndarray
    video_id: np.ndarray
    dataset: np.ndarray
    score: Float[np.ndarray, "n"] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kind(self) -> str:
        """ "one_of_n" or "multi_label"."""
        return "one_of_n" if self.label.ndim == 1 else "multi_label"

    def where(self, mask: np.ndarray) -> "LabelledClips":
        """The clips where `mask` is true."""
        kept = {
            name: getattr(self, name)[mask]
            for name in ("rows", "t_ms", "label", "case", "split", "video_id", "dataset")
        }
        score = None if self.score is None else self.score[mask]
        return LabelledClips(classes=self.classes, score=score, **kept)


def labelled_clips(
    store: Store,
    task: str,
    clip: ClipShape,
    *,
    every_s: float,
    split: str,
    anchor: str = "middle",
    unit: str = "frame",
) -> LabelledClips:
    """At most one clip in every `every_s` seconds of a video: around the first label in each.

    Args:
      task: a task of store.json, one_of_n or multi_label.
      split: name of the split column, without "split_".
      anchor: place of the labelled frame in its clip, "middle" or "last".
      unit: "frame", or "video" where each video has one label: then one clip a video, which
        `segments` moves.

    Raises:
      UserError: no such task or split, a task of another kind, no labels, or with unit "video" a
        video that has several.
    """
    tasks = store.meta.get("tasks", {})
    if task not in tasks:
        raise UserError(f"{store.path} has no task {task!r}; it has {sorted(tasks) or 'none'}")
    kind = tasks[task]["kind"]
    if kind not in KINDS:
        raise UserError(
            f"task {task!r} of {store.path} is {kind}; expected {' or '.join(KINDS)}, choose "
            f"another task"
        )
    if unit not in UNITS:
        raise UserError(f"unit is {unit!r}; expected {' or '.join(UNITS)}")
    if f"split_{split}" not in store.split_columns:
        known = [name.removeprefix("split_") for name in store.split_columns]
        raise UserError(f"{store.path} has no split {split!r}; it has {known or 'none'}")
    if not every_s > 0:
        raise UserError(f"every_s is {every_s}; expected a positive number of seconds")
    labels = store.labels(task)
    order = np.lexsort((labels["t_ms"], labels["video"]))
    values = "label" if kind == "one_of_n" else "values"
    video, t_ms, label = (labels[k][order] for k in ("video", "t_ms", values))
    if kind == "one_of_n":
        label = label.astype(np.int64)
        known = label >= 0
    else:
        known = ~np.isnan(label).all(1)
    video, t_ms, label = video[known], t_ms[known], label[known]
    first = first_in_every(every_s, video, t_ms)
    video, t_ms, label = video[first], t_ms[first], label[first]
    if not len(video):
        raise UserError(f"{store.path} has no labels of task {task!r}")
    rows = np.zeros(len(video), ROW)
    rows["index"], rows["video"] = np.arange(len(video)), video
    strides, before = clip.strides(store), frames_before(clip, anchor)
    for v in np.unique(video):
        at = np.flatnonzero(video == v)
        rows["start"][at] = store.frames_at(int(v), t_ms[at]) - before * strides[v]
    split_names = [name or "" for name in store.videos[f"split_{split}"]]
    clips = LabelledClips(
        rows=rows,
        t_ms=t_ms,
        label=label,
        classes=list(tasks[task]["classes"]),
        case=store.videos["case"][video].astype(str),
        split=np.array(split_names)[video],
        video_id=store.videos["video_id"][video].astype(str),
        dataset=store.videos["dataset"][video].astype(str),
        score=ratings(store, rows["video"], label) if task in ORDERED else None,
    )
    return _one_of_each_video(clips) if unit == "video" else clips


def ratings(
    store: Store, video: Int[np.ndarray, "n"], label: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """The score of each video, float64: the sum of its items, as of the global rating scores of
    JIGSAWS and AIxSuture; where a store has no such task, or not for all, the class number."""
    for task, about in store.meta["tasks"].items():
        if about["kind"] == "score":
            given = store.labels(task)
            videos, first = np.unique(given["video"], return_index=True)
            at = np.minimum(np.searchsorted(videos, video), len(videos) - 1)
            if (videos[at] == video).all():
                return given["values"][first[at]].astype(np.float64).sum(1)
    return label.astype(np.float64)


def segments(
    store: Store, clips: LabelledClips, clip: ClipShape, count: int
) -> list[LabelledClips]:
    """The clips moved to `count` starts spread evenly from the video's first to its last clip; one
    alone lies in the middle."""
    video = clips.rows["video"]
    span = (clip.frames - 1) * clip.strides(store, video)
    last, views = np.maximum(0, store.frames[video] - span - 1), []
    for nth in range(count):
        rows = clips.rows.copy()
        rows["start"] = np.rint(last * (nth / (count - 1) if count > 1 else 0.5))
        views.append(replace(clips, rows=rows))
    return views


def views_of(
    store: Store, clips: LabelledClips, clip: ClipShape, unit: str, count: int
) -> list[LabelledClips]:
    """The clips themselves, or with unit "video" `count` segments of each video.

    Raises:
      UserError: fewer than one segment, or several of a labelled frame.
    """
    if count < 1 or (unit == "frame" and count > 1):
        raise UserError(
            f"segments={count} with unit={unit!r}; a labelled frame has one clip: expected 1, or "
            f"unit='video' and at least 1"
        )
    return [clips] if unit == "frame" else segments(store, clips, clip, count)


def in_words(unit: str, segments: int, every_s: float, anchor: str) -> str:
    """Which clips were tested, for a protocol's line."""
    if unit == "video":
        return f"mean of {segments} clips spread over each video"
    return f"one clip in {every_s:g} s" + (", labelled frame last" if anchor == "last" else "")


def features(
    store: Store,
    clips: LabelledClips,
    clip: ClipShape,
    encoders: Mapping[str, Encoder],
    *,
    batch_size: int = 16,
    workers: int = 2,
    augment: Augmentation = CENTRE,
) -> dict[str, Float[np.ndarray, "n d"]]:
    """float32 features (n, d) of every encoder, in batches as those of `embed_clips`; a frame that
    several clips show is decoded once."""
    order = np.lexsort((clips.rows["start"], clips.rows["video"]))
    ahead = sliding_clips(store, clips.rows[order], clip, augment, workers=workers)
    found = _in_batches(ahead, len(clips), encoders, batch_size)
    return {name: values[np.argsort(order)] for name, values in found.items()}


def embed_clips(
    count: int,
    load: Callable[[int], UInt8[np.ndarray, "t h w c"]],
    encoders: Mapping[str, Encoder],
    *,
    batch_size: int = 16,
    workers: int = 2,
) -> dict[str, Float[np.ndarray, "n d"]]:
    """float32 outputs (n, d) of every encoder on the clips `load(0)` to `load(count - 1)`, which
    threads read ahead.

    All batches have `batch_size` clips, the last one filled up with repeats, so that an encoder is
    compiled once.
    """
    clips = read_ahead(count, load, batch_size, workers=workers)
    return _in_batches(clips, count, encoders, batch_size)


def read_ahead(
    count: int,
    load: Callable[[int], UInt8[np.ndarray, "t h w c"]],
    ahead: int,
    *,
    workers: int = 2,
) -> Iterator[UInt8[np.ndarray, "t h w c"]]:
    """The clips `load(0)` to `load(count - 1)`, at most `ahead` of them read before their turn."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = collections.deque(pool.submit(load, i) for i in range(min(ahead, count)))
        for i in range(ahead, count + ahead):
            if i < count:
                waiting.append(pool.submit(load, i))
            yield waiting.popleft().result()


def moments(
    values: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d"]]:
    """Mean and deviation of every feature, float64, with 1 as the deviation of constant ones."""
    values = values.astype(np.float64)
    mean, deviation = values.mean(0), values.std(0)
    return mean, np.where(deviation > 1e-6 * (1 + np.abs(mean)), deviation, 1)


def unit_length(values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Vectors of length 1, float64; zeros stay."""
    values = values.astype(np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def mean_colour(video: UInt8[np.ndarray, "b t h w c"]) -> Float[np.ndarray, "b c"]:
    """Mean of each colour channel over a clip in [0, 1]: what colour alone tells of the label."""
    return (video.mean(axis=(1, 2, 3), dtype=np.float64) / 255).astype(np.float32)


def _one_of_each_video(clips: LabelledClips) -> LabelledClips:
    _, first, which = np.unique(clips.video_id, return_index=True, return_inverse=True)
    same = np.isclose(clips.label, clips.label[first][which], equal_nan=True)
    if not same.all():
        video = clips.video_id[~same.reshape(len(clips), -1).all(axis=1)][0]
        raise UserError(
            f"video {video} has more than one label; unit='video' is for stores whose videos have "
            f"one each; use unit='frame'"
        )
    mask = np.zeros(len(clips), bool)
    mask[first] = True
    return clips.where(mask)


def _in_batches(
    clips: Iterator[UInt8[np.ndarray, "t h w c"]],
    count: int,
    encoders: Mapping[str, Encoder],
    batch_size: int,
) -> dict[str, Float[np.ndarray, "n d"]]:
    parts = {name: [] for name in encoders}
    for first in range(0, count, batch_size):
        some = list(itertools.islice(clips, batch_size))
        video = np.stack(some + some[-1:] * (batch_size - len(some)))
        for name, encode in encoders.items():
            parts[name].append(np.asarray(encode(video), np.float32)[: count - first])
    return {name: np.concatenate(part) for name, part in parts.items()}
