"""Finished jobs as `run` leaves them, from predictions made up here."""

import json

import numpy as np

from surgjax.benchmark import comparison, jobs, predictions, results, run, suites
from surgjax.benchmark.weights import Weights
from surgjax.data.store import open_store

CLASSES = ["p0", "p1", "p2"]


def made(videos, frames, seed, right, first=0):
    """(columns, probabilities, target): `right` is how much the true class is favoured."""
    rng = np.random.default_rng((seed, first))
    truth = np.random.default_rng(first)
    n = videos * frames
    names = [f"v{first + i}" for i in range(videos)]
    columns = {
        "video_id": np.repeat(names, frames),
        "case": np.repeat([f"synthetic/{name}" for name in names], frames),
        "t_ms": np.tile(np.arange(frames) * 1000, videos),
        "model": np.full(n, "pretrained"),
    }
    target = truth.integers(0, len(CLASSES), n)
    scores = rng.dirichlet(np.ones(len(CLASSES)), n) + right * np.eye(len(CLASSES))[target]
    return columns, (scores / scores.sum(1, keepdims=True)).astype(np.float32), target


def finished(store, out, model, *, right, seed=0, videos=8, frames=30, saw_test="no", first=0):
    """A job of the suite synthetic; its folder."""
    entry = suites.load("synthetic").entry("synthetic_phase")
    job = jobs.Planned(
        *("synthetic", "strict", model, Weights(out, "0" * 64), entry, "finetune", seed),
        *(open_store(store), out),
    )
    made_at = job.folder / results.WORK / "eval" / job.evaluation
    made_at.mkdir(parents=True)
    file = made_at / results.PREDICTIONS
    predictions.write(file, *made(videos, frames, seed, right, first), CLASSES, saw_test)
    told = {"evaluation": job.evaluation, "encoder": {"licence": "MIT", "pretrained_on": ["x"]}}
    (made_at / "metrics.json").write_text(json.dumps(told | comparison.compare(file)))
    run.collect(job, allow_seen=True)
    return job.folder
