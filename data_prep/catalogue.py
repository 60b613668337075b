"""Catalogues of videos on the web: SurgLaVi's SQLite file, or csv and jsonl with an address a row.

    SQLite    a table videos with video_id and youtube_id, and perhaps captions and levels
    csv       a header line; the columns youtube_id or url, and video_id where it is another
    jsonl     the same names, an object a line

A catalogue comes from outside and nothing in it is trusted: SQLite is opened read-only with
functions, views and triggers distrusted, an id is letters, digits, - and _, an address is http or
https. Only such an id ever names a file.
"""

import argparse
import csv
import json
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from surgjax.errors import UserError

VIDEO_ID = re.compile("[A-Za-z0-9_-]{1,64}")
YOUTUBE_ID = re.compile("[A-Za-z0-9_-]{11}")
YOUTUBE_PAGE = re.compile(
    r"https?://(?:(?:www\.|m\.)?youtube(?:-nocookie)?\.com/(?:watch\?(?:\S*&)?v=|shorts/|embed/|v/)"
    r"|youtu\.be/)(?P<id>[A-Za-z0-9_-]{11})(?:[?&#/]\S*)?"
)
COLUMNS = ("video_id", "youtube_id", "url")
MAX_ADDRESS = 2000  # characters
MAX_ROW = 2**20  # characters of a line, bytes of a value
MAGIC = b"SQLite format 3\0"
EXPECTED = "SurgLaVi's SQLite file, or csv or jsonl with video_id and youtube_id or url"
MAX_SECONDS = 600.0  # of computing with a file
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_ROW,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 10**5,  # the text of a table's definition too
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
# What reading takes; anything else (writing, attaching, extensions) is refused by SQLite itself.
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}


@dataclass(frozen=True)
class Entry:
    """A video to fetch. `video_id` is a safe file name, `url` a plain http or https address."""

    video_id: str
    url: str


@dataclass(frozen=True)
class Catalogue:
    """What a catalogue names.

    Attributes:
      entries: in its order, every video_id once.
      refused: a line for each row that is not used, and why.
      without_address: rows that name no address.
    """

    entries: list[Entry]
    refused: list[str]
    without_address: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from data_prep import explore  # which reads catalogues with this module

    words = {"description": explore.__doc__, "help": "numbers and pictures of a catalogue"}
    form = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    explore.add_arguments(actions.add_parser("explore", formatter_class=form, **words))


def main(args: argparse.Namespace) -> int:
    from data_prep import explore

    return explore.main(args)


def read(path: Path) -> Catalogue:
    """The videos of a catalogue. Raises UserError when it is none; bad rows are `refused`."""
    entries: dict[str, Entry] = {}
    refused, without, rows = [], 0, 0
    for where, row in read_rows(path, "videos", COLUMNS):
        rows += 1
        try:
            entry = _entry(row)
        except ValueError as error:
            refused.append(f"{where}: {error}")
            continue
        if entry is None:
            without += 1
        elif entries.setdefault(entry.video_id, entry) != entry:
            refused.append(f"{where}: video_id {entry.video_id} is named above with another url")
    if not rows:
        raise UserError(f"{path.name}: no videos; expected {EXPECTED}")
    return Catalogue(list(entries.values()), refused, without)


def read_rows(
    path: Path, table: str, wanted: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, object]]]:
    """("file, row N", values) of a table of a catalogue; csv and jsonl are the table `videos`.

    Args:
      table: videos, captions or levels.
      wanted: the columns to read, where they are there; () reads all.

    Raises:
      UserError: the file is missing, of no known kind or damaged; SQLite without this table.
    """
    kind = _kind(path)
    if kind == "sqlite":
        yield from _sqlite_rows(path, table, wanted)
    elif table == "videos":
        yield from _csv_rows(path) if kind == "csv" else _json_rows(path)


def tables(path: Path) -> list[str]:
    """Names of the tables: those of SQLite, or `videos`."""
    if _kind(path) != "sqlite":
        return ["videos"]
    with opened(path) as database:
        return sorted(_tables(database))


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A SQLite file from outside, read-only. Raises UserError, also for errors in the block.

    What https://sqlite.org/security.html advises for untrusted files; statements other than
    SELECT are refused.
    """
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:  # loads no extensions
            database.row_factory = sqlite3.Row
            for limit, value in LIMITS.items():
                database.setlimit(limit, value)
            end = time.thread_time() + MAX_SECONDS
            database.set_progress_handler(lambda: time.thread_time() > end, 100_000)
            if sys.version_info >= (3, 12):
                database.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA cell_size_check = ON")
            database.execute("PRAGMA mmap_size = 0")
            database.execute("PRAGMA query_only = ON")
            (sound,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(f"the file is damaged, {sound}")
            database.set_authorizer(_authorize)
            yield database
    except sqlite3.Error as error:
        raise UserError(f"{path.name}: {error}; expected {EXPECTED}; get the file again") from error


def _authorize(action: int, *about: str | None) -> int:
    """Reading of tables; the last word is the view or trigger that asks, which none may."""
    allowed = action in READING and about[-1] is None
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def check_url(url: str) -> str:
    """The address, without its fragment, in which yt-dlp would look for instructions.

    Raises:
      ValueError: it is no plain http or https address.
    """
    url = url.replace(" ", "%20")  # as people write the names of their own files
    shown = repr(without_login(url)[:80])
    if len(url) > MAX_ADDRESS or not url.isprintable() or re.search(r"[\s\\]", url):
        raise ValueError(f"url {shown} is no address")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"url {shown} is no address") from error
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise ValueError(f"url {shown}: expected http:// or https:// and a host")
    if parts.username is not None:
        raise ValueError("url holds a login; remove it and use --cookies")
    return urldefrag(url).url


def without_login(text: str) -> str:
    """A text in which no address shows a login: the words between // and @ are ***."""
    return re.sub(r"(?<=//)[^/?#@\s]*(?:@[^/?#@\s]*)*(?=@)", "***", text)


def _entry(row: dict[str, object]) -> Entry | None:
    """None for a row without an address. Raises ValueError."""
    video_id, youtube_id, url = ("" if row.get(c) is None else str(row[c]).strip() for c in COLUMNS)
    if not youtube_id and not url:
        return None
    if not youtube_id and (page := YOUTUBE_PAGE.fullmatch(url)):
        youtube_id = page["id"]  # one form of the address, without what else it asked for
    if youtube_id and not YOUTUBE_ID.fullmatch(youtube_id):
        raise ValueError(f"youtube_id {youtube_id[:80]!r}; expected 11 letters, digits, - and _")
    video_id = video_id or youtube_id
    if not VIDEO_ID.fullmatch(video_id):
        raise ValueError(f"video_id {video_id[:80]!r}; expected 1 to 64 letters, digits, - and _")
    url = f"https://www.youtube.com/watch?v={youtube_id}" if youtube_id else check_url(url)
    return Entry(video_id, url)


def _kind(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected {EXPECTED}") from error
    if start.startswith(MAGIC):
        return "sqlite"
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path.name} is a pointer of Git LFS, not the file; run `git lfs pull`")
    kind = path.suffix.lower()[1:]
    if kind in ("csv", "jsonl"):
        return kind
    if kind in ("db", "sqlite", "sqlite3"):
        raise UserError(
            f"{path.name}: file is not a database, it starts with {start[:16]!r}; expected "
            f"{EXPECTED}; get the file again"
        )
    raise UserError(f"{path.name}: unknown kind; expected {EXPECTED}")


def _sqlite_rows(
    path: Path, table: str, wanted: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, object]]]:
    with opened(path) as database:
        known = _tables(database)
        if table not in known:
            raise UserError(
                f"{path.name}: no table {table}, found {', '.join(sorted(known)) or 'none'}; "
                f"expected {EXPECTED}"
            )
        # `table` is one of this program's own words; column names are read, never written in SQL.
        cursor = database.execute(f'SELECT * FROM "{table}"')
        names = [column[0] for column in cursor.description]
        if wanted and not {"youtube_id", "url"} & set(names):
            raise UserError(
                f"{path.name}: table {table} has columns {', '.join(names)}; expected youtube_id "
                f"or url"
            )
        for number, row in enumerate(cursor, 1):
            yield (
                f"{path.name}, {table} row {number}",
                {name: row[name] for name in names if not wanted or name in wanted},
            )


def _tables(database: sqlite3.Connection) -> set[str]:
    """Names of ordinary tables; views and virtual tables run code of the file's maker."""
    rows = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    return {
        row["name"]
        for row in rows
        if row["sql"] and not re.match(r"\s*CREATE\s+VIRTUAL", row["sql"], re.IGNORECASE)
    }


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            if not {"youtube_id", "url"} & set(header) or len(set(header)) < len(header):
                raise UserError(
                    f"{path.name}: columns are {','.join(header) or 'none'}; expected youtube_id "
                    f"or url, and video_id"
                )
            for row in rows:
                where = f"{path.name}, row {rows.line_num}"
                if row and len(row) != len(header):
                    raise UserError(f"{where}: {len(row)} values; expected {len(header)}")
                if row:
                    yield where, dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: not UTF-8 text ({error.reason}); save it so") from error
    except csv.Error as error:
        raise UserError(f"{path.name}: no csv file ({error}); expected {EXPECTED}") from error


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW + 1), b""), 1):
            where = f"{path.name}, line {number}"
            if len(line) > MAX_ROW:
                raise UserError(f"{where}: longer than {MAX_ROW} bytes; expected an object a line")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: no JSON ({error}); expected an object a line") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: {type(row).__name__}; expected an object a line")
            yield where, row
