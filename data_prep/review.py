"""Findings of `data_prep qc`, and review.csv: what a person decided about them.

    video,start,end,decision,reviewer,date

`video` as in videos.csv; `start` and `end` in seconds or h:mm:ss from the first frame, empty for
the ends of the recording; `decision` keep or drop; `reviewer` and `date` (2026-05-31) say who
answers for it. A row goes before every flag; of two about one moment the lower one counts.
"""

import csv
import datetime
import io
import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources import read_rows
from surgjax.errors import UserError, nearest

FILE = "review.csv"
COLUMNS = ("video", "start", "end", "decision", "reviewer", "date")
DECISIONS = ("keep", "drop")
QUALITY = ("black", "frozen", "blurred", "duplicate")
PRIVACY = ("out_of_body", "text")
FLAGS = (*PRIVACY, *QUALITY)  # the more serious first


@dataclass(frozen=True)
class Review:
    """One row; `start` and `end` in seconds, `end` infinite for the end of the recording."""

    video: str
    start: float
    end: float
    decision: str
    reviewer: str
    date: str


def read(path: Path, videos: Container[str]) -> list[Review]:
    """Rows of a review.csv, in order.

    Raises:
      UserError: naming the first row with an unknown video, decision, time or date, or that nobody
        answers for.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing, and with it what was decided; put it back, or write one that "
            f"holds the line {','.join(COLUMNS)} alone"
        )
    rows = []
    for where, row in read_rows(path, list(COLUMNS)):
        video, decision = row["video"], row["decision"]
        if video not in videos:
            raise UserError(f"{where}: no video {video!r}{nearest(video, videos)}")
        if decision not in DECISIONS:
            raise UserError(f"{where}: decision is {decision!r}; expected keep or drop")
        start = _seconds(row["start"], where, "start") if row["start"] else 0.0
        end = _seconds(row["end"], where, "end") if row["end"] else math.inf
        if start >= end:
            raise UserError(f"{where}: start {row['start']} is not before end {row['end']}")
        if not row["reviewer"]:
            raise UserError(f"{where}: reviewer is empty; expected who answers for it")
        try:
            datetime.date.fromisoformat(row["date"])
        except ValueError as error:
            raise UserError(
                f"{where}: date is {row['date']!r}; expected such as 2026-05-31"
            ) from error
        rows.append(Review(video, start, end, decision, row["reviewer"], row["date"]))
    return rows


def read_findings(path: Path) -> list[dict[str, str]]:
    """Rows of a table that `qc` wrote. Raises UserError when it cannot be read."""
    try:
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); scan into another --out") from error


def _seconds(text: str, where: str, name: str) -> float:
    """Of "75", "75.5", "1:15" or "0:01:15". Raises UserError."""
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = [-1.0]
    fits = all(0 <= number < 60 for number in numbers[1:])
    if len(numbers) > 3 or not 0 <= numbers[0] < 1e8 or not fits:
        raise UserError(f"{where}: {name} is {text!r}; expected seconds or h:mm:ss")
    total = 0.0
    for number in numbers:
        total = 60 * total + number
    return total
