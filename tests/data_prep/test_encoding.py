"""x264 stores: the same frames, times and labels as a JPEG store, at fewer bytes."""

import io
import itertools

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.encoding import X264, encode_block
from data_prep.video import Seen, kept_frames
from surgjax.data import decode
from surgjax.data.clip import decode_clip
from surgjax.data.plan import ROW, SPAN, ClipShape, CuratedPlan, Plan
from surgjax.data.store import open_store
from surgjax.errors import UserError
from tests import small_videos as make

X264_OPTIONS = ("--fps", "native", "--short-side", "48", "--codec", "x264")


def moving(count: int, height: int = 48, width: int = 64, seed: int = 0) -> list[np.ndarray]:
    """A smooth pattern that wanders, so that frames differ and follow from each other."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (20 + height // 16, 30 + width // 16, 3), np.uint8)
    wide = cv2.resize(small, None, fx=16, fy=16, interpolation=cv2.INTER_CUBIC)
    return [wide[i // 2 : i // 2 + height, i : i + width] for i in range(count)]


@pytest.fixture(scope="module")
def block():
    images = moving(90)
    return images, encode_block(images, 20)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense") / "videos"
    make.write_video(folder / "a.mp4", 75, width=64, height=48, images=moving(75))
    make.write_video(folder / "b.mkv", 300, width=65, height=49, images=moving(300, 49, 65, 1))
    return folder


@pytest.fixture(scope="module")
def dense(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("dense") / "store"
    make.shards(videos, out, *X264_OPTIONS, "--crf", "18")
    return out


def test_any_frames_of_a_block_equal_those_of_its_whole_stream(block):
    _, packets = block
    order = decode.needed(packets, range(len(packets)))
    assert sorted(order) == list(range(len(packets)))
    stream = io.BytesIO(b"".join(packets[i] for i in order))
    with av.open(stream, format="h264") as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(whole) == len(packets)
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 16, 90):
        for _ in range(6):
            wanted = rng.permutation(len(packets))[:size].tolist()
            for i, picture in zip(wanted, decode.decode_block(packets, wanted), strict=True):
                np.testing.assert_array_equal(picture, whole[i])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 31, 33, 34])
def test_blocks_of_any_length(count):
    images = moving(count)
    encoder = X264(20, 128)
    assert not list(itertools.chain(*(encoder.add(image) for image in images)))
    packets = encoder.finish()
    assert len(packets) == count and encoder.psnr > 30
    assert decode.needed(packets, range(0, count, 4)) == list(range(0, count, 4))


def test_a_clip_of_stride_four_decodes_its_own_frames_alone(dense, monkeypatch):
    store, decoded = open_store(dense), []
    needed = decode.needed
    monkeypatch.setattr(decode, "needed", lambda *a: decoded.extend(x := needed(*a)) or x)
    row = np.zeros((), ROW)
    row["video"], row["start"] = 1, 64
    clip = decode_clip(store, row, ClipShape(16, 4, 48))
    assert len(decoded) == 16  # frames 64 and 96 are key frames, 128 is the next block
    pictures = list(map(np.copy, decode.pictures(store, 1, range(64, 128, 4))))
    np.testing.assert_array_equal(clip, [p[:, 8:56] for p in pictures])


@pytest.mark.parametrize("stride, grid", [(4, 4), (8, 4), (3, 1), (1, 1)])
def test_starts_lie_on_reference_frames(dense, stride, grid):
    store = open_store(dense)
    masks, shape = [np.ones(2, bool)], ClipShape(5, stride, 32)
    plan = Plan([store], masks, shape, 1, seed=0)
    fits = [range(0, int(n) - 4 * stride, grid) for n in store.frames]
    expected = sorted((v, start) for v, starts in enumerate(fits) for start in starts)
    rows = [plan.rows(step)[0] for step in range(plan.num_samples)]
    assert sorted((r["video"], r["start"]) for r in rows) == expected
    k = Plan([store], masks, shape, 1, seed=0, clips_per_window=3).group_rows(0)
    assert np.isin(np.diff(k["start"][:, 0]), stride).any()
    spans = [np.array([(1, 41, 103, 1.0), (1, 7, 9, 1.0)], SPAN)]
    curated = CuratedPlan([store], masks, shape, 1, seed=0, spans=spans)
    starts = {int(curated.rows(step)[0]["start"]) for step in range(2000)}
    assert all(start % grid == 0 for start in starts)
    assert starts >= set(range(-(-41 // grid) * grid, 103 - 4 * stride, grid))


def test_a_store_holds_the_frames_of_its_recordings(videos, dense, capsys):
    store = open_store(dense)
    assert store.codec == "x264" and store.frames_per_record == 128
    assert store.meta["settings"]["crf"] == 18 and "quality" not in store.meta["settings"]
    assert store.videos["width"].tolist() == [64, 64]  # 65 x 49 pixels lose an odd one
    assert store.videos["height"].tolist() == [48, 48]
    for video, name in enumerate(["a.mp4", "b.mkv"]):
        source = kept_frames(videos / name, fps=None, short_side=48, seen=Seen(), even=True)
        errors, times = [], []
        for frame, picture in zip(
            source, decode.pictures(store, video, range(store.frames[video])), strict=True
        ):
            errors.append(np.mean((frame.image.astype(float) - picture) ** 2))
            times.append(frame.t_ms)
        psnr = 10 * np.log10(255**2 / np.mean(errors))
        assert psnr > 30 and store.videos["psnr"][video] == pytest.approx(psnr, abs=0.01)
        assert store.read_times(video, range(store.frames[video])) == times
    assert make.main(["verify", str(dense), "--against-source", "40", "--root", str(videos)]) == 0
    assert make.main(["inspect", str(dense)]) == 0
    assert "contact_sheet.png" in capsys.readouterr().out


def test_both_codecs_store_the_same_tables(tmp_path, dense, videos):
    make.shards(videos, tmp_path / "jpeg", *X264_OPTIONS[:4])
    ours, theirs = (pq.read_table(p / "videos.parquet") for p in (dense, tmp_path / "jpeg"))
    differs = {"first_record", "width", "height", "psnr", "psnr_lowest"}
    for name in set(ours.column_names) - differs:
        assert ours[name] == theirs[name], name


def test_a_block_store_is_smaller_than_a_jpeg_store_and_the_same_with_two_workers(tmp_path):
    corpus = ["--videos", "2", "--seconds", "8", "--out", str(tmp_path / "videos")]
    assert make.main(["synthesize", *corpus]) == 0
    stores = {}
    for name, options in {
        "one": ["--codec", "x264", "--workers", "1"],
        "two": ["--codec", "x264", "--workers", "2"],
        "jpeg": [],
    }.items():
        stores[name] = tmp_path / name
        root = ["--dataset", "synthetic", "--root", str(tmp_path / "videos")]
        fps = ["--fps", "native", "--out", str(stores[name])]
        assert make.main(["shards", *root, *fps, *options]) == 0
    assert make.contents(stores["one"]) == make.contents(stores["two"])
    size = {n: sum(s["bytes"] for s in open_store(p).meta["shards"]) for n, p in stores.items()}
    assert size["one"] < 0.5 * size["jpeg"]
    assert make.main(["overlap", str(stores["one"]), str(stores["jpeg"])]) == 0


def test_damaged_packets_are_refused_or_decode(block):
    _, packets = block
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        broken, i = list(packets), int(rng.integers(len(packets)))
        data = bytearray(broken[i])
        if rng.random() < 0.5:
            data = data[: int(rng.integers(len(data)))]
        else:
            for at in rng.integers(0, len(data), 8):
                data[at] = rng.integers(256)
        broken[i] = bytes(data)
        try:
            made = decode.decode_block(broken, range(len(broken)))
            assert {picture.shape for picture in made} == {(48, 64, 3)}
        except ValueError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "options, message",
    [
        (["--crf", "20"], "--crf is for --codec x264"),
        (["--codec", "x264", "--quality", "80"], "--quality is for --codec jpeg"),
        (["--codec", "x264", "--frames-per-record", "30"], "expected a multiple of 4"),
        (["--codec", "x264", "--crf", "52"], "--crf is 52; expected 0 to 51"),
    ],
)
def test_options_that_do_not_go_together(videos, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        make.main(["shards", "--videos", str(videos), "--out", str(tmp_path / "s"), *options])


def test_a_rate_at_which_blocks_do_not_pay_is_said(videos, tmp_path, capsys):
    make.shards(videos, tmp_path / "s", "--fps", "1", "--codec", "x264")
    assert "neighbouring frames have little in common" in capsys.readouterr().out
