"""Label files of every public dataset: its miniature, one file of which is odd or damaged."""

import importlib
import os
import pickle
import pkgutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import layouts
import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import damaged, odd_json, odd_table, odd_value

from data_prep import captions, guarded, label_files, sources
from data_prep.sources import Times
from data_prep.video import probe

DATASETS = sorted(module.name for module in pkgutil.iter_modules(layouts.__path__))
# Frames of a minute at 25 a second: what labels tell of.
TIMES = Times(np.arange(0, 60_000, 40), np.arange(1500), 25.0)
# Their labels need what a recording's header says.
TIMED = ("avos", "heichole", "multibypass140")
PICTURES = (".mp4", ".avi", ".webm", ".png", ".jpg", ".bmp", ".tif")


def miniature(dataset: str, root: Path) -> None:
    """The files of a dataset, and its recordings empty: few label parsers open any."""
    layout = importlib.import_module(f"layouts.{dataset}")
    with ExitStack() as patches:
        for name, make in {"video": nothing, "images": no_pictures}.items():
            if hasattr(layout, name) and dataset not in TIMED:
                patches.enter_context(mock.patch.object(layout, name, make))
        layout.make(root)


def nothing(path: Path, *_, **__) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def no_pictures(folder: Path, names, *_, **__) -> Path:
    for name in names:
        nothing(folder / name)
    return folder


def odd_files(root: Path) -> st.SearchStrategy[tuple[str, bytes]] | None:
    """(path below the root, its new bytes) of one file that may hold labels; None without."""
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.stat().st_size)
    files = [file for file in files if file.suffix not in PICTURES]
    if not files:
        return None
    return st.one_of(
        *(st.tuples(st.just(str(file.relative_to(root))), _odd(file)) for file in files)
    )


def _odd(file: Path) -> st.SearchStrategy[bytes]:
    data = file.read_bytes()
    if file.suffix == ".json":
        import json

        return odd_json(json.loads(data))
    if file.suffix in (".pickle", ".pkl"):
        return damaged(data) | odd_value(pickle.loads(data)).map(pickle.dumps)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return damaged(data)
    first = text.partition("\n")[0]
    separator = next((mark for mark in ("\t", ";", ",", " ") if mark in first), ",")
    return odd_table(text, separator)


_made: dict[str, tuple[Path, int]] = {}  # in the child: dataset -> its miniature, files written


def read_with(folder: Path, dataset: str, name: str, data: bytes) -> str:
    """Every reader of a source, with one file of its miniature replaced."""
    root = _made.get(dataset)
    if root is None:
        root = _made[dataset] = Path(tempfile.mkdtemp(dir=folder.parent))
        miniature(dataset, root)
    file = root / name
    kept = file.read_bytes()
    try:
        write(file, data)
        return summary(dataset, root)
    finally:
        write(file, kept)


def write(file: Path, data: bytes) -> None:
    """With another time of change than all before: parsers remember by size and time."""
    file.write_bytes(data)
    _made["times"] = _made.get("times", 0) + 1
    os.utime(file, ns=(_made["times"],) * 2)


def summary(dataset: str, root: Path) -> str:
    """What a source says of a root, as text; asserts that labels can be what they say."""
    guarded._header = probe  # we are in a process with limits already
    source = sources.load(dataset)
    assert source.recognises(root) in (True, False)
    found = source.find(root)
    said = [repr((v.video_id, v.case, sorted(v.splits.items()))) for v in found.videos]
    assert len({video.video_id for video in found.videos}) == len(found.videos)
    for video in found.videos:
        times = times_of(video)
        source.check_labels(root, video, len(times.t_ms))
        for task, table in sorted(source.labels(root, video, times).items()):
            check_table(found.tasks[task], table, times)
            said.append(repr((video.video_id, task, table.t_ms.tolist(), numbers(table))))
    if hasattr(source, "captions"):
        ends = {video.video_id: 60_000.0 for video in found.videos}
        for row in source.captions(root, ends):
            assert 0 <= row["start_ms"] < row["end_ms"] <= 60_000 + captions.SLACK_MS
            assert row["video_id"] in ends and row["text"] and row["level"] in captions.LEVELS
            said.append(repr(sorted(row.items())))
    return "\n".join(said)


def times_of(video: sources.Video) -> Times:
    if video.frames_fps is None:
        return TIMES
    at = np.array([n for n, _ in label_files.list_images(video.path, video.frames_pattern)])
    return Times((at * 1000 / video.frames_fps).round().astype(np.int64), at, video.frames_fps)


def numbers(table: sources.LabelTable) -> list:
    return (table.label if table.values is None else table.values).tolist()


def check_table(task: dict, table: sources.LabelTable, times: Times) -> None:
    classes, n = len(task["classes"]), len(table.t_ms)
    assert set(table.t_ms.tolist()) <= set(times.t_ms.tolist()) and np.all(np.diff(table.t_ms) > 0)
    if task["kind"] == "one_of_n":
        assert table.label.shape == (n,) and table.label.dtype == np.int32
        assert not n or 0 <= table.label.min() and table.label.max() < classes
    else:
        assert table.values.shape == (n, classes) and table.values.dtype == np.float32
        known = table.values[~np.isnan(table.values)]
        if task["kind"] == "multi_label":
            assert set(np.unique(known)) <= {0, 1}
        assert np.isfinite(known).all()


def kind_read(folder: Path, dataset: str, case: tuple[str, bytes]) -> str:
    read_with(folder, dataset, *case)
    return "read"


# What once ended in another exception: dataset -> file, what is in it, what takes its place.
ONCE = {
    "cholec80": ("phase_annotations/video01-phase.txt", "\n0\t", "\n" + "9" * 5000 + "\t"),
    "avos": ("train.csv", "video_id", "x" * 140_000),
    "grasp": ("annotations/grasp_long-term_train.json", '"CASE001"', "[]"),
}


def once(dataset: str, root: Path) -> list[tuple[str, tuple[str, bytes]]]:
    if dataset not in ONCE:
        return []
    name, old, new = ONCE[dataset]
    text = (root / name).read_text()
    assert old in text
    return [(dataset, (name, text.replace(old, new).encode()))]


@pytest.mark.parametrize("dataset", DATASETS)
def test_odd_label_files_are_read_soundly_or_refused(dataset, for_all, tmp_path):
    miniature(dataset, tmp_path)
    files = odd_files(tmp_path)
    if files is not None:
        for_all(kind_read, st.just(dataset), files, examples=once(dataset, tmp_path))
