"""Bytes a frame and milliseconds a clip of the ways a store can hold the same frames.

    python tests/benchmarks/codecs.py VIDEO ... [--short-side 320] [--clips 40] [--rounds 7]

A clip is 16 frames at stride 4 and its centre of 224 x 224 pixels, read from a store of every frame
(files are in the page cache). One process pinned to one core; contestants take turns, round by
round; times are of the processor, medians over rounds, ratios of the same round against `jpeg`.

    jpeg, n          quality 90, n frames in a record
    x264, crf        blocks of 128 frames; clips begin at reference frames, as the plan chooses them
    x264, crf, any   the same store, clips that begin at any frame
    mp4              PyAV: open the recording, seek, decode 64 frames, keep 16

PSNR is against the frames as they were before encoding, by their mean squared error.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_prep.__main__ import main as prepare
from data_prep.encoding import decibels, squared_error
from data_prep.video import Seen, kept_frames
from surgjax.data.clip import decode_clip
from surgjax.data.decode import pictures
from surgjax.data.plan import ROW, ClipShape
from surgjax.data.store import Store, open_store

CLIP = ClipShape(frames=16, stride=4, size=224)
SPAN = 61
STORES = {
    "jpeg, 1": ["--frames-per-record", "1"],
    "jpeg, 16": ["--frames-per-record", "16"],
    "jpeg, 64": ["--frames-per-record", "64"],
    "x264, 20": ["--codec", "x264", "--crf", "20"],
    "x264, 23": ["--codec", "x264", "--crf", "23"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    parser.add_argument("--short-side", type=int, default=320)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for video in args.videos:
        with tempfile.TemporaryDirectory() as folder:
            measure(video, Path(folder), args)


def measure(video: Path, work: Path, args: argparse.Namespace) -> None:
    (work / "videos").mkdir()
    shutil.copyfile(video, work / "videos" / video.name)
    made = kept_frames(video, fps=None, short_side=args.short_side, seen=Seen(), even=True)
    source = [frame.image for frame in made]
    print(f"\n{video.name}: {len(source)} frames of {source[0].shape[1]} x {source[0].shape[0]}")
    stores, encoding = {}, {}
    for name, options in STORES.items():
        out = work / name.replace(", ", "-")
        common = ["--videos", str(work / "videos"), "--out", str(out), "--fps", "native"]
        start = time.process_time()
        with open(os.devnull, "w") as quiet:
            sys.stdout, stdout = quiet, sys.stdout
            try:
                size = ["--short-side", str(args.short_side), "--workers", "1"]
                prepare(["shards", *common, *size, *options])
            finally:
                sys.stdout = stdout
        encoding[name] = 1000 * (time.process_time() - start) / len(source)
        stores[name] = open_store(out)
    contestants = {name: (store, False) for name, store in stores.items()}
    contestants |= {f"{n}, any": (s, True) for n, s in stores.items() if s.codec == "x264"}
    rng = np.random.default_rng(0)
    starts = rng.integers(0, (len(source) - SPAN) // 4, args.clips) * 4
    times: dict[str, list[float]] = {name: [] for name in [*contestants, "mp4"]}
    for turn in range(args.rounds + 1):
        for name in times:
            begin = time.process_time()
            for start in starts:
                if name == "mp4":
                    read_recording(video, int(start))
                else:
                    store, anywhere = contestants[name]
                    read_clip(store, int(start) + (1 + start // 4 % 3 if anywhere else 0))
            if turn:  # the first round warms the caches
                times[name].append(1000 * (time.process_time() - begin) / len(starts))
    print(f"{'':15} bytes/frame    PSNR  ms/clip   of jpeg  ms/frame to prepare")
    for name, values in times.items():
        ratio = statistics.median(v / j for v, j in zip(values, times["jpeg, 1"], strict=True))
        row = f"{name:15} {'':11} {'':7}"
        if name in stores:
            store = stores[name]
            size = sum(shard["bytes"] for shard in store.meta["shards"]) / len(source)
            row = f"{name:15} {size:11,.0f} {psnr(store, source):7.1f}"
        last = f" {encoding[name]:10.1f}" if name in encoding else ""
        print(f"{row} {statistics.median(values):8.1f} {ratio:9.2f}{last}")


def read_clip(store: Store, start: int) -> np.ndarray:
    row = np.zeros((), ROW)
    row["start"] = start
    return decode_clip(store, row, CLIP)


def read_recording(path: Path, start: int) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        seconds = start / float(stream.average_rate)
        container.seek(int(seconds / stream.time_base), stream=stream)
        frames = []
        for frame in container.decode(stream):
            number = round(float(frame.pts * stream.time_base) * float(stream.average_rate))
            if number >= start and (number - start) % CLIP.stride == 0:
                frames.append(frame.to_ndarray(width=398, height=224, format="rgb24"))
            if len(frames) == CLIP.frames:
                break
    return np.stack(frames)


def psnr(store: Store, source: list[np.ndarray]) -> float:
    made = pictures(store, 0, range(len(source)))
    height, width = int(store.videos["height"][0]), int(store.videos["width"][0])
    pairs = zip(made, source, strict=True)
    return decibels(float(np.mean([squared_error(a, b[:height, :width]) for a, b in pairs])))


if __name__ == "__main__":
    main()
