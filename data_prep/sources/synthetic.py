"""The rendered corpus of `python -m data_prep synthesize`: Cholec80's files, its own class names.

splits.csv (video,split,hospital) names the split of each video.
"""

from pathlib import Path

from data_prep import manifest
from data_prep.operation import INSTRUMENTS, PHASES
from data_prep.sources import About, Found, LabelTable, Times, Video, cholec80, read_splits

ABOUT = About(
    dataset="synthetic",
    domain="synthetic",
    procedure="rendered",
    anatomy="rendered",
    licence="Apache-2.0",
    access="python -m data_prep synthesize",
    layout="verified",
    evidence="data_prep/synthesize.py",
    tasks={
        "phase": {"kind": "one_of_n", "classes": list(PHASES)},
        "instrument": {"kind": "multi_label", "classes": list(INSTRUMENTS)},
    },
)


def recognises(root: Path) -> bool:
    return cholec80.has_layout(root, ABOUT)


def find(root: Path, **overrides: str) -> Found:
    """Rendered videos. Raises UserError when there are none or splits.csv cannot be read."""
    parts = {}
    if (root / "splits.csv").exists():
        rows = read_splits(root / "splits.csv", ("hospital",))
        parts = {video: row["split"] for video, row in rows.items()}
    about = {"official": {"tier": "official"}}
    splits = manifest.Manifest(frozenset(), {"official": parts}, about, {})
    return cholec80.find_layout(root, ABOUT, overrides, splits)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    return cholec80.read_labels(root, ABOUT, video, times)


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return cholec80.check_files(root, ABOUT, video, frames)
