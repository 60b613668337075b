"""Damaged checkpoints are noticed and cost themselves alone; damaged frames are counted.

Odd recordings (empty, cut, without pictures, of a variable rate, rotated) are refused or read by
their times when a store is made: tests/data_prep/test_prep_video.py, test_prep_shards.py.
"""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from array_record.python import array_record_module
from damage import cut, flip, largest_file
from fault_runs import LAST, bytes_lost

from surgjax.data import record

pytestmark = pytest.mark.faults


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("item", ["params", "opt_state", "meta"])
@pytest.mark.parametrize("damage", [flip, cut, remove, empty])
def test_of_a_checkpoint(start, undisturbed, tmp_path, injected, item, damage):
    what = {flip: "flipped bit", remove: "missing file"}.get(damage, "truncated file")
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    damage(largest_file(run / "checkpoints" / str(LAST) / item))
    fault = f"{what} in the newest checkpoint"
    with injected(fault, undisturbed, may_lose=1) as injection:
        injection.struck(run, newest=LAST)
        output = injection.goes_on(start(run), run)
        assert "falling back" in output and "Traceback" not in output, output
        assert (run / "damaged" / str(LAST)).is_dir()


def test_of_several_checkpoints(start, undisturbed, tmp_path, injected):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    for step, damage in ((LAST, flip), (7, cut), (6, remove)):
        damage(largest_file(run / "checkpoints" / str(step) / "params"))
    fault = "the three newest checkpoints damaged"
    with injected(fault, undisturbed, may_lose=3) as injection:
        injection.struck(run, newest=LAST)
        output = injection.goes_on(start(run), run)
        assert "restored step 5" in output, output


def test_of_digests_and_metrics(start, undisturbed, tmp_path, injected):
    """A torn last line, and digests that cannot be read."""
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    cut(run / "checkpoints" / str(LAST) / "DIGESTS.json")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    with injected("truncated file in the newest checkpoint", undisturbed, may_lose=1) as injection:
        injection.struck(run, newest=LAST)
        output = injection.goes_on(start(run), run)
        assert "Traceback" not in output, output


@pytest.fixture
def shards(store, tmp_path):
    """A copy of the store, and the files with the frames of its training cases."""
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    videos = pq.read_table(copy / "videos.parquet").to_pydict()
    files = [entry["file"] for entry in json.loads((copy / "store.json").read_text())["shards"]]
    used = [i for i, split in enumerate(videos["split_official"]) if split == "train"]
    assert len(files) == len(videos["video_id"]) and used  # a shard is one recording
    return copy, [copy / files[i] for i in used]


def halve_jpegs(file: Path, every: int) -> None:
    """Write a shard again with half of every so-manieth frame."""
    reader = array_record_module.ArrayRecordReader(str(file))
    records = reader.read_all()
    reader.close()
    writer = array_record_module.ArrayRecordWriter(str(file), record.WRITER_OPTIONS)
    for number, data in enumerate(records):
        if number % every == 0:
            whole = record.parse(data)
            half = tuple(frame[: len(frame) // 2] for frame in whole.frames)
            data = record.serialize(
                record.Record(whole.video_id, whole.first_frame, whole.t_ms, half)
            )
        writer.write(data)
    writer.close()


@pytest.mark.parametrize("damage", ["flipped bit in a shard", "half a JPEG in a shard"])
def test_of_some_frames_is_counted_and_resumes(
    start, undisturbed_run, shards, tmp_path, injected, damage
):
    """Clips that need a damaged frame are replaced by the same stand-ins before and after."""
    path, files = shards
    if damage.startswith("half"):
        halve_jpegs(files[0], 60)
    else:
        for share in (0.2, 0.35, 0.5, 0.65, 0.8):
            flip(files[0], share)
    settings = (f"data.stores={path}",)
    undisturbed = undisturbed_run(*settings)
    lines = [json.loads(x) for x in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["substituted"] <= 8
    assert "unreadable record: store" in (undisturbed / "train.log").read_text()
    with injected(damage, undisturbed) as injection:
        assert start(tmp_path / "run", *settings, fault="before_step:sigkill:6").finish()[0] == -9
        injection.struck(tmp_path / "run")
        injection.goes_on(start(tmp_path / "run", *settings), tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated shard", "half a JPEG in a shard"])
def test_of_many_frames_ends_the_run(
    start, undisturbed, shards, tmp_path, injected, damage, workers
):
    """The run stops with the records and the command that finds all; whole again, it goes on."""
    path, files = shards
    before = files[0].read_bytes()
    run, settings = tmp_path / "run", (f"data.workers={workers}", f"data.stores={path}")
    with injected(damage, undisturbed) as injection:
        if damage == "truncated shard":
            cut(files[0])
        else:
            halve_jpegs(files[0], 1)
        code, output = start(run, *settings).finish()
        assert code == 2 and "Traceback" not in output, output
        # Python may clean up after it what a loader process left in shared memory, and say so.
        (line,) = (line for line in output.splitlines() if line.startswith("error: "))
        assert "data_prep verify" in line, output
        files[0].write_bytes(before)
        shutil.rmtree(run)  # what it has learnt from stand-ins is another run
        injection.times += 1
        code, output = start(run, *settings).finish()
        assert code == 0, output
        assert bytes_lost(run, undisturbed, LAST) == 0
