"""LIME, the clips SurgLIME is trained on.

    <folder>/clip.mp4, clip.txt    a clip, and the narrative that a language model wrote of it

Any name that a video and a text share will do. The text is one fine caption of the whole clip.
Nothing says which clips come from one recording: those of a folder are taken for one case.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from data_prep import label_files, recordings
from data_prep.captions import fitting
from data_prep.sources import About, Found, LabelTable, Times, Video
from surgjax.errors import UserError

PLACES = ("*/*.mp4",)
NAME = r"(?P<id>[^/]+/[^/]+)"

ABOUT = About(
    dataset="lime",
    domain="mixed",
    procedure="mixed",
    anatomy="mixed",
    licence="NOASSERTION",
    access="open, Hugging Face",
    layout="from-code",
    evidence="SurgLIME's training program",
)


def recognises(root: Path) -> bool:
    return any(path.with_suffix(".txt").is_file() for path in root.glob("*/clip.mp4"))


def find(root: Path, **overrides: str) -> Found:
    """Clips of every folder. Raises UserError when there are none."""
    return recordings.assemble(
        ABOUT,
        root,
        recordings.search(root, PLACES, NAME),
        overrides,
        expected="folders with clip.mp4 and clip.txt",
        case=lambda video_id: video_id.partition("/")[0],
        label_files={"text": lambda video_id: _text_file(root, video_id)},
    )


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    return {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []


def captions(root: Path, ends: Mapping[str, float | None]) -> list[dict]:
    """The text of each clip whose length is known. Raises UserError."""
    return fitting(_whole_clips(root, ends), ends)


def _whole_clips(root: Path, ends: Mapping[str, float | None]) -> Iterator[tuple[str, dict]]:
    for video_id, end in sorted(ends.items()):
        path = _text_file(root, video_id)
        if not path.is_file():
            continue  # `find` has warned
        try:
            text = " ".join(path.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError as error:
            raise UserError(
                f"{label_files.named(path)}: not UTF-8 text; expected the text of a clip"
            ) from error
        span = {"start": 0, "end": None if end is None else end / 1000}
        row = {"caption_id": video_id, "video_id": video_id, "level": "fine", "text": text}
        yield label_files.named(path), row | span


def _text_file(root: Path, video_id: str) -> Path:
    return root / f"{video_id}.txt"
