"""`run`: what is planned, refused, skipped and kept; the jobs are real processes."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished_jobs import CLASSES, made

from surgjax import config, evaluate
from surgjax.benchmark import few_shot, jobs, predictions, results, score, suites, vectors
from surgjax.benchmark.__main__ import main
from surgjax.benchmark.weights import Weights, open_weights
from surgjax.data.store import open_store
from surgjax.digests import digest
from surgjax.errors import UserError
from surgjax.main import _parse


@pytest.fixture(scope="module")
def features(store, tmp_path_factory):
    """Vectors made elsewhere, of every labelled frame: file of a model that saw no test case."""
    return written(store, tmp_path_factory.mktemp("features") / "elsewhere.parquet", [])


def written(store, file, used_cases, seed=0):
    opened = open_store(store)
    labels = opened.labels("phase")
    values = np.random.default_rng(seed).standard_normal((len(labels["t_ms"]), 8))
    values[np.arange(len(values)), labels["label"]] += 4
    about = {"licence": "MIT", "pretrained_on": ["somewhere"], "used_cases": used_cases}
    names = opened.videos["video_id"][labels["video"]]
    vectors.write(file, names, labels["t_ms"], values.astype(np.float32), about)
    return file


def command(store, model, out, *more):
    return [
        *("run", "--suite", "synthetic", "--stores", str(store), "--model", str(model)),
        *("--out", str(out), "--only", "synthetic_phase", "--protocol", "linear_probe", *more),
    ]


@pytest.mark.parametrize("name", suites.names())
@pytest.mark.parametrize("tier", suites.TIERS)
def test_every_job_of_every_suite_is_a_command_that_its_config_takes(name, tier, store, tmp_path):
    opened, weights = open_store(store), Weights(tmp_path, "0")
    for entry in suites.load(name, tier).entries:
        for protocol in jobs.PROTOCOLS:
            if protocol == "temporal" and entry.unit == "video":
                continue  # `plan` leaves it out
            job = jobs.Planned(name, tier, "m", weights, entry, protocol, 3, opened, tmp_path)
            arguments = jobs.command(job)
            assert arguments[:2] == ["-m", "surgjax.main"]
            cfg = _parse(arguments[2:]).config
            block = cfg.evals[job.evaluation]
            assert (block.store, block.task, block.split) == (str(store), entry.label, entry.split)
            assert cfg.seed == 3 and cfg.init_from == str(tmp_path)
            if protocol in jobs.FROZEN:
                assert list(evaluate.make_evaluators(cfg)) == [protocol]
            else:
                config.check(cfg)
                assert cfg.data.unit == block.unit == entry.unit
                assert cfg.objective.task == entry.label and cfg.encoder.size == ""


def test_the_plan_is_printed_before_anything_is_done(store, features, tmp_path, capsys):
    more = ("--protocol", "linear_probe,knn,temporal,finetune", "--seeds", "0,1,1", "--dry-run")
    assert main([*command(store, features, tmp_path), *more, "--config.optim.peak_lr=1e-4"]) == 0
    text = capsys.readouterr().out
    opened = open_store(store)
    seconds = (opened.frames / opened.videos["stored_fps"]).sum()
    labels = opened.labels("phase")
    clips = len({(v, t // 1000) for v, t in zip(labels["video"], labels["t_ms"], strict=True)})
    size = sum(file.stat().st_size for file in store.glob("*.array_record-*"))
    (line,) = [line for line in text.splitlines() if line.startswith("synthetic_phase knn seed 0")]
    assert line.split()[4:] == [str(clips), f"{seconds / 3600:.1f}", f"{size / 1e9:.2f}"]
    assert "to do: 4" in text  # probes have no seeds, and vectors cannot be fine-tuned
    assert text.count("refused") == 2
    assert text.count("--config.optim.peak_lr=1e-4") == 4 and text.count("surgjax.main") == 4
    assert not list(tmp_path.iterdir())


def test_results_are_kept_skipped_and_never_mixed(store, features, tmp_path, capsys):
    run = command(store, features, tmp_path, "--config.evals.linear_probe.batch_size=8")
    assert main(run) == 0
    assert "1 of 1 jobs are finished" in capsys.readouterr().out
    folder = tmp_path / "elsewhere/synthetic_phase/phase/linear_probe/seed0"
    said = json.loads((folder / "job.json").read_text())
    assert (said["licence"], said["pretrained_on"]) == ("MIT", "somewhere")
    assert said["saw_test"] == "no" and said["store"] == "synthetic-native"
    assert said["settings"] == ["--config.evals.linear_probe.batch_size=8"]
    assert str(tmp_path) not in (folder / "job.json").read_text()
    expected = score.score(folder / "predictions.parquet", "phase", "strict", dataset="synthetic")
    assert json.loads((folder / "score.json").read_text()) == json.loads(json.dumps(expected))
    assert expected["metrics"]["image_accuracy"]["value"] > 0.4
    assert {"majority_image_accuracy", "mean_colour_image_accuracy"} <= set(expected["floors"])
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir() if file.is_file()}
    assert main(run) == 0
    assert "finished" in capsys.readouterr().out.splitlines()[1]
    assert before == {file: file.stat().st_mtime_ns for file in before}
    with pytest.raises(UserError, match="made with tier strict, now it is release"):
        main([*run, "--tier", "release"])
    with pytest.raises(UserError, match="made with settings .*, now it is"):
        main(command(store, features, tmp_path))
    other = written(store, tmp_path / "elsewhere.parquet", [], seed=1)
    file = shutil.copytree(store, tmp_path / "again") / "store.json"
    meta = json.loads(file.read_text())
    meta["tables"]["labels/phase.parquet"] = "0" * 64  # as of labels that were corrected
    file.write_text(json.dumps(meta))
    with pytest.raises(UserError, match="made with store_sha256 .*, now it is"):
        main([*run, "--stores", str(tmp_path / "again")])
    with pytest.raises(UserError, match="made with weights .*; give another --out or --name"):
        main([*run, "--model", str(other)])


def test_what_another_process_may_read_is_not_removed(store, features, tmp_path):
    """Kept features go when all jobs of the model are done, not while one may be under way."""
    kept = tmp_path / "elsewhere/kept"
    kept.mkdir(parents=True)
    other = tmp_path / "elsewhere/synthetic_tool/tool/linear_probe/seed0"
    (other / "work").mkdir(parents=True)
    assert main(command(store, features, tmp_path)) == 0 and kept.is_dir()
    shutil.rmtree(other)
    assert main(command(store, features, tmp_path)) == 0 and not kept.exists()


def test_seen_cases_are_refused_unless_allowed_and_then_marked(store, tmp_path, capsys):
    opened = open_store(store)
    tested = opened.videos["case"][opened.videos["split_official"] == "test"]
    seen = written(store, tmp_path / "seen.parquet", tested[:1].tolist())
    assert main(command(store, seen, tmp_path / "out")) == 2
    text = capsys.readouterr().out
    assert "refused: the model was trained on its test cases; --allow-seen" in text
    assert not list((tmp_path / "out").glob("**/work"))  # nothing was spent on it
    assert main(command(store, seen, tmp_path / "out", "--allow-seen")) == 0
    assert "TRAINED on these test cases" in capsys.readouterr().out
    (file,) = (tmp_path / "out").glob("**/job.json")
    assert json.loads(file.read_text())["saw_test"] == "yes"


def test_a_split_without_test_cases_costs_no_training(store, features, tmp_path, capsys):
    """As a store that was made of a part of the videos."""
    file = shutil.copytree(store, tmp_path / "part") / "videos.parquet"
    table = pq.read_table(file)
    at = table.column_names.index("split_official")
    table = table.set_column(at, "split_official", pa.array(["train"] * len(table)))
    pq.write_table(table, file)
    command_ = command(tmp_path / "part", features, tmp_path / "out")
    assert main([*command_, "--protocol", "linear_probe,finetune"]) == 2
    text = capsys.readouterr().out
    assert text.count("refused: no labelled test cases in split official") == 2
    assert "to do: 0" in text and not (tmp_path / "out").exists()


def test_one_failure_does_not_stop_the_rest(store, features, tmp_path, capsys):
    """The vectors lack what the first entry needs, so its process ends with a user's mistake."""
    table = vectors.read(features)
    half = slice(0, len(table) // 2)
    file = tmp_path / "half.parquet"
    vectors.write(file, table.video_id[half], table.t_ms[half], table.values[half], {})
    more = ("--only", "synthetic", "--protocol", "linear_probe")
    assert main([*command(store, file, tmp_path / "out"), *more]) == 2
    text = capsys.readouterr().out
    assert text.count("failed with exit code 2") == 2
    assert "| error: the features lack" in text and "0 of 2 jobs are finished" in text
    job = tmp_path / "out/half/synthetic_tool/tool/linear_probe/seed0"
    log = job / results.WORK / "log.txt"
    assert "error: the features lack" in log.read_text()


@pytest.mark.parametrize("where", ["a store of others", "an empty folder"])
def test_nothing_on_disk_says_what_is_needed(store, features, tmp_path, capsys, where):
    stores = str(store if where == "a store of others" else tmp_path)
    arguments = ["run", "--suite", "surgvista13", "--stores", stores, "--out", str(tmp_path)]
    with pytest.raises(UserError, match="no store of suite surgvista13"):
        main([*arguments, "--model", str(features)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10 and all(line.startswith("not here: ") for line in lines)
    assert "python -m data_prep shards --dataset cholec80" in lines[0]


def test_mistakes_are_named(store, features, tmp_path):
    good = command(store, features, tmp_path)
    for wrong, message in (
        (["--protocol", "linear_prob"], "did you mean 'linear_probe'"),
        (["--only", "synthetic_fase"], "did you mean 'synthetic_phase'"),
        (["--seeds", "one"], "--seeds is 'one'"),
        (["--seeds", ","], "--seeds is ','"),
        (["--name", "two\nlines"], "--name is"),
        (["--name", "../x"], "--name is"),
        (["--model", str(tmp_path / "nowhere")], "does not exist"),
        (["--suite", "surgrec"], "did you mean 'surgrec16'"),
    ):
        with pytest.raises(UserError, match=message):
            main([*good, *wrong])


def test_weights_are_known_by_their_content(tmp_path):
    """A run by its newest whole step, which says what was seen; folders by their files."""
    for step, cases in ((2, ["a/1"]), (10, ["a/1", "b/2"]), (11, None), (12, None)):
        folder = tmp_path / "run/checkpoints" / str(step)
        (folder / "meta").mkdir(parents=True)
        meta = {"used_cases": cases, "pretrained_on": ["a (train)"], "licences": {"a": "MIT"}}
        (folder / "meta/metadata").write_text(json.dumps(meta))
        if step < 12:
            (folder / "DIGESTS.json").write_text(json.dumps(digest(folder)))
    (tmp_path / "run/checkpoints/11/meta/metadata").write_text("damaged")
    found = open_weights(tmp_path / "run")
    assert found.used_cases == ("a/1", "b/2") and found.pretrained_on == "a (train)"
    assert found.licence == "Apache-2.0"
    hf = tmp_path / "hf"
    hf.mkdir()
    (hf / "model.safetensors").write_bytes(b"1")
    one = open_weights(hf)
    (hf / "README.md").write_text("nothing of the weights")
    assert open_weights(hf) == one and one.used_cases is None
    (hf / "model.safetensors").write_bytes(b"2")
    assert open_weights(hf).sha256 != one.sha256
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="no completed checkpoint"):
        open_weights(tmp_path / "empty")


def test_several_prompts_and_draws_in_a_file(tmp_path):
    columns, scores, target = made(8, 20, 0, 0.5)
    sets = ["names", "ours", "readme"]
    many = {name: np.tile(values, 3) for name, values in columns.items()}
    many["setting"] = np.repeat(sets, len(target))
    three = np.concatenate([scores, scores[::-1], np.roll(scores, 1, axis=0)])
    file, kept = tmp_path / "all.parquet", tmp_path / "kept.parquet"
    predictions.write(file, many, three, np.tile(target, 3), CLASSES, "no")
    assert jobs.keep_predictions(file, kept) == "readme"
    table = predictions.read(kept)
    assert np.array_equal(table.probabilities, np.roll(scores, 1, axis=0))
    assert table.saw_test == "no" and table.classes == CLASSES
    assert jobs.numbers(kept, "phase", "strict", dataset="x")["videos"] == 8

    draws = many | {"setting": np.full(len(many["t_ms"]), "4 videos")}
    draws["draw"] = np.repeat([0, 1, 2], len(target))
    predictions.write(file, draws, three, np.tile(target, 3), CLASSES, "yes")
    assert jobs.keep_predictions(file, kept) == "" and kept.read_bytes() == file.read_bytes()
    with pytest.raises(UserError, match="trained on these test cases"):
        jobs.numbers(kept, "phase", "strict", dataset="x")
    found = jobs.numbers(kept, "phase", "strict", dataset="x", allow_seen=True)
    expected = few_shot.score(file)["models"]["pretrained"]["4 videos"]["macro_f1_per_video"]
    metric = found["metrics"]["macro_f1_per_video 4 videos"]
    assert metric["value"] == expected["value"] and metric["seeds"] == 3
    assert metric["ci95"] == [expected["low"], expected["high"]]


def test_a_case_is_seen_under_any_name_the_store_knows(store, tmp_path):
    entry = suites.load("synthetic").entry("synthetic_phase")
    weights = Weights(tmp_path, "0", ("elsewhere/7",))
    job = jobs.Planned(
        *("synthetic", "strict", "m", weights, entry, "knn", 0, open_store(store), tmp_path)
    )
    assert jobs.saw_test(job) == "no"
    parts = job.store.videos["split_official"]
    tested = str(job.store.videos["case"][parts == "test"][0])
    own = dataclasses.replace(job, weights=Weights(tmp_path, "0", (tested,)))
    assert jobs.saw_test(own) == "yes"
    job.store.same_cases = lambda: [{"case": tested, "same_as": "elsewhere/7", "held_out": True}]
    assert jobs.saw_test(job) == "yes"
    unknown = dataclasses.replace(job, weights=Weights(tmp_path, "0"))
    assert jobs.saw_test(unknown) == "unknown"
