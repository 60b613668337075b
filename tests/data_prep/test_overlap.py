"""The same recording is found under another name, codec, size and border; others are not."""

import json

import cv2
import numpy as np
import pytest
import small_videos as make

from data_prep import overlap
from data_prep.__main__ import main
from surgjax.data.leakage import usable_videos
from surgjax.data.store import open_store
from surgjax.errors import UserError


def scene(seed: int, count: int = 90) -> list[np.ndarray]:
    """Soft blobs that drift: no two scenes and no two moments look alike."""
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(0, 96, (12, 2)), rng.uniform(-1.5, 1.5, (12, 2))
    shade, frames = rng.uniform(60, 250, 12), []
    for i in range(count):
        frame = np.full((72, 96), 40, np.uint8)
        for (x, y), value in zip((start + i * speed) % 96, shade, strict=True):
            cv2.circle(frame, (round(x), round(y) - 12), 11, float(value), -1)
        frames.append(np.repeat(cv2.GaussianBlur(frame, (0, 0), 2)[:, :, None], 3, 2))
    return frames


def bordered(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Smaller, in a black border."""
    small = [cv2.resize(frame, (64, 48), interpolation=cv2.INTER_AREA) for frame in frames]
    return [np.pad(frame, ((8, 8), (16, 16), (0, 0))) for frame in small]


@pytest.fixture
def stores(tmp_path):
    """Store a: two scenes and black. Store b: the second scene from 20 frames on, re-encoded."""
    black = [np.zeros((72, 96, 3), np.uint8)] * 90
    for name, images in (("one", scene(1)), ("two", scene(2)), ("night", black)):
        make.write_video(tmp_path / "a" / f"{name}.mp4", rate=10, images=images)
    options = {"crf": "32"}
    later = bordered(scene(2)[20:])
    make.write_video(tmp_path / "b" / "x.mp4", rate=10, images=later, options=options)
    make.write_video(tmp_path / "b" / "y.mp4", rate=10, images=scene(3))
    make.write_video(tmp_path / "b" / "night.mp4", rate=10, images=bordered(black))
    (tmp_path / "b" / "splits.csv").write_text("video,split\nx,test\ny,train\n")
    for name, fps in (("a", "native"), ("b", "5")):
        options = ["--dataset", name, "--fps", fps, "--short-side", "64"]
        make.shards(tmp_path / name, tmp_path / f"store_{name}", *options)
    return tmp_path / "store_a", tmp_path / "store_b"


def test_a_copy_is_found_and_its_case_is_held_out(stores, capsys):
    command = ["overlap", *map(str, stores), "--every", "1"]
    opened = [open_store(path) for path in stores]
    assert usable_videos(opened)[0][0].tolist() == [True] * 3
    capsys.readouterr()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "a-native:two = b-5fps:x" in out and "-2 s" in out
    assert "1 pairs of videos show one recording; 1 pairs of cases" in out
    assert "1 show too little to be compared" in out
    assert not (stores[0] / "same_cases.parquet").exists()

    assert main([*command, "--apply"]) == 0
    assert main([*command, "--apply"]) == 0  # again, with the same result
    rows = make.rows(stores[0], "same_cases")
    assert [(row["case"], row["same_as"], row["held_out"]) for row in rows] == [
        ("a/two", "b/x", True)
    ]
    for store in stores:
        assert main(["verify", str(store)]) == 0
    # With the other store or without it, the test case is left out under both names.
    alone = [open_store(stores[0])]
    both = [open_store(path) for path in stores]
    for given in (alone, both):
        names = dict(zip(given[0].videos["video_id"], usable_videos(given)[0][0], strict=True))
        assert names == {"night": True, "one": True, "two": False}
    meta = json.loads((stores[1] / "store.json").read_text())
    assert "same_cases.parquet" in meta["tables"]


def test_hash_is_the_sign_of_low_frequencies_in_float64():
    scipy_fft = pytest.importorskip("scipy.fft")
    rng = np.random.default_rng(0)
    for frame in (scene(4)[0][:, :, 0], rng.integers(0, 256, (50, 70), np.uint8)):
        small = cv2.resize(frame, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float64)
        low = scipy_fft.dctn(small, norm="ortho")[:8, :8]
        bits = "".join("01"[int(value > np.median(low))] for value in low.ravel())
        assert overlap.hash_picture(frame) == int(bits, 2)


def test_every_close_pair_is_found():
    """Up to three bits apart every pair; beyond, only pairs that are within the bound."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**63, 400).astype(np.uint64)
    for i in range(200, 400):
        flips = np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, 3, replace=False).astype("u8"))
        bits[i] = bits[i - 200] ^ flips
    a, b = overlap._alike(bits, np.arange(400))
    assert {(i, i + 200) for i in range(200)} <= set(zip(a.tolist(), b.tolist(), strict=True))
    assert np.bitwise_count(bits[a] ^ bits[b]).max() <= overlap.DIFFERENT_BITS
    assert len(overlap._alike(bits, np.zeros(400, int))[0]) == 0  # within one video


def test_bad_arguments(stores, tmp_path):
    with pytest.raises(UserError, match="--every is 0; expected seconds"):
        main(["overlap", str(stores[0]), "--every", "0"])
    with pytest.raises(UserError, match="no store at"):
        main(["overlap", str(tmp_path / "nothing")])
