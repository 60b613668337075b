import numpy as np
import pytest
import simplejpeg

from surgjax.data import clip as clips
from surgjax.data import transforms
from surgjax.data.plan import ROW, ClipShape, Plan
from surgjax.data.store import open_store
from surgjax.data.transforms import CENTRE, MULTISCALE
from surgjax.errors import UserError

SHAPE = ClipShape(4, 2, 32)


def make_row(video, start, crop_seed=0):
    return np.array((0, 0, video, start, crop_seed), ROW)


def frames_shown(clip):
    """Video and frames of a clip from their colours, see conftest.picture."""
    red, green = clip[..., 0].mean(axis=(1, 2)), clip[..., 1].mean(axis=(1, 2))
    return np.round((red - 20) / 30).astype(int), np.round((green - 10) / 3).astype(int)


@pytest.mark.parametrize("augment", [CENTRE, MULTISCALE])
def test_a_clip_shows_its_frames(made_store, augment):
    clip = clips.decode_clip(open_store(made_store), make_row(2, 5, 9), SHAPE, augment)
    assert clip.shape == (4, 32, 32, 3) and clip.dtype == np.uint8
    video, frame = frames_shown(clip)
    assert video.tolist() == [2] * 4 and frame.tolist() == [5, 7, 9, 11]


def test_a_clip_equals_decoding_and_cropping_by_hand(made_store):
    store = open_store(made_store)
    row = make_row(0, 3, crop_seed=77)
    clip = clips.decode_clip(store, row, SHAPE, MULTISCALE)
    box = transforms.multi_scale_crop(48, 64, 32, transforms.rng_of(77))
    for t, jpeg in enumerate(store.read(0, [3, 5, 7, 9])):
        frame = simplejpeg.decode_jpeg(jpeg, fastdct=True, fastupsample=True)
        out = np.empty((32, 32, 3), np.uint8)
        transforms.resize(frame, box, out)
        np.testing.assert_array_equal(clip[t], out)


def test_a_clip_over_the_ends_repeats_the_end_frames(made_store):
    store = open_store(made_store)
    assert frames_shown(clips.decode_clip(store, make_row(1, -4), SHAPE))[1].tolist() == [
        0,
        0,
        0,
        2,
    ]
    assert frames_shown(clips.decode_clip(store, make_row(1, 3), SHAPE))[1].tolist() == [3, 5, 6, 6]


def test_a_stride_in_seconds_follows_the_rate_of_the_video(tmp_path, make_store):
    store = open_store(make_store(tmp_path / "s", frames=(40, 40), fps=12.5))
    clip = clips.decode_clip(store, make_row(1, 1), ClipShape(4, "0.24s", 32))
    assert frames_shown(clip)[1].tolist() == [1, 4, 7, 10]


@pytest.mark.parametrize("frames_per_record", [1, 8])
def test_a_window_decodes_every_frame_once(tmp_path, make_store, monkeypatch, frames_per_record):
    path = make_store(tmp_path / "s", frames=(60,), frames_per_record=frames_per_record)
    store = open_store(path)
    k, decoded = 5, []
    plan = Plan([store], [np.ones(1, bool)], SHAPE, 1, seed=0, clips_per_window=k)
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda data, **o: decoded.append(data) or decode(data, **o)
    )
    for group in range(6):
        rows = plan.group_rows(group)[:, 0]
        out = np.zeros((k, 4, 32, 32, 3), np.uint8)
        decoded.clear()
        count = clips.decode_window(store, rows, SHAPE, MULTISCALE, out)
        wanted = rows["start"][:, None] + 2 * np.arange(4)
        assert count == len(decoded) == len(np.unique(wanted))
        for j in range(k):
            assert frames_shown(out[j])[1].tolist() == wanted[j].tolist()
            alone = clips.decode_clip(store, rows[j], SHAPE, MULTISCALE)
            np.testing.assert_array_equal(out[j], alone)


def test_frames_of_another_size_are_damage(tmp_path, make_store, monkeypatch):
    store = open_store(make_store(tmp_path / "s", frames=(9,)))
    small = simplejpeg.encode_jpeg(np.zeros((24, 32, 3), np.uint8))
    large = simplejpeg.encode_jpeg(np.zeros((96, 128, 3), np.uint8))
    for odd in (small, large):
        jpegs = store.read(0, [0, 2]) + [odd]
        monkeypatch.setattr(store, "read", lambda v, f, j=jpegs: j)
        with pytest.raises(clips.Unreadable) as caught:
            clips.decode_clip(store, make_row(0, 0), SHAPE)
        assert caught.value.frame == 4
        monkeypatch.undo()


def test_grey_jpegs_are_shown_in_rgb(tmp_path, make_store, monkeypatch):
    store = open_store(make_store(tmp_path / "s", frames=(9,)))
    grey = simplejpeg.encode_jpeg(np.full((48, 64, 1), 90, np.uint8), colorspace="GRAY")
    monkeypatch.setattr(store, "read", lambda v, f: [grey] * 4)
    assert np.abs(clips.decode_clip(store, make_row(0, 0), SHAPE).astype(int) - 90).max() <= 1


@pytest.mark.parametrize("at", ["block", "shard end"])
def test_a_damaged_block_is_replaced_by_the_same_stand_in(tmp_path, make_store, at):
    path = make_store(tmp_path / "s", frames=(200,), records_per_shard=40)
    file = sorted(path.glob("*array_record*"))[1]
    data = bytearray(file.read_bytes())
    if at == "block":
        first = data.find(b"\xff\xd8\xff")
        data[first + 100 : first + 140] = bytes(40)
    else:
        del data[len(data) // 2 :]
    file.write_bytes(data)

    results = []
    for _ in range(2):
        store = open_store(path)
        plan = Plan([store], [np.ones(1, bool)], SHAPE, 1, seed=0)
        bad, delivered = [], []
        for step in range(60):
            out = np.zeros((1, 4, 32, 32, 3), np.uint8)
            asked = plan.group_rows(step)[:, 0]
            row, count = clips.decode_rows(
                [store], plan, asked, CENTRE, out, lambda *b, to=bad: to.append(b)
            )
            assert count == 4
            assert frames_shown(out[0])[1].tolist() == [
                (3 * f % 240) // 3 for f in row["start"][0] + 2 * np.arange(4)
            ]
            delivered.append(int(row["index"][0]))
        results.append((bad, delivered))
    assert results[0] == results[1]
    bad, delivered = results[0]
    lost = {frame for _, _, frame, _ in bad}
    assert lost == {40} if at == "block" else lost <= set(range(40, 80))
    asked = [int(plan.rows(step)["index"][0]) for step in range(60)]
    changed = sum(a != d for a, d in zip(asked, delivered, strict=True))
    assert 0 < changed <= len(bad)


def test_a_store_of_damage_only_is_given_up(tmp_path, make_store, monkeypatch):
    store = open_store(make_store(tmp_path / "s"))
    plan = Plan([store], [np.ones(3, bool)], SHAPE, 1, seed=0)
    monkeypatch.setattr(store, "read", lambda v, f: [b"no jpeg"] * len(f))
    bad = []
    out = np.zeros((1, 4, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="32 samples of .* in a row cannot be read.*verify"):
        clips.decode_rows([store], plan, plan.rows(0), CENTRE, out, lambda *b: bad.append(b))
    assert len(bad) == 32
