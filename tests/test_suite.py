"""A suite from `run` to `stats` in processes, stopped on the way."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import users_environment

from surgjax.benchmark import results, vectors
from surgjax.data.store import open_store

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--config.data.size=32", "--config.data.frames=4", "--config.batch_size=8"]
# A clip a tenth of a second and small batches: long enough to be stopped in the middle.
SLOWLY = [
    f"--config.evals.{name}.{field}"
    for name in ("linear_probe", "knn")
    for field in ("every_s=0.1", "batch_size=2")
]


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        env=users_environment(XLA_FLAGS="--xla_backend_optimization_level=0"),  # compiles sooner
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done(process, code=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def benchmark(*words, code=0):
    return done(start("surgjax.benchmark", *words), code)


def suite(store, model, out, *more):
    return [
        *("surgjax.benchmark", "run", "--suite", "synthetic", "--stores", store, "--model", model),
        *("--out", out, "--protocol", "linear_probe,knn", "--only", "synthetic_phase", *more),
    ]


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A masked autoencoder after four steps."""
    run = tmp_path_factory.mktemp("suite") / "mae"
    train = ["surgjax.main", "--config=configs/surgrec_mae.py:demo", f"--workdir={run}"]
    more = ["--config.total_steps=4", "--config.checkpoint.every=2", "--config.log.every=1"]
    done(start(*train, f"--config.data.stores={store}", *TINY, *more))
    return run


@pytest.fixture(scope="module")
def elsewhere(store, tmp_path_factory):
    """A model whose vectors alone are here, and tell the phase."""
    opened, rng = open_store(store), np.random.default_rng(0)
    labels = opened.labels("phase")
    values = rng.standard_normal((len(labels["t_ms"]), 8)).astype(np.float32)
    values[np.arange(len(values)), labels["label"]] += 3
    file = tmp_path_factory.mktemp("elsewhere") / "elsewhere.parquet"
    names = opened.videos["video_id"][labels["video"]]
    vectors.write(file, names, labels["t_ms"], values, {"used_cases": []})
    return file


def test_a_suite_is_run_stopped_continued_tabled_verified_and_compared(
    store, run, elsewhere, tmp_path
):
    out = tmp_path / "results"
    command = suite(store, run, out, *SLOWLY)
    process = start(*command)
    while not list(out.glob("mae/kept/*.npy")):  # the first videos' features
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = done(process, 75)
    assert "stopped in synthetic_phase linear_probe seed 0; the same command goes on" in output
    kept = {file: file.stat().st_mtime_ns for file in out.glob("mae/kept/*.npy")}
    assert kept and not list(out.glob("**/job.json"))

    process = start(*command)
    log = out / "mae/synthetic_phase/phase/knn/seed0" / results.WORK / "log.txt"
    while not log.is_file():  # while the second job runs
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    assert kept.items() <= {f: f.stat().st_mtime_ns for f in out.glob("mae/kept/*.npy")}.items()
    assert "2 of 2 jobs are finished" in done(process)
    assert not list(out.glob("mae/kept/*")) and "finished" in done(start(*command))

    unbroken = tmp_path / "unbroken"
    done(start(*suite(store, run, unbroken, *SLOWLY, "--protocol", "linear_probe")))
    (whole,) = unbroken.glob("*/*/*/*/*/predictions.parquet")
    assert whole.read_bytes() == (out / whole.relative_to(unbroken)).read_bytes()

    done(start(*suite(store, elsewhere, out, *SLOWLY)))
    table = benchmark("table", out, "--suite", "synthetic", "--format", "csv")
    assert "mae" in table and "elsewhere" in table
    assert benchmark("verify", out) == "4 jobs verified, 0 damaged\n"
    found = json.loads(benchmark("stats", out / "elsewhere", out / "mae", "--json"))
    rows = {row["protocol"]: row for row in found["sets"]}
    assert set(rows) == {"linear_probe", "knn"} and found["first"] == "elsewhere"
    assert rows["linear_probe"]["difference"]["value"] > 0.2
    assert rows["linear_probe"]["test"]["effect"] == 1
    score = out / "mae/synthetic_phase/phase/knn/seed0/score.json"
    score.write_text(score.read_text().replace('"videos": 2', '"videos": 3', 1))
    assert "score.json: videos is 3, the predictions give 2" in benchmark("verify", out, code=1)


def test_fine_tuning_takes_the_encoder_of_the_weights(store, run, tmp_path):
    """The demo's network is named nowhere; Ctrl-C in the middle is no failure."""
    more = ["--protocol", "finetune", *TINY, "--config.total_steps=6"]
    more += ["--config.checkpoint.every=2", "--config.log.every=1"]
    command = suite(store, run, tmp_path, *more)
    process = start(*command)
    work = tmp_path / "mae/synthetic_phase/phase/finetune/seed0/work"
    while not (work / "metrics.jsonl").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "stopped in synthetic_phase finetune" in done(process, 130)
    done(start(*command))
    assert "restored step" in (work / "log.txt").read_text()
    theirs = json.loads((run / "config.json").read_text())["encoder"]
    ours = json.loads((work / "config.json").read_text())["encoder"]
    for name in ("size", "positions", "qkv_bias"):
        assert ours[name] == theirs[name]
    said = json.loads((work.parent / "job.json").read_text())
    assert said["saw_test"] == "no" and said["pretrained_on"] == "synthetic (train)"
