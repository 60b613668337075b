"""`python -m data_prep inventory STORE...`: the table of a corpus, and its nearness to a benchmark.

    OUT/inventory.md     videos, cases, clips, frames and hours by domain, source, procedure,
                         anatomy and licence
    OUT/inventory.html   the same and the picture, in one file that needs no network
    OUT/inventory.png    hours by procedure, anatomy, source and licence
    OUT/inventory.csv    the numbers; OUT/against.csv those of --against

OUT is `inventory` beside the first store unless given; a store is never written to.

--against says for each set of a benchmark how much of the pretraining data shows the same
procedure, or the same anatomy in another one, as in Fig. 2 of SurgVISTA. Pretraining data is what
is left of the stores without validation and test cases. Words are compared: "laparoscopic
cholecystectomy" has all words of "cholecystectomy" and so is one, hysterectomy is one of what
surgjax/benchmark/suites.yaml puts it within. Other names of an operation are not found: shares are
lower bounds.
"""

import argparse
import base64
import html
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import corpus as corpora
from data_prep import explore
from data_prep.clips import CLIPS
from data_prep.corpus import COUNTS, DIMENSIONS, NOT_STATED, Corpus
from data_prep.nearness import (
    NEARNESS,
    VAGUE,
    BenchmarkSet,
    Nearness,
    benchmark_sets,
    compare,
    is_folder,
)
from data_prep.options import make_folder
from surgjax.benchmark import pictures, suites
from surgjax.data.leakage import held_out_cases, names_of
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError
from surgjax.files import csv_text, write_whole

PRINTED, DRAWN = 12, 16  # rows of a table on the screen, bars of a panel


@dataclass(frozen=True)
class Section:
    """A table of the page: what is said before it, its header, its rows as text, and their sum."""

    title: str
    notes: list[str]
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    total: tuple[str, ...] | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    parser.add_argument(
        "--against",
        metavar="SUITE",
        help=f"{', '.join(suites.names())}, names of data sets with commas, or the folder of "
        "a store",
    )
    parser.add_argument("--out", type=Path, help="folder of tables and picture")


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    stores = _open(args.stores)
    sets = [] if args.against is None else benchmark_sets(args.against)
    out = args.out or args.stores[0].resolve().with_name("inventory")
    folders = [Path(args.against)] if sets and is_folder(args.against) else []
    if any(out.resolve().is_relative_to(path.resolve()) for path in [*args.stores, *folders]):
        raise UserError(f"--out {out} lies in a store; its files must not change, choose another")
    corpus = corpora.read(stores)
    tables = {dimension: corpora.table(corpus, dimension) for dimension in DIMENSIONS}
    sections, panels = _corpus_sections(stores, corpus, tables), _panels(corpus, tables)
    make_folder(out)
    write_whole(out / "inventory.csv", csv_text(_csv_rows(tables)))
    (out / "against.csv").unlink(missing_ok=True)  # of an earlier call, of other numbers
    if sets:
        held_out = held_out_cases(stores)
        kept = ~np.isin(corpus.case, np.array(sorted(held_out), str))
        names = names_of(stores, set(corpus.case[kept]))
        found = {of.name: compare(corpus, kept, held_out, names, of) for of in sets}
        sections.append(_against_section(args.against, corpus, kept, sets, found))
        panels.append(_against_panel(found))
        write_whole(out / "against.csv", csv_text(_against_csv_rows(sets, found)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the page has the letters
        picture = pictures.save(pictures.plot_stacked(panels), out / "inventory.png")
    write_whole(out / "inventory.md", "# Corpus\n\n" + markdown(sections))
    write_whole(out / "inventory.html", page(sections, picture))
    print(markdown(sections, PRINTED))
    print(f"written: {', '.join(str(out / f'inventory.{kind}') for kind in ('md', 'html', 'png'))}")
    return 0


def markdown(sections: Sequence[Section], most: int | None = None) -> str:
    """The sections as Markdown that reads well as text too; at most `most` rows before a sum."""
    parts = []
    for section in sections:
        rows, total = section.rows, [section.total] if section.total else []
        if most is not None and total and len(rows) > most:
            more = f"... {len(rows) - most} more, in the files"
            rows = [*rows[:most], (more, *[""] * (len(section.header) - 1))]
        cells = [[_plain(cell) for cell in row] for row in (section.header, *rows, *total)]
        widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(section.header))]
        lines = [_line(row, widths) for row in cells]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines.insert(1, _line(rule, widths))
        notes = [_plain(note) for note in section.notes]
        parts.append("\n\n".join([f"## {section.title}", *notes, "\n".join(lines)]))
    return "\n\n".join(parts) + "\n"


def page(sections: Sequence[Section], picture: Path) -> str:
    """The HTML page, everything from the stores escaped."""
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    body = [f'<img alt="hours as bars" src="data:image/png;base64,{data}">']
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(note)}</p>" for note in section.notes]
        total = [section.total] if section.total else []
        body.append(explore.table(section.header, [*section.rows, *total]))
    return explore.PAGE.format(title="Corpus", body="\n".join(body))


def _open(paths: Sequence[Path]) -> list[Store]:
    known = {}
    for path in paths:
        if (same := known.setdefault(path.resolve(), path)) is not path:
            raise UserError(
                f"{path} is named twice{'' if same == path else f', as {same} too'}; expected each "
                "store once"
            )
    return [open_store(path) for path in paths]


def _corpus_sections(
    stores: Sequence[Store], corpus: Corpus, tables: dict[str, dict[str, dict[str, float]]]
) -> list[Section]:
    whole = corpora.table(corpus)["all"]
    number = f"{len(stores)} stores" if len(stores) > 1 else "1 store"
    notes = [
        f"{number}: {', '.join(store.name for store in stores)}. Frames are those stored, source "
        "frames those of the same hours at the rate of the recordings."
    ]
    count, renamed, hours = corpora.repeated(corpus)
    if count:
        notes.append(
            f"{count:,} cases are there more than once, {renamed:,} of them under several names; "
            f"{_hours(hours)} hours are copies. Cases count each operation once, all else what is "
            "stored."
        )
    without = [store.name for store in stores if not (store.path / CLIPS).is_file()]
    if without:
        notes.append(f"Without clips: {', '.join(without)}; python -m data_prep clips cuts them.")
    sections = []
    for dimension, rows in tables.items():
        shown = [_row(name, counts, whole["hours"]) for name, counts in rows.items()]
        total = _row("all", whole, whole["hours"])
        header, said = (dimension, *COUNTS, "share of hours"), [] if sections else notes
        sections.append(Section(f"By {dimension}", said, header, shown, total))
    return sections


def _row(name: str, counts: dict[str, float], hours: float) -> tuple[str, ...]:
    numbers = [f"{counts[of]:,.0f}" if counts[of] == counts[of] else "-" for of in COUNTS[:-1]]
    return (name, *numbers, _hours(counts["hours"]), _share(counts["hours"], hours))


def _against_section(
    against: str,
    corpus: Corpus,
    kept: np.ndarray,
    sets: Sequence[BenchmarkSet],
    found: dict[str, Nearness],
) -> Section:
    hours = corpus.counts["hours"]
    total = float(hours[kept].sum())
    vague = kept & np.isin(corpus.words["procedure"], list(VAGUE))
    notes = [
        f"Pretraining data: {_hours(total)} of {_hours(float(hours.sum()))} hours, "
        f"{kept.sum():,} of {len(kept):,} videos. Validation and test cases are left out.",
        "Hours (share of the pretraining data) of a set's procedure, its own videos among them, of "
        "its anatomy in other procedures, of its domain alone, and the rest. A set is in-domain if "
        "its procedure is there, near if only its anatomy is.",
    ]
    if vague.any():
        notes.append(
            f"{_hours(float(hours[vague].sum()))} hours do not state one procedure; they count as "
            "another one than a set's."
        )
    rows = []
    for of in sets:
        near = found[of.name]
        if near.leaked:
            named = [*near.leaked[:3], "..."] if len(near.leaked) > 3 else near.leaked
            notes.append(
                f"Warning: {len(near.leaked):,} validation or test cases of {of.name} are in the "
                f"pretraining data ({', '.join(named)}). None of the stores knows that they are "
                "held out: give the one that does too, or prepare theirs again with splits.csv."
            )
        rows.append(
            (
                of.name,
                ", ".join(sorted(of.procedures)) or NOT_STATED,
                *(f"{_hours(h)} ({_share(h, total)})" if h else "0" for h in near.hours.values()),
                near.verdict,
                f"{near.own_videos:,}",
                f"{near.left_out:,}",
            )
        )
    title = against if against in suites.names() else ", ".join(of.name for of in sets)
    header = ("set", "procedure", *NEARNESS, "is", "its videos", "its cases left out")
    return Section(f"Against {title}", notes, header, rows)


def _panels(corpus: Corpus, tables: dict[str, dict[str, dict[str, float]]]) -> list[tuple]:
    """Hours of the words with most of them, in four dimensions, in parts by domain."""
    domains = {domain: pictures.colour(i) for i, domain in enumerate(tables["domain"])}
    panels = []
    for dimension in ("procedure", "anatomy", "source", "licence"):
        words, bars = corpus.words[dimension], {}
        shown = list(tables[dimension])[:DRAWN]
        rest = len(tables[dimension]) - len(shown)
        masks = {word: words == word for word in shown}
        if rest:
            masks[f"{rest} others"] = ~np.isin(words, shown)
        for word, own in masks.items():
            bars[word] = {
                domain: float(
                    corpus.counts["hours"][own & (corpus.words["domain"] == domain)].sum()
                )
                for domain in domains
            }
        panels.append((f"hours by {dimension}", domains, bars))
    return panels


def _against_panel(found: dict[str, Nearness]) -> tuple:
    shares = {}
    for name, near in found.items():
        total = sum(near.hours.values()) or 1.0
        shares[name] = {part: 100 * hours / total for part, hours in near.hours.items()}
    shades = (pictures.PALETTE[0], pictures.PALETTE[5], pictures.PALETTE[1], pictures.GREY)
    parts = dict(zip(NEARNESS, shades, strict=True))
    return ("nearness to each set, % of the pretraining hours", parts, shares)


def _csv_rows(tables: dict[str, dict[str, dict[str, float]]]) -> list[list]:
    rows = [["dimension", "value", *(name.replace(" ", "_") for name in COUNTS), "share_of_hours"]]
    for dimension, found in tables.items():
        total = sum(counts["hours"] for counts in found.values())
        for name, counts in found.items():
            numbers = [int(counts[of]) if counts[of] == counts[of] else "" for of in COUNTS[:-1]]
            share = round(counts["hours"] / total, 6) if total else ""
            rows.append([dimension, name, *numbers, round(counts["hours"], 4), share])
    return rows


def _against_csv_rows(sets: Sequence[BenchmarkSet], found: dict[str, Nearness]) -> list[list]:
    parts = [name.replace(" ", "_") for name in NEARNESS]
    header = ["set", "domain", "procedure", "anatomy", *(f"{part}_hours" for part in parts)]
    header += [*(f"{part}_share" for part in parts), "verdict", "own_videos", "own_hours"]
    rows = [[*header, "held_out_cases_left_out", "held_out_cases_in_the_data"]]
    for of in sets:
        near = found[of.name]
        total = sum(near.hours.values())
        shares = [round(hours / total, 6) if total else "" for hours in near.hours.values()]
        words = (", ".join(sorted(shown)) for shown in (of.domains, of.procedures, of.anatomies))
        hours = [round(one, 4) for one in near.hours.values()]
        own = [near.own_videos, round(near.own_hours, 4), near.left_out, len(near.leaked)]
        rows.append([of.name, *words, *hours, *shares, near.verdict, *own])
    return rows


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 1000 else f"{hours:.3g}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]) + " |"


def _plain(text: str) -> str:
    """One line that Markdown shows as it is; names may come from the web."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\|<>*\[\]])", r"\\\1", line)
