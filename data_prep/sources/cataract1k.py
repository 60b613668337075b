"""Cataract-1K as downloaded: the phase recognition set, and perhaps other sets beside it.

    videos/case_4687.mp4                                             56 videos with phases
    annotations/case_4687/case_4687_annotations_phases.csv
        caseId,comment,frame,endFrame,sec,endSec
        4687,Incision,796,1013,13.28,16.9
    annotations/case_4687/case_4687_video.csv                        not read

The root is the folder of the phase set, or one that holds it together with other sets, such as all
1,000 videos (Cataract-1K/case_709.mp4): those have no phases and are for training. Of a case that
is in several sets, the video with phases counts. Masks are not read.

Seconds count: frames are those of recordings of about 60 frames/s, the README gives the videos 30,
and the rate in case_4863_video.csv is 240. A row may end where it starts; between rows surgeons
change instruments (idle), and frames there have no label.
"""

from pathlib import Path

from data_prep import label_files, recordings
from data_prep.guarded import header_of
from data_prep.media import Unreadable
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file, number
from surgjax.errors import UserError

COLUMNS = ("comment", "sec", "endSec")
PHASE_SET = ("videos/case_*.mp4", "*/videos/case_*.mp4")
PLACES = (*PHASE_SET, "case_*.mp4", "*/case_*.mp4")
NAME = r"(?:.+/)?(?P<id>case_\d+)"

ABOUT = About(
    dataset="cataract1k",
    domain="cataract",
    procedure="cataract surgery",
    anatomy="eye",
    licence="CC-BY-4.0",
    access="open, Synapse account",
    layout="from-code",
    evidence="programs of its authors and of others",
    tasks={
        "phase": {
            "kind": "one_of_n",
            "classes": [
                "incision",
                "viscoelastic",
                "capsulorhexis",
                "hydrodissection",
                "phacoemulsification",
                "irrigation-aspiration",
                "capsule_polishing",
                "lens_implantation",
                "lens_positioning",
                "viscoelastic_suction",
                "anterior_chamber_flushing",
                "tonifying-antibiotics",
            ],
        }
    },
)
CLASSES = tuple(ABOUT.tasks["phase"]["classes"])


def recognises(root: Path) -> bool:
    found = recordings.search(root, PHASE_SET, NAME)
    return any(_file(root, video_id) for video_id in found.paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of all sets. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    result = recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="videos/case_4687.mp4 beside annotations/case_4687/*_annotations_phases.csv",
        unlisted_train=True,  # they have no label that could be tested
    )
    if without := sorted(name for name in found.paths if not _file(root, name)):
        text = f"{len(without)} of {len(found.paths)} videos have no phases and are for training"
        result.warnings.append(f"{text}: {recordings.some(without)}")
    return result


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Phase of the stored frames within one."""
    spans = _spans_of(root, video)
    return {"phase": label_files.of_spans(spans, times)} if spans else {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    path = _file(root, video.video_id)
    if path is None:
        return []
    try:
        seconds = header_of(video).seconds
    except Unreadable:  # is reported where the video is read
        return []
    for line, (_, end, _) in enumerate(_spans_of(root, video), 2):
        if end > 1000 * (seconds + 1):
            raise UserError(
                f"{label_files.where(path, line)}: a phase ends at {end / 1000:g} s, but "
                f"{video.path.name} has {seconds:g} s; get both again, or remove one of them"
            )
    return []


def _file(root: Path, video_id: str) -> Path | None:
    below = f"annotations/{video_id}/{video_id}_annotations_phases.csv"
    return next(
        (path for path in (root / below, *sorted(root.glob(f"*/{below}"))) if path.is_file()), None
    )


def _spans_of(root: Path, video: Video) -> list[tuple[float, float, int]]:
    path = _file(root, video.video_id)
    return _spans(path) if path else []


@cached_by_file
def _spans(path: Path) -> list[tuple[float, float, int]]:
    """(start, end, phase) of each row, milliseconds."""
    header, *rows = label_files.read_table(path, header=True)
    if not set(COLUMNS) <= set(header):
        raise UserError(
            f"{label_files.where(path, 1)}: header is {header}; expected {', '.join(COLUMNS)} in it"
        )
    spans = []
    for line, row in enumerate(rows, 2):
        at = label_files.where(path, line)
        if len(row) != len(header):
            raise UserError(f"{at}: {len(row)} values; expected {len(header)}")
        name, *times = (row[header.index(column)] for column in COLUMNS)
        start, end = (1000 * number(time, at, "a time") for time in times)
        if end < start:
            raise UserError(f"{at}: a phase ends at {times[1]} s, before it starts at {times[0]} s")
        phase = label_files.class_number(_class(name), CLASSES, at, what="phase")
        spans.append((start, end, phase))
    return spans


def _class(name: str) -> str:
    """`Viscoelastic_Suction`, `Anterior_Chamber Flushing`, `Capsule Pulishing` as in CLASSES."""
    return name.lower().replace("/", "-").replace(" ", "_").replace("pulishing", "polishing")
