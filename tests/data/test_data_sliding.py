"""Clips from a sliding window: those of `decode_clip` bit for bit, at one decode a frame."""

import numpy as np
import pytest
import simplejpeg
from small_videos import picture, shards, write_video

from surgjax.data import sliding
from surgjax.data.clip import Unreadable, decode_clip
from surgjax.data.plan import ROW, ClipShape
from surgjax.data.store import open_store
from surgjax.data.transforms import CENTRE, MULTISCALE, Augmentation

SHAPE = ClipShape(4, 3, 24)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """An x264 store of two videos in blocks of 32 frames."""
    root = tmp_path_factory.mktemp("dense")
    for number, frames in enumerate((70, 41)):
        images = [picture(7 * i + 5 * number) for i in range(frames)]
        write_video(root / "videos" / f"v{number}.mp4", frames, images=images)
    options = ["--codec", "x264", "--frames-per-record", "32", "--short-side", "64"]
    assert not shards(root / "videos", root / "store", "--fps", "native", *options)
    return root / "store"


def rows_at(*starts):
    """Rows of (video, start) pairs."""
    rows = np.zeros(len(starts), ROW)
    rows["video"], rows["start"] = np.array(starts).T
    return rows


def over_the_ends(store):
    """A start in three of every video, from before its first frame to after its last."""
    return rows_at(
        *(
            (v, start)
            for v in range(len(store))
            for start in range(-20, int(store.frames[v]) + 3, 3)
        )
    )


@pytest.mark.parametrize("augment", [CENTRE, Augmentation("left"), Augmentation("right")])
@pytest.mark.parametrize("kind", ["jpeg", "in records", "x264", "left out"])
def test_clips_are_those_of_decode_clip(kind, augment, made_store, dense, make_store, tmp_path):
    stores = {
        "jpeg": lambda: made_store,
        "in records": lambda: make_store(tmp_path / "s", frames_per_record=8),
        "x264": lambda: dense,
        "left out": lambda: make_store(
            tmp_path / "s", frames=(60, 30), left_out={0: [(400, 1000)], 1: [(0, 200)]}
        ),
    }
    store = open_store(stores[kind]())
    rows = over_the_ends(store)
    rows = np.concatenate([rows[:5], rows[4:]])  # one of them twice
    found = list(sliding.sliding_clips(store, rows, SHAPE, augment, workers=2))
    assert len(found) == len(rows)
    for row, clip in zip(rows, found, strict=True):
        np.testing.assert_array_equal(clip, decode_clip(store, row, SHAPE, augment))


def test_a_stride_in_seconds_and_no_clips(made_store):
    store, shape = open_store(made_store), ClipShape(3, "0.08s", 24)
    rows = rows_at((0, 5), (2, 1))
    for row, clip in zip(rows, sliding.sliding_clips(store, rows, shape), strict=True):
        np.testing.assert_array_equal(clip, decode_clip(store, row, shape))
    assert not list(sliding.sliding_clips(store, rows[:0], shape))


@pytest.mark.parametrize("frames_per_record", [1, 8])
def test_frames_are_decoded_once_and_others_never(
    make_store, tmp_path, monkeypatch, frames_per_record
):
    store = open_store(make_store(tmp_path / "s", (200,), frames_per_record=frames_per_record))
    decoded, decode = [], simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda data, **o: decoded.append(data) or decode(data, **o)
    )
    rows = rows_at(*((0, start) for start in [*range(0, 60, 3), 150, 151]))
    assert len(list(sliding.sliding_clips(store, rows, SHAPE))) == len(rows)
    wanted = np.unique(rows["start"][:, None] + 3 * np.arange(4))
    assert len(decoded) == len(wanted)


def test_blocks_are_decoded_once(dense, monkeypatch):
    from surgjax.data import decode

    calls, of_block = [], decode.decode_block
    monkeypatch.setattr(decode, "decode_block", lambda *a: calls.append(a[1]) or of_block(*a))
    rows = rows_at(*((0, start) for start in range(61)))
    assert len(list(sliding.sliding_clips(open_store(dense), rows, SHAPE))) == len(rows)
    assert sorted(map(len, calls)) == [6, 32, 32]


def test_memory_is_that_of_a_window(make_store, tmp_path, monkeypatch):
    """Of 600 frames no more are alive than a window spans and threads are ahead."""
    store = open_store(make_store(tmp_path / "s", (600,)))
    monkeypatch.setattr(sliding, "AHEAD", 2)
    begun, decode = [0], sliding._decode
    monkeypatch.setattr(
        sliding,
        "_decode",
        lambda store, video, frames, *a: (
            begun.append(frames[-1]) or decode(store, video, frames, *a)
        ),
    )
    rows = rows_at(*((0, start) for start in range(580)))
    clips = sliding.sliding_clips(store, rows, SHAPE)
    for row, _ in zip(rows, clips, strict=True):
        assert max(begun) <= row["start"] + 9 + 3 * sliding.TOGETHER
        assert len(clips.gi_frame.f_locals["held"]) <= 10 + sliding.TOGETHER


def test_damage_is_named_where_a_clip_shows_it(make_store, tmp_path):
    """Frame 40 is damaged: clips that step over it are whole, the first that shows it is not."""
    path = make_store(tmp_path / "s", frames=(90,), records_per_shard=40)
    file = sorted(path.glob("*array_record*"))[1]
    data = bytearray(file.read_bytes())
    first = data.find(b"\xff\xd8\xff")
    data[first + 100 : first + 140] = bytes(40)
    file.write_bytes(data)
    store = open_store(path)
    rows = rows_at(*((0, start) for start in range(29, 45)))
    whole = [row for row in rows if (40 - row["start"]) % 3 or not 0 <= 40 - row["start"] <= 9]
    assert len(whole) == 12
    found = list(sliding.sliding_clips(store, np.array(whole), SHAPE))
    for row, clip in zip(whole, found, strict=True):
        np.testing.assert_array_equal(clip, decode_clip(store, row, SHAPE))
    came = []
    with pytest.raises(Unreadable) as caught:
        for clip in sliding.sliding_clips(store, rows, SHAPE):
            came.append(clip)
    assert caught.value.frame == 40 and len(came) == 2  # that of 31 is the third


def test_a_frame_of_another_size_is_damage(make_store, tmp_path, monkeypatch):
    store = open_store(make_store(tmp_path / "s", frames=(40,)))
    odd = simplejpeg.encode_jpeg(np.zeros((24, 32, 3), np.uint8))
    read = store.read
    monkeypatch.setattr(
        store,
        "read",
        lambda v, fs: [odd if f == 33 else d for f, d in zip(fs, read(v, fs), strict=True)],
    )
    rows = rows_at((0, 21), (0, 24))
    with pytest.raises(Unreadable, match="pixels in a video of") as caught:
        list(sliding.sliding_clips(store, rows, SHAPE))
    assert caught.value.frame == 33


def test_what_cannot_share_frames_is_refused(made_store):
    store = open_store(made_store)
    with pytest.raises(ValueError, match="not in order"):
        next(sliding.sliding_clips(store, rows_at((0, 5), (0, 4)), SHAPE))
    with pytest.raises(ValueError, match="of its own"):
        next(sliding.sliding_clips(store, rows_at((0, 5)), SHAPE, MULTISCALE))
