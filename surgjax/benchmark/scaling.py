"""What more pretraining data brings: SurgVISTA's settings A to E.

Models of one series are named SERIES-A to SERIES-E, as `run --name` does; configs/surgvista.py
trains them (`:A` to `:E`). The paper's own values are in supplementary tables that were not at
hand; its text gives gains between settings, which literature.yaml has.
"""

import re
from collections.abc import Mapping, Sequence

from surgjax.benchmark import literature
from surgjax.benchmark.curves import Point
from surgjax.benchmark.results import Job
from surgjax.benchmark.suites import Suite
from surgjax.benchmark.table import Table, build

NAME = re.compile(r"(?P<series>.+)[-_:](?P<setting>[A-E])")


def frames() -> dict[str, int]:
    """Frames of each setting, one a second, those of the settings before it included."""
    return {name: said["frames"] for name, said in literature.read()["scaling"]["settings"].items()}


def curves(
    jobs: Sequence[Job], suite: Suite, *, metric: str | None = None
) -> dict[tuple[str, str], dict[str, list[Point]]]:
    """(protocol, title of a column) -> series -> points by frames of pretraining.

    Models that are of no setting are left out.

    Raises:
      UserError: as `table.build`.
    """
    found = {}
    for table in build(jobs, suite, metric=metric):
        for column in table.columns:
            if series := _series(table, column.key):
                found[table.protocol, f"{column.group} {column.header}"] = series
    return found


def _series(table: Table, column: str) -> Mapping[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for row in table.rows:
        match = NAME.fullmatch(row.name) if row.kind == "model" else None
        if match is None or column not in row.cells:
            continue
        cell, bounds = row.cells[column], {}
        if cell.low is not None:
            bounds = {"low": cell.low, "high": cell.high}
        point = Point(float(frames()[match["setting"]]), cell.value, **bounds)
        series.setdefault(match["series"], []).append(point)
    return {name: sorted(points, key=lambda point: point.x) for name, points in series.items()}
