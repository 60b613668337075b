"""Cataract-101 as downloaded.

    videos/case_<id>.mp4    25 frames/s
    annotations.csv         VideoID;FrameNo;Phase: one row where a phase starts
    videos.csv              VideoID;Frames;FPS;Surgeon;Experience: compared with the videos
    phases.csv              the names of the phases; not read

Frames count from 0, phases from 1. A phase lasts until the next row of its video, the last one
until the end; frames before the first row have no phase. Rows of one phase may follow each other.
"""

from pathlib import Path

from data_prep import label_files, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

FPS = 25
HEADER = ["VideoID", "FrameNo", "Phase"]
PLACES = ("videos/case_*.mp4",)
NAME = r"videos/(?P<id>case_\d+)"

ABOUT = About(
    dataset="cataract101",
    domain="cataract",
    procedure="cataract surgery",
    anatomy="eye",
    licence="CC-BY-NC-4.0",
    access="open, ITEC Klagenfurt",
    layout="verified",
    evidence="README of the dataset",
    tasks={
        "phase": {
            "kind": "one_of_n",
            "classes": [
                "incision",
                "viscous agent injection",
                "rhexis",
                "hydrodissection",
                "phacoemulsification",
                "irrigation and aspiration",
                "capsule polishing",
                "lens implant setting-up",
                "viscous agent removal",
                "tonifying and antibiotics",
            ],
        }
    },
)
CLASSES = tuple(ABOUT.tasks["phase"]["classes"])
Starts = dict[str, list[tuple[int, int, int]]]  # case -> line, first frame and class of its rows


def recognises(root: Path) -> bool:
    return label_files.first_lines(root / "annotations.csv", 1) == [";".join(HEADER)]


def find(root: Path, **overrides: str) -> Found:
    """Videos of the folder videos. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="videos/case_269.mp4 beside annotations.csv",
        label_files={"phase": lambda video_id: root / "annotations.csv"},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase of every stored frame from the first row of its video on."""
    starts = _starts_of(root, video)
    ends = [frame for _, frame, _ in starts[1:]] + [float("inf")]
    spans = [(first, end, phase) for (_, first, phase), end in zip(starts, ends, strict=False)]
    return {"phase": label_files.of_spans(spans, times, times.index)} if spans else {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    if not (root / "annotations.csv").exists():
        return []
    _check_length(root, video, frames)
    starts = _starts_of(root, video)
    late = [f"line {line} (frame {first})" for line, first, _ in starts if first >= frames]
    if starts and starts[-1][1] >= frames + FPS:
        raise UserError(
            f"annotations.csv: {video.video_id} has {frames:.0f} frames, but {late[0]} is the "
            f"first start past its end; get videos and annotations of the same release"
        )
    if not starts:
        return [f"annotations.csv: no row for {video.video_id}"]
    return [f"annotations.csv: {late[0]} starts past the end of {video.video_id}"] if late else []


def _check_length(root: Path, video: Video, frames: float) -> None:
    """Raises UserError where videos.csv gives another length: starts are frames of that video."""
    path = root / "videos.csv"
    table = label_files.read_table(path, header=True) if path.exists() else [[]]
    for line, row in enumerate(table[1:], start=2):
        listed = dict(zip(table[0], row, strict=False))
        if _case(video) != listed.get("VideoID") or not label_files.is_whole(
            listed.get("Frames", "")
        ):
            continue
        if abs(int(listed["Frames"]) - frames) > FPS:
            raise UserError(
                f"{label_files.where(path, line)}: {listed['Frames']} frames, but "
                f"{video.path.name} has {frames:.0f}; download the video again, or remove "
                f"videos.csv if the video is right"
            )


def _starts_of(root: Path, video: Video) -> list[tuple[int, int, int]]:
    path = root / "annotations.csv"
    return _starts(path).get(_case(video), []) if path.exists() else []


@cached_by_file
def _starts(path: Path) -> Starts:
    table = label_files.read_table(path, header=True)
    if table[0] != HEADER:
        raise UserError(
            f"{label_files.where(path, 1)}: header is {table[0]}; expected {';'.join(HEADER)}"
        )
    starts: Starts = {}
    for line, row in enumerate(table[1:], start=2):
        at = label_files.where(path, line)
        if len(row) != len(HEADER) or not label_files.is_whole(row[1]):
            raise UserError(f"{at}: {row}; expected a video, a frame and a phase")
        phase = label_files.class_number(row[2], CLASSES, at, first=1, what="phase")
        before = starts.setdefault(row[0], [])
        if before and before[-1][1] > int(row[1]):
            raise UserError(
                f"{at}: frame {row[1]} of video {row[0]} comes after frame {before[-1][1]}; "
                f"expected the starts of a video in order"
            )
        before.append((line, int(row[1]), phase))
    return starts


def _case(video: Video) -> str:
    return video.video_id.removeprefix("case_")
