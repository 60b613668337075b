"""`python -m data_prep shards`: videos to a store.

plan     find the videos, read their headers, write plan.json
parts    decode, shrink, write shards; any number of workers, continued after any interruption
merge    name the shards, write tables and store.json
"""

import argparse
import math
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq

from data_prep import captions, decisions, engines, guarded, shared_cases, sources, tables
from data_prep.decisions import Decision
from data_prep.folder_lock import LOCK, held
from data_prep.media import Unreadable
from data_prep.merge import QUARANTINE, clean, leftovers, merge, quarantine_only
from data_prep.options import (
    WORDS,
    add_codec_arguments,
    add_source_arguments,
    check_range,
    make_folder,
    settings_of,
    source_of,
)
from data_prep.parts import disk_full_message, is_disk_full, tasks
from data_prep.plan import (
    PARTS,
    PLAN,
    Plan,
    Settings,
    adapted_otherwise,
    differences,
    make_plan,
    read_plan,
    size_on_disk,
)
from data_prep.pseudonyms import Pseudonymous, read_salt
from data_prep.recordings import some
from data_prep.renew import renew
from data_prep.video import Header
from surgjax.errors import UserError
from surgjax.files import parse_json

WORTH_X264 = 5.0  # frames a second


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
    add_codec_arguments(parser)
    parser.add_argument(
        "--frames-per-record",
        type=int,
        help="jpeg: 1 (default), or about 64 for storage with slow seeks; x264: 128",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes (default: one for each core; 1: this one, without limits)",
    )
    parser.add_argument(
        "--engine",
        choices=engines.ENGINES,
        default="local",
        help="local (default), slurm: this is a task of a job array, or beam: Apache Beam",
    )
    parser.add_argument(
        "--beam-options",
        metavar="OPTIONS",
        help='options of the Beam runner, as --beam-options="--runner=DirectRunner"',
    )
    parser.add_argument(
        "--qc",
        type=Path,
        metavar="DIR",
        help="what `qc` found and you reviewed: frames that may show persons are left out",
    )
    parser.add_argument("--crop-borders", action="store_true", help="with --qc: cut them off")
    parser.add_argument(
        "--cover-text", action="store_true", help="with --qc: blacken it and keep the frames"
    )
    parser.add_argument(
        "--pseudonyms",
        type=Path,
        metavar="FILE",
        help="replace the names of your own videos and cases; FILE holds the key, made if missing",
    )
    for word in WORDS:
        example = {"licence": "SPDX identifier"}.get(word, "for your own videos")
        parser.add_argument(f"--{word}", help=f"{word} ({example})")
    parser.add_argument(
        "--frames-fps", type=float, help="frames a second of folders of frames (default 1)"
    )


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    root, out, settings = _check(args)
    if settings.codec == "x264" and (settings.rate or WORTH_X264) < WORTH_X264:
        print(
            f"note: at {settings.rate:g} frames a second neighbouring frames have little in "
            f"common; x264 saves a third of the bytes there, and jpeg reads twice as fast"
        )
    array = engines.array_task(os.environ) if args.engine == "slurm" else None
    name, about = source_of(root, args)
    source, adapted = sources.load(name), {}
    if args.pseudonyms is not None:
        source = _pseudonymous(source, name, args.pseudonyms)
        adapted["pseudonyms"] = source.fingerprint
    found = source.find(root, **about)
    if args.limit is not None:
        found = replace(found, videos=found.videos[: args.limit])
    for warning in found.warnings:
        print(f"warning: {warning}")
    captioned = captions.reader(source, root, args.captions)
    decided = _decisions(args, name, about, source, found)
    if decided is not None:
        adapted["qc"] = decisions.digest(decided)
    make_folder(out)
    work = _Work(args, root, out, settings, name, about, adapted, source, found, captioned, decided)
    try:
        with engines.requeued():
            if array is not None:
                return _array_task(work, *array)
            with held(out):
                return _alone(work)
    except OSError as error:
        if is_disk_full(error):
            raise UserError(disk_full_message(out)) from error
        raise


@dataclass(frozen=True)
class _Work:
    """A command line, and what it finds."""

    args: argparse.Namespace
    root: Path
    out: Path
    settings: Settings
    name: str
    about: dict
    adapted: dict[str, str]
    source: ModuleType | Pseudonymous
    found: sources.Found
    captioned: captions.Reader | None
    decided: dict[str, Decision] | None


def _alone(work: _Work) -> int:
    plan = _begin(work)
    if plan is None:
        return 0
    _check_space(plan, work.out)
    jobs = _jobs(work, plan)
    if work.args.engine == "beam":
        print(f"{len(jobs)} parts for Beam; its workers need {work.root} and {work.out} as well")
        engines.beam(jobs, work.args.beam_options or "")
    else:
        _write(work, jobs)
    return _merge(work, plan)


def _array_task(work: _Work, position: int, count: int) -> int:
    """Does a share of the parts; the last task to finish makes the store."""
    out, plan = work.out, None
    while plan is None:
        if (out / "store.json").exists() or not (out / PLAN).exists():
            with held(out, wait_for=f"the process that plans {out}"):
                if _begin(work) is None:
                    return 0
        with held(out, shared=True, wait_for=f"the process that holds {out}") as is_held:
            if (out / PLAN).exists():  # else another task has made the store meanwhile
                plan = _begin(work)
                _check_space(plan, out)
                jobs = _jobs(work, plan, position, count)
                print(f"task {position + 1} of {count}: {len(jobs)} of {len(plan.parts)} parts")
                _write(work, jobs)
    left = len(plan.parts) - _finished(plan, out)
    if left and (out / PLAN).exists():
        print(f"done; parts left to other tasks: {left}; the last one makes the store")
        return 0
    if not is_held:
        print(
            f"all parts are done, but the file system of {out} cannot lock; run the same command "
            f"once without --engine to make the store"
        )
        return 0
    with held(out, wait_for=f"tasks that still write to {out}"):
        if (out / "store.json").exists():
            print(f"done; another task has made {out}")
            return 0
        if not (out / PLAN).exists():
            raise UserError(f"no video could be stored; {out / QUARANTINE} says why for each")
        return _merge(work, plan)


def _begin(work: _Work) -> Plan | None:
    """The plan, made or continued; None when the store is there, brought up to date."""
    root, out, settings, found = work.root, work.out, work.settings, work.found
    name, about, source, captioned = work.name, work.about, work.source, work.captioned
    if (out / "store.json").exists():
        _already_there(work)
        return None
    store_name = f"{found.videos[0].dataset if found.videos else name}-{settings.fps}"
    store_name += "" if settings.fps == "native" else "fps"
    if (out / PLAN).exists():
        plan = read_plan(out)
        _check_same(work, plan, store_name)
        print(f"continuing {out}: {_finished(plan, out)} of {len(plan.parts)} parts are done")
        return plan
    _check_empty(out)
    headers = guarded.headers(found.videos)
    _check_labels(source, root, found, headers, captioned)
    plan = make_plan(
        *(store_name, name, about, settings, root, found, headers),
        decisions=work.decided,
        adapted=work.adapted,
    )
    if not plan.videos:
        quarantine_only(out, plan.refused)
    shutil.rmtree(out / PARTS, ignore_errors=True)  # of a plan that is gone
    plan.write(out)
    return plan


def _jobs(work: _Work, plan: Plan, position: int = 0, count: int = 1) -> list[dict]:
    """The share of one of `count` processes; with absolute paths, for other machines."""
    at_once = min(work.args.workers or engines.cores(), math.ceil(len(plan.parts) / count))
    threads = engines.cores() if at_once == 1 else 1  # of one part at a time, threads decode
    jobs = tasks(plan, work.root.absolute(), work.out.absolute(), threads)
    return engines.share(jobs, position, count)


def _write(work: _Work, jobs: list[dict]) -> None:
    with engines.Progress(engines.frames(jobs)) as progress:
        in_this_process = work.args.workers == 1
        engines.local(
            jobs, None if in_this_process else work.args.workers or engines.cores(), progress
        )


def _merge(work: _Work, plan: Plan) -> int:
    out, found = work.out, work.found
    store = merge(plan, work.root, out, work.source, found, work.captioned)
    counts = store["counts"]
    size = sum(shard["bytes"] for shard in store["shards"])
    print(
        f"{out}: {counts['videos']} videos, {counts['frames']:,} frames, "
        f"{len(store['shards'])} shards, {show_size(size)}"
    )
    if work.settings.codec == "x264":
        psnr = pq.read_table(out / "videos.parquet", columns=["psnr"])["psnr"].to_numpy()
        print(f"against the recordings: {psnr.mean():.1f} dB, the lowest video {psnr.min():.1f} dB")
    if counts["quarantined"]:
        print(f"warning: {counts['quarantined']} could not be used; see {out / QUARANTINE}")
    for warning in shared_cases.warnings(found.videos[0].dataset):
        print(f"note: {warning}")
    print(f"next: python -m data_prep inspect {out}")
    return 0


def _check(args: argparse.Namespace) -> tuple[Path, Path, Settings]:
    check_range(args, "workers", 1, 4096)
    check_range(args, "limit", 1, 10**9)
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file; expected a new or empty folder")
    if args.beam_options is not None and args.engine != "beam":
        raise UserError("--beam-options is for --engine beam")
    return args.root, args.out, settings_of(args)


def _pseudonymous(source: ModuleType, name: str, salt: Path) -> Pseudonymous:
    if name != sources.FOLDER:
        raise UserError(
            f"--pseudonyms is for your own videos; the names of {name} are public, and needed to "
            f"keep its test cases out of training"
        )
    return Pseudonymous(source, read_salt(salt, make=True))


def _decisions(
    args: argparse.Namespace,
    name: str,
    about: dict,
    source: ModuleType | Pseudonymous,
    found: sources.Found,
) -> dict[str, Decision] | None:
    """What --qc says of every video, by the name it has in the store. Raises UserError."""
    if args.qc is None:
        if args.crop_borders or args.cover_text:
            raise UserError(
                "--crop-borders and --cover-text need --qc: the folder where "
                "`python -m data_prep qc` has written what it found"
            )
        return None
    by_name = decisions.read(args.qc, args.crop_borders, args.cover_text)
    decisions.check_source(args.qc, name, about)
    names = getattr(source, "names", {})
    wanted = {video.video_id: names.get(video.video_id, video.video_id) for video in found.videos}
    if missing := sorted(name for name in wanted.values() if name not in by_name):
        raise UserError(
            f"--qc {args.qc} has not seen {len(missing)} of {len(wanted)} videos "
            f"({some(missing)}); run `python -m data_prep qc` with the same --root again"
        )
    sizes = decisions.sizes(args.qc)
    changed = [
        wanted[video.video_id]
        for video in found.videos
        if sizes[wanted[video.video_id]] not in (None, _size(video))
    ]
    if changed:
        raise UserError(
            f"{some(changed)} changed after `python -m data_prep qc` looked at them; scan again "
            f"into another folder"
        )
    decided = {name: by_name[old] for name, old in wanted.items()}
    touched = sum(bool(decision.left_out) for decision in decided.values())
    print(f"{args.qc}: frames of {touched} of {len(decided)} videos are left out")
    return decided


def _size(video: sources.Video) -> int:
    return size_on_disk(video.path, video.frames_pattern)


def _already_there(work: _Work) -> None:
    """Bring a finished store up to date. Raises UserError when it is one of something else."""
    out, settings, name, about = work.out, work.settings, work.name, work.about
    found = work.found
    try:
        store = parse_json((out / "store.json").read_text(encoding="utf-8"))
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
    odd += adapted_otherwise(source.get("adapted", {}), work.adapted)
    new = {video.video_id for video in found.videos} | {row.video_id for row in found.refused}
    if ids != new and not odd:
        odd.append(f"{len(ids)} videos there, {len(new)} now")
    if odd:
        raise UserError(
            f"{out} is a finished store of something else ({'; '.join(odd)}); give another --out"
        )
    clean(out)
    renewed = renew(out, work.root, work.source, name, found, work.captioned)
    done = f"renewed: {', '.join(renewed)}" if renewed else "nothing to do"
    print(f"{out} is finished: {store['counts']['videos']} videos; {done}")


def _check_same(work: _Work, plan: Plan, store_name: str) -> None:
    out, found = work.out, work.found
    odd = differences(plan, store_name, work.name, work.about, work.settings, work.adapted)
    old = {v["video_id"]: v["bytes"] for v in plan.videos} | {
        row.video_id: None for row in plan.refused
    }
    new = {row.video_id: None for row in found.refused}
    new |= {video.video_id: video for video in found.videos}
    if old.keys() != new.keys():
        odd.append(f"{len(old)} videos there, {len(new)} now")
    changed = [
        k for k, size in old.items() if size is not None and new.get(k) and size != _size(new[k])
    ]
    if changed:
        odd.append(f"{changed[0]} has another size than when it was planned")
    if odd:
        raise UserError(
            f"{out} was begun with other settings or videos ({'; '.join(odd)}); run the command it "
            f"was begun with to continue, or remove the folder, or give another --out"
        )


def _check_empty(out: Path) -> None:
    ours = (QUARANTINE, PARTS, PLAN, LOCK)  # an array task may have planned just now
    strange = sorted(
        path.name for path in out.iterdir() if path.name not in ours and path not in leftovers(out)
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
        tables.clips(root / "clips.csv", set(ids), getattr(source, "rename", str))
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


def show_size(size: float) -> str:
    """Megabytes or gigabytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
