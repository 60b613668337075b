"""A metric of chosen videos is that of a file with these alone; over seeds, what a plain loop
says."""

import numpy as np
import pytest

from surgjax.benchmark import measures, predictions, score, statistics

PHASES = [f"phase{i}" for i in range(7)]
TRIPLETS = [f"{i},{v},{t}" for i in ("hook", "clipper") for v in ("cut", "null_verb") for t in "ab"]
VALUES = ("probabilities", "target")
CASES = {
    ("phase", "strict"): PHASES,
    ("phase", "relaxed_10s"): PHASES,
    ("phase", "relaxed_10s_tmrnet"): PHASES,
    ("clip", "acc1"): PHASES,
    ("clip", "acc1_views"): PHASES,
    ("skill", "class"): PHASES,
    ("skill", "spearman"): PHASES,
    ("cvs", "surgvista_total"): [str(i) for i in range(7)],
    ("cvs", "criteria_map"): ["C1", "C2", "C3"],
    ("tool", "frame_map"): PHASES,
    ("triplet", "video_ap"): TRIPLETS,
    ("triplet", "global_ap"): TRIPLETS,
    ("box", "miou"): PHASES,
}


def made(path, classes, *, several=False, seed=0, videos=6, frames=24):
    """Predictions of everything that any task needs."""
    truth, rng = np.random.default_rng(0), np.random.default_rng(seed)
    n = videos * frames
    corners = truth.random((n, 2))
    boxes = np.concatenate([corners, corners + 0.5], axis=1)
    columns = {
        "video_id": np.repeat([f"v{i}" for i in range(videos)], frames),
        "t_ms": np.tile(np.arange(frames) * 1000, videos),
        "clip_id": np.tile(np.arange(frames) // 2, videos).astype(str),
        "value": rng.random(n),
        "target_value": truth.random(n),
    }
    if several:
        target = (truth.random((n, len(classes))) < 0.3).astype(np.float32)
        scores = (0.3 * target + rng.random(target.shape)).astype(np.float32)
    else:
        target = np.repeat(truth.integers(0, len(classes), n // 2), 2)
        scores = rng.dirichlet(np.ones(len(classes)), n) + 0.3 * np.eye(len(classes))[target]
        scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    predictions.write(path, columns, scores, target, classes)
    table = predictions.read(path)
    table.columns.update(boxes=boxes + 0.1 * rng.random((n, 4)), target_boxes=boxes)
    return table


@pytest.mark.parametrize("task, protocol", CASES)
def test_all_metrics_of_score_with_their_intervals(tmp_path, monkeypatch, task, protocol):
    several = task in ("tool", "triplet") or protocol == "criteria_map"
    table = made(tmp_path / "p.parquet", CASES[task, protocol], several=several)
    monkeypatch.setattr(score.predictions, "read", lambda *_: table)
    monkeypatch.setattr(score, "RESAMPLES", 40)
    said = score.score(tmp_path / "p.parquet", task, protocol, dataset="cholec80")["metrics"]
    assert said
    assert list(said) == list(measures.every_measure(table, task, protocol, dataset="cholec80"))
    for metric, found in said.items():
        measured = measures.measure(table, task, protocol, metric, dataset="cholec80")
        assert measured.of_all() == pytest.approx(found["value"], nan_ok=True), metric
        interval = measures.over_seeds([measured], resamples=40)
        assert [interval.low, interval.high] == pytest.approx(found["ci95"]), metric


@pytest.mark.parametrize("task, protocol", CASES)
def test_chosen_videos_are_a_file_with_these_alone(tmp_path, task, protocol):
    several = task in ("tool", "triplet") or protocol == "criteria_map"
    table = made(tmp_path / "p.parquet", CASES[task, protocol], several=several)
    chosen, copies = np.array([4, 0, 0, 2]), []
    for copy, video in enumerate(chosen):
        part = table.where(table["video_id"] == f"v{video}")
        part.columns["video_id"] = np.full(len(part), f"copy{copy}")
        copies.append(part)
    columns = {name: np.concatenate([part[name] for part in copies]) for name in table.columns}
    values = [np.concatenate([getattr(part, name) for part in copies]) for name in VALUES]
    alone = predictions.Predictions(table.classes, *values, columns)
    own = measures.every_measure(alone, task, protocol, dataset="cholec80")
    for metric, one in measures.every_measure(table, task, protocol, dataset="cholec80").items():
        assert one.value(chosen) == pytest.approx(own[metric].of_all(), nan_ok=True), metric
        singles = [own[metric].value(np.array([i])) for i in range(4)]
        if metric == "spearman":
            singles = [np.nan] * 4  # one case has no correlation
        assert one.by_video()[chosen] == pytest.approx(singles, nan_ok=True), metric


def test_over_seeds_is_the_mean_and_draws_videos_and_seeds(tmp_path):
    tables = [made(tmp_path / f"{s}.parquet", PHASES, seed=s) for s in range(3)]
    seeds = [measures.measure(table, "phase", "strict", "image_accuracy") for table in tables]
    found = measures.over_seeds(seeds, resamples=500)
    right = np.stack([table.pred == table.target for table in tables])
    assert found.value == pytest.approx(right.mean()) and found.seeds == 3 and found.videos == 6
    # As all videos are of one length, the accuracy is the mean of a value a seed and video.
    units = right.reshape(3, 6, -1).mean(-1)
    peer = statistics.bootstrap_mean(units, resamples=500)
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high))
    gain = measures.over_seeds(seeds[:2], minus=seeds[2:], resamples=500)
    peer = statistics.paired_difference(units[:2], units[2:], resamples=500)
    assert (gain.value, gain.low, gain.high) == pytest.approx((peer.value, peer.low, peer.high))


def test_a_class_that_is_left_out_and_what_is_refused(tmp_path):
    table = made(tmp_path / "p.parquet", [str(i) for i in range(7)])
    kept = table.where(table.target != 6)
    found = measures.measure(table, "cvs", "surgvista_total", "image_accuracy").of_all()
    assert found == pytest.approx(np.mean(kept.pred == kept.target))
    with pytest.raises(ValueError, match="no metric 'jaccard' of clip, acc1"):
        measures.measure(table, "clip", "acc1", "jaccard")
    other = made(tmp_path / "q.parquet", PHASES, videos=5)
    pair = [measures.measure(t, "phase", "strict", "f1") for t in (table, other)]
    with pytest.raises(ValueError, match="different videos"):
        measures.over_seeds(pair)
