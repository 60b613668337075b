"""`reproduce`: what published.yaml promises, and a miniature whose value is known."""

import numpy as np
import pytest
import yaml

from surgjax.benchmark import jobs, literature, reproduce, score, suites, vectors
from surgjax.benchmark.__main__ import main
from surgjax.data.store import open_store
from surgjax.errors import UserError

MINIATURE = {
    "suite": "synthetic",
    "tier": "strict",
    "entry": "synthetic_phase",
    "protocol": "knn",
    "settings": ["evals.knn.neighbours=1"],
    "weights": "phases.parquet",
    "get": "https://example.org/phases",
    "expected": {"image_accuracy": 75.0, "video_accuracy": 75.0},
    "tolerance": 0.01,
    "why": "every fourth vector tells a wrong phase",
    "source": "a paper, Table 1",
    "status": "run",
}


def test_every_row_can_be_run_and_says_what_the_paper_printed():
    """Rows that name no split, no protocol or no metric of ours could never be repeated."""
    rows = reproduce.read()
    assert len(rows) >= 6
    for row in rows.values():
        suite = suites.load(row.suite, row.tier)
        entry = suite.entry(row.entry)
        assert row.protocol in jobs.PROTOCOLS and entry.label and entry.split
        assert set(row.expected) <= set(entry.metrics) and 0 < row.tolerance <= 10
        cited = [cited.values for cited in literature.of_suite(row.suite)]
        for metric, printed in row.expected.items():
            known = {round(100 * of.get(f"{row.entry}:{metric}", -1), 2) for of in cited}
            assert round(printed, 2) in known
    beta = rows["surgclip_beta_cholec80"]
    assert beta.expected == {"video_accuracy": 57.98, "macro_f1_per_video": 39.42}
    assert suites.load(beta.suite, beta.tier).entry(beta.entry).split == "tecno"
    assert any(row.weights == "surgrec_mae.pth" for row in rows.values())


def test_list_and_what_is_awaited(capsys):
    assert main(["reproduce", "--list"]) == 0
    text = capsys.readouterr().out
    assert "surgclip_beta_cholec80 (awaiting data): video_accuracy 57.98" in text
    assert "surgrec_mae.pth, cholec80 split surgrec_release, surgrec_release" in text
    with pytest.raises(UserError) as error:
        main(["reproduce", "surgclip_beta_cholec80"])
    assert "surgclip_beta.pth from https://huggingface.co/aleperez24/SurgCLIP" in str(error.value)
    assert "data: cholec80: " in str(error.value)
    with pytest.raises(UserError, match="did you mean 'surgclip_beta_cholec80'"):
        main(["reproduce", "surgclip_cholec80"])


def test_a_miniature(store, tmp_path, monkeypatch, capsys):
    """Nearest neighbours by vectors that are a phase each: right where the vector is."""
    monkeypatch.setattr(score, "RESAMPLES", 100)
    opened = open_store(store)
    labels = opened.labels("phase")
    first = labels["t_ms"] % 1000 == 0  # the frames that are tested, twelve a video
    told = labels["label"].copy()
    is_test = (opened.videos["split_official"] == "test")[labels["video"]]
    tested = np.flatnonzero(first & is_test)
    told[tested[::4]] = (told[tested[::4]] + 1) % 4
    names = opened.videos["video_id"][labels["video"]]
    weights = tmp_path / "phases.parquet"
    values = 10 * np.eye(4, dtype=np.float32)[told]
    vectors.write(weights, names, labels["t_ms"], values, {"used_cases": []})
    miniatures = {"right": MINIATURE, "wrong": MINIATURE | {"expected": {"image_accuracy": 80.0}}}
    file = tmp_path / "published.yaml"
    file.write_text(yaml.safe_dump(miniatures))
    monkeypatch.setattr(reproduce, "FILE", file)
    given = ["--weights", str(weights), "--stores", str(store), "--out", str(tmp_path / "out")]
    assert main(["reproduce", "right", *given]) == 0
    text = capsys.readouterr().out
    assert text.count("agrees") == 2 and MINIATURE["why"] in text
    assert "75.00    75.00 [" in text
    assert main(["reproduce", "wrong", *given]) == 1
    assert "80.00    75.00 [" in (text := capsys.readouterr().out) and "DIFFERS" in text
    with pytest.raises(UserError, match="right awaits data: .*, given as --stores"):
        main(["reproduce", "right", "--weights", str(weights)])
