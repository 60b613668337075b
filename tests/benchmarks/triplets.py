"""Speed of surgjax.benchmark.triplets against scikit-learn called as ivtmetrics calls it.

    python tests/benchmarks/triplets.py [--frames 10000] [--videos 5] [--repeats 3]

Both compute the video and the global AP of the six components from labels and scores of 100
triplets. The peer takes components frame by frame and scikit-learn's average_precision_score; "AP
only" leaves the taking apart out on both sides. They run turn by turn in this process, the median
counts, and results must agree. Goal: 10x. Where ivtmetrics is installed it runs too, once, with
scikit-learn below 1.6: its release 0.1.5 counts absent classes as 0 with later ones.
"""

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_prep.sources.cholect50 import CLASSES  # noqa: E402
from surgjax.benchmark import triplets  # noqa: E402
from surgjax.benchmark.metrics import average_precision  # noqa: E402

WORDS = triplets.vocabulary(CLASSES["triplet"])


def frames_of(count: int, videos: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels that fall off from 20 % of the frames to 0.01 %, scores that know a little."""
    rng = np.random.default_rng(0)
    label = (rng.random((count, 100)) < 0.2 * 0.93 ** np.arange(100)).astype(np.int64)
    score = rng.random((count, 100), np.float32) + np.float32(0.3) * label.astype(np.float32)
    return label, score, np.sort(rng.integers(0, videos, count)).astype(str)


def ours(label, score, video) -> dict[str, float]:
    _, by_video = triplets.video_average_precision(label, score, video, WORDS)
    over = {component: triplets.over_videos(ap) for component, ap in by_video.items()}
    everything = triplets.global_average_precision(label, score, WORDS)
    return _named(
        triplets.mean_average_precision(over, WORDS),
        triplets.mean_average_precision(everything, WORDS),
    )


def peer(label, score, video) -> dict[str, float]:
    video_wise, everything = {}, {}
    for component in triplets.PARTS:
        truth, guess = _by_frame(label, component), _by_frame(score, component)
        each = [_scikit_learn(truth[video == v], guess[video == v]) for v in np.unique(video)]
        video_wise[f"ap_{component}"] = _mean(_mean(np.array(each), 0), 0)
        everything[f"ap_{component}"] = _mean(_scikit_learn(truth, guess), 0)
    return _named(video_wise, everything)


def ap_only_ours(label, score, video):
    average_precision(label, score)
    for v in np.unique(video):
        average_precision(label[video == v], score[video == v])


def ap_only_peer(label, score, video):
    _scikit_learn(label, score)
    for v in np.unique(video):
        _scikit_learn(label[video == v], score[video == v])


def ivtmetrics(label, score, video) -> dict[str, float]:
    import ivtmetrics

    meter = ivtmetrics.Recognition(num_class=100)
    for v in np.unique(video):
        meter.update(label[video == v], score[video == v])
        meter.video_end()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # absent classes
        return _named(
            {f"ap_{c}": meter.compute_video_AP(c)["mAP"] for c in triplets.PARTS},
            {f"ap_{c}": meter.compute_global_AP(c)["mAP"] for c in triplets.PARTS},
        )


def _by_frame(values: np.ndarray, component: str) -> np.ndarray:
    if component == "ivt":
        return values
    of = WORDS.of_triplet[component]
    members = [np.flatnonzero(of == k) for k in range(of.max() + 1)]
    return np.array([[np.max(row[columns]) for columns in members] for row in values])


def _scikit_learn(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # absent classes, which are taken out here
        ap = average_precision_score(truth, guess, average=None)
    return np.where(truth.any(0), ap, np.nan)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes of no video
        return np.nanmean(values, axis=axis)


def _named(video_wise: dict, everything: dict) -> dict[str, float]:
    kinds = (("video", video_wise), ("global", everything))
    return {f"{kind} {name}": float(v) for kind, of in kinds for name, v in of.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--videos", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    data = frames_of(args.frames, args.videos)
    pairs = {"whole": (ours, peer), "AP only": (ap_only_ours, ap_only_peer)}
    expected = ours(*data)
    print(f"{args.frames} frames, {args.videos} videos, median of {args.repeats}")
    for what, runs in pairs.items():
        seconds = [[], []]
        for _ in range(args.repeats):
            for run, taken in zip(runs, seconds, strict=True):
                began = time.perf_counter()
                found = run(*data)
                taken.append(time.perf_counter() - began)
                if found is not None:
                    np.testing.assert_allclose(list(found.values()), list(expected.values()))
        mine, theirs = map(statistics.median, seconds)
        print(f"  {what}: {mine:.4f} s, scikit-learn {theirs:.3f} s, {theirs / mine:.0f}x")
    if importlib.util.find_spec("ivtmetrics"):
        began = time.perf_counter()
        found = ivtmetrics(*data)
        taken = time.perf_counter() - began
        apart = max(abs(found[name] - expected[name]) for name in expected)
        print(f"  ivtmetrics: {taken:.1f} s, largest difference of a mean {apart:.1e}")


if __name__ == "__main__":
    main()
