"""SurgLaVi-beta: files called in three ways, videos that are gone, flags as strings, bad rows."""

import sqlite3
from contextlib import closing
from pathlib import Path

from layouts import video

FPS = 1
LABELS = {}
LEVELS = [(1, "task"), (2, "step"), (3, "phase")]
VIDEOS = [  # video_id, name, youtube_id, procedure_type, subject
    (1, "hernia repair", "aaaaaaaaaaa", "hernia repair", "abdominal wall"),
    (2, "Dr. Q: sleeve", "bbb-bbb_bbb", "sleeve gastrectomy", None),
    (3, "appendix", "ccccccccccc", "", "appendix"),
    (4, "never downloaded", "ddddddddddd", None, None),
    (12, "silent", "eeeeeeeeeee", "cholecystectomy", "gallbladder"),
]
CAPTIONS = [  # caption_id, video_id, level_id, start, end, raw, enriched, surgical, descriptive
    (10, 1, 1, 0.0, 1.25, "so we grab", "The surgeon grasps the sac.", 1, "1"),
    (11, 1, 2, 0.5, 2.0, "and on we go", "The mesh is placed.", "0", None),
    (12, 2, 3, 0.0, 3.4, None, "A sleeve gastrectomy.", "1.0", 0),
    (20, 4, 1, 0.0, 1.0, "gone", "Of a video that is not there.", 1, 1),
    (21, 1, 9, 0.0, 1.0, "x", "Of a level that is not listed.", 1, 1),
    (22, 1, 1, 0.0, 1.0, "only raw", " ", 1, 1),
    (23, 3, 1, 2.5, 4.5, "x", "Ends outside its video.", 1, 1),
    (24, 3, 1, 2.0, 1.0, "x", "Ends before it starts.", 1, 1),
    (25, 3, 1, None, 1.0, "x", "Starts nowhere.", 1, 1),
]
SCHEME = """
    CREATE TABLE videos (video_id INTEGER PRIMARY KEY, title varchar, name varchar, year int,
        youtube_id varchar, procedure_type varchar, subject varchar, total_caption_count int);
    CREATE TABLE captions (caption_id INTEGER PRIMARY KEY, video_id int NOT NULL,
        video_name varchar, level_id int NOT NULL, raw_narration text, start_time float,
        end_time float, duration float, is_surgical_content bool, is_descriptive bool,
        caption text);
    CREATE TABLE levels (level_id INTEGER PRIMARY KEY, name varchar NOT NULL);
    CREATE TABLE transcriptions (transcription_id INTEGER PRIMARY KEY, video_id int, text text);
"""


def make(root: Path) -> None:
    video(root / "videos" / "Best of - hernia-aaaaaaaaaaa.mp4")
    video(root / "videos" / "A title-bbb-bbb_bbb.mkv")
    video(root / "3.mp4")
    video(root / "silent.mp4", seconds=2)
    catalogue(root)


def catalogue(root: Path, videos=VIDEOS, captions=CAPTIONS, levels=LEVELS) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "surglavi_beta.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(SCHEME)
        database.executemany(
            "INSERT INTO videos (video_id, name, youtube_id, procedure_type, subject) "
            "VALUES (?, ?, ?, ?, ?)",
            videos,
        )
        database.executemany(
            "INSERT INTO captions (caption_id, video_id, level_id, start_time, end_time, "
            "raw_narration, caption, is_surgical_content, is_descriptive) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            captions,
        )
        database.executemany("INSERT INTO levels VALUES (?, ?)", levels)
    return path


def change(root: Path, statements: str) -> None:
    """Run SQL on the catalogue."""
    with closing(sqlite3.connect(root / "surglavi_beta.db")) as database, database:
        database.executescript(statements)
