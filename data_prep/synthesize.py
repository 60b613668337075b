"""Renders the embedded corpus: labelled operations, no patient data, in the Cholec80 layout.

    OUT/videos/videoNN.mp4                      H.264, 25 frames a second
    OUT/phase_annotations/videoNN-phase.txt     Frame, Phase: one row a frame
    OUT/tool_annotations/videoNN-tool.txt       Frame, Grasper, Hook, Clipper: every 25th frame
    OUT/splits.csv                              video, split (train, val, test), hospital
    OUT/captions.csv                            sentences on operations, phases and actions
    OUT/synthesis.json                          the settings that rendered it

Equal settings give equal bytes. A video is written after its label files and appears whole, so a
second run of the same command renders only what is missing.
"""

import argparse
import csv
import io
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np

from data_prep import captions, narration
from data_prep.operation import HOSPITALS, INSTRUMENTS, PHASES, plan_operation
from surgjax.errors import UserError
from surgjax.files import whole, write_whole

RATE = 25  # frames a second, as Cholec80


def splits(videos: int) -> list[str]:
    """Split of each video: about half train, a sixth val, a third test, hospitals alternating.

    From six videos on every split has an even number, so that both hospitals are in each.
    """
    if videos < 6:
        return [["train", "test", "val"][min(i, 3) % 3] for i in range(videos)]
    val, test = max(2, 2 * round(videos / 12)), max(2, 2 * round(videos / 6))
    return ["train"] * (videos - val - test) + ["val"] * val + ["test"] * test


def _encode(path: Path, images, size: tuple[int, int]) -> None:
    import av
    import cv2

    with whole(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, RATE)
        # More threads change the bytes; one thread a video is also the fastest use of the cores.
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "superfast", "crf": "23", "x264-params": "threads=1"}
        for index, image in enumerate(images):
            # OpenCV's conversion is twenty times as fast as the encoder's own
            planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _operation(number: int, frames: int, seed: int, size: tuple[int, int]):
    """(generator, plan) of operation `number`; the generator goes on to draw its pictures."""
    rng = np.random.default_rng([seed, number])
    hospital = HOSPITALS[(number - 1) % 2]
    return rng, plan_operation(rng, frames, RATE, hospital, size[0] / size[1])


def _write_captions(out: Path, videos: int, frames: int, seed: int, size: tuple[int, int]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, narration.COLUMNS, lineterminator="\n")
    table.writeheader()
    for number in range(1, videos + 1):
        _, plan = _operation(number, frames, seed, size)
        rng = np.random.default_rng([seed, number, 1])  # apart from that of the pictures
        table.writerows(narration.captions(f"video{number:02d}", plan, RATE, rng))
    write_whole(out / captions.FILE, text.getvalue())


def _render(out: str, number: int, frames: int, seed: int, size: tuple[int, int]) -> str:
    """Renders operation `number` (from 1) and its labels; returns its name."""
    import cv2

    from data_prep.rendering import frames as draw

    cv2.setNumThreads(1)
    root, name = Path(out), f"video{number:02d}"
    video = root / "videos" / f"{name}.mp4"
    if video.exists():
        return name
    rng, plan = _operation(number, frames, seed, size)
    rows = [f"{i}\t{PHASES[p]}" for i, p in enumerate(plan.phase)]
    write_whole(
        root / "phase_annotations" / f"{name}-phase.txt", "\n".join(["Frame\tPhase", *rows, ""])
    )
    seen = np.stack([tool.visible for tool in plan.tools], 1).astype(int)
    rows = ["\t".join(map(str, [i, *seen[i]])) for i in range(0, frames, 25)]
    header = "\t".join(["Frame", *INSTRUMENTS])
    write_whole(root / "tool_annotations" / f"{name}-tool.txt", "\n".join([header, *rows, ""]))
    _encode(video, draw(rng, plan, size), size)
    return name


def _settle(out: Path, settings: dict) -> None:
    """Makes the folder, or checks that what is there was rendered with the same settings."""
    record = out / "synthesis.json"
    if record.exists():
        try:
            found = json.loads(record.read_text())
        except ValueError:
            found = {}
        if found != settings:
            odd = [k for k in settings if found.get(k) != settings[k]] or ["settings"]
            raise UserError(
                f"{out} holds a corpus with other {', '.join(odd)} (found "
                f"{', '.join(str(found.get(k)) for k in odd)}, asked for "
                f"{', '.join(str(settings.get(k)) for k in odd)}); give another --out"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} exists and is no rendered corpus; expected an empty or new folder, "
            f"give another --out"
        )
    for folder in ("videos", "phase_annotations", "tool_annotations"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_whole(record, json.dumps(settings, indent=1, sort_keys=True) + "\n")


def synthesize(
    out: str | os.PathLike,
    videos: int = 12,
    seconds: float = 40,
    seed: int = 0,
    size: tuple[int, int] = (320, 192),
    workers: int | None = None,
) -> Path:
    """Renders the corpus into `out` and returns that folder.

    Args:
      videos: how many operations.
      seconds: length of each, at 25 frames a second.
      seed: equal seeds (and settings) give equal bytes.
      size: width and height in pixels, even.
      workers: processes; None is one a core, 1 renders in this process.

    Raises UserError when `out` holds something else or a number is out of range.
    """
    out = Path(out)
    frames = round(seconds * RATE)
    if not 1 <= videos <= 999:
        raise UserError(f"--videos is {videos}; expected 1 to 999")
    if frames < 4 * RATE:
        raise UserError(f"--seconds is {seconds:g}; expected at least 4, one for each phase")
    if seed < 0:
        raise UserError(f"--seed is {seed}; expected 0 or more")
    if min(size) < 64 or size[0] % 2 or size[1] % 2:
        raise UserError(f"size is {size[0]}x{size[1]}; expected even numbers from 64 on")
    settings = {
        "version": 2,
        "videos": videos,
        "frames": frames,
        "seed": seed,
        "width": size[0],
        "height": size[1],
    }
    _settle(out, settings)
    rows = [
        f"video{i + 1:02d},{split},{HOSPITALS[i % 2]}" for i, split in enumerate(splits(videos))
    ]
    write_whole(out / "splits.csv", "\n".join(["video,split,hospital", *rows, ""]))

    _write_captions(out, videos, frames, seed, size)

    workers = min(videos, workers or os.cpu_count() or 1)
    todo = [(str(out), number, frames, seed, tuple(size)) for number in range(1, videos + 1)]
    from tqdm import tqdm

    with tqdm(total=videos, unit="video", desc="render", disable=None) as bar:
        if workers == 1:
            for job in todo:
                _render(*job)
                bar.update()
        else:
            # spawn: the caller may hold threads (jax, video readers) that a fork would break
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                for job in [pool.submit(_render, *job) for job in todo]:
                    job.result()
                    bar.update()
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="folder to write, new or empty")
    parser.add_argument("--videos", type=int, default=12, help="number of operations")
    parser.add_argument("--seconds", type=float, default=40, help="length of each")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal files")
    parser.add_argument("--workers", type=int, default=None, help="processes; one a core")


def main(args: argparse.Namespace) -> int:
    out = synthesize(args.out, args.videos, args.seconds, seed=args.seed, workers=args.workers)
    folder = out / "videos"
    size = sum(path.stat().st_size for path in folder.glob("*.mp4"))
    print(
        f"{args.videos} videos of {args.seconds:g} s, {size / 1e6:.1f} MB, in {out} "
        f"(next: python -m data_prep shards --dataset synthetic --root {out} --out STORE "
        f"--fps native)"
    )
    return 0
