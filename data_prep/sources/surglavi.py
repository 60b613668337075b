"""SurgLaVi-beta as downloaded: a catalogue with captions, and the videos it names.

    surglavi_beta.db    SQLite
      videos            video_id, name, youtube_id, procedure_type, subject and more
      captions          caption_id, video_id, level_id, start_time and end_time (seconds), caption
                        (rewritten), raw_narration, is_surgical_content, is_descriptive (1, '1')
      levels            level_id and name: task, step, phase; later called fine, mid, coarse
      transcriptions    not read
    <title>-<youtube_id>.mp4, <name>.mp4 or <video_id>.mp4 in the root or in videos/, any suffix

Half of the videos are silent and some are gone from YouTube, so captions and videos may be missing.
The catalogue comes from outside: it is opened read-only, and nothing it says is trusted.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_prep import manifest, recordings
from data_prep.captions import fitting
from data_prep.catalogue import opened
from data_prep.sources import About, Found, LabelTable, Times, Video
from surgjax.errors import UserError

CATALOGUE = "surglavi_beta.db"
PLACES, NAME = ("*.*", "videos/*.*"), r"(?:videos/)?(?P<id>[^/]+)"
LEVELS = {"task": "fine", "step": "mid", "phase": "coarse"}
VIDEOS = """
    SELECT video_id, trim(coalesce(name, '')) AS name, trim(coalesce(youtube_id, '')) AS youtube_id,
        coalesce(nullif(trim(procedure_type), ''), 'mixed') AS procedure,
        coalesce(nullif(trim(subject), ''), 'mixed') AS anatomy
    FROM videos ORDER BY video_id"""
CAPTIONS = """
    SELECT caption_id, video_id, start_time AS start, end_time AS end,
        lower(trim(levels.name)) AS level,
        trim(coalesce(caption, '')) AS text, trim(coalesce(raw_narration, '')) AS raw_text,
        iif(CAST(is_surgical_content AS REAL) = 1, '1', '0') AS surgical,
        iif(CAST(is_descriptive AS REAL) = 1, '1', '0') AS descriptive
    FROM captions LEFT JOIN levels USING (level_id) ORDER BY caption_id"""

ABOUT = About(
    dataset="surglavi",
    domain="mixed",
    procedure="mixed",
    anatomy="mixed",
    licence="CC-BY-NC-SA-4.0",
    access="catalogue on Hugging Face, videos on YouTube",
    layout="from-code",
    evidence="SurgLaVi's database scheme, downloader and loader",
)


def recognises(root: Path) -> bool:
    try:
        with opened(root / CATALOGUE) as database:
            database.execute("SELECT video_id FROM videos LIMIT 0")
            return True
    except UserError:
        return False


def find(root: Path, **overrides: str) -> Found:
    """Videos of the catalogue that are there. Raises UserError when there are none."""
    rows, warnings = _videos(root / CATALOGUE) if (root / CATALOGUE).exists() else ({}, [])
    expected = f"{CATALOGUE} and videos/<title>-<youtube_id>.mp4"
    files = _files(root, rows)
    names = manifest.Manifest(frozenset(rows), {}, {}, {})
    found = recordings.assemble(ABOUT, root, files, overrides, expected=expected, splits=names)
    about = lambda row: {key: row[key] for key in ("procedure", "anatomy")} | overrides  # noqa: E731
    videos = [replace(video, **about(rows[video.video_id])) for video in found.videos]
    return replace(found, videos=videos, warnings=warnings + found.warnings)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    return {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []


def captions(root: Path, ends: Mapping[str, float | None]) -> list[dict]:
    """Captions of the videos in `ends`. Raises UserError for a damaged catalogue."""
    with opened(root / CATALOGUE) as database:
        return fitting(map(_caption, database.execute(CAPTIONS)), ends)


def _caption(row: sqlite3.Row) -> tuple[str, dict]:
    ids = {name: str(_whole(row, name)) for name in ("caption_id", "video_id")}
    level = {"level": LEVELS.get(row["level"], row["level"])}
    return f"{CATALOGUE}, caption {row['caption_id']}", dict(row) | ids | level


def _files(root: Path, rows: Mapping[str, sqlite3.Row]) -> recordings.Recordings:
    """The files that the catalogue knows by number, name or YouTube id, under their video_id."""
    by_name, by_youtube, titles = {}, {}, Counter(row["name"] for row in rows.values())
    for video_id, row in rows.items():
        if titles[row["name"]] == 1:  # a title of several videos tells none of them
            by_name[row["name"]] = video_id
        if re.fullmatch("[A-Za-z0-9_-]{11}", row["youtube_id"]):
            by_youtube.setdefault(f"-{row['youtube_id']}", video_id)
    there = recordings.search(root, PLACES, NAME)
    found, unknown = recordings.Recordings({}, there.refused, there.warnings), []
    for stem, path in there.paths.items():
        video_id = stem if stem in rows else by_name.get(stem) or by_youtube.get(f"-{stem}"[-12:])
        if video_id is None or not path.is_file():
            unknown.append(path.name)
        elif found.paths.setdefault(video_id, path) is not path:
            found.warnings.append(f"{video_id} is there twice; {path.name} is not used")
    if names := recordings.some(unknown):
        found.warnings.append(f"{len(unknown)} videos are not in {CATALOGUE}: {names}")
    return found


def _videos(path: Path) -> tuple[dict[str, sqlite3.Row], list[str]]:
    """video_id -> row, and warnings. Raises UserError naming what the catalogue lacks."""
    with opened(path) as database:
        rows = {str(_whole(row, "video_id")): row for row in database.execute(VIDEOS)}
        database.execute(f"{CAPTIONS} LIMIT 0")  # a missing table or column is told at once
        tables = [row["name"] for row in database.execute("SELECT name FROM sqlite_master")]
    lost = "transcriptions" not in tables
    return rows, [f"{path.name} has no table transcriptions; nothing needs it"] * lost


def _whole(row: sqlite3.Row, name: str) -> int:
    if not isinstance(row[name], int):
        raise UserError(f"{CATALOGUE}: {name} is {row[name]!r}; expected a whole number")
    return row[name]
