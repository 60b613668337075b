"""Narrated videos as PeskaVLP's training program expects them; its own videos are not public.

    videos/NAME.mp4
    whisper_narration_texts/NAME.csv    start,end,text         one row a sentence: fine
    aws_narration_texts/NAME.csv        start,end,text         the same speech, heard by another
    keystep_texts/NAME.csv              start,end,step,text    mid
    abstract_texts/NAME.csv             start,end,text         the whole video: coarse

Times are seconds. Two transcripts of one speech would be two captions of one clip, so that of AWS
is read only where Whisper's is missing. Other columns are not read.

Public are the four folders and their columns; that tables are called as their videos, that videos
are in videos/ and that times are seconds is assumed.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_prep import recordings
from data_prep.captions import fitting
from data_prep.label_files import named, where
from data_prep.sources import About, Found, LabelTable, Times, Video, number
from surgjax.errors import UserError

PLACES, NAME = ("videos/*.mp4",), "videos/(?P<id>[^/]+)"
WHISPER, AWS = "whisper_narration_texts", "aws_narration_texts"
LEVELS = {WHISPER: "fine", AWS: "fine", "keystep_texts": "mid", "abstract_texts": "coarse"}
COLUMNS = ("start", "end", "text")

ABOUT = About(
    dataset="peskavlp",
    domain="mixed",
    procedure="mixed",
    anatomy="mixed",
    licence="NOASSERTION",
    access="own videos; those of PeskaVLP are not public",
    layout="assumed",
    evidence="folders and columns: PeskaVLP's training program",
)


def recognises(root: Path) -> bool:
    has_tables = any((root / folder).is_dir() for folder in LEVELS)
    return has_tables and any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos, whether they have texts or not. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    second = [name for name in found.paths if (root / AWS / f"{name}.csv").is_file()]
    if second := [name for name in second if _narration(root, name).parent.name != AWS]:
        names = recordings.some(second)
        found.warnings.append(
            f"{len(second)} videos have tables in {AWS} that are not read: {names}"
        )
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected=f"videos/NAME.mp4 beside {WHISPER}/NAME.csv",
        label_files={
            "narration": lambda video_id: _narration(root, video_id),
            "keystep": lambda video_id: root / "keystep_texts" / f"{video_id}.csv",
            "abstract": lambda video_id: root / "abstract_texts" / f"{video_id}.csv",
        },
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    return {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []


def captions(root: Path, ends: Mapping[str, float | None]) -> list[dict]:
    """Captions of the videos in `ends`. Raises UserError naming the first bad row."""
    return fitting(_captions(root), ends)


def _captions(root: Path) -> Iterator[tuple[str, dict]]:
    for folder, level in LEVELS.items():
        for path in sorted((root / folder).glob("*.csv")):
            if folder == AWS and _narration(root, path.stem) != path:
                continue
            for line, row in _rows(path):
                at = where(path, line)
                row |= {side: number(row[side], at, side) for side in ("start", "end")}
                ids = {"caption_id": f"{path.stem}/{level}/{line}", "video_id": path.stem}
                yield at, row | ids | {"level": level}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and COLUMNS of each row. Texts may go over several lines; they become one."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restval="", strict=True)
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or ())]:
                raise UserError(
                    f"{named(path)}: no column {', '.join(missing)}; expected {','.join(COLUMNS)}"
                )
            for row in table:
                if None in row:
                    raise UserError(
                        f"{where(path, table.line_num)}: more values than columns; put texts with "
                        f"commas between double quotes"
                    )
                yield table.line_num, {name: " ".join(row[name].split()) for name in COLUMNS}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{named(path)}: no UTF-8 csv table ({error}); save it as one") from error


def _narration(root: Path, video_id: str) -> Path:
    """The transcript that is read: that of AWS only where Whisper's is missing."""
    whisper, aws = (root / folder / f"{video_id}.csv" for folder in (WHISPER, AWS))
    return aws if aws.is_file() and not whisper.is_file() else whisper
