"""CVC-12k: videos that share a folder, labels by masks."""

import numpy as np
import pytest
from layouts import cvc12k as layout
from layouts import images

from data_prep.sources import Times, cvc12k
from data_prep.video import list_images, probe
from surgjax.errors import UserError

TIMES = Times(40 * np.arange(3), np.arange(3), 25.0)


@pytest.fixture
def root(tmp_path):
    layout.make(tmp_path)
    return tmp_path


def video_of(root, name="1"):
    return next(video for video in cvc12k.find(root).videos if video.video_id == name)


def polyps(root, name="1"):
    """Picture -> label."""
    table = cvc12k.labels(root, video_of(root, name), TIMES)["polyp"]
    return dict(zip((table.t_ms // 40 + 1).tolist(), table.label.tolist(), strict=True))


def test_each_video_has_its_own_pictures(root):
    for video in cvc12k.find(root).videos:
        files = [file.name for _, file in list_images(video.path, video.frames_pattern)]
        assert files == [f"{video.video_id}-{i}.png" for i in (1, 2, 3)]
        header = probe(video.path, video.frames_fps, video.frames_pattern)
        assert (header.frames, header.fps) == (3, 25)


def test_a_mask_that_is_not_black_is_a_polyp(root):
    assert polyps(root) == {1: 0, 2: 1}
    assert polyps(root, "11") == {1: 1, 2: 1, 3: 1}  # _Polyp, grey level 1
    assert polyps(root, "18") == {1: 1, 2: 1, 3: 0}


def test_capital_letters_and_other_kinds_of_files(root):
    (root / "images").rename(root / "Images")
    (root / "masks").rename(root / "Masks")
    layout.mask(root / "Masks" / "1-3.png", 255)
    assert cvc12k.recognises(root) and polyps(root) == {1: 0, 2: 1, 3: 1}


def test_masks_and_pictures_of_different_numbers(root):
    assert cvc12k.check_labels(root, video_of(root), 3) == []  # not every picture has a mask
    layout.mask(root / "masks" / "1-4.tif", 0)
    (warning,) = cvc12k.check_labels(root, video_of(root), 3)
    assert "1 has 1 rows without a picture, 4 is the first" in warning
    layout.mask(root / "masks" / "1-5.tif", 0)
    with pytest.raises(UserError, match="masks: 1 has a row for 4, but its last picture is 3"):
        cvc12k.check_labels(root, video_of(root), 3)


def test_a_damaged_mask(root):
    (root / "masks/1-2.tif").write_bytes(b"II*\0")
    with pytest.raises(UserError, match="masks/1-2.tif: does not decode"):
        polyps(root)


def test_a_video_without_masks(root):
    for file in (root / "masks").glob("11-*"):
        file.unlink()
    assert cvc12k.find(root).warnings == ["1 of 3 videos have no masks: 11"]
    assert cvc12k.labels(root, video_of(root, "11"), TIMES) == {}
    assert cvc12k.check_labels(root, video_of(root, "11"), 3) == []


def test_videos_are_divided(root):
    found = cvc12k.find(root)
    assert found.splits == {"strict": {"tier": "ours"}}
    assert sorted(v.splits["strict"] for v in found.videos) == ["test", "train", "val"]


def test_pictures_alone_are_told_apart(tmp_path):
    images(tmp_path / "images", ["1-1.png", "2019-12.png"])
    assert not cvc12k.recognises(tmp_path)
    layout.mask(tmp_path / "masks" / "3-1.png", 0)
    assert not cvc12k.recognises(tmp_path)
    layout.mask(tmp_path / "masks" / "1-7.png", 0)
    assert cvc12k.recognises(tmp_path)
