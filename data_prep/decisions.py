"""What of each recording is stored: the findings of `data_prep qc`, and review.csv over them.

Frames that may show a person or their name (flags out_of_body and text) are left out; so is what
could not be looked through, and what a row of review.csv drops. A row that keeps a span takes it
back in; later rows go before earlier ones. Flags of quality only mark a video, and not one that a
row keeps whole.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import ceil, floor
from pathlib import Path

import numpy as np

from data_prep import review
from data_prep.review import PRIVACY, QUALITY, read_findings
from data_prep.video import Box, Frame
from surgjax.errors import UserError
from surgjax.files import parse_json
from surgjax.inside import inside

TABLES = {"videos.csv", "spans.csv", "boxes.csv"}
END = 10**12  # milliseconds: no recording is as long
LEFT_OUT = "left out"  # why a video of which nothing is stored is in quarantine
Span = tuple[int, int]


@dataclass(frozen=True)
class Decision:
    """What becomes of one video; times in milliseconds from its first frame, ends exclusive.

    Attributes:
      left_out: (start, end, why) of frames that are not stored, in order, apart from each other.
      covered: (start, end, x0, y0, x1, y1) of boxes that are blackened, fractions of the picture.
      crop: the picture without its border, (x0, y0, x1, y1) as fractions.
      flags: those of QUALITY that it has.
    """

    left_out: list[tuple[int, int, str]] = field(default_factory=list)
    covered: list[tuple[int, int, float, float, float, float]] = field(default_factory=list)
    crop: Box | None = None
    flags: list[str] = field(default_factory=list)

    def keeps(self, frame: Frame) -> bool:
        """Whether a frame is stored."""
        return not any(start <= frame.t_ms < end for start, end, _ in self.left_out)

    def covering(self, frame: Frame) -> Frame:
        """The frame with its boxes blackened."""
        boxes = [box for start, end, *box in self.covered if start <= frame.t_ms < end]
        if not boxes:
            return frame
        image = frame.image.copy()
        for box in boxes:
            x0, y0, x1, y1 = self._inside_crop(box) * (image.shape[1::-1] * 2)
            image[max(0, floor(y0)) : max(0, ceil(y1)), max(0, floor(x0)) : max(0, ceil(x1))] = 0
        return frame._replace(image=image)

    def _inside_crop(self, box: list[float]) -> np.ndarray:
        x0, y0, x1, y1 = self.crop or (0.0, 0.0, 1.0, 1.0)
        return (np.array(box) - (x0, y0, x0, y0)) / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)


def read(qc: Path, crop: bool = False, cover_text: bool = False) -> dict[str, Decision]:
    """The decision about every video that `data_prep qc` has looked at.

    Args:
      qc: its --out.
      crop: cut black borders off.
      cover_text: blacken burnt-in text, instead of leaving its frames out.

    Raises:
      UserError: `qc` is no such folder or unfinished, or a row of review.csv cannot be meant.
    """
    if not (qc / "qc.json").is_file():
        raise UserError(
            f"--qc {qc} holds no finished qc.json; expected the --out of `python -m data_prep qc`"
        )
    check_tables(qc)
    videos = {row["video"]: row for row in read_findings(qc / "videos.csv")}
    left_out: dict[str, list] = {
        name: [(0, END, "not looked through")] if row["unreadable"] else []
        for name, row in videos.items()
    }
    covered: dict[str, list] = {name: [] for name in videos}
    for row in read_findings(qc / "spans.csv"):
        if row["flag"] in PRIVACY and not (cover_text and row["flag"] == "text"):
            left_out[row["video"]].append((*_span(row, videos), row["flag"]))
    for row in read_findings(qc / "boxes.csv") if cover_text else ():
        box = tuple(float(row[name]) for name in ("x0", "y0", "x1", "y1"))
        covered[row["video"]].append((*_span(row, videos), *box))
    kept_whole = set()
    for row in review.read(qc / review.FILE, videos):
        name, keeps = row.video, row.decision == "keep"
        span = round(1000 * row.start), round(1000 * min(row.end, END / 1000))
        left_out[name] = _without(left_out[name], span)
        if keeps:
            covered[name] = _without(covered[name], span)
        else:
            left_out[name].append((*span, "review"))
        if span == (0, END):
            (kept_whole.add if keeps else kept_whole.discard)(name)
    return {
        name: Decision(
            _apart(left_out[name]),
            sorted(covered[name]),
            _box(row) if crop else None,
            [] if name in kept_whole else [f for f in row["flags"].split() if f in QUALITY],
        )
        for name, row in videos.items()
    }


def check_source(qc: Path, source: str, about: dict) -> None:
    """Raise UserError where `qc` looked at other recordings than a command line means."""
    meta = _finished(qc)
    then, now = (
        (name, words.get("frames_fps", 1))
        for name, words in ((meta["source"], meta["about"]), (source, about))
    )
    if then != now:
        raise UserError(
            f"--qc {qc} read its recordings as {then[0]}, folders of frames at {then[1]:g} a "
            f"second; this command says {now[0]}, {now[1]:g}: times would differ; give both the "
            f"same --dataset and --frames-fps"
        )


def sizes(qc: Path) -> dict[str, int | None]:
    """Bytes of each recording when it was looked at; None for what is no recording."""
    rows = read_findings(qc / "videos.csv")
    return {row["video"]: int(row["bytes"]) if row["bytes"] else None for row in rows}


def digest(decided: dict[str, Decision]) -> str:
    """sha256 of what is decided about each video."""
    text = json.dumps({name: asdict(decided[name]) for name in sorted(decided)})
    return hashlib.sha256(text.encode()).hexdigest()


def edits(name: str, decision: Decision) -> list[dict]:
    """Rows of edits.parquet (record.EDIT_COLUMNS) of one video."""
    corners = ("x0", "y0", "x1", "y1")
    rows = [{"edit": "left_out", "reason": why, **_ms(span)} for *span, why in decision.left_out]
    for start, end, *box in decision.covered:
        boxed = dict(zip(corners, box, strict=True))
        rows.append({"edit": "covered", "reason": "text", **_ms((start, end)), **boxed})
    if decision.crop:
        boxed = dict(zip(corners, decision.crop, strict=True))
        rows.append({"edit": "cropped", "reason": "border", **_ms((0, END)), **boxed})
    return [{"video_id": name, **row} for row in rows]


def of_edits(rows: Iterable[dict]) -> Decision:
    """The decision of one video whose `edits` these are, without its flags."""
    box = lambda row: tuple(row[name] for name in ("x0", "y0", "x1", "y1"))  # noqa: E731
    spans = [
        (row, (row["start_ms"], END if row["end_ms"] is None else row["end_ms"])) for row in rows
    ]
    return Decision(
        [(*span, row["reason"]) for row, span in spans if row["edit"] == "left_out"],
        [(*span, *box(row)) for row, span in spans if row["edit"] == "covered"],
        next((box(row) for row, _ in spans if row["edit"] == "cropped"), None),
    )


def _ms(span: Iterable[int]) -> dict[str, int | None]:
    start, end = span
    return {"start_ms": start, "end_ms": None if end == END else end}


def check_tables(qc: Path) -> None:
    """Raise UserError where a table is gone or was edited: what it hides would be stored."""
    for name, expected in _finished(qc)["tables"].items():
        path = inside(qc, name, "qc.json")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise UserError(
                f"{path} is not what `python -m data_prep qc` wrote; edit {review.FILE} only, and "
                f"scan into another folder"
            )


def _finished(qc: Path) -> dict:
    """qc.json, with the digest of every table that is read here. Raises UserError for damage."""
    try:
        meta = parse_json((qc / "qc.json").read_text(encoding="utf-8"))
        rate = meta["about"].get("frames_fps", 1)
        is_sound = meta["tables"].keys() >= TABLES and isinstance(meta["source"], str)
        is_sound &= isinstance(rate, int | float)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        is_sound = False
    if not is_sound:
        raise UserError(f"{qc / 'qc.json'} is damaged; scan into another folder")
    return meta


def _box(row: dict[str, str]) -> Box | None:
    whole = (0.0, 0.0, 1.0, 1.0)
    names = ("x0", "y0", "x1", "y1")
    box = tuple(float(row[n] or edge) for n, edge in zip(names, whole, strict=True))
    return None if box == whole else box


def _span(row: dict[str, str], videos: dict[str, dict]) -> Span:
    """Milliseconds of a finding; one that reaches the last sample reaches the end."""
    start, end = float(row["start"]), float(row["end"])
    last = end >= float(videos[row["video"]]["seconds"]) - 0.001
    return round(1000 * start), END if last else round(1000 * end)


def _without(rows: list[tuple], span: Span) -> list[tuple]:
    """Rows (start, end, ...) cut where the span is."""
    cut = []
    for start, end, *rest in rows:
        for low, high in ((start, min(end, span[0])), (max(start, span[1]), end)):
            if low < high:
                cut.append((low, high, *rest))
    return cut


def _apart(rows: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The same spans in order, none inside another; of two reasons the earlier span's counts."""
    done: list[tuple[int, int, str]] = []
    for start, end, why in sorted(rows):
        start = max(start, done[-1][1]) if done else start
        if done and start == done[-1][1] and why == done[-1][2] and start < end:
            done[-1] = (done[-1][0], end, why)
        elif start < end:
            done.append((start, end, why))
    return done
