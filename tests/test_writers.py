"""What a run leaves behind: the truth in metrics.jsonl, mirrors that may fail, whole files."""

import errno
import json
import math
import os
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest

from surgjax.errors import UserError
from surgjax.writers import Metrics, RunFolder


def events(folder):
    """(tag, step, value) of every scalar in TensorBoard files, read as records by hand."""
    from tensorboardX.proto import event_pb2

    for file in folder.glob("events.out.tfevents.*"):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            yield from ((v.tag, event.step, _number(v)) for v in event.summary.value)


def _number(value):
    if not value.HasField("tensor"):
        return value.simple_value
    stored = value.tensor  # as TensorFlow writes scalars
    return (
        stored.float_val[0] if stored.float_val else np.frombuffer(stored.tensor_content, "<f4")[0]
    )


def test_scalars_reach_the_file_and_tensorboard(tmp_path):
    metrics = Metrics(tmp_path, 0, "", {})
    metrics.write(1, {"loss": 0.5, "lr": 1e-3})
    metrics.write(2, {"loss": math.nan})
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5, "lr": 1e-3}, {"step": 2, "loss": "nan"}]
    assert ("loss", 1, 0.5) in set(events(tmp_path / "tensorboard"))


def test_tensorboard_does_not_import_pytorch(tmp_path):
    code = f"""
import sys
from pathlib import Path
from surgjax.writers import tensorboard_writer
tensorboard_writer(Path({str(tmp_path)!r})).write_scalars(1, {{"loss": 0.5}})
assert not any(name.partition(".")[0] == "torch" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_mirror_that_fails_does_not_stop_training(tmp_path, caplog):
    metrics = Metrics(tmp_path, 0, "", {})
    metrics._tensorboard.close()
    metrics._tensorboard = object()  # no write_scalars: any error of a mirror
    metrics.write(1, {"loss": 1.0})
    metrics.write(2, {"loss": 2.0})
    metrics.close()
    assert caplog.text.count("mirror stopped") == 1
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_evaluations_done_at_the_restored_step_are_remembered(tmp_path):
    metrics = Metrics(tmp_path, 0, "", {})
    metrics.write(2, {"knn/done": 1.0})
    metrics.write(4, {"knn/done": 1.0, "linear_probe/done": 1.0})
    metrics.close()
    again = Metrics(tmp_path, 2, "", {})
    again.close()
    assert again.evaluated == {"knn"}


def test_wandb_that_is_missing_says_so(tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        Metrics(tmp_path, 0, "project", {})


def test_a_run_folder_is_held_by_one_process(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(UserError, match="in use"):
        RunFolder(tmp_path)
    run.status("running")
    run.close()
    RunFolder(tmp_path).close()


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    RunFolder(tmp_path).close()
    assert "cannot be locked (Function not implemented)" in caplog.text


def test_a_line_that_does_not_fit_on_the_disk_spoils_no_other(tmp_path):
    metrics, file = Metrics(tmp_path, 0, "", {}), tmp_path / "metrics.jsonl"
    metrics.write(1, {"loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, hard))
    try:
        metrics.write(2, {"loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text().count("\n") == 1 and file.read_text().endswith("\n")
    metrics.write(3, {"loss": 3.0})
    metrics.close()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3]


def test_a_status_that_cannot_be_written_ends_no_run(tmp_path, caplog):
    run = RunFolder(tmp_path)
    (tmp_path / "STATUS").mkdir()
    run.status("running")
    run.status("running")
    assert caplog.text.count("STATUS is not up to date") == 1
    (tmp_path / "STATUS").rmdir()
    run.status("done")
    run.close()
    assert (tmp_path / "STATUS").read_text() == "done\n"
