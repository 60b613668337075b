"""Does training help? Each objective's demo, longer, with three seeds; up to an hour an objective.

pytest -m slow tests/test_learning.py -k vista
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import users_environment

from data_prep.__main__ import main as data_prep
from surgjax.progress import COLLAPSED

ROOT = Path(__file__).resolve().parent.parent
# What the probe changes in a demo. An objective is a row: its config, its steps and these fields.
PIXELS = {
    "encoder.positions": "sincos_3d",  # learns faster than the published table
    "objective.decoder_depth": 4,  # deeper: better probes (MAE, table 1a)
    "optim.warmup_steps": 100,
}
OBJECTIVES = {
    "mae": ("surgrec_mae", 4000, PIXELS),
    "vista": ("surgvista", 4000, PIXELS),  # its teacher is drawn at random: pixels do the teaching
    "jepa": ("surgrec_jepa", 4000, {"optim.warmup_steps": 100}),
    "clip": ("surgclip", 1000, {"optim.warmup_steps": 100}),
    "classify": ("finetune", 1000, {"optim.warmup_steps": 100}),
}


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    """120 operations, of which 40 are tested: a difference of 0.05 needs about as many."""
    return make_store(tmp_path_factory.mktemp("large"), videos=120)


def make_store(folder: Path, videos: int) -> Path:
    corpus = ["--videos", str(videos), "--seed", "60"]  # a seed that no choice was made on
    assert not data_prep(["synthesize", "--out", str(folder / "videos"), *corpus])
    arguments = ["shards", "--dataset", "synthetic", "--root", str(folder / "videos")]
    assert not data_prep(
        [*arguments, "--out", str(folder / "store"), "--fps", "native", "--short-side", "112"]
    )
    return folder / "store"


def probe(objective: str, store: Path, workdir: Path, seed: int, steps: int = 0) -> dict:
    """The linear probe's result after training from a seed, for `steps` or as many as the row's."""
    config, usual, changes = OBJECTIVES[objective]
    changes = {
        **{"data.stores": store, "seed": seed, "total_steps": steps or usual},
        **{"log.every": 100, "checkpoint.every": 500, "evals.linear_probe.store": store},
        **changes,
    }
    command = [sys.executable, "-m", "surgjax.main", f"--config=configs/{config}.py:demo"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in changes.items())]
    subprocess.run(command, cwd=ROOT, env=users_environment(), check=True)
    return json.loads((workdir / "eval" / "linear_probe" / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_pretrained_encoder_beats_a_random_one_on_held_out_videos(
    large_store, tmp_path, objective, seed
):
    result = probe(objective, large_store, tmp_path, seed)
    difference = result["differences"]["pretrained-random"]
    assert result["saw_test"] == "no" and difference["videos"] == 40
    assert difference["low"] > 0, difference
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    for line in lines:
        assert all(line.get(name, least) >= least for name, least in COLLAPSED.items()), line
