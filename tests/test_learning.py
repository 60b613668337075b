"""Does pretraining help? The demo's configuration for 4,000 steps, three seeds; an hour."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import users_environment

from data_prep.__main__ import main as data_prep

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    """120 operations, of which 40 are tested: a difference of 0.05 needs about as many."""
    folder = tmp_path_factory.mktemp("large")
    corpus = ["--videos", "120", "--seed", "60"]  # a seed that no choice was made on
    assert not data_prep(["synthesize", "--out", str(folder / "videos"), *corpus])
    arguments = ["shards", "--dataset", "synthetic", "--root", str(folder / "videos")]
    assert not data_prep(
        [*arguments, "--out", str(folder / "store"), "--fps", "native", "--short-side", "112"]
    )
    return folder / "store"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_pretrained_encoder_beats_a_random_one_on_held_out_videos(large_store, tmp_path, seed):
    command = [
        *[sys.executable, "-m", "surgjax.main", "--config=configs/surgrec_mae.py:demo"],
        *[f"--workdir={tmp_path}", f"--config.data.stores={large_store}"],
        f"--config.seed={seed}",
        "--config.encoder.positions=sincos_3d",  # learns faster than the published table
        "--config.objective.decoder_depth=4",  # deeper: better probes (MAE, table 1a)
        *["--config.total_steps=4000", "--config.optim.warmup_steps=100"],
        *["--config.log.every=100", "--config.checkpoint.every=500"],
        f"--config.evals.linear_probe.store={large_store}",
    ]
    subprocess.run(command, cwd=ROOT, env=users_environment(), check=True)
    result = json.loads((tmp_path / "eval" / "linear_probe" / "metrics.json").read_text())
    difference = result["differences"]["pretrained-random"]
    assert result["saw_test"] == "no" and difference["videos"] == 40
    assert difference["low"] > 0, difference
