"""`python -m data_prep verify`: is a store what was written?

Every file is compared with its digest in store.json, and records of every shard are decoded. With
--against-source N, N random frames and their labels are made again from the recordings, which
--root names, because a store keeps no paths.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from array_record.python import array_record_module

from data_prep import captions, decisions, guarded, sources, tables
from data_prep.encoding import decibels, squared_error
from data_prep.media import Unreadable
from data_prep.merge import EDITS
from data_prep.plan import PARTS, PLAN
from data_prep.pseudonyms import Pseudonymous, read_salt
from data_prep.sources import Times
from data_prep.video import Frame, Seen, kept_frames
from surgjax.data.decode import decode_block, pictures
from surgjax.data.record import CAPTION_COLUMNS, LEVELS, SCHEMA_VERSION, VIDEO_COLUMNS, parse
from surgjax.data.store import Store, open_store, refuse_names_outside
from surgjax.data.tables import parse_meta, read_table
from surgjax.errors import DAMAGE, UserError

LISTS = pa.list_(pa.float32())
NOT_ALWAYS = ("domain", "procedure", "anatomy", "licence", "native_fps")  # are these stated
DECODED = 500  # records decoded of each shard, evenly spaced
SLACK = 1.0  # dB, for the same reason, of x264: its frames are compared with the recording's
SAME_PSNR = 35.0  # dB; other versions of the decoder change pixels slightly, other frames much more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, help="folder of the store")
    parser.add_argument(
        "--against-source", type=int, default=0, metavar="N", help="compare N random frames"
    )
    parser.add_argument("--root", "--source", "--videos", dest="root", type=Path, help="recordings")
    parser.add_argument("--pseudonyms", type=Path, metavar="FILE", help="as of `shards`")
    parser.add_argument("--seed", type=int, default=0, help="which frames are compared")


def main(args: argparse.Namespace) -> int:
    """Returns 0, or 1 with a line for each damage. Raises UserError when there is no store."""
    if args.against_source and args.root is None:
        raise UserError("--against-source needs --root: the folder of the recordings")
    if not (args.store / "store.json").is_file():
        raise UserError(
            f"no store at {args.store}: store.json is missing; give the --out of "
            f"`python -m data_prep shards`, and run that command again if it was interrupted"
        )
    for option in ("against_source", "seed"):
        if getattr(args, option) < 0:
            raise UserError(
                f"--{option.replace('_', '-')} is {getattr(args, option)}; expected 0 or more"
            )
    damage = list(check_store(args.store))
    compared = 0
    if args.against_source and not damage:
        store = open_store(args.store)
        compared = min(args.against_source, int(store.frames.sum()))
        damage += check_against(store, args.root, compared, args.seed, args.pseudonyms)
    for line in damage:
        print(f"damaged: {line}")
    if damage:
        print(f"{args.store}: {len(damage)} problems; prepare it again, or copy it again")
        return DAMAGE
    also = f", {compared} frames equal to their recordings" if args.against_source else ""
    print(f"{args.store}: every digest, table and decoded record is right{also}")
    return 0


def check_store(path: Path) -> Iterator[str]:
    """One line for each file or record of a store that is not what was written.

    Raises:
      UserError: the store's schema is newer than this reader, or store.json names files elsewhere.
    """
    try:
        store = parse_meta((path / "store.json").read_text(encoding="utf-8"))
        if store["schema_version"] > SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema {store['schema_version']}, newer than {SCHEMA_VERSION}; update "
                f"surgjax to read it"
            )
        digests = store["tables"] | {shard["file"]: shard["sha256"] for shard in store["shards"]}
        counts = {what: int(store["counts"][what]) for what in ("videos", "frames", "records")}
        codec, tasks = store["settings"]["codec"], store["tasks"]
    except (ValueError, LookupError, TypeError) as error:
        yield f"store.json cannot be read ({type(error).__name__}: {error})"
        return
    refuse_names_outside(path, store)
    for left in (PLAN, PARTS):
        if (path / left).exists():
            yield f"{left} is left of an interrupted run; the same `shards` command removes it"
    damaged = False
    for name, digest in digests.items():
        if problem := _digest_problem(path / name, digest):
            damaged = True
            yield f"{name} {problem}"
    if damaged:
        return  # what the files say no longer means anything
    try:
        yield from _contents_problems(path, store, counts, codec, tasks)
    except ValueError as error:
        yield f"a table cannot be read ({error})"


def _contents_problems(
    path: Path, store: dict, counts: dict[str, int], codec: str, tasks: dict
) -> Iterator[str]:
    """Raises ValueError for a table of other columns or types than are written."""
    shards, n = store["shards"], store["settings"].get("frames_per_record", 1)
    stated = [name for name in VIDEO_COLUMNS if name not in NOT_ALWAYS]
    videos = read_table(path / "videos.parquet", {name: VIDEO_COLUMNS[name] for name in stated})
    videos = videos.to_pylist()
    expected = {
        "videos": len(videos),
        "frames": sum(video["frames"] for video in videos),
        "records": sum(shard["records"] for shard in shards),
    }
    for what, count in expected.items():
        if counts[what] != count:
            yield f"store.json counts {counts[what]} {what}, its files hold {count}"
    if expected["records"] != sum(-(-video["frames"] // n) for video in videos):
        yield "videos.parquet and the shards hold different numbers of records"
        return
    first = 0
    for shard in shards:
        file, records = path / shard["file"], shard["records"]
        yield from _shard_problems(file, records, first, videos, n, codec)
        first += shard["records"]
    yield from _label_problems(path, tasks, videos)
    if captions.TABLE in store["tables"]:
        yield from _caption_problems(path, store["counts"].get("captions"), videos)


def check_against(
    store: Store, root: Path, count: int, seed: int, salt: Path | None = None
) -> list[str]:
    """One line for each of `count` random frames, or its labels, that the recordings contradict.

    Args:
      salt: file with the key of the pseudonyms, where the store has some.
    Raises:
      UserError: `root` holds none of the videos, or another salt is needed.
    """
    about = store.meta["sources"][0]
    source = sources.load(about["source"])
    if fingerprint := about.get("adapted", {}).get("pseudonyms"):
        source = Pseudonymous(source, read_salt(salt)) if salt else None
        if source is None or source.fingerprint != fingerprint:
            raise UserError(
                f"{store.path} has pseudonyms; give the --pseudonyms FILE it was made with"
            )
    if not root.is_dir():
        raise UserError(f"--root {root} is no folder; expected the folder of the recordings")
    found = {video.video_id: video for video in source.find(root, **about["about"]).videos}
    ids = store.videos["video_id"]
    if not any(str(name) in found for name in ids):
        raise UserError(f"none of the store's {len(ids)} videos is in {root}; check --root")
    ends = np.cumsum(store.frames)
    frames = np.sort(np.random.default_rng(seed).choice(int(ends[-1]), count, replace=False))
    which = np.searchsorted(ends, frames, side="right")
    labels = {task: store.labels(task) for task in store.meta["tasks"]}
    edits: dict[str, list[dict]] = {}
    if (store.path / EDITS).is_file():
        for row in pq.read_table(store.path / EDITS).to_pylist():
            edits.setdefault(row["video_id"], []).append(row)
    problems = []
    for video in np.unique(which):
        name = str(ids[video])
        wanted = frames[which == video] - (ends[video] - store.frames[video])
        if name not in found:
            problems.append(f"{name}: not in {root}")
            continue
        recording = found[name]
        problems += _compare(
            store, int(video), name, wanted, source, root, recording, labels, edits
        )
    return problems


def _digest_problem(path: Path, digest: str) -> str | None:
    if not path.is_file():
        return "is missing"
    return None if tables.sha256(path) == digest else "has other bytes than were written"


def _shard_problems(
    path: Path, count: int, first: int, videos: list[dict], n: int, codec: str
) -> Iterator[str]:
    starts = np.array([video["first_record"] for video in videos])
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        if reader.num_records() != count:
            yield f"{path.name} holds {reader.num_records()} records, store.json says {count}"
            return
        for i in range(0, count, max(1, count // DECODED)):
            video = videos[int(np.searchsorted(starts, first + i, side="right")) - 1]
            reader.seek(i)
            frame = (first + i - video["first_record"]) * n
            if problem := _record_problem(reader.read(), video, frame, codec):
                yield f"{path.name}, record {i}: {problem}"
        reader.close()
    except (RuntimeError, ValueError) as error:
        yield f"{path.name} cannot be read ({type(error).__name__})"


def _decode(frames: Sequence[bytes], codec: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    if codec == "x264":
        return decode_block(frames, range(len(frames)))
    for frame in frames:  # a header may claim 13 GB of pixels
        if simplejpeg.decode_jpeg_header(frame)[:2] != shape[:2]:
            raise ValueError(f"frame of another size than {shape[0]} x {shape[1]}")
    return [simplejpeg.decode_jpeg(frame) for frame in frames]


def _record_problem(data: bytes, video: dict, first_frame: int, codec: str) -> str | None:
    try:
        record, shape = parse(data), (video["height"], video["width"], 3)
        shapes = {picture.shape for picture in _decode(record.frames, codec, shape)}
    except ValueError as error:
        return str(error)
    if (record.video_id, record.first_frame) != (video["video_id"], first_frame):
        return (
            f"holds {record.video_id} from frame {record.first_frame}, "
            f"expected {video['video_id']} from {first_frame}"
        )
    if shapes != {shape}:
        return f"frames of {shapes}, expected {video['height']} x {video['width']}"
    if len(record.t_ms) != len(record.frames) or np.any(np.diff(record.t_ms) <= 0):
        return "its times do not increase frame by frame"
    return None


def _label_problems(path: Path, tasks: dict[str, dict], videos: list[dict]) -> Iterator[str]:
    names = {video["video_id"] for video in videos}
    for task, about in tasks.items():
        kind = {"label": "int32"} if about["kind"] == "one_of_n" else {"values": LISTS}
        columns = {"video_id": "string", "t_ms": "int64"} | kind
        table = read_table(path / "labels" / f"{task}.parquet", columns)
        if strange := set(table["video_id"].unique().to_pylist()) - names:
            yield f"labels/{task}.parquet names {min(strange)}, which is no video of the store"
        if "label" in table.column_names:
            label = table["label"].to_numpy()
            if np.any((label < 0) | (label >= len(about["classes"]))):
                yield f"labels/{task}.parquet holds classes that store.json does not name"


def _caption_problems(path: Path, count: int | None, videos: list[dict]) -> Iterator[str]:
    table = read_table(path / captions.TABLE, CAPTION_COLUMNS)
    if count != len(table):
        yield f"store.json counts {count} captions, {captions.TABLE} holds {len(table)}"
    names = {video["video_id"] for video in videos}
    if strange := set(table["video_id"].unique().to_pylist()) - names:
        yield f"{captions.TABLE} names {min(strange)}, which is no video of the store"
    if strange := set(table["level"].unique().to_pylist()) - set(LEVELS):
        yield f"{captions.TABLE} has captions of level {min(strange)!r}"
    if np.any(table["start_ms"].to_numpy() >= table["end_ms"].to_numpy()):
        yield f"{captions.TABLE} has captions that end before they start"
    if len(table["caption_id"].unique()) != len(table):
        yield f"{captions.TABLE} has an id twice"


def _compare(store, video, name, wanted, source, root, recording, labels, edits) -> list[str]:
    settings, decision = store.meta["settings"], decisions.of_edits(edits.get(name, []))
    rate = None if settings["fps"] == "native" else float(settings["fps"])
    stored = dict(zip(wanted.tolist(), map(np.copy, pictures(store, video, wanted)), strict=True))
    t_ms = dict(zip(wanted.tolist(), store.read_times(video, wanted), strict=True))
    made, problems = {}, []
    try:
        options = {
            "fps": rate,
            "short_side": settings["short_side"],
            "even": store.codec == "x264",
            "crop": decision.crop,
            "frames_fps": recording.frames_fps,
            "frames_pattern": recording.frames_pattern,
        }
        with closing(guarded.results(_frames, recording.path, options)) as frames:
            kept = map(decision.covering, filter(decision.keeps, frames))
            for position, frame in enumerate(kept):
                if position in stored:
                    made[position] = frame
                if position >= wanted[-1]:
                    break
    except Unreadable as error:
        return [f"{name}: the recording cannot be read any more ({error.reason})"]
    lowest = SAME_PSNR if store.codec == "jpeg" else store.videos["psnr_lowest"][video] - SLACK
    for position, ours in stored.items():
        where = f"{name}, frame {position} at {t_ms[position]} ms"
        if position not in made:
            problems.append(f"{where}: the recording ends before it")
            continue
        theirs = made[position].image
        if store.codec == "jpeg":
            theirs = simplejpeg.encode_jpeg(theirs, settings["quality"], "RGB", "420")
            theirs = simplejpeg.decode_jpeg(theirs, fastdct=True, fastupsample=True)
        if ours.shape != theirs.shape or decibels(squared_error(ours, theirs)) < lowest:
            problems.append(f"{where}: other picture than the recording's")
        if t_ms[position] != made[position].t_ms:
            problems.append(f"{where}: at {made[position].t_ms} ms in the recording")
    got = sorted(made)
    times = Times(
        np.array([made[i].t_ms for i in got], np.int64),
        np.array([made[i].index for i in got], np.int64),
        float(store.videos["native_fps"][video]),
    )
    fresh = source.labels(root, recording, times)
    for task, columns in labels.items():
        ours = _labels_at(columns, video, times.t_ms)
        table = fresh.get(task)
        rows = [] if table is None else table.label if table.values is None else table.values
        theirs = {} if table is None else {int(t): x for t, x in zip(table.t_ms, rows, strict=True)}
        for t in times.t_ms.tolist():
            if (t in ours) != (t in theirs) or t in ours and not np.array_equal(ours[t], theirs[t]):
                problems.append(f"{name} at {t} ms: other {task} label than in the source")
    return problems


def _frames(path: Path, options: dict) -> Iterator[Frame]:
    """`kept_frames`, for a process of its own."""
    yield from kept_frames(path, seen=Seen(), **options)


def _labels_at(columns: dict, video: int, t_ms: np.ndarray) -> dict[int, np.ndarray]:
    some = (columns["video"] == video) & np.isin(columns["t_ms"], t_ms)
    values = columns["label"] if "label" in columns else columns["values"]
    return {int(columns["t_ms"][i]): values[i] for i in np.flatnonzero(some)}
