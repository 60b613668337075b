"""The last step: finished parts become a store.

Everything is derived from the plan and the parts' sidecars, in the plan's order, and store.json
comes last, so a run that stopped anywhere in here starts over and ends with the same bytes.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from data_prep import captions, decisions, shared_cases, tables
from data_prep.decisions import Decision
from data_prep.plan import PARTS, PLAN, Plan
from data_prep.pseudonyms import without_names
from data_prep.review import QUALITY
from data_prep.sources import Found, Refused, Times, Video
from surgjax.data.record import SCHEMA_VERSION, SHARD_NAME
from surgjax.errors import UserError
from surgjax.files import write_whole

QUARANTINE = "quarantine.parquet"
SAME_CASES, EDITS = "same_cases.parquet", "edits.parquet"
FLAGS = ["damaged", "dark", "interlaced", "small", "variable_rate"]


def merge(
    plan: Plan,
    root: Path,
    out: Path,
    source: ModuleType,
    found: Found,
    captioned: captions.Reader | None = None,
) -> dict:
    """Name the shards, write the tables and store.json; returns store.json.

    Args:
      source: the source module, for the labels.
      captioned: reads the captions.
    Raises:
      UserError: no video could be read (quarantine.parquet says why), or labels or captions do
        not fit.
    """
    parts = [_summary(part) for part in _sidecars(plan, out)]
    refused = plan.refused + [Refused(**row) for part in parts for row in part["refused"]]
    if "pseudonyms" in plan.adapted:
        refused = [without_names(row) for row in refused]
    refused.sort(key=lambda row: (row.video_id, row.path))
    stored = [video for part in parts for video in part["videos"]]
    if not stored:
        quarantine_only(out, refused)
    by_id = {video.video_id: video for video in found.videos}
    for video in stored:
        source.check_labels(root, by_id[video["video_id"]], video["decoded"])
    ends = captions.ends_by_header(found, ()) | {v["video_id"]: v["end_ms"] for v in stored}
    rows_of_captions = captioned(ends) if captioned else []

    shards = _name_shards(out, parts)
    rows = _video_rows(parts, by_id, plan)
    splits = sorted({name for video in found.videos for name in video.splits})
    tables.write_videos(out / "videos.parquet", rows, splits)
    tables.write_quarantine(out / QUARANTINE, refused)
    tasks = write_labels(out, root, source, found, _times(_sidecars(plan, out)))
    names = ["videos.parquet", QUARANTINE, *(f"labels/{task}.parquet" for task in tasks)]
    names += _optional_tables(out, root, source, found, rows, _edits(plan, stored))
    names += _write_tfds(out, shards)
    store = _describe(plan, found, rows, shards, tasks, len(refused))
    store["tables"] = {name: tables.sha256(out / name) for name in names}
    captions.write(out, store, rows_of_captions)
    write_whole(out / "store.json", json.dumps(store, indent=1) + "\n")
    clean(out)
    return store


def _optional_tables(
    out: Path, root: Path, source: ModuleType, found: Found, rows: list[dict], edits: list[dict]
) -> list[str]:
    """Names of the tables that only some stores have, after writing them."""
    names, ids = [], {video.video_id for video in found.videos}
    clips, rename = root / "clips.csv", getattr(source, "rename", str)
    if clips.exists() and (spans := tables.clips(clips, ids, rename)):
        tables.write_clips(out / "clips.parquet", spans)
        names.append("clips.parquet")
    if same := shared_cases.rows({row["case"] for row in rows}):
        tables.write_same_cases(out / SAME_CASES, same)
        names.append(SAME_CASES)
    if edits:
        tables.write_edits(out / EDITS, edits)
        names.append(EDITS)
    return names


def _describe(
    plan: Plan, found: Found, rows: list[dict], shards: list[dict], tasks: dict, quarantined: int
) -> dict:
    """store.json without its tables."""
    datasets = sorted({row["dataset"] for row in rows})
    return {
        "schema_version": SCHEMA_VERSION,
        "name": plan.name,
        "settings": plan.settings.describe(),
        "counts": {
            "videos": len(rows),
            "frames": sum(row["frames"] for row in rows),
            "records": sum(shard["records"] for shard in shards),
            "quarantined": quarantined,
        },
        "licences": {row["dataset"]: row["licence"] for row in rows},
        "layout_status": dict.fromkeys(datasets, found.layout_status),
        "tasks": tasks,
        "sources": [
            {
                "source": plan.source,
                "about": plan.about,
                "datasets": datasets,
                "splits": found.splits,
                **({"adapted": plan.adapted} if plan.adapted else {}),
            }
        ],
        "shards": shards,
    }


def clean(out: Path) -> None:
    """Remove what only an unfinished store needs."""
    shutil.rmtree(out / PARTS, ignore_errors=True)
    for file in (*leftovers(out), out / PLAN):
        file.unlink(missing_ok=True)


def leftovers(out: Path) -> list[Path]:
    """Files that killed processes were writing."""
    return [*out.glob(".*.part"), *(out / "labels").glob(".*.part")]


def quarantine_only(out: Path, refused: list[Refused]) -> None:
    """Say why there is no store. Always raises UserError."""
    tables.write_quarantine(out / QUARANTINE, refused)
    clean(out)
    first = refused[0]
    raise UserError(
        f"none of {len(refused)} videos could be stored; {out / QUARANTINE} says why for each (the "
        f"first: {first.path or first.video_id}, {first.reason}, {first.detail}); no store was "
        f"written"
    )


def _sidecars(plan: Plan, out: Path) -> Iterator[dict]:
    for number in range(len(plan.parts)):
        yield json.loads((out / PARTS / f"{number:05d}.json").read_text(encoding="utf-8"))


def _summary(part: dict) -> dict:
    """The part without its times, which would not fit into memory for a large store."""
    for video in part["videos"]:
        t_ms = video.pop("t_ms")
        video["frames"] = len(t_ms)
        del video["index"]
    return part


def _name_shards(out: Path, parts: list[dict]) -> list[dict]:
    shards = [dict(shard) for part in parts for shard in part["shards"]]
    for number, shard in enumerate(shards):
        final = SHARD_NAME.format(shard=number, shards=len(shards))
        if (out / PARTS / shard["file"]).exists():  # else an interrupted merge has named it already
            os.replace(out / PARTS / shard["file"], out / final)
        shard["file"] = final
    return shards


def _quality(decision: Decision | None) -> dict[str, bool]:
    return {f"qc_{flag}": flag in decision.flags for flag in QUALITY} if decision else {}


def _decisions(plan: Plan) -> dict[str, Decision]:
    return {v["video_id"]: Decision(**v["decision"]) for v in plan.videos if v.get("decision")}


def _edits(plan: Plan, stored: list[dict]) -> list[dict]:
    decided = _decisions(plan)
    names = [video["video_id"] for video in stored if video["video_id"] in decided]
    return [row for name in names for row in decisions.edits(name, decided[name])]


def _video_rows(parts: list[dict], by_id: dict[str, Video], plan: Plan) -> list[dict]:
    rows, first, decided = [], 0, _decisions(plan)
    for part in parts:
        for video in part["videos"]:
            about = by_id[video["video_id"]]
            words = ("video_id", "dataset", "case", "domain", "procedure", "anatomy", "licence")
            rows.append(
                {word: getattr(about, word) for word in words}
                | {name: video[name] for name in ("native_fps", "stored_fps", "width", "height")}
                | {"frames": video["frames"], "first_record": first}
                | {f"split_{name}": split for name, split in about.splits.items()}
                | {f"qc_{flag}": video["flags"][flag] for flag in FLAGS}
                | ({} if video["psnr"] is None else {n: video[n] for n in ("psnr", "psnr_lowest")})
                | _quality(decided.get(video["video_id"]))
            )
            first += -(-video["frames"] // plan.settings.frames_per_record)
    return rows


def write_labels(
    out: Path, root: Path, source: ModuleType, found: Found, stored: Iterable[tuple[str, Times]]
) -> dict[str, dict]:
    """labels/<task>.parquet of every task that has a label; returns those tasks.

    Args:
      stored: video_id and frames of the videos in the store, in its order.
    """
    by_id = {video.video_id: video for video in found.videos}
    writers = {
        task: tables.LabelWriter(out / "labels" / f"{task}.parquet", about["kind"])
        for task, about in found.tasks.items()
    }
    used = set()
    with contextlib.ExitStack() as stack:
        for writer in writers.values():
            stack.enter_context(writer)
        for video_id, times in stored:
            for task, labels in source.labels(root, by_id[video_id], times).items():
                if len(labels.t_ms):
                    writers[task].add(video_id, labels)
                    used.add(task)
    for task in writers.keys() - used:
        (out / "labels" / f"{task}.parquet").unlink()
    if not used:
        shutil.rmtree(out / "labels", ignore_errors=True)
    return {task: about for task, about in found.tasks.items() if task in used}


def _times(parts: Iterable[dict]) -> Iterator[tuple[str, Times]]:
    for video in (video for part in parts for video in part["videos"]):
        t_ms, index = (np.array(video[name], np.int64) for name in ("t_ms", "index"))
        yield video["video_id"], Times(t_ms, index, video["native_fps"])


def _write_tfds(out: Path, shards: list[dict]) -> list[str]:
    """dataset_info.json and features.json, so that TensorFlow Datasets reads the store too."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text  # bytes pass through it undecoded
    features = tfds.features.FeaturesDict(
        {
            "video_id": text(),
            "first_frame": np.int64,
            "t_ms": tfds.features.Sequence(np.int64),
            "frames": tfds.features.Sequence(text()),
        }
    )
    dataset, split = SHARD_NAME.split(".")[0].split("-")
    template = tfds.core.ShardedFileTemplate(
        data_dir=out, dataset_name=dataset, split=split, filetype_suffix="array_record"
    )
    info = tfds.core.SplitInfo(
        name=split,
        shard_lengths=[shard["records"] for shard in shards],
        num_bytes=sum(shard["bytes"] for shard in shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=features,
        split_infos=[info],
        filename_template=None,
        check_data=False,
    )
    return ["dataset_info.json", "features.json"]
