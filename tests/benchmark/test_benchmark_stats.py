"""`stats`: two models' folders, against scipy on per-video values counted here."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from finished_jobs import finished
from scipy.stats import wilcoxon

from surgjax.benchmark import jobs, predictions, score
from surgjax.benchmark.__main__ import main
from surgjax.benchmark.stats import as_text, compare, of_model
from surgjax.errors import UserError

VIDEOS = 10


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "RESAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def out(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("stats")
    finished(store, out, "good", right=0.5, videos=VIDEOS)
    finished(store, out, "good", right=0.5, videos=VIDEOS, seed=1)
    finished(store, out, "fair", right=0.35, videos=VIDEOS, seed=2)
    finished(store, out, "elsewhere", right=0.5, videos=VIDEOS, first=50)
    finished(store, out, "cheat", right=0.5, videos=3, seed=3, saw_test="yes")
    finished(store, out, "short", right=0.1, videos=3)
    return out


def accuracies(file):
    table = predictions.read(file)
    right = table.pred == table.target
    return np.array([right[table["video_id"] == v].mean() for v in np.unique(table["video_id"])])


def folder(out, model, seed):
    return out / model / "synthetic_phase" / "phase" / "finetune" / f"seed{seed}"


def test_differences_tests_and_effect_are_those_of_the_videos(out):
    good = np.mean(
        [accuracies(folder(out, "good", seed) / "predictions.parquet") for seed in (0, 1)], axis=0
    )
    fair = accuracies(folder(out, "fair", 2) / "predictions.parquet")
    for mode, alternative in (("two_sided", "two-sided"), ("surgvista", "greater")):
        found = compare(of_model(out / "good"), of_model(out / "fair"), mode=mode)
        (row,) = found["sets"]
        expected = wilcoxon(good, fair, alternative=alternative, method="exact")
        assert row["test"]["p"] == pytest.approx(expected.pvalue, abs=1e-12)
        assert row["p_holm"] == row["test"]["p"] and row["metric"] == "image_accuracy"
        assert row["difference"]["value"] == pytest.approx((good - fair).mean(), abs=1e-12)
        assert row["difference"]["low"] < (good - fair).mean() < row["difference"]["high"]
        assert row["seeds"] == [2, 1] and row["videos"] == VIDEOS and row["note"] == ""
    ranks = wilcoxon(good, fair, alternative="greater", method="exact").statistic
    total = VIDEOS * (VIDEOS + 1) / 2
    assert row["test"]["effect"] == pytest.approx(2 * ranks / total - 1)
    back = compare(of_model(out / "fair"), of_model(out / "good"))["sets"][0]
    assert back["test"]["effect"] == pytest.approx(-row["test"]["effect"])


def test_two_ways_to_use_one_model(out, tmp_path):
    copied(folder(out, "good", 0), folder(tmp_path, "one", 0))
    probed = tmp_path / "one" / "synthetic_phase" / "phase" / "linear_probe" / "seed0"
    copied(folder(out, "fair", 2), probed, protocol="linear_probe")
    one = of_model(tmp_path / "one")
    found = compare(one, one, protocol="finetune,linear_probe")
    apart = compare(of_model(out / "good"), of_model(out / "fair"))
    assert found["first"].endswith(" finetune") and found["second"].endswith(" linear_probe")
    good = accuracies(folder(out, "good", 0) / "predictions.parquet")
    fair = accuracies(folder(out, "fair", 2) / "predictions.parquet")
    (row,) = found["sets"]
    assert row["difference"]["value"] == pytest.approx((good - fair).mean(), abs=1e-12)
    assert row["seeds"] == [1, 1] and apart["sets"][0]["seeds"] == [2, 1]
    back = compare(one, one, protocol="linear_probe,finetune")["sets"][0]
    assert back["test"]["effect"] == pytest.approx(-row["test"]["effect"])
    with pytest.raises(UserError, match="expected one, or that of A and that of B"):
        compare(one, one, protocol="a,b,c")


def test_sets_are_corrected_together_and_common_cases_are_said(out, tmp_path):
    """The same predictions as three sets: p values are tripled, and all show the same cases."""
    for model, seed in (("good", 0), ("fair", 2)):
        for protocol in ("finetune", "knn"):
            copied(folder(out, model, seed), folder(tmp_path, model, 0), protocol=protocol)
        again = tmp_path / model / "synthetic_tool/phase/finetune/seed0"
        copied(folder(out, model, seed), again, entry="synthetic_tool")
    found = compare(of_model(tmp_path / "good"), of_model(tmp_path / "fair"))
    assert len(found["sets"]) == 3
    for row in found["sets"]:
        assert row["p_holm"] == pytest.approx(min(1, 3 * row["test"]["p"]))
    assert "synthetic_phase and synthetic_tool (10)" in found["shared_cases"]
    only = compare(of_model(tmp_path / "good"), of_model(tmp_path / "fair"), protocol="knn")
    assert [row["protocol"] for row in only["sets"]] == ["knn"] and not only["shared_cases"]


def copied(job, to, **changes):
    to = to.parents[1] / changes.get("protocol", to.parent.name) / to.name
    to.mkdir(parents=True)
    for file in job.glob("*.*"):
        (to / file.name).write_bytes(file.read_bytes())
    said = json.loads((to / "job.json").read_text()) | changes
    model, *_ = to.parts[-5:]
    own = {"model": model, "seed": int(to.name.removeprefix("seed"))}
    (to / "job.json").write_text(json.dumps(said | own))
    return to


def test_text_and_json(out, capsys):
    command = ["stats", str(out / "cheat"), str(out / "short"), "--metric", "jaccard"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "Wilcoxon signed-rank, two-sided; Holm over 1 sets" in text and "jaccard" in text
    assert "cannot give p < 0.05" in text and "trained on these test cases" in text
    assert main([*command, "--json", "--mode", "surgvista"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sets"][0]["saw_test"] == ["yes", "no"] and found["mode"] == "surgvista"


def test_long_names_are_told_apart(out, capsys, tmp_path):
    entry = "a_set_with_a_name_of_more_than_28_letters"
    for protocol in ("finetune", "linear_probe"):
        to = tmp_path / "long" / entry / "phase" / protocol / "seed0"
        copied(folder(out, "short", 0), to, entry=entry, protocol=protocol)
    found = compare(of_model(tmp_path / "long"), of_model(tmp_path / "long"))
    lines = as_text(found).splitlines()
    assert any(line.startswith(f"{entry} linear_probe ") for line in lines)


def test_other_frames_metrics_and_folders_are_refused(out, tmp_path):
    with pytest.raises(UserError, match="other frames or labels"):
        compare(of_model(out / "good"), of_model(out / "elsewhere"))
    with pytest.raises(UserError, match=r"no metric 'jacard' \(did you mean 'jaccard'"):
        compare(of_model(out / "good"), of_model(out / "fair"), metric="jacard")
    with pytest.raises(UserError, match="no set and protocol in common"):
        compare(of_model(out / "good"), of_model(out / "fair"), protocol="knn")
    for wrong in (tmp_path, out / "nobody"):
        with pytest.raises(UserError, match="no finished jobs"):
            of_model(wrong)


def test_labels_have_to_be_equal_too(out, tmp_path):
    made = copied(folder(out, "fair", 2), folder(tmp_path, "other", 0))
    table = pq.read_table(made / "predictions.parquet")
    target = table["target"].to_numpy().copy()
    target[0] = (target[0] + 1) % 3
    at = table.column_names.index("target")
    pq.write_table(
        table.set_column(at, "target", [target.astype(np.int32)]), made / "predictions.parquet"
    )
    with pytest.raises(UserError, match="other frames or labels"):
        compare(of_model(out / "good"), of_model(tmp_path / "other"))


def test_draws_of_few_shot_learning_count_as_seeds(out, tmp_path):
    """Each setting is a metric; its draws are of equal videos."""
    per_video = {}
    for model, seed in (("good", 0), ("fair", 2)):
        made = copied(folder(out, model, seed), folder(tmp_path, model, 0), protocol="few_shot")
        file = made / "predictions.parquet"
        table = predictions.read(file)
        columns = {name: np.tile(values, 2) for name, values in table.columns.items()}
        columns["setting"] = np.full(2 * len(table), "4 videos")
        columns["draw"] = np.repeat([0, 1], len(table))
        scores = np.concatenate([table.probabilities, np.roll(table.probabilities, 1, axis=0)])
        target = np.tile(table.target, 2)
        predictions.write(file, columns, scores, target, table.classes, "no")
        found = jobs.numbers(file, "phase", "strict", dataset="synthetic")
        (made / "score.json").write_text(json.dumps(found))
        right = (scores.argmax(1) == target).reshape(2, VIDEOS, -1).mean(2)
        per_video[model] = right.mean(0)
    metric = "accuracy_per_video 4 videos"
    found = compare(of_model(tmp_path / "good"), of_model(tmp_path / "fair"), metric=metric)
    (row,) = found["sets"]
    assert row["seeds"] == [2, 2] and row["metric"] == metric
    difference = (per_video["good"] - per_video["fair"]).mean()
    assert row["difference"]["value"] == pytest.approx(difference, abs=1e-12)
