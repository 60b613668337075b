"""AIxSuture as downloaded: open suturing, five minutes a video, before and after a course.

    Package 01/A31H.mp4, Package 02/...    or all videos in one folder; 29.97 frames/s
    OSATS.csv                              the downloaded sheet OSATS.xlsx, saved as csv

A row is one rater's judgement of a video: VIDEO, STUDENT, GROUP, TIME, SUTURES, INVESTIGATOR, the
global rating score (spelt GLOBA_RATING_SCORE) and eight items of 1 to 5. Three raters saw every
video; their mean counts. Skill is the mean score: below 16 novice, below 24 intermediate, else
proficient. The second video of a student has the code of the first backwards (X88U, U88X).

The official split is what the authors' program draws from the sheet of all 157 students.
"""

import re
from pathlib import Path

import numpy as np

from data_prep import label_files, manifest, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file, number
from surgjax.errors import UserError

SHEET = "OSATS.csv"
PLACES = ("Package */*.*", "*.*")
NAME = r"(?:[^/]+/)?(?P<id>[A-Z]\d\d[A-Z])"
ITEMS = "respect motion instrument suture flow knowledge performance final_quality".split()
SCORE = "GLOBA_RATING_SCORE"
COLUMNS = ("VIDEO", "STUDENT", SCORE, *(f"OSATS_{item.upper()}" for item in ITEMS))
BOUNDS = (16, 24)  # lowest score of the second and of the third class
STUDENTS = {"train": 110, "val": 24, "test": 23}  # of the official split, in the order drawn
SEED = 42

SPLITS = "official (with the whole sheet), strict"

ABOUT = About(
    dataset="aixsuture",
    domain="laparoscopy",  # SurgRec counts this open suturing as such
    procedure="open suturing",
    anatomy="bench-top model",
    licence="CC-BY-NC-ND-4.0",
    access="open, Zenodo",
    layout="from-code",
    evidence="programs of the authors and of others; file lists of SurgRec",
    tasks={
        "skill": {"kind": "one_of_n", "classes": ["novice", "intermediate", "proficient"]},
        "osats": {"kind": "score", "classes": ITEMS},
    },
)


def recognises(root: Path) -> bool:
    if any((root / SHEET).with_suffix(kind).exists() for kind in (".csv", ".xlsx")):
        return any(recordings.search(root, PLACES, NAME).paths)
    return any(recordings.search(root, PLACES[:1], NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Videos of all packages. Raises UserError when there are none, or the sheet is no csv file."""
    found = recordings.search(root, PLACES, NAME)
    sheet = (root / SHEET).with_suffix(".xlsx")
    if found.paths and sheet.exists() and not (root / SHEET).exists():
        raise UserError(
            f"{sheet.name} is a spreadsheet; expected its table as csv: open it in any spreadsheet "
            f"program and save it beside it as {SHEET}"
        )
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected=f"Package 01/A31H.mp4 beside {SHEET}",
        case=_case,
        splits=_splits(root),
        label_files={"OSATS": lambda video_id: root / SHEET},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Skill and the raters' mean of each item, for every stored frame."""
    if video.video_id not in (ratings := _ratings(root)):
        return {}
    score, *items = ratings[video.video_id]
    return {
        "skill": label_files.of_video(times, label=int(np.searchsorted(BOUNDS, score, "right"))),
        "osats": label_files.of_video(times, values=items),
    }


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    rated = not (root / SHEET).exists() or video.video_id in _ratings(root)
    return [] if rated else [f"{SHEET}: no row for {video.video_id}"]


def _case(video_id: str) -> str:
    """The student: the first in the alphabet of the two codes."""
    return min(video_id, video_id[::-1])


def _splits(root: Path) -> manifest.Manifest:
    students = _read(root / SHEET)[1] if (root / SHEET).exists() else []
    if len(students) != sum(STUDENTS.values()):
        return manifest.Manifest(frozenset(), {}, {}, {})
    order = _permutation(len(students))
    parts = [part for part, count in STUDENTS.items() for _ in range(count)]
    official = {
        _case(video): part for at, part in zip(order, parts, strict=True) for video in students[at]
    }
    both = {name: {"tier": "paper-release"} for name in ("official", "strict")}
    return manifest.Manifest(frozenset(), dict.fromkeys(both, official), both, {})


def _permutation(n: int) -> list[int]:
    """What torch.randperm(n) gives for SEED on a CPU: a shuffle by raw numbers of MT19937."""
    raw, order = np.random.RandomState(SEED), list(range(n))
    for i in range(n - 1):
        j = i + int(raw.randint(0, 2**32, dtype=np.uint32)) % (n - i)
        order[i], order[j] = order[j], order[i]
    return order


def _ratings(root: Path) -> dict[str, np.ndarray]:
    return _read(root / SHEET)[0] if (root / SHEET).exists() else {}


@cached_by_file
def _read(path: Path) -> tuple[dict[str, np.ndarray], list[list[str]]]:
    """(score, items...) of each video, mean of the raters; videos of each student in row order."""
    header, *rows = label_files.read_table(path, header=True)
    names = [re.sub(r"[^A-Z]+", "_", name.upper()) for name in header]
    if missing := [name for name in COLUMNS if name not in names]:
        raise UserError(
            f"{label_files.where(path, 1)}: no column {', '.join(missing)}; found "
            f"{', '.join(header)}; save the sheet with its first line"
        )
    rated: dict[str, list[list[float]]] = {}
    students: dict[str, list[str]] = {}
    for line, row in enumerate(rows, start=2):
        if not any(row):
            continue  # spreadsheets add empty rows
        at, values = label_files.where(path, line), dict(zip(names, row, strict=False))
        video, student, *marks = (values.get(name, "") for name in COLUMNS)
        scores = [number(mark, at, name) for mark, name in zip(marks, COLUMNS[2:], strict=True)]
        if not 8 <= scores[0] <= 40 or not all(1 <= item <= 5 for item in scores[1:]):
            raise UserError(f"{at}: {marks}; expected a score of 8 to 40 and eight items of 1 to 5")
        rated.setdefault(video, []).append(scores)
        students.setdefault(student, []).append(video)
    means = {video: np.mean(scores, axis=0) for video, scores in rated.items()}
    return means, list(students.values())
