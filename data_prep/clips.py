"""`python -m data_prep clips STORE`: every video of a store, cut into clips of one length.

Clips begin every --seconds (less --overlap) from a video's first frame on. What is left at its end
is a clip of its own where it has at least half the length; a shorter rest belongs to the clip
before it. A shorter video is one clip. So nothing is lost and no clip is a scrap. Where frames were
left out of the store (`shards --qc`), what is before and after them is cut like two videos.

SurgRec counts 554k clips in 214.5M frames, about 387 a clip: 15 seconds at 25 frames a second. The
length is not published; 15 s is assumed. The store gets the clips as clips.parquet (video_id,
start_ms, end_ms), which `python -m surgjax.embed` reads. Nothing is decoded.
"""

import argparse
from pathlib import Path

import pyarrow.parquet as pq

from data_prep import tables
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError

CLIPS = "clips.parquet"
SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"length of a clip (default {SECONDS:g})"
    )
    parser.add_argument(
        "--overlap", type=float, default=0.0, help="seconds shared with the clip before (default 0)"
    )
    parser.add_argument(
        "--replace", action="store_true", help="in place of the clips that the store has"
    )


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    if not 0.1 <= args.seconds <= 86_400:
        raise UserError(f"--seconds is {args.seconds:g}; expected 0.1 or more, such as 15")
    if not 0 <= args.overlap < args.seconds:
        raise UserError(
            f"--overlap is {args.overlap:g}; expected seconds from 0 to less than the "
            f"{args.seconds:g} of a clip"
        )
    store = open_store(args.store)
    rows = cut_store(store, args.seconds, args.overlap)
    changed = note(store, rows, replace=args.replace)
    lengths = [row["end_ms"] - row["start_ms"] for row in rows]
    rates = dict(zip(store.videos["video_id"], store.videos["stored_fps"], strict=True))
    frames = sum(ms / 1000 * rates[row["video_id"]] for ms, row in zip(lengths, rows, strict=True))
    print(
        f"{args.store}: {len(rows):,} clips of {len(store):,} videos"
        f"{'' if changed else ', as it had them already'}; {min(lengths) / 1000:.1f} to "
        f"{max(lengths) / 1000:.1f} s, {frames / len(rows):.0f} stored frames on average"
    )
    print(
        f"rule: every {args.seconds - args.overlap:g} s a clip of {args.seconds:g} s; a rest of "
        f"half of it or more is a clip, a shorter one belongs to the clip before"
    )
    print(f"next: python -m surgjax.embed --model MODEL --stores {args.store} --out FEATURES")
    return 0


def cut_store(store: Store, seconds: float, overlap: float) -> list[dict]:
    """Rows of clips.parquet, video by video."""
    return [
        {"video_id": name, "start_ms": begin + start, "end_ms": begin + end}
        for video, name in enumerate(map(store.video_id, range(len(store))))
        for begin, length in _stretches(store, video)
        for start, end in cut(length, seconds, overlap)
    ]


def cut(end_ms: float, seconds: float, overlap: float = 0.0) -> list[tuple[int, int]]:
    """Clips (from, to) of a video that ends at `end_ms`, whole milliseconds; at least one."""
    length, step = 1000 * seconds, 1000 * (seconds - overlap)
    count = max(1, int((end_ms - length) / step + 1e-9) + 1)
    rest = end_ms - ((count - 1) * step + length)
    bounds = [(round(i * step), round(i * step + length)) for i in range(count)]
    if rest >= length / 2:
        bounds.append((round(count * step), round(end_ms)))
    else:
        bounds[-1] = bounds[-1][0], round(end_ms)
    return bounds


def _stretches(store: Store, video: int) -> list[tuple[int, float]]:
    """Start and length, in milliseconds, of what is stored of a video without interruption."""
    parts, period = store.stretches(video), 1000 / float(store.videos["stored_fps"][video])
    times = [store.read_times(video, (first, end - 1)) for first, end in parts]
    return [(first, last + period - first) for first, last in times]


def note(store: Store, rows: list[dict], *, replace: bool) -> bool:
    """Write the rows into a store, store.json last; whether it had others.

    Raises:
      UserError: the store has other clips and `replace` is False.
    """
    file, listed = store.path / CLIPS, store.meta["tables"].get(CLIPS)
    if listed and file.is_file() and listed == tables.sha256(file):
        had = pq.read_table(file).to_pylist()
        if had == rows:
            return False
        if not replace:
            raise UserError(
                f"{store.path} has {len(had):,} other clips in {CLIPS}, from clips.csv or an "
                f"earlier cut; give --replace to lose them"
            )
    tables.write_clips(file, rows)
    tables.register(store.path, CLIPS)
    return True
