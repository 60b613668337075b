"""One HTML page that needs nothing from outside: text, tables and pictures are all in the file.

It can be read on a phone, in the dark and on paper. Pictures that would take it over MAX_BYTES are
left out and named; text is never left out.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MAX_BYTES = 5_000_000
CHART = 256  # colours of a chart: a quarter of the bytes, and no difference to see
PHOTOGRAPH = 20_000  # colours that only photographs have
LARGE = 1200  # pixels of width from which a picture is scrolled and not made smaller
STYLE = """
:root { color-scheme: light dark; --text: #222; --page: #fff; --quiet: #555; --line: #ddd;
  --box: #f5f5f5 }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --page: #161616; --quiet: #aaa;
  --line: #444; --box: #242424 } }
@media print { :root { --text: #000; --page: #fff; --quiet: #444; --line: #ccc; --box: #f5f5f5 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--page) }
h1, h2, h3, p, li { overflow-wrap: anywhere } .cited td { opacity: .75 }
h1 { font-size: 1.5rem } h2 { font-size: 1.25rem; margin-top: 2.4rem;
  border-top: 1px solid var(--line); padding-top: .8rem } h3 { font-size: 1.05rem;
  margin-top: 1.8rem }
a { color: inherit }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: .6rem 0; font-size: .9rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap } th:first-child, td:first-child { text-align: left }
tbody + tbody tr:first-child td { border-top: 2px solid var(--quiet) }
figure { margin: .8rem 0; overflow-x: auto } img { max-width: 100%; height: auto; display: block;
  background: #fff; border-radius: 4px }
@media screen { img.large { max-width: none } }
@media screen and (max-width: 48rem) { img { max-width: none } }
figcaption, .note, small { color: var(--quiet); font-size: .85rem }
pre { background: var(--box); padding: .6rem; overflow-x: auto }
@media print { body { margin: 0; max-width: none; font-size: 10pt }
  h2, h3 { break-after: avoid } figure, tr { break-inside: avoid }
  .wide, figure { overflow: visible }
  th, td { white-space: normal; padding: .15rem .3rem; font-size: 7pt } small { font-size: 6pt } }
"""
# Nothing is fetched, whatever a name in the text may try.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows, for those who cannot see it."""

    path: Path
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it.

    Attributes:
      title: plain text.
      body: HTML, in which text from outside is escaped.
      level: 2, which the table of contents has, or 3.
    """

    title: str
    body: str = ""
    pictures: tuple[Picture, ...] = ()
    level: int = 2


def page(title: str, sections: Sequence[Section], max_bytes: int = MAX_BYTES) -> str:
    """The page's HTML."""
    texts = [_heading(i, section) + section.body for i, section in enumerate(sections)]
    contents = "".join(
        f'<li><a href="#part{i}">{html.escape(section.title)}</a></li>'
        for i, section in enumerate(sections)
        if section.level == 2
    )
    escaped = html.escape(title)
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{escaped}</h1>\n"
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>\n'
    )
    size = len(head.encode()) + sum(len(text.encode()) for text in texts) + 10_000
    body, left_out = [], []
    for section, text in zip(sections, texts, strict=True):
        body.append(text)
        for picture in section.pictures:
            figure = _figure(picture)
            if size + len(figure) > max_bytes:
                left_out.append(f"{picture.path.parent.name}/{picture.path.name}")
                continue
            size += len(figure.encode())
            body.append(figure)
    if left_out:
        names = ", ".join(left_out[:50]) + (
            f" and {len(left_out) - 50} more" * (len(left_out) > 50)
        )
        body.append(f'<p class="note">Left out for size: {html.escape(names)}</p>')
    return head + "\n".join(body) + "\n</body></html>\n"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], beside: Iterable[Sequence[str]] = ()
) -> str:
    """An HTML table of plain text; the rows of `beside` stand below a rule."""

    def line(cells: Sequence[str], kind: str) -> str:
        return f"<tr>{''.join(f'<{kind}>{html.escape(str(c))}</{kind}>' for c in cells)}</tr>"

    bodies = ["".join(line(row, "td") for row in part) for part in (rows, beside)]
    inside = "".join(f"<tbody>{part}</tbody>" for part in bodies if part)
    return f'<div class="wide"><table><thead>{line(header, "th")}</thead>{inside}</table></div>\n'


def notes(lines: Iterable[str]) -> str:
    """Plain text in small letters, a paragraph each."""
    return "".join(f'<p class="note">{html.escape(line)}</p>\n' for line in lines)


def _heading(number: int, section: Section) -> str:
    name = f"h{section.level}"
    return f'<{name} id="part{number}">{html.escape(section.title)}</{name}>\n'


def _figure(picture: Picture) -> str:
    with Image.open(picture.path) as image:
        width, height = image.size
        kind, data = _encoded(image.convert("RGB"))
    alt, source = html.escape(picture.alt), base64.b64encode(data).decode()
    large = ' class="large"' if width > LARGE else ""
    return (
        f'<figure><img{large} alt="{alt}" width="{width}" height="{height}" '
        f'src="data:image/{kind};base64,{source}"></figure>'
    )


def _encoded(image: Image.Image) -> tuple[str, bytes]:
    """A chart as a PNG of few colours, a photograph as a JPEG."""
    file = io.BytesIO()
    if image.getcolors(PHOTOGRAPH) is None:
        image.save(file, "jpeg", quality=85, optimize=True)
        return "jpeg", file.getvalue()
    few = image.quantize(CHART, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(file, "png", optimize=True)
    return "png", file.getvalue()
