"""Does pretraining help? The demo's training on the whole rendered corpus, three seeds; an hour."""

import json
from pathlib import Path

import pytest

from data_prep.__main__ import main as data_prep
from surgjax.main import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert not data_prep(["synthesize", "--out", str(folder / "videos")])
    arguments = ["shards", "--dataset", "synthetic", "--root", str(folder / "videos")]
    assert not data_prep(
        [*arguments, "--out", str(folder / "store"), "--fps", "native", "--short-side", "128"]
    )
    return folder / "store"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_pretrained_encoder_beats_a_random_one_on_held_out_videos(
    whole_store, tmp_path, monkeypatch, seed
):
    monkeypatch.chdir(ROOT)
    main(
        [
            "--config=configs/surgrec_mae.py:demo",
            f"--workdir={tmp_path}",
            f"--config.data.stores={whole_store}",
            f"--config.seed={seed}",
            f"--config.evals.linear_probe.store={whole_store}",
        ]
    )
    result = json.loads((tmp_path / "eval" / "linear_probe" / "metrics.json").read_text())
    difference = result["differences"]["pretrained-random"]
    assert result["saw_test"] == "no"
    assert difference["low"] > 0, difference
