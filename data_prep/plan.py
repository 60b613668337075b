"""The plan of a store: settings, videos and their division into parts, written before any work.

A part is what one worker does in one go: whole videos, in order. Parts depend on the videos and the
settings only, so the finished store does not depend on who did which part, or how often it stopped.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_prep.decisions import Decision
from data_prep.media import Unreadable
from data_prep.pseudonyms import without_names
from data_prep.sources import Found, Refused
from data_prep.video import Header, stored_size
from surgjax.data.record import MAX_RECORDS
from surgjax.errors import UserError
from surgjax.files import parse_json, write_whole

PLAN, PARTS = "plan.json", "parts"
MIN_RECORDS = 100  # of a part, so that small stores are not thousands of tiny files
MAX_BLOCKS = 2_000  # of x264 in a shard: about a gigabyte


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a store.

    Attributes:
      fps: stored frames a second, or "native".
      short_side: pixels; smaller videos keep their size.
      quality: of JPEG.
      frames_per_record: consecutive frames in one record.
      codec: jpeg or x264, with `crf` in place of `quality`.
    """

    fps: float | str
    short_side: int
    quality: int | None
    frames_per_record: int
    codec: str = "jpeg"
    crf: int | None = None

    @property
    def rate(self) -> float | None:
        return None if self.fps == "native" else float(self.fps)

    def describe(self) -> dict:
        """The `settings` of store.json."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        return known | {"resize": "area", "colour_subsampling": "420"}

    def frame_bytes(self, pixels: int) -> float:
        """Bytes of a stored frame, fitted to laparoscopy of 96 to 720 lines, quality 80 to 95; of
        x264 to 320 lines at 25 frames/s, crf 20 and 23."""
        if self.codec == "x264":
            return 0.55 * pixels**0.75 * 1.5 ** ((23 - self.crf) / 3)
        slope = 18 if self.quality < 90 else 9.5
        return 4.3 * pixels**0.75 * 2 ** ((self.quality - 90) / slope)

    @property
    def max_records(self) -> int:
        """Records of a shard and of a part."""
        return MAX_RECORDS if self.codec == "jpeg" else MAX_BLOCKS


@dataclass(frozen=True)
class Plan:
    """A plan as it is on disk.

    Attributes:
      name: of the store.
      source: name of the source module.
      about: the user's words about own videos (dataset, licence, ...).
      adapted: what else decides what is stored: digests of decisions ("qc") and of the salt of
        pseudonyms.
      videos: one dict a video: video_id, path (below the root), bytes, frames and pixels
        (expected, stored), frames_fps, frames_pattern, decision.
      refused: rows for quarantine.parquet known before decoding.
      parts: positions in `videos`, part by part.
    """

    name: str
    source: str
    about: dict
    settings: Settings
    videos: list[dict]
    refused: list[Refused]
    parts: list[list[int]]
    adapted: dict[str, str] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        return sum(video["frames"] for video in self.videos)

    @property
    def bytes(self) -> int:
        """Expected size of the frames."""
        size = self.settings.frame_bytes
        return round(sum(video["frames"] * size(video["pixels"]) for video in self.videos))

    def write(self, out: Path) -> None:
        write_whole(out / PLAN, json.dumps(asdict(self), indent=1) + "\n")


def read_plan(out: Path) -> Plan:
    """The plan of an unfinished store. Raises UserError."""
    try:
        data = parse_json((out / PLAN).read_text(encoding="utf-8"))
        data["settings"] = Settings(**data["settings"])
        if any("frames_pattern" not in video for video in data["videos"]):
            raise UserError(f"{out} was begun by an older surgjax; remove it and run again")
        data["refused"] = [Refused(**row) for row in data["refused"]]
        return Plan(**data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{out / PLAN} is damaged ({type(error).__name__}); remove {out} and run again"
        ) from error


def make_plan(
    name: str,
    source: str,
    about: dict,
    settings: Settings,
    root: Path,
    found: Found,
    headers: list[Header | Unreadable],
    decisions: Mapping[str, Decision] | None = None,
    adapted: dict[str, str] | None = None,
) -> Plan:
    """Divide the readable videos into parts of as many records as a shard, or one long video."""
    videos, refused = [], list(found.refused)
    for video, header in zip(found.videos, headers, strict=True):
        path = str(video.path.relative_to(root))
        if isinstance(header, Unreadable):
            refused.append(Refused(video.video_id, path, header.reason, header.detail))
            continue
        width, height = stored_size(header.width, header.height, settings.short_side)
        videos.append(
            {
                "video_id": video.video_id,
                "path": path,
                "bytes": size_on_disk(video.path, video.frames_pattern),
                "frames": expected_frames(header, settings.rate),
                "pixels": width * height,
                "frames_fps": video.frames_fps,
                "frames_pattern": video.frames_pattern,
                "decision": asdict(decisions[video.video_id]) if decisions else None,
            }
        )
    records = [-(-video["frames"] // settings.frames_per_record) for video in videos]
    # Some 64 parts keep many workers busy.
    limit = min(settings.max_records, max(MIN_RECORDS, sum(records) // 64))
    parts, used = [], limit + 1
    for i, count in enumerate(records):
        if used + count > limit:
            parts.append([])
            used = 0
        parts[-1].append(i)
        used += count
    if "pseudonyms" in (adapted or {}):
        refused = [without_names(row) for row in refused]
    return Plan(name, source, about, settings, videos, refused, parts, adapted or {})


def expected_frames(header: Header, rate: float | None) -> int:
    """Stored frames at `rate` (None: native), by the header."""
    if rate is None or rate >= header.fps:
        return header.frames
    return max(1, math.ceil(header.seconds * rate - 1e-6))


def size_on_disk(path: Path, pattern: str = "") -> int:
    """Bytes of a file, or of the files in a folder of frames that `pattern` matches."""
    if path.is_dir():
        wanted = re.compile(pattern).match
        entries = (entry for entry in os.scandir(path) if wanted(entry.name))
        return sum(entry.stat().st_size for entry in entries if entry.is_file())
    return path.stat().st_size


def differences(
    plan: Plan, name: str, source: str, about: dict, settings: Settings, adapted: dict[str, str]
) -> list[str]:
    """What the plan on disk and this command disagree about, in the user's words."""
    old = {"name": plan.name, "source": plan.source, **plan.about, **asdict(plan.settings)}
    new = {"name": name, "source": source, **about, **asdict(settings)}
    return [
        f"{key.replace('_', '-')} {old.get(key, 'none')} there, {new.get(key, 'none')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ] + adapted_otherwise(plan.adapted, adapted)


def adapted_otherwise(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What was begun and what is asked for now disagree about, of `Plan.adapted`."""
    words = {"qc": "what --qc leaves out", "pseudonyms": "the key of --pseudonyms"}
    return [
        f"{words[key]} is another now"
        if key in old and key in new
        else f"--{key} was {'given' if key in old else 'not given'} then"
        for key in words
        if old.get(key) != new.get(key)
    ]
