"""The lists that SurgRec released for a benchmark, in a folder with the clips they name.

    train.csv, val.csv, test.csv           a line a clip: path, blank, class from 0; no header
        __DATA_ROOT__/a/clip_3.mp4 2       the placeholder stands for this folder
        "__DATA_ROOT__/b c/1_0-80.mp4" 4   a path with blanks is quoted; the last blank counts

The split surgrec_release is as released: nine of sixteen validation lists are the test list, and
some sets have clips of one recording in train and in test. `strict` divides cases instead. Nothing
published names the case of a clip; it is taken from file names (`case_of`), which is assumed. Under
the released paths a case has the name that the set's own source gives it (`own_case`), so that a
model that saw it there is known to have seen it here.
"""

import functools
import os
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_prep import label_files, manifest, recordings
from data_prep.media import VIDEO_SUFFIXES, suffix
from data_prep.sources import PARTS, About, Found, LabelTable, Refused, Times, Video
from surgjax.errors import UserError
from surgjax.inside import leads_out

PLACEHOLDER = "__DATA_ROOT__"
LINE = rf'(?P<quote>"?)(?:{PLACEHOLDER}/*)?(?P<path>.+)(?P=quote) (?P<label>[0-9]{{1,3}})\s*'
CASES = (  # whole paths without suffix; the first that fits counts
    r"(?P<case>(?:.*/)?(?P<class>\d\d)_[^/]*/(?P=class)_\d\d)",  # SurgicalActions160: not known
    r"(?:.*?/)?(?P<case>(?:case|video)_\d+)(?!\d).*",  # LapGyn, SAR-RARP50: parts of one operation
    r"(?:.*/)?(?P<case>[^/]+)_capture\d_[^/]*",  # JIGSAWS: two cameras of one trial
    r"(?:.*/)?m2cai16w_(?:train|test)_dataset_(?P<case>(?:test_)?workflow_video_\d\d)_[^/]*",
    r"(?:.*/)?(?P<case>[BS]BP\d\d)_[^/]*",  # MultiBypass140
    r"(?:.*/)?(?P<case>[^/]+)_[\d.]+_[\d.]+_(?:no_)?polyps",  # LDPolypVideo: from second to second
    r"(?:.*/)?(?:NBI|WL) ?(?P<case>(?:\(\d+\))?)",  # Colonoscopic: two lights on one lesion
    r"(?:.*/)?(?P<folder>[^/]+)/(?P<case>[^/]+?)_(?P=folder)_\d+",  # 07_Incision_3 in Incision/
    r"(?:.*/)?(?P<case>[^/]+?)_\d+(?:-\d+)?",  # Cholec80, HyperKvasir; Kvasir-Capsule: frames
)
# First folder and case of the released paths -> the case as the set's own source calls it. Which
# lesions of Colonoscopic are which is assumed there, so it is left out.
OWN = (
    (r"AlxSuture/([A-Z]\d\d[A-Z])", r"aixsuture/\1"),
    (r"AutoLaparo/label_(\d\d)", r"autolaparo/\1"),
    (r"JIGSAWS/(\w+_[B-I]\d{3})", r"jigsaws/\1"),
    (r"LDPolyVideo/(\d+)", r"ldpolypvideo/\1"),
    (r"LDPolyVideo/0_(\d+)", r"ldpolypvideo/videos without polyps/\1"),
    (r"LDPolyVideo/1_(\d+)", r"ldpolypvideo/videos with polyps/\1"),
    (r"LapGyn_dataset/(case_\d+)", r"lapgyn6_events/\1"),
    (r"M2CAI16-Workflow/((?:test_)?workflow_video_\d\d)", r"m2cai16/\1"),
    (r"MultiBypass140/([BS]BP\d\d)", r"multibypass140/\1"),
    (r"PitVis/(video_\d\d)", r"pitvis/\1"),
    (r"SAR-RARP50/(video_\d\d)", r"sar_rarp50/\1"),
    (r"SurgicalActions160/.*/(\d\d_\d\d)", r"surgicalactions160/\1"),
    (r"cat-21/(case_\d\d)", r"cataract21/\1"),
    (r"cataract-101/(case_\d+)", r"cataract101/\1"),
    (r"cataract-1k-phase/(case_\d+)", r"cataract1k/\1"),
    (r"cholec80/cholec80_(\d\d)", r"cholec80/video\1"),
    (r"hyper-kvasir/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", r"hyperkvasir/\1"),
    (r"kvasir-capsule/([0-9a-f]{16})", r"kvasir_capsule/\1"),
)

SPLITS = "surgrec_release, strict"

ABOUT = About(
    dataset="surgrec_csv",
    domain="mixed",
    procedure="mixed",
    anatomy="mixed",
    licence="NOASSERTION",
    access="lists: SurgRec's repository; clips: cut from the datasets they come from",
    layout="verified",
    evidence="SurgRec's released lists; cases are assumed from names",
)


class Clip(NamedTuple):
    path: str  # below the root, unless it leaves it
    label: int
    parts: tuple[str, ...]  # of the lists that name it


def recognises(root: Path) -> bool:
    lines = label_files.first_lines(root / "train.csv", 1)
    return any(line.lstrip('"').startswith(PLACEHOLDER) for line in lines)


def find(root: Path, **overrides: str) -> Found:
    """Clips that the lists name. Raises UserError when there are none."""
    clips, found = _clips(root), recordings.Recordings()
    for video_id, clip in clips.items():
        if detail := _objection(root, clip.path):
            found.refused.append(Refused(video_id, clip.path, "refused", detail))
        elif (root / clip.path).is_file():
            found.paths[video_id] = root / clip.path
    cases = {case_of(video_id) for video_id in clips}
    found.warnings.append(f"{len(cases)} cases of {len(clips)} clips are assumed from their names")
    expected = f"train.csv, val.csv, test.csv with {PLACEHOLDER}/... and the clips they name"
    tasks, splits = {"label": {"kind": "one_of_n", "classes": _classes(clips)}}, _splits(clips)
    result = recordings.assemble(
        ABOUT, root, found, overrides, expected=expected, case=case_of, tasks=tasks, splits=splits
    )
    videos = [
        replace(video, case=own_case(video.video_id) or video.case) for video in result.videos
    ]
    return replace(result, videos=videos)


def labels(root: Path, video: Video, times: Times) -> dict[str, LabelTable]:
    """The class of the clip for all its frames."""
    return {"label": label_files.of_video(times, label=_clips(root)[video.video_id].label)}


def check_labels(root: Path, video: Video, frames: float) -> list[str]:
    return []


def case_of(video_id: str) -> str:
    """The case of a clip, by what names mean in SurgRec's lists."""
    stem = PurePosixPath(video_id).name
    if re.fullmatch(r"(?=.*[A-Z])[A-Z\d]{4}", stem):
        return min(stem, stem[::-1])  # AIxSuture: before and after the course, the code reversed
    matches = (re.fullmatch(pattern, video_id) for pattern in CASES)
    return next((match["case"] or "unnumbered" for match in matches if match), stem)


def own_case(video_id: str) -> str | None:
    """`<dataset>/<case>` of a clip in its own set, where the released path tells it."""
    name = f"{video_id.partition('/')[0]}/{case_of(video_id)}"
    matches = ((re.fullmatch(pattern, name), own) for pattern, own in OWN)
    return next((match.expand(own) for match, own in matches if match), None)


def _clips(root: Path) -> dict[str, Clip]:
    """video_id -> what the lists say of it. Raises UserError naming the first bad line."""
    paths = [path for part in PARTS if (path := root / f"{part}.csv").is_file()]
    return _read(*((path, path.stat().st_mtime_ns) for path in paths))


@functools.lru_cache(maxsize=2)
def _read(*lists: tuple[Path, int]) -> dict[str, Clip]:
    clips: dict[str, Clip] = {}
    for path, _ in lists:
        for number, line in enumerate(path.read_text("utf-8-sig", "replace").split("\n"), 1):
            if not line.strip():
                continue
            row, where = re.fullmatch(LINE, line), label_files.where(path, number)
            if row is None:
                raise UserError(
                    f"{where}: {line.strip()!r}; expected a path (in double quotes if it has "
                    f"blanks), a blank and the number of a class below 1000"
                )
            name, label = PurePosixPath(row["path"]).as_posix(), int(row["label"])
            video_id = os.path.splitext(name)[0]
            old = clips.get(video_id, Clip(name, label, ()))
            if old[:2] != (name, label):
                raise UserError(
                    f"{where}: {name} of class {label}, seen before as {old.path} of class "
                    f"{old.label}; expected one file and one class for a name; correct one line"
                )
            clips[video_id] = Clip(name, label, (*old.parts, path.stem))
    return clips


def _objection(root: Path, path: str) -> str | None:
    """Why a listed clip is not even opened; None for most."""
    if not path.isprintable() or suffix(path) not in VIDEO_SUFFIXES:
        return "no name of a video file"
    inside = Path(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root))
    if leads_out(path) or not inside:
        return f"a path or link that leaves the folder; expected {PLACEHOLDER}/..."
    return None


def _classes(clips: dict[str, Clip]) -> list[str]:
    """Numbers, or the names of the clips' folders where each class has its own."""
    pairs = {(clip.label, PurePosixPath(clip.path).parent.name) for clip in clips.values()}
    names, count = dict(pairs), 1 + max((label for label, _ in pairs), default=0)
    one_to_one = 1 < count == len(pairs) == len(names) == len(set(names.values()))
    return [names[label] if one_to_one else str(label) for label in range(count)]


def _splits(clips: dict[str, Clip]) -> manifest.Manifest:
    """As released, where a clip of two lists is in the later one, and divided by case."""
    val_is_test, used, shown = False, set(), {}
    for video_id, clip in clips.items():
        case, is_both = case_of(video_id), {"val", "test"} <= set(clip.parts)
        val_is_test |= is_both
        used |= {(case, part) for part in clip.parts if part != "val" or not is_both}
        shown.setdefault(case, set()).add(clip.label)
    flags = {"val_is_test": val_is_test, "leaky": len(used) > len(shown)}
    about = {"tier": "paper-release"} | {flag: True for flag, is_so in flags.items() if is_so}
    divided = manifest.divide({case: sorted(of) for case, of in shown.items()})
    release = {video_id: clip.parts[-1] for video_id, clip in clips.items()}
    strict = {video_id: divided[case_of(video_id)] for video_id in clips}
    parts = {"surgrec_release": release, "strict": strict}
    kinds = {"surgrec_release": about, "strict": {"tier": "ours"}}
    return manifest.Manifest(frozenset(clips), parts, kinds, {})
