"""Features of a store's labelled clips, the same clips for every encoder.

A clip belongs to the labelled frame in its middle, unless another anchor is asked for: of t frames,
frame (t - 1) // 2 is the labelled one. A clip that reaches over an end of the video repeats the
first or last frame there. The crop is the largest centred square, unless another is asked for.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from surgjax.data.clip import decode_clip
from surgjax.data.labelled import frames_before
from surgjax.data.plan import ROW, ClipShape
from surgjax.data.store import Store
from surgjax.data.transforms import CENTRE, Augmentation
from surgjax.errors import UserError

Encoder = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class LabelledClips:
    """Clips of one store with a class each.

    Attributes:
      rows: structured array of plan.ROW, one a clip.
      t_ms: time of the labelled frame, milliseconds.
      label: class number; of a multi-label task 1 and 0 for every class, NaN where unknown.
      classes: names of the classes.
      case, split, video_id, dataset: of the clip's video; split is "" where it has none.
    """

    rows: np.ndarray
    t_ms: Int[np.ndarray, "n"]
    label: Int[np.ndarray, "n"] | Float[np.ndarray, "n c"]
    classes: list[str]
    case: np.ndarray
    split: np.ndarray
    video_id: np.ndarray
    dataset: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask: np.ndarray) -> "LabelledClips":
        """The clips where `mask` is true."""
        kept = {
            name: getattr(self, name)[mask]
            for name in ("rows", "t_ms", "label", "case", "split", "video_id", "dataset")
        }
        return LabelledClips(classes=self.classes, **kept)


def labelled_clips(
    store: Store,
    task: str,
    clip: ClipShape,
    *,
    every_s: float,
    split: str,
    anchor: str = "middle",
    kind: str = "one_of_n",
) -> LabelledClips:
    """At most one clip in every `every_s` seconds of a video: around the first label in each.

    Args:
      task: a task of store.json of that kind, one_of_n or multi_label.
      split: name of the split column, without "split_".
      anchor: place of the labelled frame in its clip, "middle" or "last".

    Raises:
      UserError: no such task or split, a task of another kind, or no labels.
    """
    tasks = store.meta.get("tasks", {})
    if task not in tasks:
        raise UserError(f"{store.path} has no task {task!r}; it has {sorted(tasks) or 'none'}")
    if tasks[task]["kind"] != kind:
        raise UserError(
            f"task {task!r} of {store.path} is {tasks[task]['kind']}; expected {kind}, choose "
            f"another task"
        )
    if f"split_{split}" not in store.split_columns:
        known = [name.removeprefix("split_") for name in store.split_columns]
        raise UserError(f"{store.path} has no split {split!r}; it has {known or 'none'}")
    if not every_s > 0:
        raise UserError(f"every_s is {every_s}; expected a positive number of seconds")
    labels = store.labels(task)
    order = np.lexsort((labels["t_ms"], labels["video"]))
    values = "label" if kind == "one_of_n" else "values"
    video, t_ms, label = (labels[k][order] for k in ("video", "t_ms", values))
    bucket = np.floor(t_ms / (1000 * every_s)).astype(np.int64)
    first = np.ones(len(video), bool)
    first[1:] = (video[1:] != video[:-1]) | (bucket[1:] != bucket[:-1])
    if kind == "one_of_n":
        label = label.astype(np.int64)
        first &= label >= 0
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
    return LabelledClips(
        rows=rows,
        t_ms=t_ms,
        label=label,
        classes=list(tasks[task]["classes"]),
        case=store.videos["case"][video].astype(str),
        split=np.array(split_names)[video],
        video_id=store.videos["video_id"][video].astype(str),
        dataset=store.videos["dataset"][video].astype(str),
    )


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
    """float32 features (n, d) of every encoder; each clip is decoded once, as in `embed_clips`."""
    load = lambda i: decode_clip(store, clips.rows[i], clip, augment)  # noqa: E731
    return embed_clips(len(clips), load, encoders, batch_size=batch_size, workers=workers)


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
    parts = {name: [] for name in encoders}
    with ThreadPoolExecutor(workers) as pool:

        def begin(first: int) -> list:
            chosen = np.arange(first, first + batch_size).clip(max=count - 1)
            return [pool.submit(load, int(i)) for i in chosen]

        firsts = range(0, count, batch_size)
        ahead = begin(0) if count else []
        for first in firsts:
            video = np.stack([job.result() for job in ahead])
            ahead = begin(first + batch_size) if first + batch_size < count else []
            new = min(batch_size, count - first)
            for name, encode in encoders.items():
                parts[name].append(np.asarray(encode(video), np.float32)[:new])
    return {name: np.concatenate(part) for name, part in parts.items()}


def mean_colour(video: UInt8[np.ndarray, "b t h w c"]) -> Float[np.ndarray, "b c"]:
    """Mean of each colour channel over a clip in [0, 1]: what colour alone tells of the label."""
    return (video.mean(axis=(1, 2, 3), dtype=np.float64) / 255).astype(np.float32)
