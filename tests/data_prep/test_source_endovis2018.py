"""EndoVis 2018: classes of the scene from colours, numbers in both parts, splits of others."""

import cv2
import numpy as np
import pytest
from layouts import endovis2018 as layout

from data_prep import manifest
from data_prep.sources import Times, endovis2018
from surgjax.errors import UserError

SECONDS = Times(np.arange(3) * 1000, np.arange(3), 1.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def one(root, name="train_seq_1"):
    return next(video for video in endovis2018.find(root).videos if video.video_id == name)


def present(root, name="train_seq_1", times=SECONDS):
    table = endovis2018.labels(root, one(root, name), times)["scene"]
    return {
        int(t): [c for c, x in zip(endovis2018.COLOURS, row, strict=True) if x]
        for t, row in zip(table.t_ms, table.values, strict=True)
    }


def test_every_class_has_its_colour(root):
    for name, colour in endovis2018.COLOURS.items():
        layout.label(root / layout.ONE / "labels/frame001.png", colour)
        assert present(root)[1000] == [name]
    layout.label(root / layout.ONE / "labels/frame001.png", *endovis2018.COLOURS.values(), alpha=9)
    assert present(root)[1000] == list(endovis2018.COLOURS)


def test_a_colour_next_to_one_is_none(root):
    near = [(r, g, b ^ 1) for r, g, b in endovis2018.COLOURS.values()]
    layout.label(root / layout.ONE / "labels/frame001.png", *near)
    assert present(root)[1000] == []


def test_one_number_in_both_parts_is_two_operations(root):
    videos = {video.video_id: video for video in endovis2018.find(root).videos}
    assert videos.keys() == {"train_seq_1", "train_seq_5", "test_seq_1"}
    assert videos["train_seq_1"].case != videos["test_seq_1"].case
    assert videos["train_seq_1"].splits["strict"] == "train"
    assert videos["test_seq_1"].splits == {"official": "test", "strict": "test"}
    assert videos["train_seq_5"].splits["isinet"] == videos["train_seq_5"].splits["vqa"] == "test"


def test_frames_without_label_are_counted(root):
    five = one(root, "train_seq_5")
    two = Times(np.arange(2) * 1000, np.arange(2), 1.0)
    assert present(root, "train_seq_5", two) == {0: ["instrument-shaft"]}
    assert endovis2018.check_labels(root, five, 2) == ["train_seq_5: 1 of 2 frames have no label"]
    assert endovis2018.check_labels(root, one(root), 3) == []
    (five.path.parent / "labels" / "frame000.png").unlink()
    assert endovis2018.labels(root, five, two) == {}


def test_other_pictures_are_refused(root):
    path = root / layout.ONE / "labels/frame001.png"
    assert cv2.imwrite(str(path), np.full((48, 64), 4, np.uint8))  # numbers of classes
    with pytest.raises(UserError, match="seq_1/labels/frame001.png: most colours are none of"):
        present(root)
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="seq_1/labels/frame001.png: does not decode"):
        present(root)


def test_sequences_right_below_the_root(root):
    (root / layout.ONE).rename(root / "seq_1")
    assert one(root).path == root / "seq_1" / "left_frames" and present(root)[1000] == []


def test_splits():
    splits = manifest.read("endovis2018")
    count = {name: [list(parts.values()).count(part) for part in ("train", "test")]
             for name, parts in splits.splits.items()}  # fmt: skip
    assert count == {"official": [15, 4], "strict": [15, 4], "isinet": [11, 4], "vqa": [11, 3]}
    assert len(splits.names) == 19 and "train_seq_8" not in splits.names
