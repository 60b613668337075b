"""JIGSAWS as downloaded.

    <Task>/video/<Task>_B001_capture1.avi, _capture2.avi    two cameras of one trial, 30 frames/s
    <Task>/transcriptions/<Task>_B001.txt                   79 137 G1: first frame, last, gesture
    <Task>/meta_file_<Task>.txt                             Suturing_B001  N  14  3 2 2 2 2 3

Tasks are Suturing, Knot_Tying and Needle_Passing; a trial is named by task, surgeon (B to I) and
repetition (1 to 5), and some were never published. Frames count from 1; those between gestures have
no label. A meta line is trial, skill, total and six items of the global rating score.

The folds leave out one surgeon (louo_B to louo_I) or one repetition (loso_1 to loso_5). Published
results are those of one task at a time: of the videos whose names start with it.
"""

from pathlib import Path

from data_prep import label_files, manifest, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video, cached_by_file
from surgjax.errors import UserError

FPS = 30
TASKS = ("Knot_Tying", "Needle_Passing", "Suturing")
SURGEONS = "BCDEFGHI"
SURGEON, REPETITION = -4, -1  # places in a trial's name
PLACES = tuple(f"{task}/video/{task}_*_capture?.*" for task in TASKS)
NAME = rf"({'|'.join(TASKS)})/video/(?P<id>\1_[{SURGEONS}]00[1-5]_capture[12])"
SKILLS = {"N": "novice", "I": "intermediate", "E": "expert"}  # as surgeons called themselves
ITEMS = (
    "respect_for_tissue suture_needle_handling time_and_motion "
    "flow_of_operation overall_performance quality_of_final_product"
).split()
GESTURES = tuple(f"G{i}" for i in range(1, 16) if i not in (7, 10))  # those two never occur

SPLITS = "strict, louo_*, loso_*"

ABOUT = About(
    dataset="jigsaws",
    domain="robotic",
    procedure="suturing, knot tying and needle passing",
    anatomy="bench-top model",
    licence="NOASSERTION",
    access="registration; may not be passed on",
    layout="from-code",
    evidence="public loaders, file lists of SurgRec",
    tasks={
        "gesture": {"kind": "one_of_n", "classes": list(GESTURES)},
        "skill": {"kind": "one_of_n", "classes": list(SKILLS.values())},
        "grs": {"kind": "score", "classes": ITEMS},
    },
)


def recognises(root: Path) -> bool:
    return any(recordings.search(root, PLACES, NAME).paths)


def find(root: Path, **overrides: str) -> Found:
    """Both videos of every trial. Raises UserError when there are none."""
    found = recordings.search(root, PLACES, NAME)
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="Suturing/video/Suturing_B001_capture1.avi",
        case=_trial,
        splits=_splits({_trial(video_id) for video_id in found.paths}),
        label_files={
            "transcription": lambda video_id: _label_files(root, video_id)[0],
            "meta": lambda video_id: _label_files(root, video_id)[1],
        },
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """Gesture of the stored frames within one; the trial's skill and rating for all frames."""
    tables, trial = {}, _trial(video.video_id)
    transcription, meta = _label_files(root, video.video_id)
    if transcription.exists():
        tables["gesture"] = label_files.of_spans(_gestures(transcription), times, times.index + 1)
    if meta.exists() and trial in _ratings(meta):
        skill, items = _ratings(meta)[trial]
        tables["skill"] = label_files.of_video(times, label=skill)
        tables["grs"] = label_files.of_video(times, values=items)
    return tables


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    warnings, trial = [], _trial(video.video_id)
    transcription, meta = _label_files(root, video.video_id)
    if meta.exists() and trial not in _ratings(meta):
        warnings.append(f"{meta.relative_to(root)}: no line for {trial}, so no skill and no grs")
    spans = _gestures(transcription) if transcription.exists() else []
    for line, (_, end, _) in enumerate(spans, 1):
        if end - 1 > frames + FPS:
            raise UserError(
                f"{label_files.where(transcription, line)}: frame {end - 1}, but {video.path.name} "
                f"has {frames:.0f}; get both of the same release, or remove one of them"
            )
    return warnings


def _trial(video_id: str) -> str:
    return video_id.rpartition("_")[0]


def _label_files(root: Path, video_id: str) -> tuple[Path, Path]:
    trial = _trial(video_id)
    task = trial.rpartition("_")[0]
    return root / task / "transcriptions" / f"{trial}.txt", root / task / f"meta_file_{task}.txt"


def _splits(trials: set[str]) -> manifest.Manifest:
    """Surgeons divided into train, val and test, and the folds of both cross-validations."""
    surgeons = manifest.divide(dict.fromkeys(SURGEONS))
    splits = {"strict": {trial: surgeons[trial[SURGEON]] for trial in trials}}
    about = {"strict": {"tier": "ours"}}
    for stem, place in (("louo", SURGEON), ("loso", REPETITION)):
        for out in sorted({trial[place] for trial in trials}):
            splits[f"{stem}_{out}"] = {t: "test" if t[place] == out else "train" for t in trials}
            about[f"{stem}_{out}"] = {"tier": "official", "fold": True}
    return manifest.Manifest(frozenset(), splits, about, {})


@cached_by_file
def _gestures(path: Path) -> list[tuple[int, int, int]]:
    """(first frame, one past the last, gesture), frames from 1."""
    spans = []
    for line, row in enumerate(label_files.read_table(path, header=False), 1):
        at = label_files.where(path, line)
        if (
            len(row) != 3
            or not all(map(label_files.is_whole, row[:2]))
            or int(row[0]) > int(row[1])
        ):
            raise UserError(f"{at}: {row}; expected first frame, last frame and gesture")
        number = label_files.class_number(row[2], GESTURES, at, what="gesture")
        spans.append((int(row[0]), int(row[1]) + 1, number))
    if not spans:
        raise UserError(f"{label_files.named(path)} is empty; expected lines such as 79 137 G1")
    return spans


@cached_by_file
def _ratings(path: Path) -> dict[str, tuple[int, list[int]]]:
    """Trial -> skill and items of the rating."""
    rows, ratings = label_files.read_table(path, header=False), {}
    for line, row in ((line, row) for line, row in enumerate(rows, 1) if any(row)):
        words = " ".join(row).split()  # repeated tabs leave empty values
        items = words[3:]
        if len(items) != len(ITEMS) or words[1] not in SKILLS or not set(items) <= set("12345"):
            at = label_files.where(path, line)
            raise UserError(f"{at}: {words}; expected trial, N, I or E, total, six items of 1 to 5")
        ratings[words[0]] = list(SKILLS).index(words[1]), [int(item) for item in items]
    return ratings
