"""`python -m data_prep shards`: videos to a store.

plan     find the videos, read their headers, write plan.json
parts    decode, shrink, write shards; any number of workers, continued after any interruption
merge    name the shards, write tables and store.json
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from data_prep import captions, shared_cases, sources, tables
from data_prep.merge import QUARANTINE, clean, merge, quarantine_only
from data_prep.parts import disk_full_message, is_disk_full, run_parts, tasks
from data_prep.plan import (
    PARTS,
    PLAN,
    Plan,
    Settings,
    differences,
    make_plan,
    probe_all,
    read_plan,
    size_on_disk,
)
from data_prep.renew import renew
from data_prep.video import Header, Unreadable
from surgjax.errors import UserError, nearest

ABOUT = ("dataset", "domain", "procedure", "anatomy", "licence")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the store")
    parser.add_argument(
        "--fps", default="1", help="stored frames a second: a number, or native for all (default 1)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N videos")
    parser.add_argument(
        "--short-side",
        type=int,
        default=320,
        help="pixels (default 320); smaller videos keep their size",
    )
    parser.add_argument(
        "--quality", type=int, default=90, help="JPEG quality, 1 to 100 (default 90)"
    )
    parser.add_argument(
        "--frames-per-record",
        type=int,
        default=1,
        help="1, or about 64 for storage with slow seeks",
    )
    parser.add_argument(
        "--workers", type=int, help="processes (default: one for each core; 1: this one)"
    )
    for word in ABOUT[1:]:
        example = {"licence": "SPDX identifier"}.get(word, "for your own videos")
        parser.add_argument(f"--{word}", help=f"{word} ({example})")
    parser.add_argument(
        "--frames-fps", type=float, help="frames a second of folders of jpg/png frames (default 1)"
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--videos",
        "--root",
        dest="root",
        type=Path,
        required=True,
        help="folder with the videos, any depth",
    )
    parser.add_argument(
        "--dataset",
        help=f"a known layout ({', '.join(n for n in sources.known() if n != sources.FOLDER)}) "
        "or a name for your own videos",
    )
    parser.add_argument(
        "--captions",
        type=Path,
        help="csv file with captions (default: captions.csv beside the videos, if it is there)",
    )


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    root, out, settings = _check(args)
    name, about = source_of(root, args)
    source = sources.load(name)
    found = source.find(root, **about)
    if args.limit is not None:
        found = replace(found, videos=found.videos[: args.limit])
    for warning in found.warnings:
        print(f"warning: {warning}")
    out.mkdir(parents=True, exist_ok=True)
    with _only_one(out):
        try:
            return _prepare(args, root, out, settings, name, about, source, found)
        except OSError as error:
            if is_disk_full(error):
                raise UserError(disk_full_message(out)) from error
            raise


def _prepare(args, root, out, settings, name, about, source, found) -> int:
    store_name = f"{found.videos[0].dataset if found.videos else name}-{settings.fps}"
    store_name += "" if settings.fps == "native" else "fps"
    captioned = captions.reader(source, root, args.captions)
    if (out / "store.json").exists():
        return _already_there(out, root, settings, name, about, found, captioned)
    if (out / PLAN).exists():
        plan = read_plan(out)
        _check_same(plan, store_name, name, about, settings, out, root, found)
        print(f"continuing {out}: {_finished(plan, out)} of {len(plan.parts)} parts are done")
    else:
        _check_empty(out)
        headers = probe_all(found.videos)
        _check_labels(source, root, found, headers, captioned)
        plan = make_plan(store_name, name, about, settings, root, found, headers)
        plan.write(out)
    if not plan.videos:
        quarantine_only(out, plan.refused)
    _check_space(plan, out)
    cores = len(os.sched_getaffinity(0))
    workers = min(args.workers or cores, len(plan.parts))
    jobs = tasks(plan, root, out, threads=cores if workers == 1 else 1)
    with _Progress(plan.frames) as progress:
        run_parts(jobs, None if args.workers == 1 else workers, progress)
    store = merge(plan, root, out, source, found, captioned)
    counts = store["counts"]
    size = sum(shard["bytes"] for shard in store["shards"])
    print(
        f"{out}: {counts['videos']} videos, {counts['frames']:,} frames, "
        f"{len(store['shards'])} shards, {show_size(size)}"
    )
    if counts["quarantined"]:
        print(f"warning: {counts['quarantined']} could not be used; see {out / QUARANTINE}")
    for warning in shared_cases.warnings(found.videos[0].dataset):
        print(f"note: {warning}")
    print(f"next: python -m data_prep inspect {out}")
    return 0


def source_of(root: Path, args: argparse.Namespace) -> tuple[str, dict]:
    """(source name, the user's words about the videos) of a command line. Raises UserError."""
    if not root.is_dir():
        raise UserError(f"--root {root} is no folder; expected the folder that holds the videos")
    dataset = args.dataset
    about = {word: getattr(args, word, None) for word in ABOUT[1:]}
    about = {word: value for word, value in about.items() if value is not None}
    if dataset in sources.known() and dataset != sources.FOLDER:
        return dataset, about
    if getattr(args, "frames_fps", None) is not None:
        about["frames_fps"] = args.frames_fps
    detected = sources.detect(root)
    if detected != sources.FOLDER:
        print(
            f"note: this looks like {detected}; "
            f"--dataset {detected} would bring its labels and splits"
        )
    if dataset not in (None, sources.FOLDER) and (hint := nearest(dataset, sources.known(), 0.8)):
        print(f"note: {dataset!r} is no known layout{hint}; taken as the name of your own videos")
    return sources.FOLDER, (
        {"dataset": dataset} if dataset and dataset != sources.FOLDER else {}
    ) | about


def parse_fps(text: str) -> float | str:
    """A rate or "native"; whole rates as int. Raises UserError."""
    if text == "native":
        return text
    try:
        fps = float(text)
    except ValueError:
        fps = 0.0
    if not 0 < fps <= 1000:
        raise UserError(f"--fps is {text!r}; expected native or a number such as 1 or 0.5")
    return int(fps) if fps == int(fps) else fps


def _check(args: argparse.Namespace) -> tuple[Path, Path, Settings]:
    fps = parse_fps(args.fps)
    for name, low, high in (
        ("short_side", 16, 8192),
        ("quality", 1, 100),
        ("frames_per_record", 1, 1024),
        ("workers", 1, 4096),
        ("limit", 1, 10**9),
    ):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected {low} to {high}")
    if args.frames_fps is not None and not 0 < args.frames_fps <= 1000:
        raise UserError(f"--frames-fps is {args.frames_fps:g}; expected a number such as 1 or 25")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file; expected a new or empty folder")
    return args.root, args.out, Settings(fps, args.short_side, args.quality, args.frames_per_record)


def _already_there(
    out: Path,
    root: Path,
    settings: Settings,
    name: str,
    about: dict,
    found: sources.Found,
    captioned: captions.Reader | None,
) -> int:
    try:
        store = json.loads((out / "store.json").read_text(encoding="utf-8"))
        old, ours = store["settings"], settings.describe()
        source = store["sources"][0]
        ids = set(
            pq.read_table(out / "videos.parquet", columns=["video_id"])["video_id"].to_pylist()
        )
        ids |= set(pq.read_table(out / QUARANTINE, columns=["video_id"])["video_id"].to_pylist())
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{out} holds a damaged store ({type(error).__name__}); remove it or give another --out"
        ) from error
    odd = [
        f"{key} {old.get(key)} there, {ours[key]} now" for key in ours if old.get(key) != ours[key]
    ]
    if (source["source"], source["about"]) != (name, about):
        odd.append(f"source {source['source']} {source['about']} there, {name} {about} now")
    new = {video.video_id for video in found.videos} | {row.video_id for row in found.refused}
    if ids != new:
        odd.append(f"{len(ids)} videos there, {len(new)} now")
    if odd:
        raise UserError(
            f"{out} is a finished store of something else ({'; '.join(odd)}); give another --out"
        )
    clean(out)
    renewed = renew(out, root, name, found, captioned)
    done = f"renewed: {', '.join(renewed)}" if renewed else "nothing to do"
    print(f"{out} is finished: {store['counts']['videos']} videos; {done}")
    return 0


def _check_same(plan: Plan, store_name, name, about, settings, out, root, found) -> None:
    odd = differences(plan, store_name, name, about, settings)
    old = {v["video_id"]: v["bytes"] for v in plan.videos} | {
        row.video_id: None for row in plan.refused
    }
    new = {row.video_id: None for row in found.refused}
    new |= {video.video_id: video for video in found.videos}
    if old.keys() != new.keys():
        odd.append(f"{len(old)} videos there, {len(new)} now")
    changed = [
        k
        for k, size in old.items()
        if size is not None
        and new.get(k)
        and size != size_on_disk(new[k].path, new[k].frames_prefix)
    ]
    if changed:
        odd.append(f"{changed[0]} has another size than when it was planned")
    if odd:
        raise UserError(
            f"{out} was begun with other settings or videos ({'; '.join(odd)}); run the command it "
            f"was begun with to continue, or remove the folder, or give another --out"
        )


def _check_empty(out: Path) -> None:
    strange = sorted(
        entry.name for entry in os.scandir(out) if entry.name not in (QUARANTINE, PARTS)
    )
    if strange:
        raise UserError(
            f"--out {out} holds other files ({strange[0]}); expected a new or empty folder"
        )


def _check_labels(
    source,
    root: Path,
    found: sources.Found,
    headers: list[Header | Unreadable],
    captioned: captions.Reader | None,
) -> None:
    for video, header in zip(found.videos, headers, strict=True):
        if isinstance(header, Header):
            for warning in source.check_labels(root, video, header.frames):
                print(f"warning: {warning}")
    ids = [video.video_id for video in found.videos]
    if (root / "clips.csv").exists():
        tables.clips(root / "clips.csv", set(ids))
    if captioned is not None:
        captioned(captions.ends_by_header(found, zip(ids, headers, strict=True)))


def _check_space(plan: Plan, out: Path) -> None:
    there = (
        sum(file.stat().st_size for file in (out / PARTS).glob("*"))
        if (out / PARTS).exists()
        else 0
    )
    need, free = max(0, plan.bytes - there), shutil.disk_usage(out).free
    print(
        f"{len(plan.videos)} videos, about {plan.frames:,} frames and {show_size(plan.bytes)}; "
        f"{show_size(free)} free in {out}"
    )
    if need > free:
        raise UserError(
            f"about {show_size(need)} are needed, {show_size(free)} are free in {out}; free some "
            f"space, use a smaller --fps, --short-side or --quality, or another --out"
        )


def _finished(plan: Plan, out: Path) -> int:
    return sum((out / PARTS / f"{number:05d}.json").exists() for number in range(len(plan.parts)))


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Hold the folder; the lock goes with the process."""
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another process is writing {out}; wait for it, or give another --out"
        ) from error
    except OSError:
        pass  # some network file systems cannot lock; two runs would then only repeat work
    try:
        yield
    finally:
        os.close(handle)


class _Progress:
    """A bar on a terminal, a line now and then elsewhere; told how many frames are stored."""

    def __init__(self, total: int):
        self.total, self.start, self.said = total, time.monotonic(), time.monotonic()
        self.bar = None

    def __enter__(self):
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit=" frames", smoothing=0.05)
        return self

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(count - self.bar.n)
        elif now - self.said > 30 and count:
            self.said = now
            rate = count / (now - self.start)
            left = max(0, self.total - count) / rate / 60
            print(
                f"{count:,} of {self.total:,} frames, {rate:.0f} a second, {left:.0f} min left",
                flush=True,
            )

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.close()


def show_size(size: float) -> str:
    """Megabytes or gigabytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
