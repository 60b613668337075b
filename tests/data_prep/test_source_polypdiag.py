"""PolypDiag: the lists are labels and split."""

import numpy as np
import pytest
from layouts import polypdiag as layout
from layouts import text

from data_prep.sources import Times, polypdiag
from surgjax.errors import UserError

TIMES = Times(np.array([0, 1000]), np.array([0, 25]), 25.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def test_the_list_is_the_label_of_all_frames(root):
    tables = {v.video_id: polypdiag.labels(root, v, TIMES) for v in polypdiag.find(root).videos}
    assert tables.pop("unlisted") == {}
    labels = {name: of["diagnosis"].label.tolist() for name, of in tables.items()}
    assert labels == {"12": [1, 1], layout.UUID: [0, 0], "a b_3": [1, 1]}


def test_the_second_list_is_the_test_list(root):
    found = polypdiag.find(root)
    assert {v.video_id: v.splits for v in found.videos} == {
        "12": {"strict": "train", "endofm": "train"},
        layout.UUID: {"strict": "train", "endofm": "train"},
        "a b_3": {"strict": "test", "endofm": "test"},
        "unlisted": {"strict": "train"},
    }
    assert found.splits["endofm"] == {"tier": "community", "val_is_test": True}
    assert found.splits["strict"] == {"tier": "community"}


def test_what_is_missing_is_a_warning(root):
    assert polypdiag.find(root).warnings == [
        "1 of 4 videos are in no list and have no label: unlisted",
        "1 of 4 official videos are missing: missing",
    ]
    (root / "splits/train.txt").unlink()
    (root / "splits/val.txt").unlink()
    found = polypdiag.find(root)
    assert "4 of 4 videos are in no list and have no label" in found.warnings[0]
    assert "4 of 4 videos have no list file" in found.warnings[1]
    assert {part for v in found.videos for part in v.splits.values()} == {"train"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.mp4,2", "line 1: label is '2'; expected a number from 0 to 1"),
        ("b.mp4", "line 1: .*expected a line such as name.mp4,1"),
        ("b,1", "line 1: .*expected a line such as name.mp4,1"),
        ("12.mp4,1", "line 1: 12.mp4 is listed above too"),
    ],
)
def test_bad_lines_are_named(root, line, message):
    text(root / "splits/val.txt", [line])
    with pytest.raises(UserError, match=f"splits/val.txt, {message}"):
        polypdiag.find(root)


def test_other_lists_are_told_apart(root):
    assert polypdiag.recognises(root)
    for name in ("train", "val"):
        text(root / f"splits/{name}.txt", ["videos/a.mp4 1"])
    assert not polypdiag.recognises(root)
