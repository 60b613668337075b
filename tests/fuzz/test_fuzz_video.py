"""Recordings with damaged bytes and lying headers: frames that are frames, or one reason."""

from pathlib import Path

import numpy as np
import pytest
import small_videos as make
from hypothesis import strategies as st
from mutations import damaged

from data_prep import keyframes, names, video
from data_prep.media import Unreadable

KINDS = {"a.mp4": "libx264", "a.mkv": "libx264", "a.avi": "mpeg4"}


def recording(folder: Path, name: str, data: bytes) -> str:
    file = folder / name
    file.write_bytes(data)
    return frames_of(file)


def frames_of(path: Path, **options) -> str:
    """What `check`, `shards` and `qc` do with a recording."""
    for read in (names.in_tags, lambda path: keyframes.read_samples(path, 0.5, 2.0, **options)):
        try:
            read(path)
        except Unreadable:
            pass
    try:
        header = video.probe(path, **options)
        assert header.fps > 0 and header.seconds >= 0 and min(header.width, header.height) > 0
        seen, last, shape = video.Seen(), -1, None
        for frame in video.kept_frames(path, fps=5, short_side=48, seen=seen, **options):
            assert frame.t_ms > last and frame.image.dtype == np.uint8 and frame.image.ndim == 3
            assert shape in (None, frame.image.shape) and frame.image.shape[2] == 3
            last, shape = frame.t_ms, frame.image.shape
    except Unreadable as error:
        assert error.reason and "\n" not in str(error)
        return f"unreadable: {error.reason}"
    assert seen.frames > 1 and last >= 0
    return "read"


@pytest.mark.parametrize("name", KINDS)
def test_recordings(for_all, tmp_path, name):
    data = make.write_video(
        tmp_path / name, 12, codec=KINDS[name], width=64, height=48
    ).read_bytes()
    outcomes = for_all(recording, st.just(name), damaged(data))
    assert outcomes["read"] and any("unreadable" in outcome for outcome in outcomes)


def pictures(folder: Path, data: bytes) -> str:
    make.write_images(folder, [1, 2, 3])
    (folder / "f_000002.jpg").write_bytes(data)
    return frames_of(folder, frames_fps=5.0)


def test_folders_of_pictures(for_all, tmp_path):
    make.write_images(tmp_path, [1])
    data = (tmp_path / "f_000001.jpg").read_bytes()
    outcomes = for_all(pictures, damaged(data))
    assert outcomes["read"] and any("unreadable" in outcome for outcome in outcomes)
