"""Pictures from tables, arrays and files, never from models; one function a picture.

Colours are the eight of Okabe and Ito (2008), told apart with any common colour vision; a class has
its number's colour in every picture.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from surgjax.benchmark import metrics
from surgjax.benchmark.predictions import Predictions
from surgjax.errors import UserError
from surgjax.files import whole

PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#F0E442", "#000000"),
)
GREY, UNLABELLED = "#999999", "#FFFFFF"
ENCODING = {".png": {"Software": None}, ".svg": {"Date": None}}  # equal pictures, equal bytes


def colour(index: int) -> str:
    """Colour of a class; there are eight, then they repeat."""
    return PALETTE[index % len(PALETTE)]


def save(figure: Figure, path: Path, dpi: int = 100) -> Path:
    """Writes a figure as a whole file, format by suffix (.png or .svg); returns the path."""
    with whole(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=dpi, metadata=ENCODING.get(path.suffix))
    return path


def plot_ribbons(table: Predictions, most: int = 8) -> Figure:
    """Truth, prediction and errors over time, a block of three stripes for each video.

    Args:
      table: a predictions file; its first model is shown.
      most: videos shown, worst first.
    """
    table = table.of(table.models[0])
    names, counts = metrics.by_video(
        table.target, table.pred, table["video_id"], len(table.classes)
    )
    f1, right = metrics.macro_f1(counts), metrics.accuracy(counts)
    order = np.argsort(f1, kind="stable")[:most]
    figure = Figure(figsize=(9, 0.6 + 0.9 * len(order)), layout="constrained")
    axes = figure.subplots(len(order), squeeze=False)[:, 0]
    for axis, index in zip(axes, order, strict=True):
        at = np.flatnonzero(table["video_id"] == names[index])
        at = at[np.argsort(table["t_ms"][at], kind="stable")]
        seconds = table["t_ms"][at] / 1000
        label, pred = table.target[at], table.pred[at]
        _stripe(axis, seconds, label, 2)
        _stripe(axis, seconds, pred, 1)
        _stripe(axis, seconds, np.where(label == pred, -1, 5), 0)
        axis.set_yticks([0.5, 1.5, 2.5], ["error", "predicted", "true"], fontsize=7)
        axis.set_title(
            f"{names[index]}: accuracy {right[index]:.2f}, macro-F1 {f1[index]:.2f}",
            fontsize=8,
            loc="left",
        )
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel("seconds", fontsize=8)
    _legend(figure, table.classes)
    return figure


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
    axis.set_yticks(np.arange(len(videos)) + 0.4, [title for title, _, _ in reversed(videos)])
    axis.tick_params(labelsize=7)
    axis.set_xlabel("seconds", fontsize=8)
    axis.set_title(task, fontsize=9, loc="left")
    _legend(figure, classes)
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
    axis.set_yticks(np.arange(len(videos)) + 0.42, [title for title, _, _ in reversed(videos)])
    axis.tick_params(labelsize=7)
    axis.set_xlabel("seconds", fontsize=8)
    axis.set_title(task, fontsize=9, loc="left")
    _legend(figure, classes)
    return figure


def plot_curves(path: Path) -> Figure:
    """Scalars of a metrics.jsonl against the step, one panel each.

    Raises:
      UserError: the file is missing or has no numbers.
    """
    curves = read_curves(path)
    wanted = ("loss", "lr", "grad_norm", "clips_per_s", "data_wait", "tflops")
    names = [n for w in wanted for n in curves if n == w or n.startswith(f"{w}_")]
    names += [n for n in curves if n.endswith(("/macro_f1", "/pixel_error"))]
    names = list(dict.fromkeys(names)) or list(curves)
    names = names[:9]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        step, value = curves[name]
        axis.plot(step, value, color=PALETTE[0], linewidth=1.2, marker="." if len(step) < 8 else "")
        base = f"{name}_random"
        if base in curves:
            # A line across: the floor does not move, and an evaluation at the end is one point.
            axis.axhline(curves[base][1][-1], color=PALETTE[5], linewidth=1, linestyle="--")
            axis.legend([name, "random encoder"], fontsize=6)
        axis.set_title(name.replace("_", " "), fontsize=8)
        axis.set_xlabel("step", fontsize=7)
        axis.tick_params(labelsize=7)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    return figure


def read_curves(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{name: (steps, values)} of a metrics.jsonl; values that are no numbers become NaN.

    Raises:
      UserError: the file is missing or has no numbers.
    """
    found: dict[str, list] = {}
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); is this a run?") from error
    for line in lines:
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, KeyError, AttributeError, TypeError):
            continue  # the last line of a run that was killed may be cut
        for name, value in values.items():
            number = value if isinstance(value, (int, float)) else np.nan
            found.setdefault(name, []).append((step, number))
    if not found:
        raise UserError(f"{path} has no metrics yet; train for a few steps first")
    return {name: tuple(np.array(pairs, np.float64).T) for name, pairs in found.items()}


def plot_reconstruction(
    video: UInt8[np.ndarray, "b t h w c"],
    masked: UInt8[np.ndarray, "b t h w c"],
    filled: UInt8[np.ndarray, "b t h w c"],
    *,
    titles: Sequence[str],
    step: int,
) -> Figure:
    """Rows input, masked, reconstruction, error; the clips side by side, frames left to right."""
    error = np.abs(video.astype(np.int16) - filled).mean(-1, keepdims=True)
    error = np.repeat(np.clip(error * 4, 0, 255).astype(np.uint8), 3, axis=-1)
    height, width = video.shape[2:4]
    gap = max(2, width // 16)
    blocks = []
    for clip in range(len(video)):
        lines = [np.hstack(part[clip]) for part in (video, masked, filled, error)]
        blocks.append(np.vstack(lines))
        blocks.append(np.full((blocks[0].shape[0], gap, 3), 255, np.uint8))
    picture = np.hstack(blocks[:-1])
    wide = min(16.0, picture.shape[1] / 100)
    tall = wide * picture.shape[0] / picture.shape[1]
    figure = Figure(figsize=(wide + 0.9, tall + 0.7), layout="constrained")
    axis = figure.subplots()
    axis.imshow(picture, interpolation="nearest")
    axis.set_yticks(
        (np.arange(4) + 0.5) * height, ["input", "masked", "reconstruction", "|error| x 4"]
    )
    block = video.shape[1] * width + gap
    axis.set_xticks(np.arange(len(video)) * block + (block - gap) / 2, list(titles))
    axis.tick_params(length=0, labelsize=8)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(
        f"Step {step}. Hidden cubes un-normalised with the input's mean and deviation; "
        "visible cubes are the input's.",
        fontsize=8,
        loc="left",
    )
    return figure


def plot_floors(result: Mapping) -> Figure:
    """Macro-F1 of the model and the floors with bootstrap intervals and a dot for each video.

    Args:
      result: what comparison.compare returns, with "evaluation" and "saw_test" where known.
    """
    models = result["models"]
    figure = Figure(figsize=(6.4, 0.9 + 0.45 * len(models)), layout="constrained")
    axis = figure.subplots()
    for row, found in enumerate(reversed(models.values())):
        f1 = found["macro_f1_per_video"]
        first = row == len(models) - 1
        axis.barh(row, f1["value"], color=PALETTE[0] if first else GREY, height=0.62, alpha=0.85)
        axis.plot([f1["low"], f1["high"]], [row, row], color="#000000", linewidth=1.6)
        dots = list(found["by_video"].values())
        axis.plot(dots, [row + 0.2] * len(dots), ".", color="#000000", markersize=3, alpha=0.6)
        axis.text(1.01, row, f"{f1['value']:.3f}", va="center", fontsize=8)
    axis.set_yticks(range(len(models)), [n.replace("_", " ") for n in reversed(models)], fontsize=8)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlabel(
        f"macro-F1, mean over {len(result['videos'])} held-out videos; bar: 95 % bootstrap over "
        "videos",
        fontsize=7,
    )
    title = result.get("evaluation", "").replace("_", " ")
    saw = f", model saw test cases: {result['saw_test']}" if "saw_test" in result else ""
    axis.set_title(f"{title}{saw}", fontsize=9, loc="left")
    return figure


def plot_histograms(columns: Mapping[str, np.ndarray], unit: Mapping[str, str]) -> Figure:
    """A histogram for each column of numbers, or bars where they are names."""
    figure = Figure(figsize=(3.4 * len(columns), 2.6), layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for axis, (name, values) in zip(axes, columns.items(), strict=True):
        values = np.asarray(values)
        if values.dtype.kind in "fiu":
            top = max(float(values.max(initial=0)) * 1.1, 1e-6)
            axis.hist(values, bins=30, range=(0, top), color=PALETTE[0])
        else:
            names, counts = np.unique(values.astype(str), return_counts=True)
            axis.bar(names, counts, color=PALETTE[0], width=0.5)
            axis.set_xlim(-0.75, len(names) - 0.25)
            axis.tick_params(axis="x", rotation=30 if len(names) > 2 else 0)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel(unit.get(name, ""), fontsize=8)
        axis.set_ylabel("videos", fontsize=8)
        axis.tick_params(labelsize=7)
    return figure


def plot_stacked(
    panels: Sequence[tuple[str, Mapping[str, str], Mapping[str, Mapping[str, float]]]],
) -> Figure:
    """Panels of horizontal bars, two beside each other; the first bar is on top.

    Args:
      panels: (title, {part: colour}, {bar: {part: length}}) each.
    """
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    heights = [1.0 + 0.22 * max(len(bars) for _, _, bars in row) for row in rows]
    figure = Figure(figsize=(13, sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights).ravel()
    for axis, (title, parts, bars) in zip(axes, panels, strict=False):
        start = np.zeros(len(bars))
        for part, shade in parts.items():
            length = np.array([bar.get(part, 0.0) for bar in bars.values()])
            axis.barh(range(len(bars)), length, left=start, color=shade, height=0.7, label=part)
            start = start + length
        names = [name if len(name) <= 34 else f"{name[:33]}…" for name in bars]
        # A name from outside is no formula.
        axis.set_yticks(range(len(bars)), [name.replace("$", r"\$") for name in names])
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
        axis.set_title(title, fontsize=9, loc="left")
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _stripe(axis, seconds: np.ndarray, label: np.ndarray, bottom: float | int, height: float = 0.9):
    """Runs of equal labels as coloured bars from their first to the next run's first time."""
    axis.margins(x=0)
    if not len(label):
        return
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    starts = np.flatnonzero(np.r_[True, label[1:] != label[:-1]])
    ends = np.r_[seconds[starts[1:]], seconds[-1] + step]
    for start, end in zip(starts, ends, strict=True):
        if label[start] >= 0:
            axis.broken_barh(
                [(seconds[start], end - seconds[start])],
                (bottom, height),
                facecolors=colour(int(label[start])),
            )


def _legend(figure: Figure, classes: Sequence[str]) -> None:
    handles = [Patch(color=colour(i), label=name) for i, name in enumerate(classes)]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(6, len(classes)), fontsize=7
    )
