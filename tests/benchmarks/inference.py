"""Frame-wise inference: the network against PyTorch, and clips against decoding each by itself.

    python tests/benchmarks/inference.py [--size B --batch 4 --rounds 5] [--compile] [--alone]
    python tests/benchmarks/inference.py --clips [--stride 4] [--rounds 5]

The network: a VideoMAE classifier of random weights, from uint8 clips to probabilities, as
`surgjax.predict` computes it and as Hugging Face's class in PyTorch does, at equal batch and number
of threads; float32 on a CPU. Both must agree.

The clips (--clips): 16 frames at a stride, ending at every frame of a store of short side 320, from
`sliding_clips` and from a loop over `decode_clip`, which decodes every frame 16 times. Both use one
thread and must give equal bytes; the window is also timed on two.

Sides take turns within one process; medians count, and ratios are taken round by round. Seconds of
processor time are printed too: unlike wall time, other programs hardly change them.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np
from train_step import take_turns

from surgjax.models.video_vit import SIZES

CLASSES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="B", choices=list(SIZES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument("--attention", default="sdpa", help="of the class in PyTorch; or eager")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--clips", action="store_true", help="the clips, not the network")
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--frames", type=int, default=400, help="of the store, for --clips")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = clips(args, Path(folder)) if args.clips else networks(args, Path(folder))
        times = take_turns(sides, args.rounds)
    report(times, args)


def networks(args: argparse.Namespace, folder: Path) -> dict:
    """Sides that classify one batch."""
    import torch
    import transformers

    from surgjax.encoder import IMAGENET
    from surgjax.recogniser import open_recogniser

    transformers.utils.logging.disable_progress_bar()
    size = SIZES[args.size]
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        num_labels=CLASSES,
    )
    config._attn_implementation = args.attention
    theirs = transformers.VideoMAEForVideoClassification(config).eval()
    theirs.save_pretrained(folder)
    ours = open_recogniser(folder)
    shape = (args.batch, 16, 224, 224, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    sides = {"surgjax": lambda: ours.begin(video)()[0]}
    if args.alone:
        return sides
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    theirs = theirs.to(device)
    mean, std = (torch.tensor(x, device=device) for x in IMAGENET)

    def classify(model):
        with torch.inference_mode():
            pixels = (torch.from_numpy(video).to(device) / 255 - mean) / std
            return model(pixels.permute(0, 1, 4, 2, 3)).logits.softmax(-1).cpu().numpy()

    sides["torch"] = lambda: classify(theirs)
    if args.compile:
        compiled = torch.compile(theirs)
        sides["torch.compile"] = lambda: classify(compiled)
    np.testing.assert_allclose(sides["surgjax"](), sides["torch"](), atol=1e-3)
    return sides


def clips(args: argparse.Namespace, folder: Path) -> dict:
    """Sides that make the clips that end at every frame of a store."""
    from surgjax.data.clip import decode_clip
    from surgjax.data.plan import ROW, ClipShape
    from surgjax.data.sliding import sliding_clips
    from surgjax.data.store import open_store

    store, shape = open_store(made_store(folder, args.frames)), ClipShape(16, args.stride, 224)
    rows = np.zeros(int(store.frames[0]), ROW)
    rows["start"] = np.arange(len(rows)) - 15 * args.stride
    total = lambda made: sum(int(clip[0, 0, 0, 0]) for clip in made)  # noqa: E731
    sides = {
        "window": lambda: total(sliding_clips(store, rows, shape, workers=1)),
        "window, 2 threads": lambda: total(sliding_clips(store, rows, shape, workers=2)),
        "clip by clip": lambda: total(decode_clip(store, row, shape) for row in rows),
    }
    for row, clip in zip(rows[::17], list(sliding_clips(store, rows, shape))[::17], strict=True):
        np.testing.assert_array_equal(clip, decode_clip(store, row, shape))
    return sides


def made_store(folder: Path, frames: int) -> Path:
    """A store of one recording of moving texture, 854 x 480, as `data_prep shards` makes it."""
    import loader

    from data_prep.__main__ import main as prepare

    (folder / "videos").mkdir()
    loader.render(folder / "videos", 854, 480, frames / 25)
    command = ["shards", "--videos", str(folder / "videos"), "--out", str(folder / "store")]
    assert not prepare([*command, "--fps", "native", "--workers", "1"])
    return folder / "store"


def report(times: dict, args: argparse.Namespace) -> None:
    first = next(iter(times))
    print(f"{'':20} {'median s':>9} {'min s':>9} {'processor s':>12} {first + ' is':>18}")
    rows = {}
    for name, taken in times.items():
        pairs = list(zip(taken, times[first], strict=True))
        wall, processor = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        rows[name] = {
            "median_s": statistics.median(a for a, _ in taken),
            "min_s": min(a for a, _ in taken),
            "processor_s": statistics.median(b for _, b in taken),
            "ratio": wall,
            "ratio_processor": processor,
        }
        row = rows[name]
        print(
            f"{name:20} {row['median_s']:9.3f} {row['min_s']:9.3f} {row['processor_s']:12.3f} "
            f"{wall:11.2f}x faster ({processor:.2f}x by processor time)"
        )
    print(json.dumps({"setting": vars(args), "jax": jax.__version__, "results": rows}))


if __name__ == "__main__":
    main()
