"""What all pictures share, and those of runs and stores; one function a picture.

Pictures are drawn from tables, arrays and files, never from models. Their colours are the eight of
Okabe and Ito (2008), told apart with any common colour vision, then the same lighter and darker; a
class has its number's colour in every picture. Pictures of predictions are in ribbons.py and
charts.py, of several trainings in curves.py and heat.py, of features in embedding.py; each comes
with the rows of numbers behind it.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from surgjax.benchmark.predictions import Predictions
from surgjax.errors import UserError
from surgjax.files import csv_text, parse_json, whole, write_whole

PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#F0E442", "#000000"),
)
GREY = "#999999"
HATCH = "////"  # of cells without a number
SEQUENCE = "cividis"  # colours of numbers: even in grey, and for any common colour vision
ENCODING = {".png": {"Software": None}, ".svg": {"Date": None}}  # equal pictures, equal bytes
SHADES = ((0.0, 0.0), (0.55, 1.0), (0.45, 0.2))  # (share, grey level) mixed in: none, light, dark
Rows = list[list]


def colour(index: int) -> str:
    """Colour of a class; there are 24, then they repeat."""
    share, level = SHADES[index // len(PALETTE) % len(SHADES)]
    base = np.array(to_rgb(PALETTE[index % len(PALETTE)]))
    return to_hex((1 - share) * base + share * level).upper()


def save(figure: Figure, path: Path, dpi: int = 100) -> Path:
    """Writes a figure as a whole file, format by suffix (.png or .svg); returns the path."""
    # Without a salt the names of an SVG's parts are drawn at random.
    with whole(path) as part, matplotlib.rc_context({"svg.hashsalt": "surgjax"}):
        figure.savefig(part, format=path.suffix[1:], dpi=dpi, metadata=ENCODING.get(path.suffix))
    return path


def save_with_data(figure: Figure, rows: Rows, path: Path) -> list[Path]:
    """Writes PATH.png, PATH.svg and PATH.csv, the numbers behind the picture; returns them.

    Args:
      rows: of the csv, the header first.
      path: without suffix.
    """
    made = [save(figure, path.with_name(f"{path.name}{suffix}")) for suffix in (".png", ".svg")]
    table = path.with_name(f"{path.name}.csv")
    write_whole(table, csv_text(rows))
    return [*made, table]


def heading(table: Predictions) -> str:
    """Data set, model, protocol, number of videos, and whether the model saw these cases."""
    known = (
        ", ".join(dict.fromkeys(table[name].astype(str).tolist()))
        for name in ("dataset", "model", "protocol")
        if name in table
    )
    videos = len(set(table["video_id"].tolist()))
    counted = f"{videos} video{'s' if videos != 1 else ''}"
    return ", ".join([*known, counted, f"model saw test cases: {table.saw_test}"])


def entitle(figure: Figure, title: str, about: str) -> None:
    """A title in two parts over the whole figure, wrapped to its width."""
    width = int(figure.get_size_inches()[0] * 16)
    lines = [*textwrap.wrap(title, width), *textwrap.wrap(about, width)]
    figure.suptitle("\n".join(map(plain, lines)), fontsize=8, x=0.01, ha="left")


def plain(text: str, longest: int = 0) -> str:
    """A name from outside as it is, for it is no formula; cut to `longest` letters if given."""
    if longest and len(text) > longest:
        text = f"{text[: longest - 1]}…"
    return text.replace("$", r"\$")


def readable_on(share: float) -> str:
    """Colour of letters on the colour that SEQUENCE has at a share of its range."""
    return "#000000" if share > 0.6 else "#FFFFFF"


def without_frame(axis: Axes) -> None:
    """Takes away the lines and ticks around a panel, not its labels."""
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)


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
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); is this a run?") from error
    for line in lines:
        try:
            values = parse_json(line)
            step = int(values.pop("step"))
        except (ValueError, OverflowError, KeyError, AttributeError, TypeError):
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
    axis.tick_params(labelsize=8)
    without_frame(axis)
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
        if f1["reliable"]:
            axis.plot([f1["low"], f1["high"]], [row, row], color="#000000", linewidth=1.6)
        dots = list(found["by_video"].values())
        axis.plot(dots, [row + 0.2] * len(dots), ".", color="#000000", markersize=3, alpha=0.6)
        axis.text(1.01, row, f"{f1['value']:.3f}", va="center", fontsize=8)
    axis.set_yticks(range(len(models)), [n.replace("_", " ") for n in reversed(models)], fontsize=8)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=7)
    bars = "; bar: 95 % bootstrap over videos" if f1["reliable"] else ", a dot each"
    axis.set_xlabel(
        f"macro-F1, mean over {len(result['videos'])} held-out videos{bars}", fontsize=7
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
        axis.set_yticks(range(len(bars)), [plain(name, 34) for name in bars])
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
        axis.set_title(title, fontsize=9, loc="left")
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure
