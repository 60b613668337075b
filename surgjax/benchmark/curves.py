"""Curves over several trainings: how few labels are enough, what more pretraining data brings."""

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from surgjax.benchmark import literature, metrics, statistics
from surgjax.benchmark.pictures import Rows, colour, entitle, plain
from surgjax.benchmark.table import Table
from surgjax.errors import UserError

MARKS = "osD^vPX*"
ACROSS = 3  # panels beside each other
SETTING = re.compile(r"(?P<series>.+)[-_:](?P<setting>[A-E])")


@dataclass(frozen=True)
class Point:
    """A share in [0, 1] with the bounds of its interval, NaN without, at a place of the x axis."""

    x: float | int | str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Sizes:
    """How much data models were pretrained on.

    Attributes:
      unit: what is counted: hours, videos, frames; or variant.
      models: model -> (curve that it is on, its size: a number, or a variant's name).
    """

    unit: str
    models: Mapping[str, tuple[str, float | int | str]]


def read_sizes(path: Path) -> Sizes:
    """Sizes from a csv with the columns model, series and one more, whose name is the unit.

    Raises:
      UserError: unreadable, other columns, a model twice, or sizes of which some are numbers.
    """
    try:
        header, *lines = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); expected a csv file") from error
    if header[:2] != ["model", "series"] or len(header) != 3:
        raise UserError(
            f"{path} has the columns {', '.join(header)}; expected model, series and what is "
            f"counted, as hours, videos or variant"
        )
    models: dict[str, tuple[str, float | int | str]] = {}
    for number, line in enumerate(lines, 2):
        if len(line) != 3 or line[0] in models:
            raise UserError(f"{path}, line {number}: expected 3 values and each model once")
        models[line[0]] = (line[1], _number(line[2]))
    if len({type(size) for _, size in models.values()}) > 1:
        raise UserError(f"{path}: some sizes are numbers and some are names; expected one kind")
    return Sizes(header[2], models)


def sizes_by_name(models: Iterable[str]) -> Sizes:
    """Of models named SERIES-A to SERIES-E, as `run --name` does: SurgVISTA's settings, which
    configs/surgvista.py trains (`:A` to `:E`). Others are left out.

    The paper's own values are in supplementary tables that were not at hand; its text gives gains
    between settings, which literature.yaml has.
    """
    settings = literature.read()["scaling"]["settings"]
    found = {name: match for name in models if (match := SETTING.fullmatch(name))}
    frames = {name: float(settings[match["setting"]]["frames"]) for name, match in found.items()}
    series = {name: match["series"] for name, match in found.items()}
    return Sizes("frames, one a second", {name: (series[name], frames[name]) for name in found})


def plot_few_shot(result: Mapping) -> tuple[Figure, Rows]:
    """Each model's value against what was learnt from; bands: over draws and test videos.

    Args:
      result: what few_shot.score returns, with "evaluation", "protocol" and "saw_test" where known.
    """
    metric, settings = result["metric"], result["settings"]
    by_size = all(setting["size"] for setting in settings)
    where = {s["name"]: float(s["size"]) if by_size else s["name"] for s in settings}
    known = len(result["videos"]) >= statistics.FEWEST_VIDEOS
    series = {}
    for name, found in result["models"].items():
        intervals = {setting: of[metric] for setting, of in found.items()}
        series[name] = [
            Point(where[setting], each["value"], *((each["low"], each["high"]) if known else ()))
            for setting, each in intervals.items()
        ]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    words = {setting["name"].partition(" ")[2] for setting in settings}
    x_label = words.pop() if by_size and len(words) == 1 else "learnt from"
    places = sorted(where.values()) if by_size else list(where.values())
    _draw(axis, series, list(series), places)
    axis.set_xlabel(x_label, fontsize=8)
    axis.set_ylabel(metrics.in_words(metric), fontsize=8)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7)
    saw = f"model saw test cases: {result.get('saw_test', 'unknown')}"
    kept = [str(result[key]) for key in ("evaluation", "store", "protocol") if key in result]
    count = f"{len(result['videos'])} videos"
    draws = ", ".join(f"{s['name']}: {s['draws']}" for s in settings)
    entitle(figure, ", ".join([*kept, count, saw]), f"mean over draws ({draws})")
    rows = [["model", "setting", "draws", metric, "low", "high", "videos"]]
    for name, found in result["models"].items():
        for setting in settings:
            if (of := found.get(setting["name"])) is not None:
                numbers = [of[metric][key] for key in ("value", "low", "high")]
                rows.append([name, setting["name"], setting["draws"], *numbers])
                rows[-1].append(len(result["videos"]))
    return figure, rows


def by_size(table: Table, sizes: Sizes) -> dict[str, dict[str, list[Point]]]:
    """Title of a column -> curve -> its points, of the models whose sizes are known."""
    found: dict[str, dict[str, list[Point]]] = {}
    for row in table.rows:
        if row.kind != "model" or row.name not in sizes.models:
            continue
        curve, size = sizes.models[row.name]
        for column in table.columns:
            if (cell := row.cells.get(column.key)) is not None:
                bounds = (cell.low, cell.high) if cell.low is not None else ()
                series = found.setdefault(f"{column.group} {column.header}", {})
                series.setdefault(curve, []).append(Point(size, cell.value, *bounds))
    return found


def plot_scaling(
    panels: Mapping[str, Mapping[str, Sequence[Point]]], *, unit: str, title: str
) -> tuple[Figure, Rows]:
    """Value against the size of the pretraining data, a panel a column of a table.

    Args:
      panels: title of a column -> curve -> its points, as `by_size` returns.
      unit: of the x axis.

    Raises:
      ValueError: no column with two points.
    """
    panels = {name: of for name, of in panels.items() if sum(map(len, of.values())) > 1}
    if not panels:
        raise ValueError("no column with two models of known size")
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(1 + 3.2 * across, 1 + 2.5 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    curves = list(dict.fromkeys(curve for series in panels.values() for curve in series))
    rows = [["column", "series", unit, "value", "low", "high"]]
    handles = {}
    for axis, (name, series) in zip(axes, panels.items(), strict=False):
        _draw(axis, series, curves, sorted({p.x for points in series.values() for p in points}))
        axis.set_title(plain(name, 44), fontsize=8, loc="left")
        axis.set_xlabel(f"pretraining data: {unit}", fontsize=7)
        for curve, points in series.items():
            rows += [
                [name, curve, p.x, *map(statistics.or_none, (p.value, p.low, p.high))]
                for p in points
            ]
        drawn, names = axis.get_legend_handles_labels()
        handles |= dict(zip(names, drawn, strict=True))
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=7)
    entitle(figure, title, "shares; bars: 95 % intervals")
    return figure, rows


def _draw(
    axis: Axes,
    series: Mapping[str, Sequence[Point]],
    curves: Sequence[str],
    places: Sequence[float | int | str],
) -> None:
    """Curves with bands; numbers on the x axis are spaced by their ratio, names evenly.

    Args:
      curves: all names, whose order says the colour.
      places: all of the x axis, in order.
    """
    named = any(isinstance(x, str) for x in places)
    at = {x: float(i) if named else float(x) for i, x in enumerate(places)}
    for name, points in series.items():
        number = curves.index(name)
        points = sorted(points, key=lambda point: at[point.x])
        x = [at[point.x] for point in points]
        axis.plot(
            x,
            [point.value for point in points],
            marker=MARKS[number % len(MARKS)],
            markersize=4,
            linewidth=1.4,
            color=colour(number),
            label=plain(name.replace("_", " "), 48),
        )
        low, high = [point.low for point in points], [point.high for point in points]
        axis.fill_between(x, low, high, color=colour(number), alpha=0.15, linewidth=0)
        axis.vlines(x, low, high, color=colour(number), linewidth=0.9)
    if not named and min(places) > 0:
        axis.set_xscale("log")
        axis.minorticks_off()
    labels = [plain(x, 24) if named else _short(x) for x in places]
    axis.set_xticks([at[x] for x in places], labels)
    if sum(map(len, labels)) > 60:
        axis.tick_params(axis="x", rotation=45)
    axis.tick_params(labelsize=7)
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _short(number: float) -> str:
    """3,552,777 as 3.6M."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e6 if letter == 'M' else 1e3):.3g}{letter}"
    return f"{number:,.6g}"


def _number(text: str) -> float | int | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
