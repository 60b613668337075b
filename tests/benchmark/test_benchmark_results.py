"""The folder of results: what is finished is read, what is not is left out, damage is named."""

import json
import shutil

import pytest

from surgjax.benchmark import results
from surgjax.errors import UserError

SAID = {
    "suite": "synthetic",
    "tier": "strict",
    "model": "ours",
    "entry": "synthetic_phase",
    "dataset": "synthetic",
    "task": "phase",
    "label": "phase",
    "split": "official",
    "protocol": "knn",
    "score_protocol": "strict",
    "saw_test": "no",
    "settings": ["not ours to read"],
}


def finish(out, seed, **changes):
    said = SAID | {"seed": seed} | changes
    where = (said[key] for key in ("model", "entry", "task", "protocol"))
    folder = results.job_folder(out, *where, seed)
    folder.mkdir(parents=True)
    found = {"metrics": {"map": {"value": seed / 100}}, "floors": {}}
    (folder / results.SCORE).write_text(json.dumps(found))
    (folder / results.JOB).write_text(json.dumps(said))
    return folder


def test_finished_jobs_are_read_seeds_as_numbers(tmp_path):
    for seed in (10, 2, 0):
        finish(tmp_path, seed)
    first = finish(tmp_path, 1, model="another")
    (tmp_path / "ours" / "synthetic_tool" / "tool" / "knn" / "seed0" / "work").mkdir(parents=True)
    jobs = results.read(tmp_path)
    assert [(job.model, job.seed) for job in jobs] == [
        ("another", 1),
        ("ours", 0),
        ("ours", 2),
        ("ours", 10),
    ]
    assert jobs[0].path == first and jobs[0].predictions == first / "predictions.parquet"
    assert jobs[3].score["metrics"]["map"]["value"] == 0.1 and jobs[3].entry == "synthetic_phase"
    assert first == tmp_path / "another" / "synthetic_phase" / "phase" / "knn" / "seed1"


@pytest.mark.parametrize(
    "name, text, match",
    [
        (results.JOB, "{", "job.json cannot be read"),
        (results.JOB, "[]", "job.json holds no JSON object"),
        (results.JOB, '{"suite": "synthetic"}', "job.json is no finished job's.*missing"),
        (results.SCORE, "{}", "score.json has no metrics"),
        (results.SCORE, "", "score.json cannot be read"),
        (results.SCORE, None, "score.json cannot be read"),
    ],
)
def test_damage_is_named(tmp_path, name, text, match):
    file = finish(tmp_path, 0) / name
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UserError, match=match):
        results.read(tmp_path)


@pytest.mark.parametrize("copy", ["ours/synthetic_phase/phase/knn/seed0_old", "copy"])
def test_copies_are_not_taken_for_seeds_or_models(tmp_path, copy):
    """Their equal numbers would make intervals narrower."""
    folder = finish(tmp_path, 0)
    shutil.copytree(folder if "seed0" in copy else tmp_path / "ours", tmp_path / copy)
    with pytest.raises(UserError, match="holds the job ours/synthetic_phase/phase/knn/seed0; move"):
        results.read(tmp_path)


def test_a_folder_has_to_be_there(tmp_path):
    with pytest.raises(UserError, match="no folder .*surgjax.benchmark run"):
        results.read(tmp_path / "none")
    assert results.read(tmp_path) == []
