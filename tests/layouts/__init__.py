"""Miniatures of public datasets as they are downloaded: real, tiny files in the real layout.

A module a dataset offers

    make(root)     writes the miniature
    FPS            of the store that is made of it
    LABELS         some of the labels that store must hold: (video_id, task, t_ms) -> name of the
                   class, set of names (multi_label) or tuple of numbers (score); None: no label
    CASES          video_id -> case, where videos share one; may be left out

and tests/data_prep/test_sources.py takes each through check, shards, labels and verify.
"""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path

import cv2
from small_videos import picture, write_video


def video(path: Path, seconds: float = 3, fps: int = 25, width: int = 64, height: int = 48) -> Path:
    """A short mp4 or avi."""
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    return write_video(
        path, round(seconds * fps), width=width, height=height, codec=codec, rate=fps
    )


def images(folder: Path, names: Iterable[str], width: int = 64, height: int = 48) -> Path:
    """Pictures of the given file names."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), picture(i, width, height)[:, :, ::-1])
    return folder


def text(path: Path, lines: Iterable[str]) -> Path:
    """A text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def save_json(path: Path, data) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def save_pickle(path: Path, data) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(data))
    return path
