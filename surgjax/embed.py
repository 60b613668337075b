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
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from surgjax.data.captioned import Captions, frames_of
from surgjax.data.clip import UNREADABLE, Unreadable, decode_frames
from surgjax.data.leakage import held_out_cases
from surgjax.data.plan import ClipShape
from surgjax.data.store import Store, open_store
from surgjax.errors import Stopped, UserError, run
from surgjax.evals.features import embed_clips
from surgjax.features import META, shard_name, write_shard
from surgjax.files import write_whole
from surgjax.preemption import StopSignal
from surgjax.sharding import batch_sharding, host_rows, make_mesh
from surgjax.state import Params, rebuild, split

CLIPS_A_SHARD = 4096
PLAN = "plan.json"  # the settings of unfinished work, later in features.json
FRAMES, SIZE = 16, 224  # where the model leaves the choice
POOLS = ("mean", "cls")
LOG_EVERY = 10.0  # seconds
MIN_BAD, MAX_BAD_SHARE = 8, 0.01  # unreadable clips of a shard beyond which something is wrong
SPREAD = Captions(clips="spread")

# Mean and deviation of the pixels that a family was trained with, where its folder does not say.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
TIMESFORMER = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
PIXELS = {"clip": OPENAI, "siglip": HALF, "surgclip": HALF, "vit": HALF, "timesformer": TIMESFORMER}


@dataclass(frozen=True)
class Encoder:
    """What turns clips into vectors.

    Attributes:
      about: what features.json says of it: model, family, licence, pretrained_on, sha256, pool,
        frames, size, pixels.
      clip: frames and size of what it is given.
      dim: length of a vector.
      params: on the host.
      apply: (params, uint8 (b t h w c)) -> float32 (b d), to be compiled.
    """

    about: dict[str, Any]
    clip: ClipShape
    dim: int
    params: Params
    apply: Callable[[Params, Array], Array]


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
        "stores": {store.name: _sha256(store.path / "store.json") for store in stores},
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
    progress = _Progress(sum(min(clips_a_shard, count - n * clips_a_shard) for n in missing))
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
            clips = pq.read_table(path, columns=["video_id", "start_ms", "end_ms"])
        except (OSError, pa.ArrowException) as error:
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
            "start_ms": clips["start_ms"].cast(pa.int64()),
            "end_ms": clips["end_ms"].cast(pa.int64()),
            "case": case,
            "dataset": store.column("dataset").take(video.combine_chunks()),
            "held_out": pc.is_in(case, value_set=held_out),
            "number": pa.array(np.full(len(clips), number, np.int32)),
            "video": video,
            "is_stored": pa.array(first < end),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def open_encoder(
    path: str | Path, frames: int | None = None, size: int | None = None, pool: str = "mean"
) -> Encoder:
    """The encoder of a run or of a public model.

    Args:
      frames, size: of the clips it is given, None for the model's own, or FRAMES and SIZE.
      pool: "mean" of the tokens that stand for a place, or "cls": the class token after the last
        norm (of SigLIP, what its head makes of all tokens).

    Raises:
      UserError: nothing there, a model without an encoder of pictures, or frames, size or pool
        that it does not have.
    """
    from surgjax.interop.sources import is_run

    path = Path(path)
    for name, value in (("--frames", frames), ("--size", size)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")
    opened = _of_run if is_run(path) else _of_public
    about, apply, params, (frames, size) = opened(path, frames, size, pool)
    video = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.uint8)
    dim = jax.eval_shape(apply, params, video).shape[-1]
    about |= {"pool": pool, "frames": frames, "size": size}
    return Encoder(about, ClipShape(frames, 1, size), dim, params, apply)


def _of_run(path: Path, frames: int | None, size: int | None, pool: str):
    from surgjax import build
    from surgjax.checkpoint import find_step, read_model
    from surgjax.interop import licence, sources

    folder = find_step(path.absolute())
    params, meta = read_model(folder)
    cfg = ConfigDict(meta["config"])
    if pool == "cls":
        raise UserError(f"{path} is a run, whose tokens have no class token; give --pool=mean")
    shape = _own(path, "frames", frames, cfg.data.frames), _own(path, "size", size, cfg.data.size)
    learner = build.make_learner(cfg)

    def apply(params: Params, video: UInt8[Array, "b t h w c"]) -> Float[Array, "b d"]:
        tokens = rebuild(learner.graphdef, params).encode(video)
        return tokens.mean(axis=1).astype(jnp.float32)

    about = {
        "model": f"{folder.parent.parent.name}, step {folder.name}",
        "family": "surgjax run",
        "licence": licence.combined(sources.licences(meta).values()),
        "pretrained_on": sources.pretrained_on(meta),
        "sha256": _sha256(folder / "DIGESTS.json"),
        "pixels": "of the run",
    }
    return about, apply, params, shape


def _of_public(path: Path, frames: int | None, size: int | None, pool: str):
    from surgjax import interop

    model = interop.load(path)
    family = model.config.get("model_type") or model.family
    module = interop.find_format(model.family)
    network = nnx.eval_shape(lambda: module.network(model.config, rngs=nnx.Rngs(0)))
    graphdef, _ = split(network)
    is_video = hasattr(network, "encoder")
    if not is_video and not hasattr(network, "image_encoder"):
        raise UserError(
            f"{path} is a {model.family} model without an encoder of pictures; expected an image "
            f"or video encoder, such as DINOv3"
        )
    if is_video:
        tower = network.encoder
        own = [count * patch for count, patch in zip(tower.grid, tower.patch, strict=True)]
        shape = _own(path, "frames", frames, own[0]), _own(path, "size", size, own[1])
        has_cls = hasattr(tower, "cls_token") and not getattr(tower, "is_surgclip", False)
    else:
        tower = network.image_encoder
        shape = frames or FRAMES, _image_size(path, family, tower, size)
        has_cls = hasattr(tower, "cls_token") or hasattr(tower, "head")
    vectors = _video_vectors if is_video else _image_vectors
    (mean, std), origin = _pixels(path, family)
    if pool == "cls" and not has_cls:
        raise UserError(f"{path} is a {family} model without a class token; give --pool=mean")

    def apply(params: Params, video: UInt8[Array, "b t h w c"]) -> Float[Array, "b d"]:
        pixels = (jnp.asarray(video, jnp.float32) / 255 - np.float32(mean)) / np.float32(std)
        return vectors(rebuild(graphdef, params), pixels, pool).astype(jnp.float32)

    about = {
        "model": model.provenance["source"],
        "family": model.family,
        "licence": model.licence,
        "pretrained_on": model.pretrained_on,
        "sha256": model.provenance["sha256"],
        "pixels": {"mean": list(mean), "std": list(std), "from": origin},
    }
    return about, apply, model.params, shape


def _image_vectors(network: nnx.Module, video: Float[Array, "b t h w c"], pool: str):
    """Mean over a clip's frames of what an image network says of each."""
    pictures = video.reshape(-1, *video.shape[2:])
    tower = network.image_encoder
    if hasattr(network, "tokens"):  # ViT and the DINO families
        tokens = network.tokens(pictures)
        vectors = tokens[:, 0] if pool == "cls" else tokens[:, tower.prefix :].mean(axis=1)
    else:  # CLIP and SigLIP
        tokens = tower(pictures)
        places = tokens[:, 1:] if tower.is_clip else tokens
        vectors = tower.pool(tokens) if pool == "cls" else places.mean(axis=1)
    return vectors.reshape(*video.shape[:2], -1).mean(axis=1)


def _video_vectors(network: nnx.Module, video: Float[Array, "b t h w c"], pool: str):
    """What a video network says of a whole clip."""
    tower = network.encoder
    if getattr(tower, "is_surgclip", False):
        return tower.encode(video).mean(axis=1)  # one vector a frame
    tokens = tower(video)
    if not hasattr(tower, "cls_token"):
        return tokens.mean(axis=1)
    return tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(axis=1)


def _image_size(path: Path, family: str, tower: nnx.Module, size: int | None) -> int:
    """Pixels a side: DINO's classes take any whole number of patches, the others one size."""
    if not family.startswith("dinov"):
        return _own(path, "size", size, tower.side * tower.patch)
    size = size or SIZE
    if size % tower.patch:
        raise UserError(
            f"--size is {size}, which patches of {tower.patch} pixels do not divide; expected "
            f"{max(1, round(size / tower.patch)) * tower.patch}"
        )
    return size


def _own(path: Path, name: str, asked: int | None, own: int) -> int:
    if asked not in (None, own):
        raise UserError(
            f"--{name} is {asked}, but {path} was made for {own}; give --{name}={own}, or leave it "
            f"out"
        )
    return own


def _pixels(path: Path, family: str) -> tuple[tuple, str]:
    """((mean, deviation), where they are from): the folder's processor, else the family's usual."""
    from surgjax.interop.files import read_json

    folder = path if path.is_dir() else path.parent
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        file = folder / name
        settings = read_json(file) if file.is_file() else {}
        if not settings.get("do_normalize", True):
            return ((0.0,) * 3, (1.0,) * 3), name
        if settings.get("image_mean") and settings.get("image_std"):
            return (settings["image_mean"], settings["image_std"]), name
    return PIXELS.get(family.split("_")[0], IMAGENET), "assumed: usual of the family"


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


class _Progress:
    """A line every few seconds: clips done, clips a second, time left."""

    def __init__(self, total: int):
        self.total, self.done, self._before = total, 0, 0
        self._left = 0  # clips of the shard still to come: batches are filled up
        self._began = self._said = time.monotonic()

    def begin(self, clips: int) -> None:
        self._left = clips

    def add(self, clips: int) -> None:
        new = min(clips, self._left)
        self._left -= new
        self.done += new
        now = time.monotonic()
        if self.done == new:  # the first batch compiles
            self._before, self._began = new, now
        elif now - self._said >= LOG_EVERY or self.done == self.total:
            self._said = now
            rate = (self.done - self._before) / max(now - self._began, 1e-9)
            minutes, seconds = divmod(int((self.total - self.done) / max(rate, 1e-9)), 60)
            eta = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
            done = f"{self.done:,} of {self.total:,} clips"
            print(f"{done}, {rate:.1f} clips/s, ETA {eta}", flush=True)


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


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    run(main)
