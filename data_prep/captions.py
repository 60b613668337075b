"""Captions of a store: captions.csv beside the videos, or the file that --captions names.

    video_id,start_ms,end_ms,level,text    and perhaps  caption_id,raw_text,surgical,descriptive

level is coarse (an operation), mid (a phase or step) or fine (a task or action). Without them,
caption_id is the row's place in the file, raw_text is the text, and surgical and descriptive are
1; where these two columns are given, an empty value is 0.
"""

import contextlib
import functools
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq

from data_prep import tables
from data_prep.media import Unreadable
from data_prep.sources import Found, read_rows
from data_prep.video import Header
from surgjax.data.record import LEVELS
from surgjax.data.store import Store
from surgjax.errors import UserError, nearest

FILE, TABLE = "captions.csv", "captions.parquet"
MAX_TEXT = 10_000  # characters
SLACK_MS = 1_000  # a transcript may end a little after the pictures
TRUE, FALSE = ("1", "true", "True"), ("0", "false", "False", "")
Reader = Callable[[Mapping[str, float | None]], list[dict]]  # lengths of the videos -> rows


def reader(source: ModuleType, root: Path, given: Path | None) -> Reader | None:
    """Reads the captions of the videos below `root`; None where there are none.

    They are in the file `given`, else in captions.csv beside the videos, else where the source
    knows them: `captions(root, ends)`.

    Raises:
      UserError: `given` is no file.
    """
    if given is not None and not given.is_file():
        raise UserError(f"--captions {given} is no file; expected a csv file with captions")
    file = given or root / FILE
    if file.is_file():
        return functools.partial(read, file, rename=getattr(source, "rename", str))
    if hasattr(source, "captions"):
        return _telling_once(functools.partial(source.captions, root))
    return None


def ends_by_header(
    found: Found, headers: Iterable[tuple[str, Header | Unreadable]]
) -> dict[str, float | None]:
    """Length of each video in milliseconds as far as its header tells, for `read`."""
    ends: dict[str, float | None] = {row.video_id: None for row in found.refused}
    ends |= {video.video_id: None for video in found.videos}
    return ends | {
        name: 1000 * header.seconds for name, header in headers if isinstance(header, Header)
    }


def ends_in_store(store: Store) -> dict[str, float | None]:
    """Length of each video of a finished store in milliseconds, None for those in quarantine and
    those whose end was left out."""
    quarantined = pq.read_table(store.path / "quarantine.parquet", columns=["video_id"])
    ends: dict[str, float | None] = dict.fromkeys(quarantined["video_id"].to_pylist())
    for video, frames in enumerate(store.frames):
        last = store.read_times(video, [frames - 1])[0]
        ends[store.video_id(video)] = last + 1000 / float(store.videos["stored_fps"][video])
    if (store.path / "edits.parquet").is_file():
        rows = pq.read_table(store.path / "edits.parquet").to_pylist()
        ends |= {
            row["video_id"]: None
            for row in rows
            if row["edit"] == "left_out" and row["end_ms"] is None
        }
    return ends


def read(
    path: Path, ends: Mapping[str, float | None], rename: Callable[[str], str] = str
) -> list[dict]:
    """Rows of CAPTION_COLUMNS in the order of a csv file; `ends` and errors as of `checked`,
    `rename` as of `tables.clips`."""
    required = ["video_id", "start_ms", "end_ms", "level", "text"]
    optional = ("caption_id", "raw_text", "surgical", "descriptive")
    rows = read_rows(path, required, optional)
    renamed = ((at, row | {"video_id": rename(row["video_id"])}) for at, row in rows)
    return checked(renamed, ends)


def checked(
    given: Iterable[tuple[str, dict[str, str]]], ends: Mapping[str, float | None]
) -> list[dict]:
    """Rows of CAPTION_COLUMNS.

    Args:
      given: where a row stands, and its values as the file has them.
      ends: length in milliseconds of every video there is; None where it cannot be known.

    Raises:
      UserError: naming the first bad row: unknown video or level, empty text, a span that ends
        before it starts or lies outside its video, an id that is there twice.
    """
    rows, ids = [], {}
    for where, row in given:
        row |= tables.span(row, where, ends)
        end = ends[row["video_id"]]
        if end is not None and (row["start_ms"] >= end or row["end_ms"] > end + SLACK_MS):
            raise UserError(
                f"{where}: {row['start_ms']} to {row['end_ms']} ms lies outside the video "
                f"{row['video_id']!r}, which ends at {end:.0f} ms"
            )
        if row["level"] not in LEVELS:
            raise UserError(
                f"{where}: level is {row['level']!r}{nearest(row['level'], LEVELS)}; expected "
                f"{', '.join(LEVELS[:-1])} or {LEVELS[-1]}"
            )
        row["raw_text"] = row.get("raw_text") or row["text"]
        for name in ("text", "raw_text"):
            if not row[name] or "\0" in row[name] or len(row[name]) > MAX_TEXT:
                raise UserError(f"{where}: {name} is empty or longer than {MAX_TEXT} characters")
        for name in ("surgical", "descriptive"):
            value = row.get(name, "1")
            if value not in TRUE + FALSE:
                raise UserError(f"{where}: {name} is {value!r}; expected 0 or 1")
            row[name] = value in TRUE
        row.setdefault("caption_id", str(len(rows)))
        if not row["caption_id"]:
            raise UserError(f"{where}: caption_id is empty; fill in the column or leave it out")
        if row["caption_id"] in ids:
            raise UserError(
                f"{where}: caption_id {row['caption_id']!r} is that of {ids[row['caption_id']]} too"
            )
        ids[row["caption_id"]] = where.rpartition(", ")[2]
        rows.append(row)
    return rows


def fitting(given: Iterable[tuple[str, dict]], ends: Mapping[str, float | None]) -> list[dict]:
    """`checked` of the captions that can be used; one printed line counts the others.

    Args:
      given: where each stands, and its values as of captions.csv, but with start and end in
        seconds; None where they are not known.
    """
    kept, left_out = [], Counter()
    for where, row in given:
        row |= {f"{side}_ms": _milliseconds(row.pop(side)) for side in ("start", "end")}
        if reason := _misfit(row, ends):
            left_out[reason] += 1
        else:
            kept.append((where, row))
    if total := left_out.total():
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        print(f"warning: {total} of {total + len(kept)} captions are left out: {reasons}")
    return checked(kept, ends)


def write(out: Path, store: dict, rows: list[dict]) -> None:
    """captions.parquet of the store described by `store`, which learns of it; no rows, no table.

    Captions of videos that are in quarantine are left out, and counted on standard output.
    """
    stored = set(
        pq.read_table(out / "videos.parquet", columns=["video_id"])["video_id"].to_pylist()
    )
    kept = [row for row in rows if row["video_id"] in stored]
    if len(kept) < len(rows):
        print(f"warning: {len(rows) - len(kept)} captions belong to videos that were not stored")
    if kept:
        tables.write_captions(out / TABLE, kept)
        store["counts"]["captions"] = len(kept)
        store["tables"][TABLE] = tables.sha256(out / TABLE)


def _telling_once(read: Reader) -> Reader:
    """`read`, whose warnings are printed again only where they differ: by other lengths."""
    told: set[str] = set()

    def read_quietly(ends: Mapping[str, float | None]) -> list[dict]:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            rows = read(ends)
        for line in said.getvalue().splitlines():
            if line not in told:
                print(line)
                told.add(line)
        return rows

    return read_quietly


def _misfit(row: Mapping, ends: Mapping[str, float | None]) -> str | None:
    """Why a caption cannot be used; None for most."""
    if row["video_id"] not in ends:
        return "of videos that are not here"
    if row["level"] not in LEVELS:
        return "of unknown level"
    if not row["text"]:
        return "without text"
    for text in (row["text"], row.get("raw_text", "")):
        if "\0" in text or len(text) > MAX_TEXT:
            return f"with more than {MAX_TEXT} characters or with binary ones"
    start, end, length = row["start_ms"], row["end_ms"], ends[row["video_id"]]
    if start is None or end is None or not 0 <= start < end:
        return "without a known span"
    if length is not None and (start >= length or end > length + SLACK_MS):
        return "outside their video"
    return None


def _milliseconds(seconds: object) -> int | None:
    try:
        return round(1000 * float(seconds))
    except (TypeError, ValueError, OverflowError):
        return None
