"""Pictures of one predictions file: what is confused, each class, confidence, triplets.

Every function returns the figure and the rows of numbers behind it, the header first; intervals
are as in statistics.py, resampled over videos, and below 6 videos dots stand for the videos.
"""

import math

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from surgjax.benchmark import calibration, floors, metrics, statistics, triplets
from surgjax.benchmark.pictures import (
    GREY,
    HATCH,
    PALETTE,
    SEQUENCE,
    Rows,
    entitle,
    heading,
    plain,
    readable_on,
    without_frame,
)
from surgjax.benchmark.predictions import Predictions
from surgjax.benchmark.statistics import or_none

RESAMPLES = 1000
FEW, MANY = 12, 30  # classes up to which two matrices stand side by side, and cells hold numbers
LONGEST = 34  # letters of a class name


def plot_confusion(table: Predictions) -> tuple[Figure, Rows]:
    """Counts, and their share of each true class; true classes as rows.

    Raises:
      ValueError: several classes at once.
    """
    table = _first_model(table, one_class=True)
    counts = metrics.confusion(table.target, table.pred, len(table.classes))
    share = metrics.ratio(counts, counts.sum(1, keepdims=True))
    names = [plain(name, LONGEST) for name in table.classes]
    size = len(names)
    side = 1.3 + 0.055 * max(map(len, names)) + max(0.125, 0.46 - 0.01 * size) * size
    beside = size <= FEW
    figure = Figure(
        figsize=(2 * side, side + 0.5) if beside else (side + 0.6, 2 * side + 0.5),
        layout="constrained",
    )
    axes = figure.subplots(1 if beside else 2, 2 if beside else 1)
    font = 7 if size <= FEW else 6 if size <= MANY else 5.5
    shown = counts.astype(np.float64)
    for axis, values, text, title in (
        (axes[0], shown, [[f"{n}" if n else "" for n in row] for row in counts], "frames or clips"),
        (axes[1], share, [[_percent(v) for v in row] for row in share], "% of the true class"),
    ):
        top = None if values is shown else 1.0
        _heat(axis, values, names, names, font=font, text=text if size <= MANY else None, top=top)
        axis.set_title(title, fontsize=8, loc="left")
        axis.set_xlabel("predicted", fontsize=8)
        axis.set_ylabel("true", fontsize=8)
    absent = (counts.sum(1) == 0).any()
    entitle(figure, heading(table), "hatched: class that never occurs" if absent else "")
    rows = [["true", "predicted", "count", "share_of_true"]]
    for i, true in enumerate(table.classes):
        for j, predicted in enumerate(table.classes):
            rows.append([true, predicted, int(counts[i, j]), or_none(share[i, j])])
    return figure, rows


def plot_per_class(table: Predictions, metric: str | None = None) -> tuple[Figure, Rows]:
    """Bars of one number a class, over all frames, with 95 % intervals over videos.

    Args:
      metric: "f1" (default) or "recall"; of several classes at once "ap", average precision, whose
        red line is what constant scores reach.

    Raises:
      ValueError: the metric does not fit the table.
    """
    table = _first_model(table)
    metric = metric or ("f1" if table.target.ndim == 1 else "ap")
    if (metric == "ap") != (table.target.ndim > 1) or metric not in ("f1", "recall", "ap"):
        raise ValueError(f"{metric} is no number of such a table")
    names, which = np.unique(table["video_id"], return_inverse=True)
    times = statistics.times_drawn(statistics.draws(len(names), RESAMPLES))
    compute = _precisions if metric == "ap" else _scores
    value, resampled, alone, support = compute(table, which, times, metric)
    chance = floors.chance_average_precision(table.target) if metric == "ap" else None
    few = len(names) < statistics.FEWEST_VIDEOS
    size = len(value)
    figure = Figure(figsize=(7.5, 1.1 + (0.26 if size <= MANY else 0.17) * size))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    rows = [["class", "positives", metric, "low", "high", *(["chance"] if metric == "ap" else [])]]
    rows[0] += names.tolist() if few else []
    font = 7 if size <= MANY else 5.5
    for i, name in enumerate(table.classes):
        interval = statistics.from_resamples(float(value[i]), resampled[:, i], len(names))
        known = not (few or math.isnan(interval.value) or math.isnan(interval.low))
        bounds = (interval.low, interval.high) if known else (math.nan, math.nan)
        rows.append([name, int(support[i]), or_none(value[i]), *map(or_none, bounds)])
        rows[-1] += [or_none(chance[i])] if chance is not None else []
        rows[-1] += [or_none(v) for v in alone[:, i]] if few else []
        if math.isnan(value[i]):
            says = "no positives" if metric == "ap" else "neither true nor predicted"
            axis.text(0.01, i, says, va="center", fontsize=font, color="#555555")
            continue
        axis.barh(i, value[i], height=0.7, color=PALETTE[4])
        if known:
            axis.plot(bounds, (i, i), color="#000000", linewidth=1.4)
        elif few:
            axis.plot(alone[:, i], np.full(len(names), i), ".", color="#000000", markersize=4)
        if chance is not None:
            axis.plot([chance[i]] * 2, [i - 0.35, i + 0.35], color=PALETTE[5], linewidth=1.6)
        between = f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if known else ""
        axis.text(1.01, i, f"{value[i]:.2f}{between}", va="center", fontsize=font)
    labels = [
        f"{plain(n, LONGEST)} ({int(s):,})" for n, s in zip(table.classes, support, strict=True)
    ]
    axis.set_yticks(range(size), labels, fontsize=font)
    axis.set_ylim(size - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    shown = "; dots: videos, too few for an interval" if few else "; lines: 95 % over videos"
    shown += ", red: constant scores" if chance is not None else ""
    label = {"ap": "average precision", "f1": "F1", "recall": "recall"}[metric]
    axis.set_xlabel(f"{label} over all frames{shown}", fontsize=8)
    entitle(figure, heading(table), f"{label} of each class (in brackets: positives)")
    return figure, rows


def plot_reliability(table: Predictions) -> tuple[Figure, Rows]:
    """Accuracy against confidence in the bins of the expected calibration error, and their frames.

    Raises:
      ValueError: several classes at once.
    """
    table = _first_model(table, one_class=True)
    names, sums = calibration.reliability_by_video(
        table.target, table.probabilities, table["video_id"]
    )
    draws = statistics.draws(len(names), RESAMPLES)
    pooled = sums.sum(0)
    error = statistics.from_resamples(
        float(calibration.expected_calibration_error(pooled)),
        calibration.expected_calibration_error(sums[draws].sum(1)),
        len(names),
    )
    frames, bins = pooled[:, 0], len(pooled)
    accuracy, confidence = (metrics.ratio(pooled[:, i], frames) for i in (1, 2))
    figure = Figure(figsize=(5, 5.6), layout="constrained")
    top, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    low = np.arange(bins) / bins
    top.bar(low, accuracy, 1 / bins, align="edge", color=PALETTE[4], edgecolor="#FFFFFF")
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    top.plot(confidence, accuracy, "o", color=PALETTE[0], markersize=4)
    top.set_ylim(0, 1)
    top.set_ylabel("accuracy", fontsize=8)
    known = len(names) >= statistics.FEWEST_VIDEOS
    between = f" [{error.low:.3f}, {error.high:.3f}]" if known else " (too few videos)"
    top.set_title(f"ECE of {bins} bins: {error.value:.3f}{between}", fontsize=8, loc="left")
    below.bar(low, frames / max(frames.sum(), 1), 1 / bins, align="edge", color=GREY, linewidth=0)
    below.set_ylabel("share of frames", fontsize=8)
    below.set_xlabel("confidence (points: mean of each bin)", fontsize=8)
    below.set_xlim(0, 1)
    for axis in (top, below):
        axis.tick_params(labelsize=7)
    entitle(figure, heading(table), "bars below the dashed line: too sure")
    rows = [["from", "to", "frames", "accuracy", "mean_confidence"]]
    for i in range(bins):
        edges = [i / bins, (i + 1) / bins]
        rows.append([*edges, int(frames[i]), or_none(accuracy[i]), or_none(confidence[i])])
    return figure, rows


def plot_triplets(table: Predictions, protocol: str = "video_ap") -> tuple[Figure, Rows]:
    """AP of instrument and verb, and of instrument and target, as heat maps; of each alone beside
    its name.

    Args:
      protocol: "video_ap" or "global_ap", as of `score`.

    Raises:
      ValueError: classes that are not instrument,verb,target, or one class a row.
    """
    table = _first_model(table)
    if table.target.ndim == 1:
        raise ValueError("triplets need a list of 1 and 0 a row")
    words = triplets.vocabulary(table.classes)
    label, scores = table.target, table.probabilities.astype(np.float64)
    if protocol == "video_ap":
        _, each = triplets.video_average_precision(label, scores, table["video_id"], words)
        ap = {part: triplets.over_videos(values) for part, values in each.items()}
    else:
        ap = triplets.global_average_precision(label, scores, words)
    rows = [["component", "name", "ap"]]
    rows += [
        [part, name, or_none(value)]
        for part in triplets.PARTS
        for name, value in zip(words.names[part], ap[part], strict=True)
    ]
    means = {k: float(v) for k, v in triplets.mean_average_precision(ap, words).items()}
    instruments = words.names["i"]
    wide = 2.2 + 0.42 * max(len(words.names["v"]), len(words.names["t"]))
    figure = Figure(figsize=(wide, 3.6 + 0.6 * len(instruments)), layout="constrained")
    named = {
        part: [
            f"{plain(n, 26)}  {_short(v)}" for n, v in zip(words.names[part], ap[part], strict=True)
        ]
        for part in "ivt"
    }
    for axis, part in zip(figure.subplots(2), "vt", strict=True):
        pair = f"i{part}"
        number = {name: k for k, name in enumerate(words.names[pair])}
        values = np.full((len(instruments), len(words.names[part])), np.nan)
        exists = np.zeros(values.shape, bool)
        for i, instrument in enumerate(instruments):
            for j, other in enumerate(words.names[part]):
                if (k := number.get(f"{instrument},{other}")) is not None:
                    values[i, j], exists[i, j] = ap[pair][k], True
        text = [[_short(v) for v in row] for row in values]
        _heat(axis, values, named["i"], named[part], font=7, text=text, top=1.0, exists=exists)
        axis.set_title(
            f"instrument and {'verb' if part == 'v' else 'target'}: "
            f"AP_{pair.upper()} {_short(means[f'ap_{pair}'])}",
            fontsize=8,
            loc="left",
        )
    about = ", ".join(f"{k.upper()} {_short(v)}" for k, v in means.items())
    entitle(
        figure, heading(table), f"{protocol}: {about}; hatched: no positives; blank: no triplet"
    )
    return figure, rows


def _first_model(table: Predictions, one_class: bool = False) -> Predictions:
    if one_class and table.target.ndim > 1:
        raise ValueError("several classes at once; expected one class a row")
    return table.of(table.models[0])


def _scores(
    table: Predictions, which: np.ndarray, times: np.ndarray, metric: str
) -> tuple[np.ndarray, ...]:
    """F1 or recall of each class: over all videos (c,), of each resample (r, c), of each video
    (v, c); and the frames that have it (c,)."""
    _, counts = metrics.by_video(table.target, table.pred, table["video_id"], len(table.classes))
    hit = np.diagonal(counts, axis1=1, axis2=2)
    true, guessed = counts.sum(2), counts.sum(1)

    def value(*sums: np.ndarray) -> Float[np.ndarray, "*r c"]:
        found, have, say = sums
        return (
            metrics.ratio(2 * found, have + say) if metric == "f1" else metrics.ratio(found, have)
        )

    sums = (hit, true, guessed)
    everything = value(*(each.sum(0) for each in sums))
    return everything, value(*(times @ each for each in sums)), value(*sums), true.sum(0)


def _precisions(
    table: Predictions, which: np.ndarray, times: np.ndarray, metric: str
) -> tuple[np.ndarray, ...]:
    """The same of average precision; unknown labels are left out."""
    label, prob = table.target, table.probabilities
    resampled = np.full((len(times), len(table.classes)), np.nan)
    for i in range(len(table.classes)):
        told = ~np.isnan(label[:, i])
        resampled[:, i] = metrics.resampled_average_precision(
            label[told, i] > 0.5,
            prob[told, i].astype(np.float64),
            which[told],
            times,
        )
    alone = [
        metrics.average_precision(label[which == v], prob[which == v])
        for v in range(times.shape[1])
    ]
    everything = metrics.average_precision(label, prob)
    return everything, resampled, np.array(alone), (label > 0.5).sum(0)


def _heat(
    axis: Axes,
    values: Float[np.ndarray, "r c"],
    names: list[str],
    across: list[str],
    *,
    font: float | int,
    text: list[list[str]] | None,
    top: float | None = None,
    exists: np.ndarray | None = None,
) -> None:
    """A matrix as coloured cells; cells that exist without a value are hatched."""
    top = top if top is not None else max(float(np.nanmax(values, initial=0)), 1e-9)
    shades = colormaps[SEQUENCE].with_extremes(bad="#FFFFFF")
    axis.imshow(values, cmap=shades, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    missing = np.isnan(values) & (True if exists is None else exists)
    for i, row in enumerate(missing):
        edges = np.flatnonzero(np.diff(np.r_[False, row, False]))
        for start, end in edges.reshape(-1, 2):  # one patch for cells beside each other
            axis.add_patch(
                Rectangle(
                    (start - 0.5, i - 0.5), end - start, 1, fill=False, hatch=HATCH, edgecolor=GREY
                )
            )
    for i, row in enumerate(text or ()):
        for j, word in enumerate(row):
            if word and not np.isnan(values[i, j]):
                shade = readable_on(values[i, j] / top)
                axis.text(j, i, word, ha="center", va="center", fontsize=font - 1, color=shade)
    axis.set_yticks(range(len(names)), names, fontsize=font)
    axis.set_xticks(range(len(across)), across, fontsize=font, rotation=90)
    without_frame(axis)


def _percent(value: float) -> str:
    return "" if not value > 0 else f"{100 * value:.0f}" if value >= 0.005 else "<1"


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
