"""PolypDiag as Endo-FM passes it on.

    videos/<name>.mp4        253 short videos
    splits/train.txt         <name>.mp4,1: a line a video; 0 is normal, 1 abnormal
    splits/val.txt           what published results are measured on

The label is that of the whole video. The videos come from HyperKvasir and LDPolypVideo, and no list
tells which from where: python -m data_prep overlap finds them. Each counts as a case of its own.
"""

from pathlib import Path

from data_prep import label_files, manifest, recordings
from data_prep.sources import About, Found, LabelTable, Times, Video
from surgjax.errors import UserError

LISTS = {"train": "train", "val": "test"}  # file -> part: there is no other test list
PLACES = ("videos/*.mp4",)
NAME = r"videos/(?P<id>[^/]+)"

SPLITS = "strict, endofm"

ABOUT = About(
    dataset="polypdiag",
    domain="endoscopy",
    procedure="gastroscopy and colonoscopy",
    anatomy="gastrointestinal tract",
    licence="NOASSERTION",
    access="open, by link of Endo-FM",
    layout="from-code",
    evidence="SurgMotion, Endo-FM",
    tasks={"diagnosis": {"kind": "one_of_n", "classes": ["normal", "abnormal"]}},
)


def recognises(root: Path) -> bool:
    lines = (line for name in LISTS for line in label_files.first_lines(_file(root, name), 1))
    return any(line.endswith((".mp4,0", ".mp4,1")) for line in lines)


def find(root: Path, **overrides: str) -> Found:
    """Videos of the folder videos. Raises UserError when there are none, and for bad lists."""
    listed, found = _read(root), recordings.search(root, PLACES, NAME)
    parts = {video_id: part for video_id, (part, _) in listed.items()}
    about = {
        "strict": {"tier": "community"},
        "endofm": {"tier": "community", "val_is_test": True},
    }
    unlisted = sorted(found.paths.keys() - listed.keys())
    strict = parts | dict.fromkeys(unlisted, "train")
    splits = {"strict": strict, "endofm": parts}
    if unlisted:
        text = f"{len(unlisted)} of {len(found.paths)} videos are in no list and have no label"
        found.warnings.append(f"{text}: {recordings.some(unlisted)}")
    return recordings.assemble(
        ABOUT,
        root,
        found,
        overrides,
        expected="videos/<name>.mp4 beside splits/train.txt",
        splits=manifest.Manifest(frozenset(listed), splits, about, {}),
        label_files={"list": lambda video_id: _file(root, "train")},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """The diagnosis of the video, for every stored frame."""
    listed = _read(root)
    if video.video_id not in listed:
        return {}
    return {"diagnosis": label_files.of_video(times, label=listed[video.video_id][1])}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []  # a label has no length


def _file(root: Path, name: str) -> Path:
    return root / "splits" / f"{name}.txt"


def _read(root: Path) -> dict[str, tuple[str, int]]:
    """video_id -> part and label. Raises UserError naming file and line."""
    listed: dict[str, tuple[str, int]] = {}
    for name, part in LISTS.items():
        path = _file(root, name)
        rows = label_files.read_table(path, header=False) if path.is_file() else []
        for line, row in enumerate(rows, 1):
            at = label_files.where(path, line)
            if len(row) != 2 or not row[0].endswith(".mp4"):
                raise UserError(f"{at}: {row}; expected a line such as name.mp4,1")
            video_id = row[0].removesuffix(".mp4")
            if video_id in listed:
                raise UserError(f"{at}: {row[0]} is listed above too; expected one line each")
            classes = ABOUT.tasks["diagnosis"]["classes"]
            listed[video_id] = part, label_files.class_number(row[1], classes, at, 0, "label")
    return listed
