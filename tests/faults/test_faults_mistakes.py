"""What a user may change between starts, and what is refused by name, with nothing touched."""

import json
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_runs import LAST, contents, last_step, wait_until

from data_prep.__main__ import main as data_prep

pytestmark = pytest.mark.faults


def refused(job) -> str:
    """The one line of a run that was refused with exit code 2."""
    code, output = job.finish(60)
    assert code == 2 and "Traceback" not in output, output
    line = output.splitlines()[-1]
    assert line.startswith("error: "), output
    assert "step 1/" not in output
    return line


@pytest.mark.parametrize("now", [0, 1, 2])
def test_the_number_of_workers_may_change(start, undisturbed, tmp_path, injected, now):
    with injected("changed number of loader workers", undisturbed) as injection:
        assert start(tmp_path, f"data.workers={2 - now}", "stop_at_step=4").finish()[0] == 0
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path, f"data.workers={now}"), tmp_path)


@pytest.fixture(scope="module")
def other_store(tmp_path_factory) -> Path:
    """Another corpus, prepared with the same settings."""
    from data_prep.synthesize import synthesize

    folder = tmp_path_factory.mktemp("other")
    synthesize(folder / "corpus", videos=3, seconds=4, seed=1)
    arguments = ["--dataset", "synthetic", "--root", str(folder / "corpus")]
    out = ["--out", str(folder / "store"), "--fps", "native", "--short-side", "96"]
    assert not data_prep(["shards", *arguments, *out, "--workers", "1"])
    return folder / "store"


@pytest.mark.parametrize(
    "field, value",
    [
        ("batch_size", "16"),
        ("data.stores", "OTHER"),
        ("seed", "1"),
        ("data.frames", "2"),
        ("encoder.size", "T"),
        ("optim.peak_lr", "1e-2"),
    ],
)
def test_what_would_change_numbers_is_refused_by_name(
    start, undisturbed, other_store, tmp_path, injected, field, value
):
    with injected("changed batch, store or model", undisturbed) as injection:
        assert start(tmp_path, "stop_at_step=4").finish()[0] == 0
        before = contents(tmp_path)
        changed = f"{field}={value.replace('OTHER', str(other_store))}"
        assert f"{field}=" in refused(start(tmp_path, changed))
        assert contents(tmp_path) == before
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "setting, says",
    [
        ("batchsize=8", "did you mean 'batch_size'"),
        ("optim.peek_lr=1", "did you mean 'optim.peak_lr'"),
        ("batch_size=many", "config.batch_size must be int"),
        ("batch_size=7.5", "config.batch_size must be int"),
        ("encoder.size=Z", "encoder.size"),
        ("objective.name=mea", "did you mean 'mae'"),
        ("objective.mask_ratio=1.5", "mask_ratio"),
        ("batch_size=0", "batch_size must be at least 1"),
        ("data.size=33", "33"),
        ("--wrokdir=x", "did you mean '--workdir'"),
    ],
)
def test_a_mistake_in_the_config_makes_no_folder(start, tmp_path, setting, says):
    assert says in refused(start(tmp_path / "run", setting))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("config", ["configs/surgrec_mea.py", "tests/faults/damage.py"])
def test_a_config_that_is_none(start, tmp_path, config):
    refused(start(tmp_path / "run", config=config))
    assert not (tmp_path / "run").exists()


def test_a_store_that_is_not_there(start, store, tmp_path):
    line = refused(start(tmp_path / "run", f"data.stores={store}x"))
    assert f"{store}x" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_folder_that_is_no_store(start, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(start(tmp_path / "run", f"data.stores={tmp_path}/empty"))


@pytest.fixture
def changed_store(store, tmp_path):
    """Make a copy of the store without its frames: what `change(videos, store.json)` returns."""

    def make(change) -> Path:
        copy = tmp_path / "changed"
        shutil.copytree(store, copy, ignore=shutil.ignore_patterns("*array_record*"))
        videos, meta = (
            pq.read_table(copy / "videos.parquet"),
            json.loads((copy / "store.json").read_text()),
        )
        videos, meta = change(videos, meta)
        pq.write_table(videos, copy / "videos.parquet")
        (copy / "store.json").write_text(json.dumps(meta))
        return copy

    return make


def all_tested(videos, meta):
    column = videos.schema.get_field_index("split_official")
    field = videos.schema.field(column)
    return videos.set_column(column, field, pa.array(["test"] * len(videos), field.type)), meta


def fewer_classes(videos, meta):
    meta["tasks"]["phase"]["classes"].pop()
    return videos, meta


def test_a_split_that_leaves_nothing(start, changed_store, tmp_path):
    line = refused(start(tmp_path / "run", f"data.stores={changed_store(all_tested)}"))
    assert "nothing is left for training" in line


FINETUNE = {"config": "configs/finetune.py:demo"}
TINY = ("data.size=32", "data.frames=2", "batch_size=8", "total_steps=2", "objective.task=phase")


def test_stores_whose_classes_differ(start, store, changed_store, tmp_path):
    stores = f"data.stores={store},{changed_store(fewer_classes)}"
    assert "other classes" in refused(start(tmp_path / "run", *TINY, stores, **FINETUNE))


def test_a_task_that_the_store_lacks(start, tmp_path):
    run = start(tmp_path / "run", *TINY[:-1], "objective.task=colour", **FINETUNE)
    assert "no task 'colour'" in refused(run)


@pytest.mark.parametrize("kind", ["nowhere", "task", "classes"])
def test_an_evaluation_that_cannot_be_made(start, store, changed_store, tmp_path, kind):
    """Told before training, not after it."""
    run = tmp_path / "run"
    if kind == "classes":
        changed = changed_store(fewer_classes)
        settings = (f"evals.trained_head.store={changed}", "evals.trained_head.task=phase")
        assert "classes" in refused(start(run, *TINY, *settings, **FINETUNE))
    elif kind == "task":
        settings = (f"evals.knn.store={store}", "evals.knn.task=colour")
        assert "no task 'colour'" in refused(start(run, *settings))
    else:
        assert f"{store}x" in refused(start(run, f"evals.knn.store={store}x"))


def test_two_runs_in_one_folder(start, undisturbed, tmp_path, injected):
    """The second is refused and the first unharmed, whatever the second does."""
    with injected("two runs in one folder", undisturbed) as injection:
        first = start(tmp_path, fault="before_save:sleep:4")
        wait_until(lambda: last_step(tmp_path) >= 3, job=first)
        assert "in use by another process" in refused(start(tmp_path))
        assert "in use by another process" in refused(start(tmp_path, "batch_size=16"))
        first.send(signal.SIGKILL)
        first.finish()
        injection.struck(tmp_path)
        injection.goes_on(start(tmp_path), tmp_path, LAST)
