"""`python -m data_prep catalogue explore CATALOGUE`: what a catalogue of videos holds.

    OUT/explore.html    counts, pictures and sample captions in one file that needs no network
    OUT/explore.png     the pictures

Numbers of SurgLaVi's catalogue by level, length, procedure and rate. Of a csv or jsonl file the
columns that it has count. A pair is a caption that is both surgical and descriptive.
"""

import argparse
import base64
import html
import math
import random
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import catalogue
from surgjax.benchmark import pictures
from surgjax.errors import UserError
from surgjax.files import write_whole

CATEGORIES = ("procedure_modality", "procedure_type", "specialty", "subject")
LEVELS = {"task": "fine", "step": "mid", "phase": "coarse"}
BARS = 12  # categories that have a bar of their own
LARGEST = 1e7  # seconds, frames/s or year; above it a number is a mistake
SAMPLES = 10  # captions shown of a level
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'">
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse;margin:1em 0}}td,th{{padding:.15em .8em;text-align:left;
border-bottom:1px solid #ddd}}td.number{{text-align:right}}img{{max-width:100%}}</style>
<h1>{title}</h1>
{body}
</html>
"""


@dataclass(frozen=True)
class Captions:
    """Columns of the captions, one entry each: video_id and level as text, seconds float64."""

    video: np.ndarray
    level: np.ndarray
    seconds: np.ndarray
    surgical: np.ndarray
    descriptive: np.ndarray
    text: np.ndarray

    @property
    def pair(self) -> np.ndarray:
        return self.surgical & self.descriptive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("catalogue", type=Path, metavar="CATALOGUE", help="SQLite, csv or jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page and picture")


def main(args: argparse.Namespace) -> int:
    """Returns 0. Raises UserError."""
    videos = [row for _, row in catalogue.read_rows(args.catalogue, "videos")]
    if not videos:
        raise UserError(f"{args.catalogue.name}: no videos; expected {catalogue.EXPECTED}")
    known = catalogue.tables(args.catalogue)
    captions = read_captions(args.catalogue, known)
    counts = count(videos, captions)
    for name, value in counts:
        print(f"{name:<28}{value:>12}")
    for table in {"captions", "levels"} - set(known):
        print(f"warning: {args.catalogue.name} has no table {table}; it is left out")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the page has the letters
        picture = pictures.save(draw(videos, captions), args.out / "explore.png")
    page = args.out / "explore.html"
    write_whole(page, render(args.catalogue.name, videos, captions, counts, picture))
    print(f"written: {page}, {picture}")
    return 0


def read_captions(path: Path, known: list[str]) -> Captions:
    """Captions of a catalogue, none where it has no such table."""
    levels = {}
    if "levels" in known:
        for _, row in catalogue.read_rows(path, "levels"):
            name = _text(row.get("name")).lower()
            levels[row.get("level_id")] = LEVELS.get(name, name)
    rows = catalogue.read_rows(path, "captions") if "captions" in known else ()
    columns = [
        (
            _text(row.get("video_id")),
            levels.get(row.get("level_id"), f"level {_text(row.get('level_id'))}"),
            _number(row.get("end_time")) - _number(row.get("start_time")),
            _number(row.get("is_surgical_content")) == 1,
            _number(row.get("is_descriptive")) == 1,
            _text(row.get("caption")) or _text(row.get("raw_narration")),
        )
        for _, row in rows
    ]
    kinds = (object, object, np.float64, bool, bool, object)
    parts = zip(*columns, strict=True) if columns else ((),) * len(kinds)
    return Captions(*(np.array(part, kind) for part, kind in zip(parts, kinds, strict=True)))


def count(videos: list[dict], captions: Captions) -> list[tuple[str, str]]:
    """(what, how many) of the whole catalogue and of each level."""
    seconds = column(videos, "duration")
    narrated = set(captions.video) | {
        _text(row.get("video_id")) for row in videos if _number(row.get("total_caption_count")) > 0
    }
    here = [_text(row.get("video_id")) in narrated for row in videos]
    paired = set(captions.video[captions.pair])
    address = [bool(_text(row.get("youtube_id")) or _text(row.get("url"))) for row in videos]
    rows = [("videos", len(videos)), ("videos with an address", sum(address))]
    if len(seconds):
        rows.append(("hours", f"{seconds.sum() / 3600:,.1f}"))
    if len(captions.video) or any(here):
        rows += [
            ("videos with narration", sum(here)),
            ("silent videos", len(videos) - sum(here)),
            ("videos with pairs", sum(_text(row.get("video_id")) in paired for row in videos)),
        ]
    rows += [
        ("captions", len(captions.video)),
        ("surgical", int(captions.surgical.sum())),
        ("descriptive", int(captions.descriptive.sum())),
        ("pairs (both)", int(captions.pair.sum())),
    ] * bool(len(captions.video))
    for level in _levels(captions):
        own = captions.level == level
        rows.append((f"{level}: captions", int(own.sum())))
        rows.append((f"{level}: pairs", int((own & captions.pair).sum())))
        lengths = captions.seconds[own]
        lengths = lengths[np.isfinite(lengths)]
        if len(lengths):
            rows.append((f"{level}: mean seconds", f"{lengths.mean():.1f}"))
            rows.append((f"{level}: median seconds", f"{np.median(lengths):.1f}"))
    return [(name, value if isinstance(value, str) else f"{value:,}") for name, value in rows]


def column(rows: list[dict], name: str) -> np.ndarray:
    """Positive numbers of a column that can be true, (n,) float64."""
    values = np.array([_number(row.get(name)) for row in rows], np.float64)
    return values[(values > 0) & (values < LARGEST)]


def draw(videos: list[dict], captions: Captions):
    """Figure: captions by filter and level, lengths, captions a video, categories, rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 12), layout="constrained")
    axes = figure.subplots(4, 3).ravel()
    flags = {
        "all": np.ones(len(captions.video), bool),
        "surgical": captions.surgical,
        "descriptive": captions.descriptive,
        "pairs": captions.pair,
    }
    _bars(axes[0], [(name, int(own.sum())) for name, own in flags.items()], "captions")
    levels = _levels(captions)
    _bars(
        axes[1],
        [(level, int((captions.level == level).sum())) for level in levels],
        "captions by level",
    )
    lengths, numbers = {}, {}
    for level in levels:
        own = captions.level == level
        lengths[level] = captions.seconds[own & (captions.seconds > 0)]
        numbers[level] = np.array(list(Counter(captions.video[own]).values()), np.float64)
    _violins(axes[2], lengths, "seconds of a caption")
    _violins(axes[3], numbers, "captions of a video")
    _violins(axes[4], {"videos": column(videos, "duration") / 60}, "minutes of a video")
    if len(rates := column(videos, "fps")):
        axes[5].hist(rates, bins=16, color=pictures.PALETTE[0])
    axes[5].set_title("frames/s", fontsize=9)
    for axis, name in zip(axes[6:], CATEGORIES, strict=False):
        _bars(axis, _categories(videos, name), name.replace("_", " "), flat=True)
    years = Counter(int(year) for year in column(videos, "year") if 1900 <= year <= 2100)
    _bars(axes[10], [(str(year), years[year]) for year in sorted(years)], "year")
    for axis in axes:
        axis.tick_params(labelsize=7)
        if not axis.has_data():  # a column that this catalogue does not have
            axis.set_visible(False)
    return figure


def render(
    name: str, videos: list[dict], captions: Captions, counts: list[tuple[str, str]], picture: Path
) -> str:
    """The page, everything from the catalogue escaped."""
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    body = [table(("", "count"), counts)]
    body.append(f'<img alt="pictures of the numbers" src="data:image/png;base64,{data}">')
    for category in CATEGORIES:
        found = Counter(_text(row.get(category)) or "unknown" for row in videos)
        if set(found) != {"unknown"}:
            rows = [(value, f"{number:,}") for value, number in found.most_common()]
            body.append(f"<h2>{html.escape(category.replace('_', ' '))}</h2>")
            body.append(table(("", "videos"), rows))
    chosen = random.Random(42)
    for level in _levels(captions):
        own = np.flatnonzero(captions.level == level)
        shown = sorted(chosen.sample(range(len(own)), min(SAMPLES, len(own))))
        body.append(f"<h2>{html.escape(level)}: {len(shown)} captions at random</h2>")
        body.append(
            table(
                ("video", "seconds", "caption"),
                [
                    (captions.video[i], f"{captions.seconds[i]:.1f}", captions.text[i])
                    for i in own[shown]
                ],
            )
        )
    return PAGE.format(title=html.escape(name), body="\n".join(body))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as an HTML table, everything escaped."""
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>"]
    for row in rows:
        cells = (
            f"<td{' class=number' if cell[:1].isdigit() and i else ''}>{html.escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _levels(captions: Captions) -> list[str]:
    """Fine, mid, coarse, then others by name."""
    order = list(LEVELS.values())
    names = sorted(set(captions.level))
    return sorted(names, key=lambda n: (order.index(n) if n in order else len(order), n))


def _categories(videos: list[dict], name: str) -> list[tuple[str, int]]:
    found = Counter(_text(row.get(name)) or "unknown" for row in videos).most_common()
    if [value for value, _ in found] == ["unknown"]:
        return []
    rest = sum(number for _, number in found[BARS:])
    others = [(f"{len(found) - BARS} others", rest)] if rest else []
    return [(value[:30], number) for value, number in found[:BARS]] + others


def _bars(axis, rows: list[tuple[str, int]], title: str, flat: bool = False) -> None:
    axis.set_title(title, fontsize=9)
    places, values = range(len(rows)), [value for _, value in rows]
    # A name from outside is no formula.
    names = [name.replace("$", r"\$") for name, _ in rows]
    if flat:
        axis.barh(places, values, color=pictures.PALETTE[0])
        axis.set_yticks(places, names)
        axis.invert_yaxis()
    else:
        axis.bar(places, values, color=pictures.PALETTE[0])
        axis.set_xticks(places, names, rotation=0 if len(rows) < 6 else 60)


def _violins(axis, groups: dict[str, np.ndarray], title: str) -> None:
    """Densities of the logarithm, marked with the median; empty groups are left out."""
    axis.set_title(f"{title} (log)", fontsize=9)
    groups = {name: values for name, values in groups.items() if len(values)}
    if not groups:
        return
    axis.violinplot([np.log10(values) for values in groups.values()], showmedians=True)
    axis.set_xticks(range(1, len(groups) + 1), groups)
    low = math.floor(min(np.log10(values.min()) for values in groups.values()))
    high = math.ceil(max(np.log10(values.max()) for values in groups.values()))
    axis.set_yticks(range(low, high + 1), [f"{10.0**power:g}" for power in range(low, high + 1)])


def _text(value: object) -> str:
    """One printable line."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _number(value: object) -> float:
    """A number, NaN where it is none; flags may be text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
