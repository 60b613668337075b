"""A finished store gets what the csv files beside its videos say now.

Nothing is decoded. store.json comes last, so the same command finishes what was interrupted.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq

from data_prep import captions, recordings, sources, tables
from data_prep.merge import write_labels
from data_prep.sources import Found, Times
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError
from surgjax.files import write_whole

VIDEOS, CLIPS = "videos.parquet", "clips.parquet"


def renew(
    out: Path,
    root: Path,
    source: ModuleType,
    source_name: str,
    found: Found,
    captioned: captions.Reader | None,
) -> list[str]:
    """Bring a store up to date; returns what has changed.

    Args:
      captioned: reads the captions. Without it they stay as they are, as labels,
        splits and clips do without theirs.

    Raises:
      UserError: a file beside the videos does not fit; the store is as it was.
    """
    store, about = open_store(out), out / "store.json"
    stored = {store.video_id(video) for video in range(len(store))}
    known = {video.video_id for video in found.videos}  # some may be in quarantine
    lost = sorted(stored - known)
    if lost:
        raise UserError(
            f"{lost[0]} is in {out} and refused below {root} now; put the video back as it was, or "
            f"give another --out"
        )
    meta = json.loads(about.read_text(encoding="utf-8"))
    before = json.dumps(meta)
    rows = captioned(captions.ends_in_store(store)) if captioned else []
    rows = [row for row in rows if row["video_id"] in stored]
    clips, rename = root / "clips.csv", getattr(source, "rename", str)
    spans = tables.clips(clips, known, rename) if clips.is_file() else []
    done = {
        "labels": _renew_labels(store, meta, root, source, source_name, found),
        "splits and cases": _renew_videos(out, meta, found),
        "clips": _renew_clips(out, meta, spans),
        "captions": _renew_captions(out, meta, rows),
    }
    if json.dumps(meta) != before:
        write_whole(about, json.dumps(meta, indent=1) + "\n")
    return [what for what, is_new in done.items() if is_new]


def _renew_videos(out: Path, meta: dict, found: Found) -> bool:
    """Cases and splits of videos.parquet; whether it had others."""
    splits = sorted({name for video in found.videos for name in video.splits})
    by_id = {video.video_id: video for video in found.videos}
    old = pq.read_table(out / VIDEOS).to_pylist()
    divided = {row["video_id"] for row in old if any(row.get(f"split_{name}") for name in splits)}
    is_ours = all(about["tier"] == "ours" for about in found.splits.values())
    if not splits or is_ours and divided:  # no splits.csv: cases held out so far stay so
        wanted = {row["video_id"] for row in old if by_id[row["video_id"]].splits}
        if left := sorted(wanted - divided):
            print(
                f"warning: {len(left)} labelled videos ({recordings.some(left)}) are in no part of "
                f"the split in {out}; write splits.csv (video,split,case) to give them one"
            )
        return False
    kept = [name for name in old[0] if not name.startswith("split_")]
    rows = []
    for row in old:
        video = by_id[row["video_id"]]
        parts = {f"split_{name}": part for name, part in video.splits.items()}
        rows.append({name: row[name] for name in kept} | {"case": video.case} | parts)
    known = lambda row: {k: value for k, value in row.items() if value is not None}  # noqa: E731
    is_new = list(map(known, old)) != list(map(known, rows))
    if is_new:
        tables.write_videos(out / VIDEOS, rows, splits)
    meta["sources"][0]["splits"] = found.splits
    meta["tables"][VIDEOS] = tables.sha256(out / VIDEOS)
    return is_new


def _renew_labels(
    store: Store, meta: dict, root: Path, source: ModuleType, source_name: str, found: Found
) -> bool:
    """Labels from a labels.csv that is newer than the store, or names a task that it lacks."""
    file = root / "labels.csv"
    if source_name != sources.FOLDER or not file.is_file():
        return False
    is_older = file.stat().st_mtime <= (store.path / "store.json").stat().st_mtime
    if is_older and not found.tasks.keys() - meta["tasks"].keys():
        return False
    old_tasks, old_tables = meta["tasks"], dict(meta["tables"])
    meta["tasks"] = write_labels(store.path, root, source, found, _times(store))
    for task in old_tasks.keys() | meta["tasks"].keys():
        name = f"labels/{task}.parquet"
        if task in meta["tasks"]:
            meta["tables"][name] = tables.sha256(store.path / name)
        else:
            (store.path / name).unlink(missing_ok=True)
            meta["tables"].pop(name, None)
    return (meta["tasks"], meta["tables"]) != (old_tasks, old_tables)


def _times(store: Store) -> Iterator[tuple[str, Times]]:
    for video in range(len(store)):
        fps = float(store.videos["native_fps"][video])
        t_ms = np.array(store.read_times(video, range(int(store.frames[video]))), np.int64)
        yield store.video_id(video), Times(t_ms, np.rint(t_ms * fps / 1000).astype(np.int64), fps)


def _renew_clips(out: Path, meta: dict, rows: list[dict]) -> bool:
    if not rows or _holds(out, meta, CLIPS, rows):
        return False
    tables.write_clips(out / CLIPS, rows)
    meta["tables"][CLIPS] = tables.sha256(out / CLIPS)
    return True


def _renew_captions(out: Path, meta: dict, rows: list[dict]) -> bool:
    if not rows or _holds(out, meta, captions.TABLE, rows):
        return False
    captions.write(out, meta, rows)
    return True


def _holds(out: Path, meta: dict, name: str, rows: list[dict]) -> bool:
    """Whether a table has these rows, and store.json its digest."""
    path = out / name
    is_whole = path.is_file() and meta["tables"].get(name) == tables.sha256(path)
    return is_whole and pq.read_table(path).to_pylist() == rows
