"""Labels and predictions over time: stripes coloured by class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from surgjax.benchmark import metrics
from surgjax.benchmark.pictures import GREY, PALETTE, Rows, colour, entitle, heading, plain
from surgjax.benchmark.predictions import Predictions

ERROR = PALETTE[5]
NAMED = 24  # classes in a legend
MANY = 500  # parts of one stripe, beyond which an SVG holds it as pixels
LONG = 600  # seconds from which time is given in minutes


def plot_ribbons(table: Predictions, most: int = 8) -> tuple[Figure, Rows]:
    """Truth, prediction, error and confidence over time, a block of four stripes for each video.

    Confidence is the highest probability, from nothing to 1 over the height of its stripe.

    Args:
      table: predictions of one class each, with t_ms; the first model is shown.
      most: videos shown, worst first.

    Raises:
      ValueError: several classes at once, or no times.
    """
    if table.target.ndim > 1 or "t_ms" not in table:
        raise ValueError("ribbons need one class a row and the time of each")
    table = table.of(table.models[0])
    names, counts = metrics.by_video(
        table.target, table.pred, table["video_id"], len(table.classes)
    )
    f1, right = metrics.macro_f1(counts), metrics.accuracy(counts)
    order = np.argsort(f1, kind="stable")[:most]
    confidence = table.probabilities.max(1)
    figure = Figure(figsize=(9, 0.5 + 1.1 * len(order)), layout="constrained")
    axes = figure.subplots(len(order), squeeze=False)[:, 0]
    rows, seen = [["video_id", "t_ms", "true", "predicted", "confidence"]], set()
    for axis, index in zip(axes, order, strict=True):
        at = np.flatnonzero(table["video_id"] == names[index])
        at = at[np.argsort(table["t_ms"][at], kind="stable")]
        t_ms, label, pred = table["t_ms"][at], table.target[at], table.pred[at]
        time, unit = _time(t_ms / 1000)
        _stripe(axis, time, label, 3)
        _stripe(axis, time, pred, 2)
        _stripe(axis, time, np.where(label == pred, -1, 0), 1, shades=(ERROR,))
        steps = dict(step="post", color=GREY, linewidth=0, rasterized=len(time) > MANY)
        # float32 can exceed 1 a little, and the last value has to span its own time.
        height = 0.9 * np.r_[confidence[at], confidence[at][-1:]].clip(0, 1)
        axis.fill_between(np.r_[time, time[-1] + _step(time)], 0, height, **steps)
        axis.set_ylim(0, 3.95)
        axis.set_yticks(
            [0.45, 1.45, 2.45, 3.45], ["confidence", "error", "predicted", "true"], fontsize=7
        )
        axis.set_title(
            f"{plain(names[index])}: accuracy {right[index]:.2f}, macro-F1 {f1[index]:.2f}",
            fontsize=8,
            loc="left",
        )
        axis.tick_params(labelsize=7)
        axis.text(1.005, 0, unit, transform=axis.transAxes, fontsize=6, va="top")
        seen |= set(label.tolist()) | set(pred.tolist())
        rows += [
            [names[index], int(t), table.classes[true], table.classes[guess], float(sure)]
            for t, true, guess, sure in zip(t_ms, label, pred, confidence[at], strict=True)
        ]
    shown = f"the {most} worst of " if len(names) > most else ""
    entitle(figure, heading(table), f"{shown}{len(names)} videos, by macro-F1")
    _legend(figure, table.classes, sorted(seen))
    return figure, rows


def plot_label_ribbons(
    videos: Sequence[tuple[str, np.ndarray, np.ndarray]], classes: Sequence[str], task: str
) -> Figure:
    """Labels of every video as one stripe.

    Args:
      videos: (title, seconds (n,), label (n,)) each; label -1 is left white.
    """
    figure = Figure(figsize=(9, 0.9 + 0.28 * len(videos)), layout="constrained")
    axis = figure.subplots()
    for row, (_, seconds, label) in enumerate(reversed(videos)):
        _stripe(axis, seconds, label, row, height=0.8)
    seen = sorted({int(c) for _, _, label in videos for c in np.unique(label) if c >= 0})
    _finish(figure, axis, videos, 0.4, classes, seen, task)
    return figure


def plot_presence(
    videos: Sequence[tuple[str, np.ndarray, np.ndarray]], classes: Sequence[str], task: str
) -> Figure:
    """Presence of several classes over time, one thin stripe a class and video.

    Args:
      videos: (title, seconds (n,), values (n, classes)) each; present from 0.5 on.
    """
    figure = Figure(figsize=(9, 0.9 + 0.4 * len(videos)), layout="constrained")
    axis = figure.subplots()
    height = 0.85 / len(classes)
    for row, (_, seconds, values) in enumerate(reversed(videos)):
        for c in range(len(classes)):
            shown = np.where(values[:, c] >= 0.5, c, -1)
            _stripe(axis, seconds, shown, row + (len(classes) - 1 - c) * height, height=height)
    _finish(figure, axis, videos, 0.42, classes, range(len(classes)), task)
    return figure


def _finish(
    figure: Figure,
    axis: Axes,
    videos: Sequence[tuple],
    middle: float,
    classes: Sequence[str],
    seen: Sequence[int],
    task: str,
) -> None:
    titles = [plain(title) for title, *_ in reversed(videos)]
    axis.set_yticks(np.arange(len(videos)) + middle, titles)
    axis.tick_params(labelsize=7)
    axis.set_xlabel("seconds", fontsize=8)
    axis.set_title(task, fontsize=9, loc="left")
    _legend(figure, classes, seen)


def _time(seconds: np.ndarray) -> tuple[np.ndarray, str]:
    return (seconds / 60, "minutes") if seconds[-1] >= LONG else (seconds, "seconds")


def _step(time: np.ndarray) -> float:
    """What the last frame spans: as long as frames usually do."""
    return float(np.median(np.diff(time))) if len(time) > 1 else 1.0


def _stripe(
    axis: Axes,
    time: np.ndarray,
    label: np.ndarray,
    bottom: float | int,
    height: float = 0.9,
    shades: Sequence[str] = (),
) -> None:
    """Runs of equal labels as coloured bars from their first to the next run's first time."""
    axis.margins(x=0)
    if not len(label):
        return
    starts = np.flatnonzero(np.r_[True, label[1:] != label[:-1]])
    ends = np.r_[time[starts[1:]], time[-1] + _step(time)]
    spans = np.stack([time[starts], ends - time[starts]], axis=1)
    for c in np.unique(label[label >= 0]).tolist():
        axis.broken_barh(
            spans[label[starts] == c],
            (bottom, height),
            facecolors=shades[c] if shades else colour(c),
            rasterized=len(starts) > MANY,
        )


def _legend(figure: Figure, classes: Sequence[str], seen: Sequence[int]) -> None:
    """Names of the classes that are seen, as many beside each other as have room."""
    handles = [Patch(color=colour(i), label=plain(classes[i], 40)) for i in list(seen)[:NAMED]]
    if len(seen) > NAMED:
        handles.append(Patch(color="none", label=f"and {len(seen) - NAMED} more"))
    longest = max((len(handle.get_label()) for handle in handles), default=1)
    width, height = figure.get_size_inches()
    columns = max(1, min(6, int(width / (0.45 + 0.06 * longest)), len(handles)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=7)
    figure.set_size_inches(width, height + 0.17 * -(-len(handles) // columns))
