"""One offline page with the pictures and tables of a run: `write_report(RUN, OUT)`.

Everything is inlined, so that the page opens from a disk without a network and can be sent as one
file; pictures that would take it over MAX_BYTES are left out and named.
"""

import base64
import html
import json
from pathlib import Path

from surgjax.benchmark import pictures, retrieval
from surgjax.errors import UserError
from surgjax.files import write_whole

MAX_BYTES = 5_000_000
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0 } th, td { padding: .25rem .7rem; text-align:
  right; border-bottom: 1px solid #ddd } th:first-child, td:first-child { text-align: left }
img { max-width: 100%; display: block; margin: .6rem 0 } figcaption, .note { color: #555;
  font-size: .85rem } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto }
@media print { h2 { break-after: avoid } img { break-inside: avoid } }
"""


def write_report(folder: Path, out: Path | None = None, title: str = "surgjax report") -> Path:
    """Writes the page about everything below `folder`; returns its path.

    Shown are, where they exist: each metrics.jsonl as curves, each metrics.json of an evaluation as
    a table, and PNG pictures (of a reconstruction the first and the last).

    Args:
      folder: a run, or a folder that holds runs and pictures.
      out: the page; report.html in the folder by default.

    Raises:
      UserError: the folder is missing or holds nothing to show.
    """
    folder = Path(folder)
    out = Path(out) if out else folder / "report.html"
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected a run to report on")
    parts = [*_results(folder), *_curves(folder), *_pictures(folder)]
    if not parts:
        raise UserError(
            f"{folder} holds no metrics.jsonl, metrics.json or pictures; train or evaluate first"
        )
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
    )
    body, size, dropped = [], len(head) + 10_000, []
    for name, part in parts:
        if size + len(part.encode()) > MAX_BYTES:
            dropped.append(name)
            continue
        size += len(part.encode())
        body.append(part)
    if dropped:
        body.append(f'<p class="note">Left out for size: {html.escape(", ".join(dropped))}</p>')
    page = head + "\n".join(body) + "</body></html>\n"
    write_whole(out, page)
    return out


def _results(folder: Path) -> list[tuple[str, str]]:
    parts = []
    for path in sorted(folder.rglob("metrics.json")):
        try:
            result = json.loads(path.read_text())
            table = _retrieval if "groups" in result else _table
            parts.append((str(path), table(result)))
        except (ValueError, KeyError, TypeError, OSError):
            continue  # not one of ours
        for name in ("floors.png", "ribbons.png"):
            if (path.parent / name).is_file():
                parts.append((str(path.parent / name), _image(path.parent / name, name[:-4])))
    return parts


def _table(result: dict) -> str:
    def cell(value) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = []
    for name, found in result["models"].items():
        f1 = found["macro_f1_per_video"]
        cells = [
            f"{cell(f1['value'])} [{cell(f1['low'])}, {cell(f1['high'])}]",
            cell(found["macro_f1_pooled"]),
            cell(found["accuracy_pooled"]),
            *(cell(value) for value in found["f1_pooled"].values()),
        ]
        title = html.escape(name.replace("_", " "))
        rows.append(f"<tr><td>{title}</td>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    classes = "".join(f"<th>F1 {html.escape(c)}</th>" for c in result["classes"])
    notes = []
    for name, row in result["differences"].items():
        if name.endswith("-random"):
            notes.append(
                f"{html.escape(name.replace('-', ' minus '))}: {row['value']:+.3f} "
                f"[{row['low']:+.3f}, {row['high']:+.3f}] macro-F1 per video, paired, over "
                f"{row['videos']} held-out videos"
                + ("" if row["reliable"] else " (few: read the interval with care)")
            )
    notes.append(
        f"{html.escape(result['protocol'])}; {result['clips']} clips; model saw test cases: "
        f"{html.escape(result['saw_test'])}; step {result['step']}"
    )
    return (
        f"<h2>{html.escape(result['evaluation'].replace('_', ' '))}</h2><table><tr><th>model</th>"
        f"<th>macro-F1 per video [95 %]</th><th>pooled</th><th>accuracy</th>{classes}</tr>"
        + "".join(rows)
        + "</table>"
        + "".join(f'<p class="note">{note}</p>' for note in notes)
    )


def _retrieval(result: dict) -> str:
    notes = (
        f"{html.escape(result['protocol'])}; {result['pairs']} pairs of {len(result['videos'])} "
        f"videos; model saw test cases: {html.escape(result['saw_test'])}; step {result['step']}"
    )
    return (
        f"<h2>{html.escape(result['evaluation'].replace('_', ' '))}</h2>"
        f'<pre>{html.escape(retrieval.text_table(result))}</pre><p class="note">{notes}</p>'
    )


def _curves(folder: Path) -> list[tuple[str, str]]:
    parts = []
    for path in sorted(folder.rglob("metrics.jsonl")):
        try:
            figure = pictures.plot_curves(path)
        except UserError:
            continue
        picture = pictures.save(figure, path.parent / "curves.png")
        run = html.escape(path.parent.name)
        parts.append((str(picture), f"<h2>Training: {run}</h2>" + _image(picture, "curves")))
    return parts


def _pictures(folder: Path) -> list[tuple[str, str]]:
    found = [p for p in sorted(folder.rglob("*.png")) if p.name not in _SHOWN_ELSEWHERE]
    steps: dict[Path, list[Path]] = {}
    for path in found:
        if path.name.startswith("step_"):
            steps.setdefault(path.parent, []).append(path)
    chosen = [p for group in steps.values() for p in dict.fromkeys((group[-1], group[0]))]
    chosen += [p for p in found if not p.name.startswith("step_")]
    parts = []
    for path in chosen:
        name = f"{path.parent.name}/{path.stem}" if path.name.startswith("step_") else path.stem
        title = html.escape(name.replace("_", " "))
        parts.append((str(path), f"<h2>{title}</h2>" + _image(path, name)))
    return parts


_SHOWN_ELSEWHERE = {"floors.png", "ribbons.png", "curves.png"}


def _image(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
