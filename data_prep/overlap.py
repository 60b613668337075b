"""`python -m data_prep overlap STORE...`: operations that are there twice, by their pictures.

A frame every few seconds gets a 64-bit hash that survives another codec, size and black border.
Frames with (nearly) equal hashes vote for a pair of videos and a shift in time; a pair with enough
votes for one shift shows the same recording. With --apply the stores note it in same_cases.parquet:
pretraining then leaves out a case that is held out under its other name, and evaluation knows it.
"""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from data_prep import tables
from data_prep.merge import SAME_CASES
from surgjax.data.decode import pictures
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError

SIDE, KEPT = 32, 8  # pixels a side that are transformed, lowest frequencies a side that count
FLAT = 12.0  # deviation of grey values below which a frame shows too little to be told apart
DARK = 16  # grey value of a border
PROBES = 24  # frames that show where a video's border is
BANDS = 4  # of 16 bits: up to 3 differing bits leave one of them equal
DIFFERENT_BITS = 8  # of 64; a re-encoded frame differs in 0 to 4, another in 20 to 40
COMMON = 400  # frames in one bucket above which it is a picture many videos have (a logo, smoke)
MIN_FRAMES = 5
USUAL_FRAMES = 16  # of a video, even of a short one
MIN_SHARE = 0.3  # of the shorter video


@dataclass(frozen=True)
class Hashes:
    """Hashed frames of one store: video (n,) int32, t_ms (n,) int64, bits (n,) uint64."""

    video: np.ndarray
    t_ms: np.ndarray
    bits: np.ndarray


@dataclass(frozen=True)
class Match:
    """Two videos that show one recording: (store, video) twice.

    Attributes:
      frames: hashed frames that agree.
      share: of the hashed frames of the shorter video.
      shift_s: seconds that a moment comes later in the second video.
    """

    first: tuple[int, int]
    second: tuple[int, int]
    frames: int
    share: float
    shift_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stores", nargs="+", type=Path, metavar="STORE")
    parser.add_argument("--every", type=float, default=2.0, help="seconds (default 2)")
    parser.add_argument("--apply", action="store_true", help="note what is found in the stores")


def main(args: argparse.Namespace) -> int:
    """Returns 0; raises UserError."""
    if not 0 < args.every <= 600:
        raise UserError(f"--every is {args.every:g}; expected seconds, such as 2")
    stores = [open_store(path) for path in args.stores]
    if args.apply and len({_salt(store) for store in stores}) > 1:
        raise UserError(
            "stores with pseudonyms and others, or of two keys, are not noted in each other: it "
            "would tell the names; leave --apply out, or apply it to stores of one kind"
        )
    hashes = []
    for store in stores:
        hashes.append(hash_store(store, args.every))
        few = int(np.sum(np.bincount(hashes[-1].video, minlength=len(store)) < MIN_FRAMES))
        print(
            f"{store.path}: {len(hashes[-1].bits):,} frames of {len(store)} videos"
            + (f"; {few} show too little to be compared" if few else ""),
            flush=True,
        )
    matches = find_matches(hashes, args.every)
    for match in matches:
        names = [_name(stores[store], video) for store, video in (match.first, match.second)]
        print(
            f"{names[0]} = {names[1]}: {match.frames} frames, {match.share:.0%} of the shorter, "
            f"{match.shift_s:+.0f} s"
        )
    rows = same_cases(stores, matches)
    print(f"{len(matches)} pairs of videos show one recording; {len(rows) // 2} pairs of cases")
    if not rows:
        return 0
    if not args.apply:
        print("next: the same command with --apply, so that training and evaluation know")
        return 0
    for store in stores:
        note(store, rows)
    return 0


def hash_store(store: Store, every_s: float) -> Hashes:
    """Hashes of a frame every `every_s` seconds of each video, more often in short ones; flat
    frames have none."""
    videos = range(len(store))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        parts = list(pool.map(lambda video: _hash_video(store, video, every_s), videos))
    counts = [len(t_ms) for t_ms, _ in parts]
    return Hashes(
        np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        np.concatenate([t_ms for t_ms, _ in parts]),
        np.concatenate([bits for _, bits in parts]),
    )


def hash_picture(grey: np.ndarray) -> np.uint64:
    """64 bits of a grey picture (h, w) uint8: which low frequencies lie above their median.

    The usual perceptual hash (Zauner 2010, section 3.2.1): cosine transform of 32 x 32 pixels, its
    8 x 8 lowest frequencies against their median.
    """
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:KEPT, :KEPT]
    return np.packbits(low.ravel() > np.median(low)).view(">u8")[0].astype(np.uint64)


def find_matches(hashes: list[Hashes], every_s: float) -> list[Match]:
    """Pairs of videos, of any stores, whose frames agree at one shift in time; best first."""
    store = np.repeat(np.arange(len(hashes)), [len(h.bits) for h in hashes])
    video = np.concatenate([h.video for h in hashes])
    t_ms = np.concatenate([h.t_ms for h in hashes])
    bits = np.concatenate([h.bits for h in hashes])
    owner = np.unique(np.stack([store, video]), axis=1, return_inverse=True)
    keys, owner = owner[0].T, owner[1].ravel()
    size = np.bincount(owner)

    a, b = _alike(bits, owner)
    if not len(a):
        return []
    swap = owner[a] > owner[b]
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    step = 1000 * every_s
    shift = np.floor((t_ms[b] - t_ms[a]) / step).astype(np.int64)
    matches = []
    pairs, which = np.unique(np.stack([owner[a], owner[b]]), axis=1, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(which.ravel()))
    for pair, rows in zip(pairs.T, np.split(order, ends[:-1]), strict=True):
        best = _best_shift(shift[rows])
        agree = rows[np.abs(shift[rows] - best) <= 1]
        frames = min(len(np.unique(a[agree])), len(np.unique(b[agree])))
        share = frames / min(size[pair[0]], size[pair[1]])
        if frames >= MIN_FRAMES and share >= MIN_SHARE:
            seconds = float(np.median(t_ms[b[agree]] - t_ms[a[agree]])) / 1000
            first, second = (tuple(map(int, keys[one])) for one in pair)
            matches.append(Match(first, second, frames, float(share), seconds))
    return sorted(matches, key=lambda match: (-match.share, match.first, match.second))


def same_cases(stores: list[Store], matches: list[Match]) -> list[dict]:
    """Rows of same_cases.parquet, both ways, for matches of different cases."""
    held_out = [_held_out(store) for store in stores]
    best: dict[tuple[str, str], dict] = {}
    for match in matches:
        ends = [match.first, match.second]
        names = [str(stores[store].videos["case"][video]) for store, video in ends]
        if names[0] == names[1]:
            continue
        for (one, other), (store, _) in ((names, ends[1]), (names[::-1], ends[0])):
            row = {"case": one, "same_as": other, "held_out": other in held_out[store]}
            row["evidence"] = f"{match.share:.0%} of frames"
            known = best.setdefault((one, other), row)
            known["held_out"] |= row["held_out"]
    return [best[key] for key in sorted(best)]


def note(store: Store, rows: list[dict]) -> None:
    """Add the rows of a store's own cases to its same_cases.parquet; store.json comes last."""
    own = set(map(str, store.videos["case"]))
    known = {(row["case"], row["same_as"]): row for row in store.same_cases()}
    known |= {
        (row["case"], row["same_as"]): row
        for row in rows
        if row["case"] in own and (row["case"], row["same_as"]) not in known
    }
    if not known:
        return
    tables.write_same_cases(store.path / SAME_CASES, [known[key] for key in sorted(known)])
    tables.register(store.path, SAME_CASES)
    print(f"{store.path}: {len(known)} other names of its cases are noted")


def _hash_video(store: Store, video: int, every_s: float) -> tuple[np.ndarray, np.ndarray]:
    count, fps = int(store.frames[video]), float(store.videos["stored_fps"][video])
    step = max(1.0, min(every_s * fps, count / USUAL_FRAMES))
    frames = np.arange(0, count, step).astype(np.int64)
    probes = frames[np.linspace(0, len(frames) - 1, min(PROBES, len(frames))).astype(np.int64)]
    rows, columns = _picture_box(_greys(store, video, probes))
    times, bits = [], []
    for t_ms, grey in zip(
        store.read_times(video, frames), _greys(store, video, frames), strict=True
    ):
        inside = grey[rows, columns]
        if inside.std() >= FLAT:
            times.append(t_ms)
            bits.append(hash_picture(inside))
    return np.array(times, np.int64), np.array(bits, np.uint64)


def _greys(store: Store, video: int, frames: np.ndarray) -> Iterator[np.ndarray]:
    if store.codec == "jpeg":  # without the work for colour
        for jpeg in store.stream(video, frames):
            yield simplejpeg.decode_jpeg(jpeg, "GRAY")[:, :, 0]
        return
    for picture in pictures(store, video, frames):
        yield cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def _picture_box(greys: Iterator[np.ndarray]) -> tuple[slice, slice]:
    """Rows and columns that are not always black; everything where little would be left."""
    brightest = None
    for grey in greys:
        brightest = grey if brightest is None else np.maximum(brightest, grey)
    bright = brightest > DARK
    # A few bright pixels, as of text, make no picture.
    rows, columns = (np.flatnonzero(bright.mean(axis) > 0.05) for axis in (1, 0))
    if len(rows) * len(columns) < 0.25 * bright.size:
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _alike(bits: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of frames of different videos whose hashes differ in few bits."""
    found = []
    for band in range(BANDS):
        word = (bits >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(word, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(word[order])) + 1):
            if 1 < len(group) <= COMMON:
                i, j = np.triu_indices(len(group), 1)
                a, b = group[i], group[j]
                near = (owner[a] != owner[b]) & (
                    np.bitwise_count(bits[a] ^ bits[b]) <= DIFFERENT_BITS
                )
                found.append(np.stack([a[near], b[near]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1) if found else np.empty((2, 0), int)
    return pairs[0], pairs[1]


def _best_shift(shift: np.ndarray) -> int:
    """The shift that most pairs vote for, its two neighbours' votes included."""
    low = int(shift.min()) - 1
    votes = np.convolve(np.bincount(shift - low, minlength=3), np.ones(3, int), "same")
    return int(votes.argmax()) + low


def _held_out(store: Store) -> set[str]:
    """Cases that are tested."""
    cases, held = store.videos["case"], set()
    for column in store.held_out_columns:
        held |= {
            str(case)
            for case, part in zip(cases, store.videos[column], strict=True)
            if part not in (None, "train", "val")
        }
    return held


def _salt(store: Store) -> str | None:
    """Which key the pseudonyms of a store were made with."""
    return store.meta["sources"][0].get("adapted", {}).get("pseudonyms")


def _name(store: Store, video: int) -> str:
    return f"{store.name}:{store.video_id(video)}"
