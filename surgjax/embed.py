"""One vector for every clip of a store, from any image or video encoder.

    python -m surgjax.embed --model=MODEL --stores=STORE[,STORE2] --out=FEATURES

MODEL is a run of ours, or a folder or weight file of a public model that `surgjax.interop.load`
reads, such as DINOv3's. Clips are those of each store's clips.parquet, which `python -m data_prep
clips` writes. Frames are spread over a clip, the middle one of each of as many equal parts; an
image encoder sees them one by one, and a clip's vector is their mean. Clips of held-out cases
(validation or test in any known split) are left out, or flagged with --keep-held-out.

The work is cut into shards, which appear whole: after a stop, the same command goes on at the first
one missing and ends in the same bytes. `python -m surgjax.curate` reads the result.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import UInt8

from surgjax.data.captioned import Captions, frames_of
from surgjax.data.clip import UNREADABLE, Unreadable, decode_frames
from surgjax.data.leakage import held_out_cases
from surgjax.data.store import Store, open_store
from surgjax.data.tables import read_table
from surgjax.encoder import FRAMES, POOLS, SIZE, Encoder, open_encoder
from surgjax.errors import Stopped, UserError, run
from surgjax.evals.features import embed_clips
from surgjax.evals.progress import Progress
from surgjax.features import META, shard_name, write_shard
from surgjax.files import sha256, write_whole
from surgjax.preemption import StopSignal
from surgjax.sharding import batch_sharding, host_rows, make_mesh

CLIPS_A_SHARD = 4096
PLAN = "plan.json"  # the settings of unfinished work, later in features.json
MIN_BAD, MAX_BAD_SHARE = 8, 0.01  # unreadable clips of a shard beyond which something is wrong
SPREAD = Captions(clips="spread")


def main(arguments: list[str] | None = None) -> int:
    """Returns 0; raises UserError and, after SIGTERM or Ctrl-C, Stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m surgjax.embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, type=Path, help="run, folder or weight file")
    add("--stores", required=True, help="folders of stores, with commas")
    add("--out", required=True, type=Path, help="folder of the features")
    add("--frames", type=int, help=f"of a clip (a video model's own, or {FRAMES})")
    add("--size", type=int, help=f"pixels a side (a model's own where it has one, or {SIZE})")
    add("--pool", choices=POOLS, default="mean", help="mean of the tokens, or the class token")
    add("--batch-size", type=int, default=16, help="clips at once (default 16)")
    add("--keep-held-out", action="store_true", help="validation and test cases too, flagged")
    given = parser.parse_args(arguments)
    encoder = open_encoder(given.model, given.frames, given.size, given.pool)
    stores = [open_store(path.strip()) for path in given.stores.split(",")]
    options = {"batch_size": given.batch_size, "keep_held_out": given.keep_held_out}
    embed(encoder, stores, given.out, **options)
    return 0


def embed(
    encoder: Encoder,
    stores: Sequence[Store],
    out: Path,
    *,
    batch_size: int = 16,
    keep_held_out: bool = False,
    clips_a_shard: int = CLIPS_A_SHARD,
) -> None:
    """Write the folder of features that `surgjax.features.read_features` reads.

    Raises:
      UserError: a store without clips, nothing left to embed, `out` holds other features, too many
        clips unreadable, a vector that is not finite, or a batch that the devices do not divide.
      Stopped: after SIGTERM or Ctrl-C; finished shards stay.
    """
    out = Path(out)
    mesh = make_mesh()
    host_rows(mesh, batch_size)  # refuses a batch that the devices do not divide
    table = clip_table(stores)
    held_out = int(pc.sum(table["held_out"]).as_py() or 0)
    if not keep_held_out:
        table = table.filter(pc.invert(table["held_out"]))
    empty = len(table) - int(pc.sum(table["is_stored"]).as_py() or 0)
    table = table.filter(table["is_stored"]).drop_columns(["is_stored"])
    count, says, about = len(table), "flagged" if keep_held_out else "left out", encoder.about
    print(
        f"{about['model']} ({about['family']}): {encoder.clip.frames} frames of "
        f"{encoder.clip.size} pixels, {about['pool']}, pixels {about['pixels']}\n"
        f"{count:,} clips; {held_out:,} of held-out cases are {says}"
        f"{f'; {empty:,} without stored frames are left out' if empty else ''}",
        flush=True,
    )
    if not count:
        why = f"all clips are of held-out cases{' or without stored frames' if empty else ''}"
        raise UserError(f"{why}; give another store, or --keep-held-out")
    settings = about | {
        "dim": encoder.dim,
        "stores": {store.name: sha256(store.path / "store.json") for store in stores},
        "held_out": says,
        "planned": count,
        "clips_a_shard": clips_a_shard,
    }
    _claim(out, settings)
    everywhere, rows_apart = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    params, compiled = jax.device_put(encoder.params, everywhere), jax.jit(encoder.apply)
    shards = range(-(-count // clips_a_shard))
    missing = [number for number in shards if not (out / shard_name(number)).is_file()]
    if len(missing) < len(shards):
        print(f"{len(shards) - len(missing)} of {len(shards)} shards are there already", flush=True)
    progress = Progress(sum(min(clips_a_shard, count - n * clips_a_shard) for n in missing))
    with StopSignal() as signal:

        def encode(video: np.ndarray) -> np.ndarray:
            if signal.code:
                finished = sum((out / shard_name(number)).is_file() for number in shards)
                raise Stopped(
                    f"stopped; {finished} of {len(shards)} shards are finished in {out}; the same "
                    f"command goes on from there",
                    signal.code,
                )
            vectors = np.asarray(compiled(params, jax.device_put(video, rows_apart)))
            progress.add(len(video))
            return vectors

        for number in missing:
            rows = table.slice(number * clips_a_shard, clips_a_shard).combine_chunks()
            progress.begin(len(rows))
            _write_shard(out / shard_name(number), rows, stores, encoder, encode, batch_size)
        if signal.code:
            raise Stopped(f"stopped; all shards are finished in {out}", signal.code)
    _finish(out, settings, len(shards))


def clip_table(stores: Sequence[Store]) -> pa.Table:
    """All clips of the stores, in the order of their clips.parquet: the columns of
    `surgjax.features.COLUMNS`, `number` of the store and `video` row of videos.parquet, and
    `is_stored`, whether the clip has a frame there.

    Raises:
      UserError: a store without clips, clips of videos it does not have, or two of one name.
    """
    names = [store.name for store in stores]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"two stores are named {min(twice)!r}, which their clips could not tell apart; prepare "
            f"one of them again with another --dataset"
        )
    held_out = pa.array(sorted(held_out_cases(stores)), pa.string())
    tables = []
    for number, store in enumerate(stores):
        path = store.path / "clips.parquet"
        if not path.is_file():
            raise UserError(
                f"{store.path} has no clips; cut it first: python -m data_prep clips {store.path}"
            )
        try:
            kinds = {"video_id": "string", "start_ms": "int64", "end_ms": "int64"}
            clips = read_table(path, kinds)
        except ValueError as error:
            raise UserError(
                f"{path} cannot be read ({error}); run `python -m data_prep verify {store.path}`"
            ) from error
        video = pc.index_in(clips["video_id"], value_set=store.column("video_id"))
        # clips.csv may name a video that could not be read; it is in quarantine.parquet
        clips, video = clips.filter(pc.is_valid(video)), video.drop_null()
        case = store.column("case").take(video.combine_chunks())
        span_ms = np.stack([clips["start_ms"].to_numpy(), clips["end_ms"].to_numpy()], axis=1)
        first, end = store.frames_in(video.to_numpy(), span_ms).T
        columns = {
            "store": pa.array([store.name] * len(clips), pa.string()),
            "video_id": clips["video_id"],
            "start_ms": clips["start_ms"],
            "end_ms": clips["end_ms"],
            "case": case,
            "dataset": store.column("dataset").take(video.combine_chunks()),
            "held_out": pc.is_in(case, value_set=held_out),
            "number": pa.array(np.full(len(clips), number, np.int32)),
            "video": video,
            "is_stored": pa.array(first < end),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _write_shard(
    path: Path,
    rows: pa.Table,
    stores: Sequence[Store],
    encoder: Encoder,
    encode: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
) -> None:
    number, video = (rows[name].to_numpy() for name in ("number", "video"))
    span_ms = np.stack([rows["start_ms"].to_numpy(), rows["end_ms"].to_numpy()], axis=1)
    clip, unreadable = encoder.clip, {}

    def load(i: int) -> UInt8[np.ndarray, "t h w c"]:
        store = stores[number[i]]
        try:
            frames = frames_of(store, video[i], span_ms[i], clip, SPREAD)
            return decode_frames(store, video[i], frames, clip)
        except (Unreadable, *UNREADABLE) as error:
            unreadable[i] = (
                f"{store.name}:{store.video_id(video[i])} at {span_ms[i, 0]} ms: {error}"
            )
            return np.zeros((clip.frames, clip.size, clip.size, 3), np.uint8)

    threads = {"batch_size": batch_size, "workers": len(os.sched_getaffinity(0))}
    vectors = embed_clips(len(rows), load, {"clip": encode}, **threads)["clip"]
    for i in sorted(unreadable):
        print(f"warning: left out, unreadable: {unreadable[i]}", flush=True)
    if len(unreadable) > max(MIN_BAD, MAX_BAD_SHARE * len(rows)):
        raise UserError(
            f"{len(unreadable)} of {len(rows)} clips of a shard cannot be read; run `python -m "
            f"data_prep verify {stores[number[min(unreadable)]].path}`"
        )
    keep = ~np.isin(np.arange(len(rows)), list(unreadable))
    rows = rows.drop_columns(["number", "video"]).filter(pa.array(keep))
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    write_shard(path, columns, vectors[keep])


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Say in `out` what is made there. Raises UserError where that is something else."""
    found = next((out / name for name in (META, PLAN) if (out / name).is_file()), None)
    if found is None:
        if out.is_file() or out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} holds other files; give a new folder as --out")
        write_whole(out / PLAN, json.dumps(settings, indent=1) + "\n")
        return
    before = json.loads(found.read_text(encoding="utf-8"))
    for name, now in json.loads(json.dumps(settings)).items():
        if before.get(name) != now:
            raise UserError(
                f"{out} holds features with {name} {before.get(name)!r}, now it is {now!r}; put it "
                f"back, or give another --out"
            )


def _finish(out: Path, settings: dict[str, Any], shards: int) -> None:
    """features.json, which says that all shards are there."""
    counts = [pq.read_metadata(out / shard_name(number)).num_rows for number in range(shards)]
    if not sum(counts):
        raise UserError(f"no clip could be read; delete {out} and verify the stores")
    count = sum(counts)
    about = settings | {"count": count, "unreadable": settings["planned"] - count}
    write_whole(out / META, json.dumps(about, indent=1) + "\n")
    (out / PLAN).unlink(missing_ok=True)
    for part in out.glob(".*.part"):  # of a process that was killed
        part.unlink(missing_ok=True)
    print(f"{count:,} vectors of {about['dim']} in {out}")
    print(f"next: python -m surgjax.curate {out} --out CURATED")


if __name__ == "__main__":
    run(main)
