"""Pictures of features: a map of all of them, and the nearest neighbours of a few frames.

Features are a features.parquet of ours or anybody's (vectors.py); what their videos are, and the
frames themselves, come from stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgjax.benchmark.pictures import GREY, PALETTE, Rows, colour, entitle, plain
from surgjax.benchmark.vectors import Vectors
from surgjax.data.decode import UNREADABLE, pictures
from surgjax.data.store import Store
from surgjax.errors import UserError, nearest

GROUPS = 12  # named in a map; the rest is grey
POINTS = 5000  # of a map
MANY_POINTS = 2000  # beyond which an SVG holds them as pixels
HEIGHT = 120  # pixels of a frame in the gallery
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Places:
    """Where rows of features come from.

    Attributes:
      store: number of each row's store in the list given, (n,).
      video: its row in that store's videos.parquet, (n,).
      dataset, procedure, case: of the video, (n,).
    """

    store: Int[np.ndarray, "n"]
    video: Int[np.ndarray, "n"]
    dataset: Shaped[np.ndarray, "n"]
    procedure: Shaped[np.ndarray, "n"]
    case: Shaped[np.ndarray, "n"]


def places(vectors: Vectors, stores: Sequence[Store]) -> Places:
    """Looks the videos up, each in the first store that has it.

    Raises:
      UserError: a video that no store has.
    """
    where: dict[str, tuple[int, int]] = {}
    for number, store in enumerate(stores):
        for row, name in enumerate(store.videos["video_id"].astype(str).tolist()):
            where.setdefault(name, (number, row))
    asked, which = np.unique(vectors.video_id.astype(str), return_inverse=True)
    if strange := [name for name in asked.tolist() if name not in where]:
        raise UserError(
            f"the features have video {strange[0]!r}{nearest(strange[0], where)} and "
            f"{len(strange) - 1} others that no store given has; give the stores they are of"
        )
    found = np.array([where[name] for name in asked.tolist()], np.int64).reshape(-1, 2)
    words = {
        name: np.array([str(stores[s].videos[name][v] or NOT_STATED) for s, v in found])[which]
        for name in ("dataset", "procedure", "case")
    }
    return Places(found[which, 0], found[which, 1], **words)


def principal_components(
    values: Float[np.ndarray, "n d"], count: int = 2
) -> tuple[Float[np.ndarray, "n count"], Float[np.ndarray, "count"]]:
    """(coordinates, share of the variance) of the first principal components, in float64.

    Pearson 1901, by singular values of the centred features. The sign of a component is such that
    its largest weight is positive.

    Raises:
      ValueError: fewer rows or features than components.
    """
    if min(values.shape) < count:
        raise ValueError(f"{values.shape} features have no {count} principal components")
    centred = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    left, size, weights = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(weights[:count]).argmax(1)
    sign = np.where(weights[np.arange(count), largest] < 0, -1.0, 1.0)
    total = (size**2).sum()
    share = size[:count] ** 2 / total if total else np.zeros(count)
    return left[:, :count] * size[:count] * sign, share


def plot_embedding(
    vectors: Vectors, stores: Sequence[Store], most: int = POINTS
) -> tuple[Figure, Rows]:
    """First two principal components, coloured by procedure and by source (dataset).

    Args:
      most: points drawn, evenly taken; components are those of all rows.

    Raises:
      UserError: as `places`. ValueError: as `principal_components`.
    """
    found = places(vectors, stores)
    at, share = principal_components(vectors.values)
    kept = np.unique(np.linspace(0, len(at) - 1, min(most, len(at))).round().astype(int))
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for axis, (title, words) in zip(
        figure.subplots(1, 2),
        (("procedure", found.procedure), ("source", found.dataset)),
        strict=True,
    ):
        _map(axis, at[kept], words[kept])
        axis.set_title(f"by {title}", fontsize=8, loc="left")
        axis.set_xlabel(f"first component ({100 * share[0]:.0f} % of variance)", fontsize=8)
        axis.set_ylabel(f"second ({100 * share[1]:.0f} %)", fontsize=8)
    videos = len(set(vectors.video_id.tolist()))
    shown = "" if len(kept) == len(at) else f", {len(kept):,} shown"
    title = f"{_model(vectors)}, {len(at):,} frames of {videos} videos{shown}"
    entitle(figure, title, _seen(vectors, found))
    rows = [["video_id", "t_ms", "dataset", "procedure", "first", "second"]]
    for i in kept.tolist():
        named = [str(vectors.video_id[i]), int(vectors.t_ms[i])]
        rows.append([*named, found.dataset[i], found.procedure[i], *at[i].tolist()])
    return figure, rows


def nearest_of_other_cases(
    values: Float[np.ndarray, "n d"],
    case: Shaped[np.ndarray, "n"],
    queries: Int[np.ndarray, "q"],
    k: int,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """(rows, cosine similarity) of the k rows nearest to each query that are not of its case.

    Of equally near ones the first come first.

    Raises:
      ValueError: a query has fewer than k rows of other cases.
    """
    size = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.maximum(size, 1e-12)
    likeness = (unit[queries] @ unit.T).astype(np.float64)
    likeness[case[queries][:, None] == case[None]] = -np.inf
    if (np.isfinite(likeness).sum(1) < k).any():
        raise ValueError(f"fewer than {k} frames of other cases")
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(likeness, order, axis=1)


def plot_neighbours(
    vectors: Vectors,
    stores: Sequence[Store],
    *,
    task: str | None = None,
    queries: int = 6,
    k: int = 5,
) -> tuple[Figure, Rows]:
    """Frames and their k nearest of other cases, by cosine similarity, as pictures with labels.

    Queries are the middle frames of cases spread evenly over all cases by name. A neighbour with
    the query's label has a green frame, one with another label a red one.

    Args:
      task: one class a frame; by default the first such task of the stores. Frames without a label
        are shown without.

    Raises:
      UserError: as `places`. ValueError: fewer than k frames of other cases.
    """
    found = places(vectors, stores)
    task = task or _first_task(stores)
    names = np.unique(found.case)
    chosen = names[np.unique(np.linspace(0, len(names) - 1, queries).round().astype(int))]
    middle = []
    for name in chosen:
        own = np.flatnonzero(found.case == name)
        middle.append(own[np.lexsort((vectors.t_ms[own], vectors.video_id[own]))][len(own) // 2])
    query = np.array(middle, np.int64)
    rows_of, likeness = nearest_of_other_cases(vectors.values, found.case, query, k)
    label = _labels(vectors, found, stores, task)
    shown = {
        i: _picture(stores[found.store[i]], int(found.video[i]), int(vectors.t_ms[i]))
        for i in {*query.tolist(), *rows_of.ravel().tolist()}
    }
    tall = 0.45 + 1.75 * max(picture.shape[0] / picture.shape[1] for picture in shown.values())
    figure = Figure(figsize=(1.75 * (k + 1), 0.5 + tall * len(query)), layout="constrained")
    axes = figure.subplots(len(query), k + 1, squeeze=False)
    header = ["query_video_id", "query_t_ms", "query_label", "rank"]
    rows = [[*header, "video_id", "t_ms", "label", "cosine_similarity"]]

    def named(i: int) -> list:
        return [str(vectors.video_id[i]), int(vectors.t_ms[i]), label[i]]

    for line, first in enumerate(query.tolist()):
        near = rows_of[line].tolist()
        for axis, i in zip(axes[line], [first, *near], strict=True):
            axis.imshow(shown[i], interpolation="nearest")
            says = f"{plain(str(vectors.video_id[i]), 24)}, {vectors.t_ms[i] / 1000:.0f} s"
            axis.set_title(f"{says}\n{plain(label[i], 26)}", fontsize=6)
            shade = "#000000" if i == first else _agreement(label[first], label[i])
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set(color=shade, linewidth=2.5)
        for rank, (i, value) in enumerate(zip(near, likeness[line], strict=True)):
            axes[line, rank + 1].set_xlabel(f"{value:.3f}", fontsize=6)
            rows.append([*named(first), rank + 1, *named(i), float(value)])
        axes[line, 0].set_xlabel("query", fontsize=6)
    legend = f"; green: the same {task}, red: another" if task else ""
    title = f"{_model(vectors)}: {k} nearest frames of other cases, by cosine similarity"
    entitle(figure, title, f"{_seen(vectors, found)}{legend}")
    return figure, rows


def _map(axis: Axes, at: Float[np.ndarray, "n 2"], words: Shaped[np.ndarray, "n"]) -> None:
    names, counts = np.unique(words, return_counts=True)
    largest = names[np.lexsort((names, -counts))]
    shown = sorted(largest[:GROUPS].tolist())
    style = dict(s=9, linewidths=0, alpha=0.7, rasterized=len(at) > MANY_POINTS)
    rest = ~np.isin(words, shown)
    if rest.any():
        label = f"{len(names) - len(shown)} others ({rest.sum():,})"
        axis.scatter(*at[rest].T, color=GREY, label=label, **style)
    for i, name in enumerate(shown):
        own = words == name
        label = f"{plain(name, 40)} ({own.sum():,})"
        axis.scatter(*at[own].T, color=colour(i), label=label, **style)
    axis.set_aspect("equal", adjustable="datalim")  # distances on paper are those of the plane
    axis.tick_params(labelsize=7)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=6, markerscale=2)


def _model(vectors: Vectors) -> str:
    return str(vectors.about.get("model") or "features of an unnamed model")


def _seen(vectors: Vectors, found: Places) -> str:
    """Whether the model was trained on these cases, as far as the file says."""
    used = vectors.about.get("used_cases")
    if used is None:
        return "model saw these cases: unknown"
    cases = set(found.case.tolist())
    return f"model saw {len(cases & set(map(str, used)))} of these {len(cases)} cases"


def _first_task(stores: Sequence[Store]) -> str | None:
    for store in stores:
        for name, about in sorted(store.meta.get("tasks", {}).items()):
            if about["kind"] == "one_of_n":
                return name
    return None


def _labels(
    vectors: Vectors, found: Places, stores: Sequence[Store], task: str | None
) -> list[str]:
    """Name of each row's class, "" without a label at its very time."""
    known: dict[tuple[int, int, int], str] = {}
    for number, store in enumerate(stores):
        if task not in store.meta.get("tasks", {}):
            continue
        classes, labels = store.meta["tasks"][task]["classes"], store.labels(task)
        if "label" not in labels:
            raise ValueError(f"task {task!r} has several classes at once; expected one a frame")
        wanted = np.isin(labels["video"], found.video[found.store == number]) & (
            labels["label"] >= 0
        )
        for video, t_ms, label in zip(
            *(labels[name][wanted].tolist() for name in ("video", "t_ms", "label")), strict=True
        ):
            known[number, video, t_ms] = classes[label]
    keys = zip(found.store.tolist(), found.video.tolist(), vectors.t_ms.tolist(), strict=True)
    return [known.get(key, "") for key in keys]


def _agreement(one: str, other: str) -> str:
    return GREY if not (one and other) else PALETTE[2] if one == other else PALETTE[5]


def _picture(store: Store, video: int, t_ms: int) -> UInt8[np.ndarray, "h w 3"]:
    """The stored frame at a time, or the next one; a red one where it cannot be read."""
    import cv2

    frame = min(store.frames_before(video, t_ms), int(store.frames[video]) - 1)
    try:
        picture = next(pictures(store, video, [frame]))
    except UNREADABLE:
        return np.full((HEIGHT, HEIGHT, 3), (200, 30, 30), np.uint8)
    width = max(1, round(picture.shape[1] * HEIGHT / picture.shape[0]))
    return cv2.resize(picture, (width, HEIGHT), interpolation=cv2.INTER_AREA)
