"""The page of a scan: OUT/qc.html, made of the tables and pictures beside it, without network."""

import csv
import html
import io
import json
import math
from collections import defaultdict
from pathlib import Path

from data_prep import out_of_body, review
from data_prep.burnt_in import MIN_SAMPLES, MIN_SECONDS
from data_prep.contact_sheet import COLOURS, MOST
from data_prep.qc_pool import sheet_path
from data_prep.review import FLAGS, PRIVACY, read_findings
from surgjax.files import write_whole

SHOWN = 100  # spans of one recording
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file:;
 style-src 'unsafe-inline'">
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:90em;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse;margin:1em 0}}td,th{{padding:.1em .7em;text-align:left;
border-bottom:1px solid #ddd}}img{{max-width:100%}}code{{white-space:pre;user-select:all}}
b{{display:inline-block;width:.9em;height:.9em;margin-right:.4em}}section{{margin-top:2.5em}}</style>
<h1>{title}</h1>
{body}
</html>
"""
INTRODUCTION = """<p><strong>This folder shows what the recordings show, under their names: keep it
as confidential as they are.</strong></p>
<h2>How to review</h2>
<p>What is flagged {privacy} is left out of every store that is made with this scan. The other flags
inform. Look at each sheet, then write what you decide into <code>review.csv</code>, a row for each
stretch: the rows beside the findings are ready to copy; add your name and the date. A row goes
before every flag: <code>keep</code> keeps what is flagged, <code>drop</code> leaves out what is
not; empty times mean the whole recording; of two rows about one moment the lower one counts. The
file is never overwritten. A sheet shows at most {most} samples.</p>
<p>What happens between two samples was not seen by the scan either. A look outside the body that
lasts {look:g} seconds is surely among the samples, and text that is shown for {text:g} seconds is
so as often as it takes to find it. What is shorter may be missed; a smaller --every misses
less.</p>
<p>Frames of the samples: {legend}. Boxes in a sample: text, and in grey the picture
without its border.</p>"""
LIMITS = {
    out_of_body.DEFAULT: """<p>Out of the body was judged by <strong>colour only</strong>: what is
not red, pink or orange. Skin, wood and warm light pass for tissue; smoke, swabs, towels, the inside
of a trocar and everything that is no laparoscopy are taken for outside. How often the rule is wrong
on real operations is not known. To be sure, scan with a trained model (--out-of-body
MODULE:FUNCTION; OoBNet of CAMMA is public), or look through the recordings yourself.</p>""",
    out_of_body.NONE: """<p><strong>Nothing looked for frames outside the body</strong>
(--out-of-body none).</p>""",
}
OTHER_LIMITS = """<p>Text is found when it stays in place for some seconds while the picture moves,
or stands on a plain ground. Letters lower than a fiftieth of the picture, faint ones, and text on a
picture that never moves are missed.</p>
<p>Copies are found by samples of the same moments: one that starts at another moment and was
compressed again, with other key frames, can be missed.</p>"""


def write(out: Path) -> Path:
    """Write qc.html of the tables in `out`; returns its path.

    Raises:
      UserError: review.csv has a row that cannot be right.
    """
    meta = json.loads((out / "qc.json").read_text(encoding="utf-8"))
    videos = read_findings(out / "videos.csv")
    spans, findings, reviews = defaultdict(list), defaultdict(list), defaultdict(list)
    for row in read_findings(out / "spans.csv"):
        spans[row["video"]].append(row)
    for row in read_findings(out / "names.csv"):
        findings[row["video"]].append(row["finding"])
    for row in review.read(out / review.FILE, {row["video"] for row in videos}):
        reviews[row.video].append(row)
    legend = ", ".join(f"{_dot(flag)}{_words(flag)}" for flag in FLAGS)
    privacy = " or ".join(map(_words, PRIVACY))
    scorer, look, text = meta["settings"]["out_of_body"], *_surely_seen(meta["settings"])
    own = f"<p>Out of the body was judged by {html.escape(scorer)}.</p>"
    body = [
        INTRODUCTION.format(privacy=privacy, most=MOST, legend=legend, look=look, text=text),
        LIMITS.get(scorer, own),
        OTHER_LIMITS,
        _overview(videos, findings, reviews),
    ]
    for number, row in enumerate(videos):
        video = row["video"]
        sheet = sheet_path(out, number)
        picture = sheet.relative_to(out).as_posix() if sheet.exists() else ""
        body.append(_section(number, row, picture, spans[video], findings[video], reviews[video]))
    page = out / "qc.html"
    title = f"Scan of {len(videos)} recordings of {html.escape(str(meta['dataset']))}"
    write_whole(page, PAGE.format(title=title, body="\n".join(body)))
    return page


def _surely_seen(settings: dict) -> tuple[float, float]:
    """Seconds from which on no look outside and no text falls between the samples."""
    apart = max(2 * settings["every"], settings["max_gap"])  # the most that two samples are
    return apart, max(MIN_SAMPLES * apart, MIN_SECONDS + 2 * apart)


def _overview(videos: list[dict], findings: dict, reviews: dict) -> str:
    header = ("recording", "minutes", *map(_words, FLAGS), "cuts", "names", "reviewed")
    lines = ["<h2>Overview</h2><table><tr>", *(f"<th>{name}</th>" for name in header), "</tr>"]
    for number, row in enumerate(videos):
        cells = [f'<a href="#v{number}">{html.escape(row["video"])}</a>']
        if row["unreadable"]:
            cells += ["", f"not looked through: {html.escape(row['unreadable'])}"]
        else:
            cells.append(f"{float(row['seconds']) / 60:.1f}")
            cells += [_share(row, flag) for flag in FLAGS]
            cells += [row["cuts"], str(len(findings[row["video"]]) or "")]
            cells.append(str(len(reviews[row["video"]]) or ""))
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join(lines) + "</table>"


def _share(row: dict[str, str], flag: str) -> str:
    if flag == "duplicate":
        return html.escape(row["duplicate_of"])
    share = float(row[flag])
    strong = share > 0 and flag in PRIVACY or flag in row["flags"].split()
    text = f"{share:.1%}" if share else ""
    return f"<strong>{text}</strong>" if strong else text


def _section(
    number: int,
    row: dict[str, str],
    picture: str,
    spans: list[dict],
    findings: list[str],
    reviews: list[review.Review],
) -> str:
    lines = [f'<section id="v{number}"><h2>{html.escape(row["video"])}</h2>']
    if row["unreadable"]:
        return f"{lines[0]}<p>Not looked through: {html.escape(row['unreadable'])}.</p></section>"
    lines.append(f"<p>{float(row['seconds']):.1f} s, {row['samples']} samples</p>")
    if row["duplicate_of"]:
        lines.append(f"<p>Repeats {html.escape(row['duplicate_of'])}.</p>")
    lines += [f"<p>{html.escape(finding)}</p>" for finding in findings]
    lines += [
        f"<p>Reviewed: {r.decision} {r.start:g} s to "
        f"{'the end' if r.end == math.inf else f'{r.end:g} s'}, {html.escape(r.reviewer)} "
        f"{html.escape(r.date)}</p>"
        for r in reviews
    ]
    lines.append(f'<img loading="lazy" alt="contact sheet" src="{picture}">')
    if spans:
        lines.append("<table><tr><th>flag</th><th>from, to (s)</th><th>score</th><th>row</th></tr>")
        for span in spans[:SHOWN]:
            decision = "keep" if span["flag"] in PRIVACY else "drop"
            cells = [span["video"], span["start"], span["end"], decision, "", ""]
            lines.append(
                f"<tr><td>{_dot(span['flag'])}{_words(span['flag'])}</td><td>{span['start']} to "
                f"{span['end']}</td><td>{span['score']}</td><td><code>{_csv_row(cells)}</code></td>"
                f"</tr>"
            )
        lines.append("</table>")
    if len(spans) > SHOWN:
        lines.append(f"<p>{len(spans) - SHOWN} more are in spans.csv.</p>")
    whole = _csv_row([row["video"], "", "", "keep", "", ""])
    lines.append(f"<p>The whole recording: <code>{whole}</code></p></section>")
    return "".join(lines)


def _csv_row(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return html.escape(text.getvalue())


def _dot(flag: str) -> str:
    return f'<b style="background:{COLOURS[flag]}"></b>'


def _words(flag: str) -> str:
    return flag.replace("_", " ")
