"""`python -m data_prep check`: what is under a folder, what is odd, what a store would take.

Reads headers and label files, decodes nothing, and ends within half a minute: of a folder too
large for that it reads a random sample of the headers and says so. `--layout` prints the names
under the folder with every digit as #, to send to the developers when a layout is not recognised.
"""

import argparse
import functools
import os
import random
import re
import time
from collections import Counter
from pathlib import Path

from data_prep import captions, guarded, names, sources, tables
from data_prep.media import Unreadable, suffix
from data_prep.options import (
    add_codec_arguments,
    add_source_arguments,
    settings_of,
    source_of,
)
from data_prep.plan import Settings, expected_frames, size_on_disk
from data_prep.recordings import some
from data_prep.shards import show_size
from data_prep.sources import Found, Video
from data_prep.video import Header, stored_size
from surgjax.errors import DAMAGE, UserError

HEADER_SECONDS = 15  # for headers
LABEL_SECONDS = 8  # for label files
DECODED_PIXELS = 90e6  # a second and core: H.264 at 720p and 1080p
STORED_FRAMES = 300  # a second and core: shrink, encode, write
SHOWN = 10  # lines of one kind
CLASSES = 20  # of a task
LAYOUT_LINES = 60  # of a layout report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--fps", default="1", help="rate of the store to estimate (default 1)")
    parser.add_argument("--short-side", type=int, default=320, help="pixels (default 320)")
    add_codec_arguments(parser)
    parser.add_argument(
        "--layout", action="store_true", help="only print a report of the folder, digits as #"
    )


def main(args: argparse.Namespace) -> int:
    """Returns 0, or 1 when something is damaged. Raises UserError when there is nothing."""
    settings = settings_of(args)
    if not args.root.is_dir():
        raise UserError(f"--root {args.root} is no folder; expected the one with the videos")
    if args.layout:
        print(layout_report(args.root))
        return 0
    if args.dataset is None:
        args.dataset = sources.detect(args.root)
    name, about = source_of(args.root, args)
    source = sources.load(name)
    found = source.find(args.root, **about)
    headers = sample_headers(found.videos, HEADER_SECONDS)
    damage = [f"{row.path}: {row.reason}, {row.detail}" for row in found.refused]
    damage += [
        f"{video.path.relative_to(args.root)}: {header.reason}, {header.detail}"
        for video, header in headers.items()
        if isinstance(header, Unreadable)
    ]
    good = {video: header for video, header in headers.items() if isinstance(header, Header)}
    odd = [*found.warnings, *_telling_names(name, found)]
    _check_labels(source, args.root, found, good, odd, damage)
    _check_spans(source, args, found, headers, damage)

    evidence = source.ABOUT.evidence if hasattr(source, "ABOUT") else ""
    print(
        f"{args.root}: {name}, layout {found.layout_status}"
        + (f" ({evidence})" if evidence else "")
    )
    if len(headers) < len(found.videos):
        print(
            f"  headers of {len(headers)} of {len(found.videos)} videos, chosen at random, were "
            f"read in {HEADER_SECONDS} s; lengths and sizes are scaled up from them"
        )
    _describe(found, good)
    _estimate(found, headers, good, settings)
    _list("odd", odd)
    _list("damaged or refused", damage)
    if not odd and not damage:
        print("  nothing odd")
    dataset = name if name != sources.FOLDER else about.get("dataset")
    known = f" --dataset {dataset}" if dataset else ""
    print(
        f"next: python -m data_prep shards{known} --root {args.root} --out STORE --fps {args.fps}"
        + (f" --codec {args.codec}" if args.codec != "jpeg" else "")
    )
    return DAMAGE if damage else 0


def layout_report(root: Path) -> str:
    """Folders and files below `root` by pattern, every digit as #, and first lines of tables.

    First lines show column names and one row, digits as # too: no date or number leaves.
    """
    counts: Counter[str] = Counter()
    first: dict[str, Path] = {}
    for here, folders, files in os.walk(root):
        folders.sort()
        below = Path(here).relative_to(root)
        for name in sorted(files):
            stem, end = os.path.splitext((below / name).as_posix())
            pattern = re.sub(r"\d+", "#", stem) + end
            counts[pattern] += 1
            first.setdefault(pattern, Path(here) / name)
    lines = [
        f"layout of a folder with {sum(counts.values()):,} files; look through it before you send "
        f"it, words in names are shown"
    ]
    for pattern, count in sorted(counts.items())[:LAYOUT_LINES]:
        lines.append(f"  {count:>8,}  {pattern}")
        if suffix(pattern) in ("txt", "csv", "tsv", "json"):
            with first[pattern].open("rb") as file:
                head = file.read(2000).decode("utf-8", "replace").splitlines()[:2]
            lines += [f"            | {re.sub(r'[0-9]+', '#', line)[:120]}" for line in head]
    if len(counts) > LAYOUT_LINES:
        lines.append(f"  and {len(counts) - LAYOUT_LINES} more patterns")
    return "\n".join(lines)


def sample_headers(videos: list[Video], seconds: float) -> dict[Video, Header | Unreadable]:
    """Headers of as many videos as can be read in `seconds`, in random order (always the same)."""
    order = random.Random(0).sample(videos, len(videos))
    read = dict(zip(order, guarded.headers(order, seconds), strict=True))
    return {video: read[video] for video in videos if read[video] is not None}


def _telling_names(name: str, found: Found) -> list[str]:
    """Own videos whose names tell a date or a number; those of public datasets are known."""
    telling = [video.video_id for video in found.videos if names.in_name(video.video_id)]
    if name != sources.FOLDER or not telling:
        return []
    return [
        f"names of {len(telling)} videos look like dates or record numbers: {some(telling)}; "
        f"shards --pseudonyms FILE replaces them"
    ]


def _check_labels(source, root: Path, found: Found, good, odd: list, damage: list) -> None:
    end, checked = time.monotonic() + LABEL_SECONDS, 0
    for video, header in good.items():
        if time.monotonic() > end:
            odd.append(
                f"label files of {checked} of {len(good)} videos were compared, no time left"
            )
            break
        checked += 1
        try:
            odd += source.check_labels(root, video, header.frames)
        except UserError as error:
            damage.append(str(error))


def _check_spans(source, args: argparse.Namespace, found: Found, headers, damage: list) -> None:
    clips = args.root / "clips.csv"
    by_id = [(video.video_id, header) for video, header in headers.items()]
    ends = captions.ends_by_header(found, by_id)
    readers = {"captions": captions.reader(source, args.root, args.captions)}
    readers["clips"] = functools.partial(tables.clips, clips) if clips.is_file() else None
    for what, read in readers.items():
        if read is not None:
            try:
                print(f"  {what}: {len(read(ends)):,} rows")
            except UserError as error:
                damage.append(str(error))


def _describe(found: Found, good: dict[Video, Header]) -> None:
    scale = len(found.videos) / max(1, len(good))
    hours = scale * sum(header.seconds for header in good.values()) / 3600
    size = sum(size_on_disk(video.path, video.frames_pattern) for video in found.videos)
    print(f"  {len(found.videos)} videos, {hours:.2f} hours, {show_size(size)}")
    kinds = Counter(
        "folder of frames" if video.frames_fps else suffix(video.path.name)
        for video in found.videos
    )
    sizes = Counter(f"{header.width}x{header.height}" for header in good.values())
    rates = Counter(f"{header.fps:g} fps" for header in good.values())
    for what, counter in (("files", kinds), ("frames", sizes), ("rates", rates)):
        print(f"  {what}: " + ", ".join(f"{key} ({n})" for key, n in counter.most_common(6)))
    for task, about in found.tasks.items():
        names = about["classes"]
        more = f" and {len(names) - CLASSES} more" if len(names) > CLASSES else ""
        print(f"  task {task} ({about['kind']}): {', '.join(names[:CLASSES])}{more}")
    for split in sorted({name for video in found.videos for name in video.splits}):
        parts = Counter(video.splits.get(split, "none") for video in found.videos)
        order = [part for part in ("train", "val", "test", "none") if parts[part]]
        text = ", ".join(f"{part} {parts[part]}" for part in order)
        about = found.splits.get(split, {"tier": "ours"})
        words = ", ".join(key if value is True else value for key, value in about.items())
        print(f"  split {split} ({words}): {text}")


def _estimate(found: Found, headers, good: dict[Video, Header], settings: Settings) -> None:
    scale = len(found.videos) / max(1, len(headers))
    frames = size = work = 0.0
    for header in good.values():
        count = expected_frames(header, settings.rate)
        width, height = stored_size(header.width, header.height, settings.short_side)
        frames += scale * count
        size += scale * count * settings.frame_bytes(width * height)
        pixels = header.frames * header.width * header.height
        work += scale * (pixels / DECODED_PIXELS + count / STORED_FRAMES)
    cores = len(os.sched_getaffinity(0))
    hours = work / cores / 3600
    took = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} min"
    print(
        f"  a store at --fps {settings.fps} --short-side {settings.short_side} as "
        f"{settings.codec}: about "
        f"{frames:,.0f} frames, {show_size(size)}, {took} on the {cores} cores here"
    )


def _list(what: str, lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        print(f"  {what}: {line}")
    if len(lines) > SHOWN:
        print(f"  {what}: and {len(lines) - SHOWN} more")
