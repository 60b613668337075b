"""Tables of the benchmark (table.py) as Markdown, LaTeX, csv and HTML."""

from collections.abc import Sequence
from html import escape
from itertools import groupby

from surgjax.benchmark.page import Section, page
from surgjax.benchmark.table import AVERAGES, Cell, Column, Row, Table
from surgjax.files import csv_text

MISSING = "-"
WIDEST = 12  # columns of numbers side by side on paper
HEAD = ("model", "saw test cases")
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # else an option of the line before
    "]": "{]}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\dag{}",
    "β": r"$\beta$",
}


def markdown(tables: Sequence[Table]) -> str:
    """Tables as GitHub reads them, wide ones in parts; a row of its own stands for a rule."""
    parts = []
    for table in tables:
        lines = [f"### {table.title}", ""]
        for columns in _panels(table):
            header = [*HEAD, *(_plain(_title(column)) for column in columns)]
            lines += [_pipes(header), _pipes(["---", "---", *["---:"] * len(columns)])]
            for kind, rows in _kinds(table, columns):
                if kind != "model":
                    lines.append(_pipes([f"*{_heading(kind)}*", *[""] * (len(header) - 1)]))
                lines += [_pipes(list(map(_plain, _words(row, columns)))) for row in rows]
            lines.append("")
        parts.append("\n".join([*lines, *(f"- {_plain(note)}" for note in table.notes), ""]))
    return "\n".join(parts)


def latex(tables: Sequence[Table]) -> str:
    """Tables for the package booktabs, each group of columns under a rule, wide ones in parts."""
    parts = []
    for table in tables:
        lines = [
            rf"% {table.title}; needs \usepackage{{adjustbox,booktabs}}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}}}",
        ]
        for columns in _panels(table):
            lines.append(r"\begin{adjustbox}{max width=\textwidth}")
            lines += [*_tabular(table, columns), r"\end{adjustbox}", r"\par\medskip"]
        lines += [rf"{{\footnotesize {_tex(note)}\par}}" for note in table.notes]
        parts.append("\n".join([*lines, r"\end{table}", ""]))
    return "\n".join(parts)


def csv(tables: Sequence[Table]) -> str:
    """Shares in one table for all protocols: a value, its bounds and marks for each column.
    Averages have no bounds; what is missing is empty."""
    titles = {column.key: _title(column) for table in tables for column in table.columns}
    bounds = ("", " low", " high", " marks")
    header = [f"{title}{end}" for title in titles.values() for end in bounds]
    rows = [["protocol", "kind", "model", "saw_test", *header]]
    for table in tables:
        for row in table.rows:
            values = []
            for one in map(row.cells.get, titles):
                values += [one.value, one.low, one.high, one.marks] if one else [None] * len(bounds)
            known = ["" if value is None else value for value in values]
            rows.append([table.protocol, row.kind, row.name, row.saw_test, *known])
    return csv_text(rows)


def html(tables: Sequence[Table]) -> str:
    """One page that needs nothing from outside."""
    return page("Benchmark", [Section(table.title, html_part(table)) for table in tables])


def html_part(table: Table, *, in_panels: bool = False) -> str:
    """One table with its notes, to stand in a page; in panels that fit on paper, or as it is."""
    panels = _panels(table) if in_panels else [table.columns]
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return "\n".join(_html_table(table, columns) for columns in panels) + f"\n<ul>{notes}</ul>"


def _html_table(table: Table, columns: Sequence[Column]) -> str:
    groups = "".join(
        f'<th colspan="{len(list(of))}" scope="colgroup">{escape(name)}</th>'
        for name, of in groupby(columns, key=lambda column: column.group)
    )
    names = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    headers = "".join(f"<th>{escape(column.header)}</th>" for column in columns)
    bodies = ""
    for kind, rows in _kinds(table, columns):
        lines = "".join(_html_row(row, columns) for row in rows)
        bodies += f'<tbody class="{kind}">{lines}</tbody>'
    return (
        '<div class="wide"><table>\n<thead>'
        f'<tr><th colspan="2"></th>{groups}</tr>\n<tr>{names}{headers}</tr></thead>\n'
        f"{bodies}\n</table></div>"
    )


def _panels(table: Table) -> list[list[Column]]:
    """Columns in parts of at most WIDEST where groups allow it."""
    panels: list[list[Column]] = [[]]
    for _, of in groupby(table.columns, key=lambda column: column.group):
        group = list(of)
        if panels[-1] and len(panels[-1]) + len(group) > WIDEST:
            panels.append([])
        panels[-1] += group
    return panels


def _kinds(table: Table, columns: Sequence[Column]) -> list[tuple[str, list[Row]]]:
    """Rows of each kind; of floors and cited ones those with any of these columns."""
    keys = {column.key for column in columns}
    rows = [row for row in table.rows if row.kind == "model" or keys & row.cells.keys()]
    return [(kind, list(of)) for kind, of in groupby(rows, key=lambda row: row.kind)]


def _tabular(table: Table, columns: Sequence[Column]) -> list[str]:
    groups, first = [], len(HEAD) + 1
    for name, of in groupby(columns, key=lambda column: column.group):
        groups.append((name, first, first + len(list(of)) - 1))
        first = groups[-1][2] + 1
    spans = [rf"\multicolumn{{{b - a + 1}}}{{c}}{{{_tex(name)}}}" for name, a, b in groups]
    lines = [
        rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", "", *spans]) + r" \\",
        " ".join(rf"\cmidrule(lr){{{a}-{b}}}" for _, a, b in groups),
        " & ".join(map(_tex, [*HEAD, *(column.header for column in columns)])) + r" \\",
    ]
    for _, rows in _kinds(table, columns):
        lines.append(r"\midrule")
        lines += [" & ".join(map(_tex, _words(row, columns))) + r" \\" for row in rows]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _title(column: Column) -> str:
    return column.header if column.group == AVERAGES else f"{column.group} {column.header}"


def _heading(kind: str) -> str:
    return {"floor": "floors", "cited": "cited, as printed"}[kind]


def _words(row: Row, columns: Sequence[Column]) -> list[str]:
    return [row.name, row.saw_test or MISSING, *(_cell(row.cells.get(c.key)) for c in columns)]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return MISSING
    value, between = _parts(cell)
    return f"{value} {between}" if between else value


def _parts(cell: Cell) -> tuple[str, str]:
    between = f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}]" if cell.low is not None else ""
    return f"{100 * cell.value:.2f}{cell.marks}", between


def _html_row(row: Row, columns: Sequence[Column]) -> str:
    cells = [escape(row.name), escape(row.saw_test or MISSING)]
    for column in columns:
        cell = row.cells.get(column.key)
        value, between = _parts(cell) if cell else (MISSING, "")
        cells.append(f"{escape(value)}{f'<br><small>{between}</small>' if between else ''}")
    return f"<tr>{''.join(f'<td>{one}</td>' for one in cells)}</tr>\n"


def _pipes(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _plain(text: str) -> str:
    """Without meaning in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\|*<`" else letter for letter in text)


def _tex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
