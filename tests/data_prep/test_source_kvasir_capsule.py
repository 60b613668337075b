"""Kvasir-Capsule: findings of single frames, folds of frames that are no folds of videos."""

from collections import Counter

import numpy as np
import pytest
from layouts import kvasir_capsule as layout
from layouts import text

from data_prep import manifest
from data_prep.sources import Times, kvasir_capsule
from surgjax.errors import UserError

TIMES = Times(np.arange(30) * 100 // 3, np.arange(30), 30.0)
CLASSES = kvasir_capsule.CLASSES


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video_of(root, name=layout.ONE):
    return next(v for v in kvasir_capsule.find(root).videos if v.video_id == name)


def findings(root, name=layout.ONE):
    """Frame -> finding."""
    tables = kvasir_capsule.labels(root, video_of(root, name), TIMES)
    frames = np.flatnonzero(np.isin(TIMES.t_ms, tables["finding"].t_ms)) if tables else []
    return {int(i): CLASSES[c] for i, c in zip(frames, tables["finding"].label, strict=True)}


def test_a_row_labels_its_frame_alone(root):
    assert findings(root) == {
        10: "Normal clean mucosa",
        11: "Normal clean mucosa",
        12: "Blood - fresh",
    }
    assert findings(root, layout.TWO) == {0: "Ileocecal valve"}


def test_two_findings_are_a_warning(root):
    (warning,) = kvasir_capsule.check_labels(root, video_of(root), 30)
    assert "1 frames of 04a78ef00c5245e0 show two findings and have no label, 13 is" in warning
    assert kvasir_capsule.check_labels(root, video_of(root, layout.TWO), 30) == []
    rows = [layout.row(layout.ONE, 3, "Polyp")] * 2  # the same finding, two boxes
    text(root / "labelled_images/metadata.csv", [layout.HEADER, *rows])
    assert findings(root) == {3: "Polyp"}


def test_a_finding_past_the_end(root):
    rows = [layout.row(layout.ONE, frame, "Polyp") for frame in (3, 59)]
    text(root / "labelled_images/metadata.csv", [layout.HEADER, *rows])
    assert kvasir_capsule.check_labels(root, video_of(root), 30) == []
    with pytest.raises(
        UserError, match="metadata.csv: .* has 29 frames, but a finding at frame 59"
    ):
        kvasir_capsule.check_labels(root, video_of(root), 29)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg;a;1;Luminal;Polyps", "line 2: unknown finding 'Polyps' .did you mean 'Polyp'"),
        ("a.jpg;a;x;Luminal;Polyp", "line 2: .*expected filename;video_id;frame_number"),
        ("a.jpg;a;1;Luminal", "line 2: .*expected filename;video_id;frame_number"),
    ],
)
def test_bad_rows_are_named(root, row, message):
    text(root / "labelled_images/metadata.csv", [layout.HEADER, row])
    with pytest.raises(UserError, match=f"labelled_images/metadata.csv, {message}"):
        findings(root)


def test_another_header(root):
    text(root / "labelled_images/metadata.csv", ["filename,label", "a.jpg,Polyp"])
    with pytest.raises(UserError, match="line 1: header is .*expected filename;video_id"):
        findings(root)


def test_the_table_beside_the_folders(root):
    (root / "labelled_images/metadata.csv").rename(root / "metadata.csv")
    assert findings(root, layout.TWO) == {0: "Ileocecal valve"}
    (root / "metadata.csv").unlink()
    assert "there is no metadata.csv, so no video has labels" in kvasir_capsule.find(root).warnings
    assert kvasir_capsule.labels(root, video_of(root), TIMES) == {}
    assert kvasir_capsule.check_labels(root, video_of(root), 30) == []


def test_videos_without_findings_are_for_training(root):
    assert video_of(root, layout.OTHER).splits == {"strict": "train"}
    assert video_of(root, layout.TWO).splits == {"strict": "test"}
    assert kvasir_capsule.labels(root, video_of(root, layout.OTHER), TIMES) == {}
    warning = kvasir_capsule.find(root).warnings[0]
    assert warning.startswith("41 of 43 official videos are missing: 0531325b64674948")


def test_videos_are_divided():
    splits = manifest.read("kvasir_capsule")
    parts = splits.splits["strict"]
    assert Counter(parts.values()) == {"train": 30, "val": 9, "test": 4}
    assert splits.names == parts.keys() and splits.about == {"strict": {"tier": "ours"}}
