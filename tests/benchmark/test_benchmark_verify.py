"""`verify`: nothing in a folder of results can be changed without being noticed."""

import json
import shutil

import pytest
from finished_jobs import finished

from surgjax.benchmark import jobs, score
from surgjax.benchmark.__main__ import main
from surgjax.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "RESAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def results(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    finished(store, out, "ours", right=0.6)
    finished(store, out, "ours", right=0.6, seed=1)
    return out


@pytest.fixture
def copy(results, tmp_path):
    return shutil.copytree(results, tmp_path / "copy")


def job(folder, seed=0):
    return folder / f"ours/synthetic_phase/phase/finetune/seed{seed}"


def verified(folder, capsys):
    code = main(["verify", str(folder)])
    return code, capsys.readouterr().out


def edit(file, change):
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said, indent=1) + "\n")


def test_what_run_wrote_is_whole(results, capsys):
    assert verified(results, capsys) == (0, "2 jobs verified, 0 damaged\n")
    said = json.loads((job(results) / "job.json").read_text())
    assert (said["licence"], said["pretrained_on"], said["seed"]) == ("MIT", "x", 0)


def test_each_change_is_named(copy, capsys):
    """A number by a trillionth, one missing, one too many, in all three files."""

    def numbers(said):
        said["metrics"]["image_accuracy"]["value"] += 2e-12
        said["per_class"]["p1"]["f1"] += 0.25
        del said["metrics"]["jaccard"]
        said["floors"]["mine"] = 1.0
        said["metrics"]["f1"]["ci95"][0] -= 0.1

    edit(job(copy) / "score.json", numbers)
    edit(job(copy) / "job.json", lambda said: said.update(model="theirs", saw_test="yes"))
    metrics = job(copy) / "work/eval/trained_head/metrics.json"
    edit(metrics, lambda said: said["models"]["pretrained"].update(accuracy_pooled=1.0))
    code, text = verified(copy, capsys)
    assert code == 1 and "1 jobs verified, 1 damaged" in text
    for line in (
        "score.json: metrics.image_accuracy.value is",
        "score.json: per_class.p1.f1 is",
        "score.json: metrics.jaccard is missing",
        "score.json: floors.mine does not belong there",
        "score.json: metrics.f1.ci95[0] is",
        "job.json: model is 'theirs', expected 'ours'",
        "job.json: saw_test is 'yes', expected 'no'",
        "trained_head/metrics.json: models.pretrained.accuracy_pooled is 1.0",
    ):
        assert line in text, text
    assert len(text.splitlines()) == 10


def test_a_rounding_of_the_last_bits_and_what_was_not_finished_are_none(copy, capsys):
    def nudge(said):
        said["metrics"]["image_accuracy"]["value"] += 2e-13

    edit(job(copy) / "score.json", nudge)
    (job(copy) / ".score.json.4711.part").write_text("{")  # of a process that was killed
    assert verified(copy, capsys)[0] == 0


def test_other_predictions_missing_and_strange_files(copy, capsys):
    file = job(copy) / "predictions.parquet"
    shutil.copyfile(job(copy, 1) / "predictions.parquet", file)
    (job(copy, 1) / "score.json").unlink()
    (job(copy, 1) / "notes.txt").write_text("mine")
    code, text = verified(copy, capsys)
    assert code == 1 and "0 jobs verified, 2 damaged" in text
    assert "predictions.parquet is not the file that was scored" in text
    assert "score.json is missing" in text and "notes.txt does not belong there" in text
    file.write_bytes(file.read_bytes()[:100])
    assert "cannot be scored" in verified(copy, capsys)[1]


def test_one_damaged_job_does_not_hide_the_others(copy, capsys):
    shutil.copytree(job(copy), job(copy).with_name("seed0_old"))
    (job(copy) / "work/eval/trained_head/metrics.json").write_text("{")
    (job(copy, 1) / "work/eval/trained_head/predictions.parquet").write_text("no table")
    code, text = verified(copy, capsys)
    assert code == 1 and "0 jobs verified, 3 damaged" in text
    assert "job.json: seed is 0, expected 'seed0_old'" in text
    assert text.count("trained_head: cannot be scored: ") == 2


def test_a_job_is_scored_as_its_suite_says(copy, capsys):
    """Forgiving rules with the numbers that they give, labels left out, and another split."""
    rules = {"score_protocol": "relaxed_10s", "exclude": ["p1"]}
    edit(job(copy) / "job.json", lambda said: said.update(rules, split="easy"))
    again = jobs.numbers(
        *(job(copy) / "predictions.parquet", "phase", "relaxed_10s"),
        dataset="synthetic",
        exclude=["p1"],
    )
    (job(copy) / "score.json").write_text(json.dumps(again))
    edit(job(copy, 1) / "job.json", lambda said: said.update(tier="easy"))
    code, text = verified(copy, capsys)
    assert code == 1 and "0 jobs verified, 2 damaged" in text
    assert "job.json: score_protocol is 'relaxed_10s', expected 'strict'" in text
    assert "job.json: exclude is ['p1'], expected []" in text and "split is 'easy'" in text
    assert "job.json: tier 'easy'; expected strict or release" in text


def test_jobs_under_way_and_folders_of_something_else(copy, tmp_path, capsys):
    for name in ("score.json", "job.json", "predictions.parquet"):
        (job(copy) / name).unlink()
    assert verified(copy, capsys) == (0, "1 jobs verified, 0 damaged, 1 not finished\n")
    with pytest.raises(UserError, match="holds no results"):
        main(["verify", str(tmp_path / "nowhere")])
