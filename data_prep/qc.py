"""`python -m data_prep qc`: look through recordings by their key frames, before any store is made.

    OUT/qc.html           the page to look at: a contact sheet and the findings of every recording
    OUT/videos.csv        a row a recording: shares of time, cuts, picture box, duplicates, flags
    OUT/spans.csv         stretches with a flag, seconds
    OUT/boxes.csv         where text is drawn into the picture, fractions of width and height
    OUT/names.csv         names and tags that look like dates or record numbers, or may hold names
    OUT/review.csv        yours to fill in: it goes before every flag, and is never overwritten
    OUT/hashes.parquet    perceptual hashes, for --against of another scan
    OUT/sheets/           the contact sheets
    OUT/qc.json           settings, sha256 of the tables; there when everything else is

OUT shows what the recordings show: keep it as confidential as they are. A scan that was stopped is
continued by the same command.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep import burnt_in, decisions, engines, out_of_body, qc_page, review, scan, sources
from data_prep.folder_lock import LOCK, held
from data_prep.options import add_recording_arguments, check_range, make_folder, source_of
from data_prep.overlap import Hashes, Match, find_matches
from data_prep.plan import size_on_disk
from data_prep.qc_pool import SHEETS, UNFINISHED, result_path, run_scans
from data_prep.recordings import some
from data_prep.tables import sha256
from surgjax.errors import UserError
from surgjax.files import csv_text, parse_json, whole, write_whole

SCHEMA_VERSION = 1
DONE, PLAN = "qc.json", f"{UNFINISHED}/plan.json"
FLAG_SHARE = {"black": 0.1, "frozen": 0.1, "blurred": 0.3, "duplicate": 0.3}
TABLES = {
    "videos": "video seconds samples bytes black frozen blurred out_of_body text cuts x0 y0 x1 y1 "
    "duplicate_of flags unreadable",
    "spans": "video start end flag score",
    "boxes": "video start end x0 y0 x1 y1",
    "names": "video finding",
}
SAY_EVERY = 30  # seconds between lines of progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recording_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the findings")
    parser.add_argument(
        "--every", type=float, default=2.0, help="seconds between samples (default 2)"
    )
    parser.add_argument(
        "--max-gap",
        type=float,
        metavar="S",
        help="seconds between key frames above which those between are decoded (default: twice "
        "--every); more is faster, and misses looks outside the body that are as long, and text "
        "that is shown for three times as long",
    )
    parser.add_argument(
        "--out-of-body",
        default=out_of_body.DEFAULT,
        metavar="MODULE:FUNCTION",
        help="scores frames (n, h, w, 3) uint8 from 0, inside, to 1; none leaves it out (default: "
        "a rule about colour, for laparoscopy only)",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        type=Path,
        default=[],
        metavar="QC",
        help="earlier scans, whose recordings may be here again",
    )
    parser.add_argument(
        "--frames-fps", type=float, help="frames a second of folders of frames (default 1)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes (default: one for each core; 1: this one, without limits)",
    )


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    out = args.out
    if not 0.1 <= args.every <= 60:
        raise UserError(f"--every is {args.every:g}; expected seconds from 0.1 to 60")
    if args.max_gap is None:
        args.max_gap = 2 * args.every
    if not args.every <= args.max_gap <= 1e6:
        raise UserError(f"--max-gap is {args.max_gap:g}; expected seconds, at least --every")
    check_range(args, "workers", 1, 4096)
    name, about = source_of(args.root, args)
    if out.resolve().is_relative_to(args.root.resolve()):
        raise UserError(f"--out {out} lies in --root, whose pictures it would join; give another")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a new or empty folder")
    out_of_body.load(args.out_of_body)
    others = [read_earlier(path) for path in args.against]
    found = sources.load(name).find(args.root, **about)
    for warning in found.warnings:
        print(f"warning: {warning}")
    sizes = [size_on_disk(video.path, video.frames_pattern) for video in found.videos]
    plan = _plan(args, name, about, found, sizes, others)
    make_folder(out)
    with held(out):
        if not _finished(out, plan):
            write_whole(out / PLAN, json.dumps(plan, indent=1) + "\n")
            tasks = _tasks(args, found.videos, sizes)
            workers = None if args.workers == 1 else args.workers or engines.cores()
            run_scans(tasks, workers, _Progress(len(tasks)))
            _write(out, plan, [_result(task) for task in tasks], found.refused, others)
        else:
            print(f"{out} is finished; the page is written again")
        _summarise(out, qc_page.write(out))
    return 0


def read_earlier(path: Path) -> tuple[dict, list[str], list[float], Hashes]:
    """(qc.json, video ids, their seconds, hashes) of a finished scan. Raises UserError."""
    try:
        meta = parse_json((path / DONE).read_text(encoding="utf-8"))
        if meta["schema_version"] > SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema {meta['schema_version']}; update surgjax to read it"
            )
        rows = review.read_findings(path / "videos.csv")
        table = pq.read_table(path / "hashes.parquet").to_pydict()
        number = {row["video"]: i for i, row in enumerate(rows)}
        owner = np.array([number[video] for video in table["video"]], np.int32)
        bits, t_ms = np.array(table["bits"], np.uint64), np.array(table["t_ms"], np.int64)
        seconds = [float(row["seconds"] or 0) for row in rows]
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is no finished scan ({type(error).__name__}); expected a folder written by "
            f"`python -m data_prep qc`"
        ) from error
    return meta, list(number), seconds, Hashes(owner, t_ms, bits)


def duplicates(
    seconds: list[list[float]], matches: list[Match]
) -> dict[int, tuple[tuple[int, int], float, float, float]]:
    """Video of the last scan -> (scan and video it repeats, start, end, share of frames).

    A recording repeats one of an earlier scan, or a longer one, or of two alike the one above it.

    Args:
      seconds: length of every video of every scan.
    """
    last, found = len(seconds) - 1, {}

    def rank(end: tuple[int, int]) -> tuple:
        return end[0] == last, -round(seconds[end[0]][end[1]]), end

    for match in matches:  # the best first
        original, copy = sorted((match.first, match.second), key=rank)
        shift = match.shift_s if original == match.first else -match.shift_s
        length = seconds[copy[0]][copy[1]]
        start, end = max(0.0, shift), min(length, shift + seconds[original[0]][original[1]])
        if copy[0] == last and copy[1] not in found and start < end:
            found[copy[1]] = original, start, end, match.share
    return found


def _plan(
    args: argparse.Namespace,
    name: str,
    about: dict,
    found: sources.Found,
    sizes: list[int],
    others: list,
) -> dict:
    """What decides the findings: qc.json without the digests of the tables."""
    thresholds = {
        word.lower(): value
        for module in (scan, burnt_in, out_of_body)
        for word, value in vars(module).items()
        if word.isupper() and isinstance(value, int | float)
    }
    digest = hashlib.sha256()
    for video, size in zip(found.videos, sizes, strict=True):
        digest.update(f"{video.video_id} {size}\n".encode())
    return {
        "schema_version": SCHEMA_VERSION,
        "source": name,
        "about": about,
        "dataset": found.videos[0].dataset if found.videos else name,
        "settings": {
            "every": args.every,
            "max_gap": args.max_gap,
            "out_of_body": args.out_of_body,
            "thresholds": dict(sorted(thresholds.items())),
            "flag_share": FLAG_SHARE,
        },
        "against": [
            {"dataset": meta["dataset"], "recordings": meta["recordings"]}
            for meta, _, _, _ in others
        ],
        "videos": len(found.videos) + len(found.refused),
        "recordings": digest.hexdigest(),
    }


def _tasks(args: argparse.Namespace, videos: list[sources.Video], sizes: list[int]) -> list[dict]:
    """What `qc_pool.scan_one` needs, for each recording."""
    return [
        {
            "out": str(args.out),
            "number": number,
            "video_id": video.video_id,
            "path": str(video.path),
            "below": video.path.relative_to(args.root).as_posix(),
            "bytes": size,
            "frames_fps": video.frames_fps,
            "frames_pattern": video.frames_pattern,
            "every": args.every,
            "max_gap": args.max_gap,
            "out_of_body": args.out_of_body,
        }
        for number, (video, size) in enumerate(zip(videos, sizes, strict=True))
    ]


def _result(task: dict) -> dict:
    return json.loads(result_path(task).read_text("utf-8"))


def _finished(out: Path, plan: dict) -> bool:
    """Whether the findings are there. Raises UserError when `out` holds something else.

    A scan that has measured nothing yet, as after a mistake in the function of --out-of-body, is
    begun anew.
    """
    there = next((out / name for name in (DONE, PLAN) if (out / name).exists()), None)
    if there is None:
        strange = sorted(
            entry.name
            for entry in os.scandir(out)
            if entry.name not in (review.FILE, LOCK, UNFINISHED)
        )
        if strange:
            raise UserError(
                f"--out {out} holds other files ({some(strange)}); expected a new or empty folder"
            )
        return False
    try:
        old = parse_json(there.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{there} is damaged; remove {out} and run again") from error
    odd = list(_differences(old, plan))
    if odd and there.name != DONE and not _any_measured(out):
        for folder in (UNFINISHED, SHEETS):
            shutil.rmtree(out / folder, ignore_errors=True)
        return False
    if odd:
        raise UserError(
            f"{out} is a scan with other settings or recordings ({'; '.join(odd)}); run the "
            f"command it was begun with, or give another --out"
        )
    if there.name == DONE:
        decisions.check_tables(out)
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # a stop between the last two steps
    return there.name == DONE


def _differences(old: dict, new: dict) -> Iterator[str]:
    """What two plans disagree about, in the user's words."""
    for key, value in new.items():
        there = old.get(key)
        if there == value:
            continue
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _differences(there, dict.fromkeys(there) | value)
        elif key == "recordings":
            yield "recordings of other names or sizes there"
        elif key == "against":
            yield "other --against there"
        else:
            old_new = ("none" if known is None else known for known in (there, value))
            yield "{} {} there, {} now".format(key.replace("_", "-"), *old_new)


def _any_measured(out: Path) -> bool:
    results = (out / UNFINISHED).glob("[0-9]*.json")
    return any(json.loads(path.read_text("utf-8"))["seconds"] is not None for path in results)


def _write(out: Path, plan: dict, results: list[dict], refused: list, others: list) -> None:
    """All tables; qc.json, which says that they are there, comes last."""
    owner = np.repeat(np.arange(len(results), dtype=np.int32), [len(r["t_ms"]) for r in results])
    own = Hashes(
        owner,
        np.array([t for r in results for t in r["t_ms"]], np.int64),
        np.array([b for r in results for b in r["bits"]], np.uint64),
    )
    seconds = [*(other[2] for other in others), [r["seconds"] or 0.0 for r in results]]
    matches = find_matches([*(other[3] for other in others), own], plan["settings"]["every"])
    repeated = duplicates(seconds, matches)
    rows: dict[str, list[list]] = {table: [] for table in TABLES}
    for i, result in enumerate(results):
        video, original = result["video_id"], ""
        if i in repeated:
            (which, number), start, end, share = repeated[i]
            original = results[number]["video_id"] if which == len(others) else ""
            if not original:
                original = f"{others[which][0]['dataset']}:{others[which][1][number]}"
            result["spans"].append([start, end, "duplicate", share])
            result["shares"]["duplicate"] = (end - start) / result["seconds"]
        rows["videos"].append(_video_row(result, original))
        for start, end, flag, score in sorted(result["spans"], key=lambda span: span[:3]):
            rows["spans"].append([video, f"{start:.3f}", f"{end:.3f}", flag, f"{score:.3f}"])
        for start, end, *box in result["texts"]:
            rows["boxes"].append([video, f"{start:.3f}", f"{end:.3f}", *map(_fraction, box)])
        rows["names"] += [[video, finding] for finding in result["names"]]
    columns = len(TABLES["videos"].split())
    for row in refused:
        reason = f"{row.reason}: {row.detail}"
        rows["videos"].append([row.video_id, *[""] * (columns - 2), reason])
    for table, columns in TABLES.items():
        write_whole(out / f"{table}.csv", csv_text([columns.split(), *rows[table]]))
    ids = pa.array([results[i]["video_id"] for i in owner], pa.string())
    with whole(out / "hashes.parquet") as part:
        pq.write_table(pa.table({"video": ids, "t_ms": own.t_ms, "bits": own.bits}), part)
    if not (out / review.FILE).exists():
        write_whole(out / review.FILE, csv_text([review.COLUMNS]))
    names = [*(f"{table}.csv" for table in TABLES), "hashes.parquet"]
    digests = {"tables": {name: sha256(out / name) for name in names}}
    write_whole(out / DONE, json.dumps(plan | digests, indent=1) + "\n")
    shutil.rmtree(out / UNFINISHED)


def _video_row(result: dict, original: str) -> list[str]:
    shares, size = result["shares"], str(result["bytes"])
    measured = ("black", "frozen", "blurred", "out_of_body", "text")
    flags = [flag for flag in review.QUALITY if shares.get(flag, 0.0) > FLAG_SHARE[flag]]
    if result["unreadable"]:
        empty = [""] * (len(TABLES["videos"].split()) - 5)
        return [result["video_id"], "", "", size, *empty, result["unreadable"]]
    return [
        result["video_id"],
        f"{result['seconds']:.3f}",
        str(result["samples"]),
        size,
        *(f"{shares[flag]:.4f}" for flag in measured),
        str(result["cuts"]),
        *map(_fraction, result["box"]),
        original,
        " ".join(flags),
        "",
    ]


def _fraction(value: float) -> str:
    return f"{value:.5f}"


def _summarise(out: Path, page: Path) -> None:
    videos = review.read_findings(out / "videos.csv")
    read = [row for row in videos if not row["unreadable"]]
    hours = math.fsum(float(row["seconds"]) for row in read) / 3600
    print(f"{out}: {len(read)} recordings, {hours:.2f} hours")
    for flag in review.PRIVACY:
        own = [row for row in read if float(row[flag])]
        lost = math.fsum(float(row[flag]) * float(row["seconds"]) for row in own) / 3600
        print(f"  {flag}: {len(own)} recordings, {lost:.2f} hours are left out unless reviewed")
        most = [row["video"] for row in own if float(row[flag]) > 0.5]
        if most:
            print(f"    more than half of {some(most)}: look whether that is true")
    for flag in review.QUALITY:
        if number := sum(flag in row["flags"].split() for row in read):
            print(f"  {flag}: {number} recordings")
    suspicious = {row["video"] for row in review.read_findings(out / "names.csv")}
    if suspicious:
        print(f"  names or tags of {len(suspicious)} recordings may tell of a person or a date")
    if len(read) < len(videos):
        print(f"warning: {len(videos) - len(read)} could not be looked through; see {page}")
    print(f"next: look at {page}, and write what you decide into {out / review.FILE}")


class _Progress:
    """A bar on a terminal, a line now and then elsewhere; called once for each recording."""

    def __init__(self, total: int):
        from tqdm import tqdm

        self.total, self.done, self.start = total, 0, time.monotonic()
        self.said = self.start
        self.bar = tqdm(total=total, unit="recording", desc="scan", disable=None)

    def __call__(self, new: bool) -> None:
        """`new`: it was scanned just now, not by an earlier run."""
        self.done += 1
        self.bar.update()
        if not new:  # it tells nothing about the rate
            self.total, self.done = self.total - 1, self.done - 1
        now = time.monotonic()
        if self.bar.disable and now - self.said > SAY_EVERY and self.done:
            self.said = now
            left = (self.total - self.done) * (now - self.start) / self.done / 60
            print(f"{self.done:,} of {self.total:,} recordings, {left:.0f} min left", flush=True)
        if self.done == self.total:
            self.bar.close()
