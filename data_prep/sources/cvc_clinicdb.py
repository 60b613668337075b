"""CVC-ClinicDB as downloaded: 612 still pictures of 29 sequences, each with a polyp.

    Original/1.tif to 612.tif        or TIF/Original/1.tif, PNG/Original/1.png, as others pass it on
    Ground Truth/1.tif to 612.tif    masks, not read

All pictures are in one folder; those of a sequence are one video here, sequence_01 to sequence_29.
The pictures do not tell where a sequence begins: that is a table of third parties, whose lengths
add up to 612. No rate is published: pictures are taken as one a second, so that all are stored.
Which sequences are of one patient is not published either. As every picture shows a polyp, there
is nothing to classify, and the dataset is for pretraining.

This is what Endo-FM and its followers call CVC-12k; the videos of that name are cvc12k.
"""

import re
from dataclasses import replace
from pathlib import Path

from data_prep import recordings
from data_prep.sources import About, Found, LabelTable, Times, Video

FPS = 1
PLACES = ("Original", "TIF/Original", "PNG/Original")
PICTURE = re.compile(r"(\d+)\.(?:tif|png)")
PICTURES = 612
FIRST = (  # picture of each sequence
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384),
    *(409, 429, 448, 467, 479, 504, 529, 547, 572, 592),
)
SEQUENCES = {
    f"sequence_{i:02d}": range(first, end)
    for i, (first, end) in enumerate(zip(FIRST, (*FIRST[1:], PICTURES + 1), strict=True), 1)
}

ABOUT = About(
    dataset="cvc_clinicdb",
    domain="endoscopy",
    procedure="colonoscopy",
    anatomy="colon",
    licence="NOASSERTION",
    access="registration with CVC",
    layout="from-code",
    evidence="public programs for the folders; sequences and rate are assumed",
)


def recognises(root: Path) -> bool:
    """Whether there are pictures beside a folder of masks: "Original" alone is common."""
    paths = _recordings(root).paths.values()
    return any((folder.parent / "Ground Truth").is_dir() for folder in paths)


def find(root: Path, **overrides: str) -> Found:
    """The sequences. Raises UserError when there are none."""
    result = recordings.assemble(
        ABOUT,
        root,
        _recordings(root),
        overrides,
        expected="Original/1.tif to Original/612.tif",
        frames_fps=FPS,
    )
    videos = [replace(video, frames_pattern=_pattern(video.video_id)) for video in result.videos]
    return replace(result, videos=videos)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    return {}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []


def _recordings(root: Path) -> recordings.Recordings:
    """Every sequence with the folder that it shares with the others."""
    found = recordings.search(root, PLACES, "(?:TIF/|PNG/)?(?P<id>Original)")
    for folder in found.paths.values():
        matches = (PICTURE.fullmatch(file.name) for file in folder.iterdir())
        there = {int(match[1]) for match in matches if match}
        if missing := sorted(set(range(1, PICTURES + 1)) - there):
            text = f"{len(missing)} of {PICTURES} pictures are missing"
            found.warnings.append(f"{text}: {recordings.some(list(map(str, missing)))}")
        of = [name for name, numbers in SEQUENCES.items() if not there.isdisjoint(numbers)]
        found.paths = dict.fromkeys(of, folder)
    return found


def _pattern(video_id: str) -> str:
    """Of the names of a sequence's pictures; the dot keeps 2 from being the start of 26."""
    return rf"(?:{'|'.join(map(str, SEQUENCES[video_id]))})\."
