"""The benchmark at a glance: models as rows, sets as columns, a colour for each number."""

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from surgjax.benchmark.pictures import (
    GREY,
    HATCH,
    SEQUENCE,
    Rows,
    entitle,
    plain,
    readable_on,
    without_frame,
)
from surgjax.benchmark.table import SAW, Table

GAP = 0.4  # of a row, between models, floors and cited rows
LONGEST = 52  # letters of a row's name


def plot_heat(table: Table) -> tuple[Figure, Rows]:
    """The table in per cent, coloured from 0 to 100; what is missing is hatched, marks are those of
    the table. Floors and cited rows stand apart below the models."""
    columns = table.columns
    names = [f"{column.group}, {column.header}" for column in columns]
    kinds = list(dict.fromkeys(row.kind for row in table.rows))
    lines = [i + GAP * kinds.index(row.kind) for i, row in enumerate(table.rows)]
    longest = min(LONGEST, max(len(row.name) for row in table.rows) + 8)
    wide = max(4.5, 0.4 + 0.06 * longest + 0.5 * len(columns))
    tall = 1.1 + 0.055 * min(40, max(map(len, names))) + 0.28 * len(lines)
    figure = Figure(figsize=(wide, tall), layout="constrained")
    axis = figure.subplots()
    shades = colormaps[SEQUENCE]
    rows = [["kind", "row", "saw_test", "column", "value", "low", "high", "marks"]]
    for line, row in zip(lines, table.rows, strict=True):
        for j, column in enumerate(columns):
            cell, corner = row.cells.get(column.key), (j - 0.5, line - 0.5)
            numbers = (cell.value, cell.low, cell.high, cell.marks) if cell else (None,) * 4
            rows.append([row.kind, row.name, row.saw_test, column.key, *numbers])
            if cell is None:
                style = dict(facecolor="#FFFFFF", hatch=HATCH, edgecolor=GREY)
                axis.add_patch(Rectangle(corner, 1, 1, linewidth=0.5, **style))
                continue
            style = dict(facecolor=shades(cell.value), edgecolor="#FFFFFF")
            axis.add_patch(Rectangle(corner, 1, 1, **style))
            axis.text(
                j,
                line,
                f"{100 * cell.value:.1f}{cell.marks}",
                ha="center",
                va="center",
                fontsize=6.5,
                color=readable_on(cell.value),
            )
    marked = {"model": "", "floor": "floor: ", "cited": "cited: "}
    labels = [plain(f"{marked[row.kind]}{row.name}", LONGEST) for row in table.rows]
    axis.set_yticks(lines, labels, fontsize=7)
    axis.set_xticks(range(len(columns)), [plain(name, 40) for name in names], fontsize=7)
    sides = dict(top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.tick_params(axis="x", rotation=90, **sides)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylim(lines[-1] + 0.5, -0.5)
    without_frame(axis)
    saw = any(SAW in cell.marks for row in table.rows for cell in row.cells.values())
    says = ["per cent", "hatched: missing", *([f"{SAW} model saw test cases"] if saw else [])]
    entitle(figure, table.title, "; ".join(says))
    return figure, rows
