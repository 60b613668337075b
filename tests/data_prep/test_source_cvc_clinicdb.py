"""CVC-ClinicDB: sequences out of one folder of numbered pictures, in all its releases."""

import numpy as np
import pytest
import small_videos as make
from layouts import cvc_clinicdb as layout
from layouts import images

from data_prep.sources import cvc12k, cvc_clinicdb
from data_prep.video import Seen, kept_frames, list_images, probe


def pictures(root):
    """Sequence -> names of its pictures."""
    return {
        video.video_id: [file.name for _, file in list_images(video.path, video.frames_pattern)]
        for video in cvc_clinicdb.find(root).videos
    }


def test_the_sequences_are_all_pictures_in_order():
    lengths = list(map(len, cvc_clinicdb.SEQUENCES.values()))
    assert len(lengths) == 29 and (min(lengths), max(lengths)) == (6, 26)
    assert [n for of in cvc_clinicdb.SEQUENCES.values() for n in of] == list(range(1, 613))


@pytest.mark.parametrize(
    ("folder", "suffix"), [("", "tif"), ("", "png"), ("TIF", "tif"), ("PNG", "png")]
)
def test_a_sequence_has_its_own_pictures(tmp_path, folder, suffix):
    layout.make(tmp_path, folder, suffix)
    assert cvc_clinicdb.recognises(tmp_path) and not cvc12k.recognises(tmp_path)
    assert pictures(tmp_path) == {
        name: [f"{number}.{suffix}" for number in numbers]
        for name, numbers in layout.NUMBERS.items()
    }


def test_tif_keeps_every_pixel_and_a_missing_picture_its_second(tmp_path):
    layout.make(tmp_path)
    video = cvc_clinicdb.find(tmp_path).videos[0]
    header = probe(video.path, video.frames_fps, video.frames_pattern)
    assert (header.frames, header.fps, header.width, header.height) == (25, 1, 64, 48)
    kept = kept_frames(
        video.path,
        fps=None,
        short_side=48,
        seen=Seen(),
        frames_fps=video.frames_fps,
        frames_pattern=video.frames_pattern,
    )
    frames = list(kept)
    assert [frame.t_ms for frame in frames] == [0, 1000, 2000, 3000, 4000, 5000, 24000]
    np.testing.assert_array_equal(frames[1].image, make.picture(1, 64, 48))


def test_missing_pictures_are_told(tmp_path):
    layout.make(tmp_path)
    assert cvc_clinicdb.find(tmp_path).warnings == [
        "594 of 612 pictures are missing: 7, 8, 9, 10, 11 and 589 more"
    ]
    names = [f"{number}.png" for number in (*range(1, 613), 613)]
    images(tmp_path / "full/Original", names, width=4, height=4)
    found = cvc_clinicdb.find(tmp_path / "full")
    assert not found.warnings and len(found.videos) == 29
    assert pictures(tmp_path / "full")["sequence_29"] == names[591:612]  # there is no 613


def test_both_releases_at_once(tmp_path):
    layout.make(tmp_path, "PNG", "png")
    layout.make(tmp_path, "TIF", "tif")
    found = cvc_clinicdb.find(tmp_path)
    assert {video.path for video in found.videos} == {tmp_path / "TIF/Original"}
    assert "Original is there twice; TIF/Original is used" in found.warnings


def test_it_is_for_pretraining(tmp_path):
    layout.make(tmp_path)
    found = cvc_clinicdb.find(tmp_path)
    assert not found.tasks and not found.splits
    assert {video.case for video in found.videos} == {
        f"cvc_clinicdb/{name}" for name in layout.NUMBERS
    }


def test_pictures_alone_are_told_apart(tmp_path):
    images(tmp_path / "Original", ["1.tif", "2.tif"])
    assert not cvc_clinicdb.recognises(tmp_path)
    (tmp_path / "Ground Truth").mkdir()
    assert cvc_clinicdb.recognises(tmp_path)
    images(tmp_path / "other/Original", ["a.tif", "0.tif"])
    (tmp_path / "other/Ground Truth").mkdir()
    assert not cvc_clinicdb.recognises(tmp_path / "other")
