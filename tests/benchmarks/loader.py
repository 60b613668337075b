"""Clips per core-second from a store, against what others read clips from.

    python tests/benchmarks/loader.py [--video FILE ...] [--rounds 9] [--json FILE]

A clip is 16 frames at stride 4, VideoMAE's multi-scale crop, 224 x 224. One process pinned to one
core; contestants take turns, round by round; the rate is clips per second of processor time (files
are in the page cache, so nothing waits), the median over rounds. Without --video, a 480p and a
1080p recording of moving texture are rendered.

    store          train_batches from a store of short side 320, JPEG quality 90
    store, copied  the same with a crop of the output's size, which needs no resize
    store, k = 16  the same with clips_per_window=16
    decode         simplejpeg.decode_jpeg of the same frames from memory, nothing else
    decode, fast   the same with the fast flags that the loader uses
    mp4            PyAV: open, seek, decode 64 frames of the recording, keep 16 (VideoMAE's loader)
    folder, cv2    torch DataLoader over a folder of the store's JPEGs, cv2, to normalised float
    folder, lean   the same, left as uint8
    folder, PIL    the same with Pillow and VideoMAE's transforms, to normalised float
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np
import simplejpeg
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from surgjax.data import loader, transforms
from surgjax.data.plan import ClipShape, Plan
from surgjax.data.store import open_store
from surgjax.data.transforms import MULTISCALE, Augmentation

CLIP = ClipShape(frames=16, stride=4, size=224)
SPAN = 61
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
GOALS = {
    ("store", "mp4", 480): 10,
    ("store", "mp4", 1080): 25,
    ("store", "folder, cv2", None): 1.5,
    ("store", "folder, PIL", None): 1.5,
    ("store", "decode", None): 0.93,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        videos = args.video or [render(root, 854, 480), render(root, 1920, 1080)]
        for video in videos:
            results[video.name] = measure(video, root / f"work-{video.stem}", args.rounds)
            show(video.name, results[video.name])
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(video: Path, work: Path, rounds: int) -> dict:
    prepare(video, work)
    contestants = {
        "store": Store(work, MULTISCALE),
        "store, copied": Store(work, MULTISCALE, crop=True),
        "store, k = 16": Store(work, MULTISCALE, clips_per_window=16),
        "decode": Decode(work),
        "decode, fast": Decode(work, fastdct=True, fastupsample=True),
        "mp4": Recording(video),
    }
    try:
        import torch  # noqa: F401
    except ImportError:
        print("torch is not installed: the folder is left out")
    else:
        contestants["folder, cv2"] = Folder(work, with_cv2)
        contestants["folder, lean"] = Folder(work, lean)
        contestants["folder, PIL"] = Folder(work, with_pillow)
    rates = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, contestant in contestants.items():
            clips, seconds = contestant.run(turn)
            if turn:  # the first round warms the caches
                rates[name].append(clips / seconds)
    ratios = {  # of the same round, so that a change of the machine's speed cancels
        name: statistics.median(s / r for s, r in zip(rates["store"], values, strict=True))
        for name, values in rates.items()
    }
    return {
        "height": contestants["mp4"].height,
        "clips_per_core_second": {n: round(statistics.median(v), 2) for n, v in rates.items()},
        "store_over": {n: round(r, 3) for n, r in ratios.items()},
    }


def show(name: str, result: dict) -> None:
    print(f"\n{name} ({result['height']} lines)\n{'':16} clips/s/core  store is")
    goals = {
        other: goal
        for (_, other, height), goal in GOALS.items()
        if height is None or abs(result["height"] - height) < height / 4
    }
    for other, rate in result["clips_per_core_second"].items():
        ratio = result["store_over"][other]
        goal = goals.get(other)
        verdict = f"  goal {goal}: {'met' if ratio >= goal else 'MISSED'}" if goal else ""
        print(f"{other:16} {rate:12.1f} {ratio:9.2f} x{verdict}")
    bare = result["store_over"]["decode, fast"] / result["store_over"]["store, copied"]
    print(f"without the resize, the store reaches {bare:.2f} of the same decoding from memory")


def render(root: Path, width: int, height: int, seconds: float = 16) -> Path:
    """Texture that drifts and turns, with noise as a camera has."""
    path = root / f"rendered_{height}p.mp4"
    rng = np.random.default_rng(0)
    large = np.zeros((2 * height, 2 * width, 3), np.float32)
    for scale in (8, 32, 128):
        shape = (2 * height // scale + 2, 2 * width // scale + 2, 3)
        noise = rng.normal(size=shape).astype(np.float32)
        large += cv2.resize(noise, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC) * scale
    large = np.clip(120 + large * 0.6, 0, 255).astype(np.uint8)
    grain = rng.integers(0, 7, (4, height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n in range(int(seconds * 25)):
            turn = cv2.getRotationMatrix2D((width, height), 8 * np.sin(n / 40), 1)
            turn[:, 2] -= (width / 2 + 60 * np.sin(n / 25), height / 2 + 40 * np.cos(n / 30))
            picture = cv2.add(cv2.warpAffine(large, turn, (width, height)), grain[n % 4])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def prepare(video: Path, work: Path) -> None:
    """The store of one recording, and its JPEGs as files."""
    from data_prep.__main__ import main as data_prep

    (work / "videos").mkdir(parents=True)
    (work / "videos" / video.name).write_bytes(video.read_bytes())
    arguments = ["--videos", str(work / "videos"), "--out", str(work / "store"), "--workers", "1"]
    if data_prep(["shards", *arguments, "--fps", "native"]):
        raise SystemExit(f"{video} could not be prepared")
    store = open_store(work / "store")
    (work / "frames").mkdir()
    for n, jpeg in enumerate(store.read(0, range(store.frames[0]))):
        (work / "frames" / f"{n:06d}.jpg").write_bytes(jpeg)


def make_plan(work: Path, batch_size: int = 4, **options) -> Plan:
    stores = [open_store(work / "store")]
    return Plan(stores, [np.ones(1, bool)], CLIP, batch_size, seed=0, **options)


class Store:
    def __init__(self, work: Path, augment: Augmentation, crop: bool = False, **options):
        self.plan, self.augment, self.crop = make_plan(work, **options), augment, crop
        self.steps = max(8, self.plan.clips_per_window)

    def run(self, turn: int) -> tuple[int, float]:
        original = transforms.SCALES
        store = self.plan.stores[0]
        if self.crop:
            short = min(store.videos["height"][0], store.videos["width"][0])
            transforms.SCALES = ((CLIP.size + 0.5) / short,) * 4
        start = time.process_time()
        options = {"start_step": turn * self.steps, "stop_step": (turn + 1) * self.steps}
        try:
            with loader.train_batches(
                self.plan, self.plan.stores, clip=CLIP, augment=self.augment, **options
            ) as source:
                clips = sum(stats["clips"] for _, stats in source)
            return clips, time.process_time() - start
        finally:
            transforms.SCALES = original


class Decode:
    def __init__(self, work: Path, **flags):
        self.plan, self.flags = make_plan(work, batch_size=8), flags

    def run(self, turn: int) -> tuple[int, float]:
        rows = self.plan.rows(turn)
        jpegs = [
            self.plan.stores[0].read(0, row["start"] + 4 * np.arange(CLIP.frames)) for row in rows
        ]
        start = time.process_time()
        for clip in jpegs:
            for jpeg in clip:
                simplejpeg.decode_jpeg(jpeg, **self.flags)
        return len(rows), time.process_time() - start


class Recording:
    def __init__(self, video: Path):
        self.video, self.rng = str(video), np.random.default_rng(0)
        with av.open(self.video) as container:
            self.height = container.streams.video[0].height

    def run(self, turn: int, clips: int = 2) -> tuple[int, float]:
        begin = time.process_time()
        for _ in range(clips):
            with av.open(self.video) as container:
                stream = container.streams.video[0]
                stream.thread_count, stream.thread_type = 1, "NONE"
                total = stream.frames or int(stream.duration * stream.time_base * 25)
                start = int(self.rng.integers(total - SPAN))
                self.read(container, stream, start)
        return clips, time.process_time() - begin

    def read(self, container, stream, start: int) -> np.ndarray:
        seconds = 1 / float(stream.average_rate)
        container.seek(int(start * seconds / stream.time_base), stream=stream)
        frames, wanted = [], {start + CLIP.stride * t for t in range(CLIP.frames)}
        for frame in container.decode(stream):
            number = round(frame.time / seconds)
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number >= start + SPAN - 1:
                break
        return cropped(frames, self.rng)


def cropped(frames: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    box = transforms.multi_scale_crop(*frames[0].shape[:2], CLIP.size, rng)
    out = np.empty((len(frames), CLIP.size, CLIP.size, 3), np.uint8)
    for frame, place in zip(frames, out, strict=True):
        transforms.resize(frame, box, place)
    return out


def lean(files: list[Path], rng: np.random.Generator) -> np.ndarray:
    return cropped([cv2.cvtColor(cv2.imread(str(f)), cv2.COLOR_BGR2RGB) for f in files], rng)


def with_cv2(files: list[Path], rng: np.random.Generator):
    import torch

    video = torch.from_numpy(lean(files, rng)).permute(3, 0, 1, 2).float().div_(255)
    mean, std = torch.from_numpy(MEAN), torch.from_numpy(STD)
    return video.sub_(mean[:, None, None, None]).div_(std[:, None, None, None])


def with_pillow(files: list[Path], rng: np.random.Generator):
    import torch

    images = [Image.open(f).convert("RGB") for f in files]
    width, height = images[0].size
    box = transforms.multi_scale_crop(height, width, CLIP.size, rng)
    area = (box.x, box.y, box.x + box.width, box.y + box.height)
    size = (CLIP.size, CLIP.size)
    images = [im.crop(area).resize(size, Image.Resampling.BILINEAR) for im in images]
    video = torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2).float().div_(255)
    mean, std = torch.from_numpy(MEAN), torch.from_numpy(STD)
    return video.sub_(mean[:, None, None, None]).div_(std[:, None, None, None])


class Folder:
    def __init__(self, work: Path, read):
        import torch

        torch.set_num_threads(1)
        self.files, self.read = sorted((work / "frames").iterdir()), read

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        start = int(self.rng.integers(len(self.files) - SPAN))
        files = self.files[start : start + SPAN : CLIP.stride]
        return self.read(files, self.rng)

    def run(self, turn: int) -> tuple[int, float]:
        from torch.utils.data import DataLoader

        self.rng = np.random.default_rng(turn)
        start = time.process_time()
        clips = sum(len(batch) for batch in DataLoader(self, batch_size=4))
        return clips, time.process_time() - start


if __name__ == "__main__":
    main()
