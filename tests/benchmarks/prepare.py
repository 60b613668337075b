"""Speed of `python -m data_prep shards` against decoding alone, as ratios in one run.

    python tests/benchmarks/prepare.py [--videos FILE ...] [--fps 1 native] [--repeats 5]

Both sides read the same file in this process with the same decoder threads, turn by turn; the
median counts. Without --videos a minute of moving texture at 854x480 is rendered. Goal: at --fps 1
at least 75 % of the speed of decoding alone.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_prep.__main__ import main as data_prep  # noqa: E402


def render(path: Path, seconds: int = 60) -> Path:
    """H.264 at 25 frames a second, 854x480: texture that moves and flickers like tissue."""
    rng = np.random.default_rng(0)
    texture = rng.normal(0, 1, (640, 1024, 3))
    spectrum = np.fft.fft2(texture, axes=(0, 1))
    radius = np.hypot(np.fft.fftfreq(640)[:, None], np.fft.fftfreq(1024)[None]) + 1e-3
    texture = np.fft.ifft2(spectrum / radius[..., None] ** 1.2, axes=(0, 1)).real
    texture = np.clip(120 + 50 * texture / texture.std(), 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"preset": "veryfast", "crf": "23"}
        )
        stream.width, stream.height, stream.pix_fmt = 854, 480, "yuv420p"
        for i in range(25 * seconds):
            y, x = 80 + int(70 * np.sin(i / 31)), 85 + int(80 * np.sin(i / 47))
            image = texture[y : y + 480, x : x + 854] + (rng.random((480, 854, 1)) * 6).astype(
                np.uint8
            )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode(path: Path, threads: int) -> float:
    start = time.perf_counter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        stream.codec_context.thread_type = "AUTO" if threads > 1 else "NONE"
        for _ in container.decode(stream):
            pass
    return time.perf_counter() - start


def prepare(path: Path, fps: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder, "videos")
        videos.mkdir()
        os.link(path, videos / path.name) if same_disk(path, videos) else copy(path, videos)
        arguments = ["shards", "--videos", str(videos), "--out", str(Path(folder, "store"))]
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            data_prep([*arguments, "--fps", fps, "--workers", "1"])
        return time.perf_counter() - start


def same_disk(path: Path, folder: Path) -> bool:
    return path.stat().st_dev == folder.stat().st_dev


def copy(path: Path, folder: Path) -> None:
    (folder / path.name).write_bytes(path.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", nargs="*", type=Path, default=[])
    parser.add_argument("--fps", nargs="*", default=["1", "native"])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        for path in args.videos or [render(Path(folder, "rendered_480p.mp4"))]:
            prepare(path, "1")  # the first call loads the libraries
            for fps in args.fps:
                alone, whole = [], []
                for _ in range(args.repeats):
                    alone.append(decode(path, threads))
                    whole.append(prepare(path, fps))
                alone, whole = statistics.median(alone), statistics.median(whole)
                print(
                    f"{path.name}: decode alone {alone:.2f} s, shards --fps {fps} {whole:.2f} s, "
                    f"speed {alone / whole:.0%} of decoding"
                )


if __name__ == "__main__":
    main()
