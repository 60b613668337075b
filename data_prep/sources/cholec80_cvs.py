"""Cholec80-CVS: scores of the critical view of safety, for the videos of Cholec80.

    videos/videoNN.mp4         as in Cholec80; or 1-fps frames in frames/videoNN/
    cholec80-CVS.csv           the downloaded sheet cholec80-CVS.xlsx, saved as csv

A row is a segment: video (a number), initial_minute, initial_second, final_minute, final_second,
and the scores two_structures, cystic_plate and hepatocystic_triangle, 0 to 2. Other columns
(critical_view, Total) are not read: the total is the sum of the scores. The last second belongs to
the segment. Three rows of the published sheet end before they start. What no segment covers was not
scored.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import Found, LabelTable, Times, Video, cached_by_file, cholec80, number
from surgjax.errors import UserError

SHEETS = ("cholec80-CVS", "surgeons_annotations")  # the second is what the authors' code calls it
CLOCK = ("initial_minute", "initial_second", "final_minute", "final_second")
CRITERIA = ("two_structures", "cystic_plate", "hepatocystic_triangle")
VIDEOS = 80
MAX_SCORE = 2  # of a criterion

ABOUT = replace(
    cholec80.ABOUT,
    dataset="cholec80_cvs",
    access="figshare; the videos by the request form of CAMMA",
    layout="from-code",
    evidence="CHOLEC80-CVS-PUBLIC of the authors",
    tasks={
        task: {"kind": "one_of_n", "classes": [str(score) for score in range(best + 1)]}
        for task, best in [(name, MAX_SCORE) for name in CRITERIA] + [("total", 3 * MAX_SCORE)]
    },
)


@dataclass(frozen=True)
class Segment:
    """Scores from `start` to `end`, both included, in milliseconds; `line` of the sheet."""

    start: float
    end: float
    scores: tuple[int, ...]
    line: int


def recognises(root: Path) -> bool:
    return any(_sheet(root, kind).exists() for kind in ("csv", "xlsx")) and any(
        recordings.search(root, cholec80.PLACES, cholec80.NAME).paths
    )


def find(root: Path, **overrides: str) -> Found:
    """Videos of Cholec80. Raises UserError when there are none, or the sheet is no csv file."""
    found = recordings.search(root, cholec80.PLACES, cholec80.NAME)
    sheet = _sheet(root, "xlsx")
    if found.paths and sheet.exists() and not _sheet(root, "csv").exists():
        raise UserError(
            f"{sheet.name} is a spreadsheet; expected its table as csv: open it in any spreadsheet "
            f"program and save it beside it as {sheet.stem}.csv"
        )
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected=f"videos/video01.mp4 beside {SHEETS[0]}.csv",
        label_files={"score": lambda video_id: _sheet(root, "csv")},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Scores of every stored frame within a segment."""
    if not _sheet(root, "csv").exists():
        return {}
    segments = [segment for segment in _segments(root, video) if segment.start <= segment.end]
    segments.sort(key=lambda segment: any(segment.scores))  # as the authors let zeros give way
    spans = [(segment.start, segment.end + 1, segment.scores) for segment in segments]
    tables = {
        criterion: label_files.of_spans([(a, b, scores[i]) for a, b, scores in spans], times)
        for i, criterion in enumerate(CRITERIA)
    }
    total = label_files.of_spans([(a, b, sum(scores)) for a, b, scores in spans], times)
    return tables | {"total": total}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    """Raises UserError for a segment more than a second past the end of its video."""
    end, warnings = 1000 * frames / (video.frames_fps or cholec80.FPS), []
    for segment in _segments(root, video):
        where = label_files.where(_sheet(root, "csv"), segment.line)
        if segment.end < segment.start:
            warnings.append(f"{where}: a segment of {video.video_id} ends before it starts; unused")
        elif segment.end > end + 1000:
            raise UserError(
                f"{where}: the segment ends at {segment.end / 1000:g} s, but {video.video_id} at "
                f"{end / 1000:g} s; get the whole video, or remove the row"
            )
    return warnings


def _segments(root: Path, video: Video) -> list[Segment]:
    path = _sheet(root, "csv")
    return _read(path).get(video.video_id, []) if path.exists() else []


@cached_by_file
def _read(path: Path) -> dict[str, list[Segment]]:
    """Segments of each video. Raises UserError naming the line."""
    header, *rows = label_files.read_table(path, header=True)
    names = [name.lower().replace(" ", "_") for name in header]
    wanted = ("video", *CLOCK, *CRITERIA)
    if missing := [name for name in wanted if name not in names]:
        raise UserError(
            f"{label_files.where(path, 1)}: no column {', '.join(missing)}; found "
            f"{', '.join(header)}; save the sheet with its first line"
        )
    segments: dict[str, list[Segment]] = {f"video{i:02d}": [] for i in range(1, VIDEOS + 1)}
    for line, row in enumerate(rows, start=2):
        if not any(row):
            continue  # spreadsheets add empty rows
        where = label_files.where(path, line)
        if len(row) != len(names):
            raise UserError(f"{where}: {len(row)} values; expected {len(names)}")
        values = dict(zip(names, row, strict=True))
        minute, second, last_minute, last_second = (
            number(values[name], where, name) for name in CLOCK
        )
        video = f"video{_whole(values['video'], where, 'video', 1, VIDEOS):02d}"
        scores = tuple(_whole(values[name], where, name, 0, MAX_SCORE) for name in CRITERIA)
        start, end = 60 * minute + second, 60 * last_minute + last_second
        segments[video].append(Segment(1000 * start, 1000 * end, scores, line))
    return segments


def _whole(value: str, where: str, name: str, least: int, most: int) -> int:
    whole = number(value, where, name)
    if whole % 1 or not least <= whole <= most:
        raise UserError(
            f"{where}: {name} is {value!r}; expected a whole number from {least} to {most}"
        )
    return int(whole)


def _sheet(root: Path, kind: str) -> Path:
    paths = [root / f"{name}.{kind}" for name in SHEETS]
    return next((path for path in paths if path.exists()), paths[0])
