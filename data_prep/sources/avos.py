"""AVOS, annotated videos of open surgery: videos from the web beside tables of actions.

    videos/<id>.mp4 (.webm, .mkv)     id: the 11 characters that YouTube gives a video
    *.csv or annotations/*.csv        video_id,start_seconds,end_seconds,start_frame,end_frame,label

A row is a span of one action; times count, not frames, for a video fetched again may have another
rate. Where spans overlap, the later row counts. What no span covers was not labelled: `background`
is a class of its own. The data comes as addresses, and videos disappear; boxes of tools and hands
and key points are not read. Without a table the videos are for pretraining.
"""

from collections import defaultdict
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.guarded import header_of
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file, number
from surgjax.errors import UserError

COLUMNS = ("video_id", "start_seconds", "end_seconds", "label")
PLACES = ("videos/*.*",)
NAME = r"videos/(?P<id>[A-Za-z0-9_-]{11})"
ACTIONS = ("background", "cutting", "suturing", "tying")

ABOUT = About(
    dataset="avos",
    domain="mixed",
    procedure="open surgery",
    anatomy="mixed",
    licence="NOASSERTION",
    access="by request; videos from the web",
    layout="assumed",
    evidence="public programs for the columns; nobody shows the folders",
    tasks={"action": {"kind": "one_of_n", "classes": list(ACTIONS)}},
)
Spans = dict[str, list[tuple[float, float, int]]]  # video -> start and end (ms), class of its rows


def recognises(root: Path) -> bool:
    return bool(_tables(root)) and any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the folder videos. Raises UserError when there are none."""
    found, named = recordings.search(root, PLACES, NAME), set()
    for table in _tables(root):
        named |= _read(table).keys()
    if missing := sorted(named - found.paths.keys()):
        found.warnings.append(
            f"{len(missing)} of {len(named)} labelled videos are missing: "
            f"{recordings.some(missing)}"
        )
    if without := sorted(found.paths.keys() - named):
        found.warnings.append(
            f"{len(without)} of {len(found.paths)} videos have no row: {recordings.some(without)}"
        )
    return recordings.assemble(
        ABOUT, root, found, overrides, expected="videos/<YouTube id>.mp4 beside a table of actions"
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Action of the stored frames within a span."""
    spans = _spans(root, video)
    return {"action": label_files.of_spans(spans, times)} if spans else {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    """Raises UserError for a span that begins after the end of the video."""
    length = 1000 * header_of(video).seconds
    late = [start for start, _, _ in _spans(root, video) if start > length + 1000]
    if late:
        raise UserError(
            f"{len(late)} spans of {video.video_id} begin after its end, one at {late[0] / 1000:g} "
            f"s of {length / 1000:g} s; get the whole video, or remove it"
        )
    return []


def _spans(root: Path, video: Video) -> list[tuple[float, float, int]]:
    return [span for table in _tables(root) for span in _read(table).get(video.video_id, [])]


def _tables(root: Path) -> list[Path]:
    paths = sorted([*root.glob("*.csv"), *root.glob("annotations/*.csv")])
    return [path for path in paths if _has_columns(path)]


@cached_by_file
def _has_columns(path: Path) -> bool:
    (line,) = label_files.first_lines(path, 1) or [""]
    return set(COLUMNS) <= {name.strip(' "') for name in line.split(",")}


@cached_by_file
def _read(path: Path) -> Spans:
    header, *rows = label_files.read_table(path, header=True)
    spans: Spans = defaultdict(list)
    for line, row in enumerate(rows, start=2):
        at, values = label_files.where(path, line), dict(zip(header, row, strict=False))
        video, start, end, label = (values.get(name, "") for name in COLUMNS)
        first, last = number(start, at, "start_seconds"), number(end, at, "end_seconds")
        if first > last:
            raise UserError(f"{at}: from {start} to {end} s; expected the start before the end")
        action = label_files.class_number(label.lower(), ACTIONS, at, what="label")
        spans[video].append((1000 * first, 1000 * last, action))
    return dict(spans)
