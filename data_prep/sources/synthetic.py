"""The rendered corpus of `python -m data_prep synthesize`: Cholec80's files, its own class names.

splits.csv (video,split,hospital) names the split of each video.
"""

from pathlib import Path

from data_prep.operation import INSTRUMENTS, PHASES
from data_prep.sources import Found, LabelTable, Times, Video, cholec80, read_splits

LAYOUT = cholec80.Layout(
    dataset="synthetic",
    phases=tuple(PHASES),
    instruments=tuple(INSTRUMENTS),
    domain="synthetic",
    procedure="rendered",
    anatomy="rendered",
    licence="Apache-2.0",
)


def recognises(root: Path) -> bool:
    return cholec80.recognises_layout(root, LAYOUT)


def find(root: Path, **overrides: str) -> Found:
    """Rendered videos. Raises UserError when there are none or splits.csv cannot be read."""
    parts = {}
    if (root / "splits.csv").exists():
        rows = read_splits(root / "splits.csv", ("hospital",))
        parts = {video: row["split"] for video, row in rows.items()}
    found = cholec80.find_layout(root, LAYOUT, {"official": parts}, overrides)
    found.split_tiers["official"] = "official"
    return found


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    return cholec80.read_labels(root, LAYOUT, video, times)


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return cholec80.check_files(root, LAYOUT, video, frames)
