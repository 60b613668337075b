"""VideoPreprocessor against Pillow and windows written out by hand."""

import av
import numpy as np
import pytest
from PIL import Image

import surgjax.preprocess as preprocess
from surgjax.errors import UserError
from surgjax.preprocess import VideoPreprocessor


def picture(i, height=30, width=48):
    out = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out[..., 0] = 5 * i
    return out


def number(frame):
    """Which picture a prepared frame was made of."""
    return round(float((frame[..., 0].mean() * 0.5 + 0.5) * 255 / 5))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Thirty pictures of a video, and things beside them."""
    folder = tmp_path_factory.mktemp("frames")
    for i in range(30):
        Image.fromarray(picture(i)).save(folder / f"{i:05d}.png")
    (folder / "00000.txt").write_text("no picture")
    return folder


def shown(clip):
    return [number(frame) for frame in clip]


def test_resize_is_pillows_bicubic_without_a_crop():
    clip = VideoPreprocessor(num_frames=2, image_res=16)([picture(1), picture(2)])
    assert clip.shape == (2, 16, 16, 3) and clip.dtype == np.float32
    small = np.asarray(Image.fromarray(picture(2)).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(clip[1], (small / 255 - 0.5) / 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("anchor", "options", "expected"),
    [
        (10, {}, [6, 7, 8, 9, 10, 11, 12, 13]),
        (1, {}, list(range(8))),  # moved inside at the start
        (28, {}, list(range(22, 30))),  # and at the end
        (10, {"mode": "online"}, list(range(3, 11))),
        (2, {"mode": "online"}, [0, 1, 2, 2, 2, 2, 2, 2]),
        (12, {"sample_rate": 3}, [0, 3, 6, 9, 12, 15, 18, 21]),
        (6, {"sample_rate": 6}, [0, 6, 12, 18, 24, 24, 24, 24]),
    ],
)
def test_a_frame_finds_its_siblings(frames, anchor, options, expected):
    clip = VideoPreprocessor(num_frames=8, image_res=24, **options)(frames / f"{anchor:05d}.png")
    assert shown(clip) == expected


def test_a_frame_that_the_rate_steps_over_is_refused(frames):
    with pytest.raises(UserError, match="is picture 7 .*sample_rate=3 steps over"):
        VideoPreprocessor(8, 24, sample_rate=3)(str(frames / "00007.png"))


@pytest.mark.parametrize(
    ("sample_type", "expected"),
    [("uniform", [0, 10, 19, 29]), ("first", [0, 7, 15, 22]), ("middle", [3, 10, 18, 25])],
)
def test_longer_videos_are_sampled(sample_type, expected):
    prepare = VideoPreprocessor(num_frames=4, image_res=24, sample_type=sample_type)
    arrays = np.stack([picture(i) for i in range(30)])
    assert shown(prepare(arrays)) == expected
    assert shown(prepare([Image.fromarray(a) for a in arrays])) == expected
    assert shown(prepare(list(arrays[:3]))) == [0, 1, 2, 2]


def test_a_video_file(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 30, "bgr0"
        for i in range(9):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = VideoPreprocessor(num_frames=3, image_res=24)(path)
    arrays = VideoPreprocessor(num_frames=3, image_res=24)([picture(i) for i in range(9)])
    np.testing.assert_array_equal(clip, arrays)


def test_clips_of_a_store_are_prepared_alike():
    from surgjax.data import transforms

    prepare = VideoPreprocessor(1, 24, mean=(0.485, 0.456, 0.406), std=0.25, crop=True)
    out = np.empty((24, 24, 3), np.uint8)
    transforms.resize(picture(3), transforms.centre_crop(30, 48), out)
    expected = (out / 255 - [0.485, 0.456, 0.406]) / 0.25
    np.testing.assert_allclose(prepare([picture(3)])[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"mode": "centred"}, None, "mode is 'centred' .did you mean 'centered'"),
        ({"sample_type": "last"}, None, "sample_type is 'last'"),
        ({"num_frames": 0}, None, "num_frames is 0"),
        ({"sample_rate": 0}, None, "sample_rate is 0"),
        ({}, "none.mp4", "none.mp4 is no file"),
        ({}, "none.png", "none.png is no file"),
        ({}, [], "a video of no frames"),
        ({}, np.zeros((2, 4, 4, 1), np.uint8), "expected uint8 .height, width, 3"),
        ({}, np.zeros((2, 4, 4, 3), np.float32), "a frame is float32"),
        ({}, __file__, "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_refused(options, given, message):
    with pytest.raises(UserError, match=message):
        preprocess.get_preprocess(**options)(given)


def test_a_picture_is_what_its_suffix_may_be(tmp_path):
    path = tmp_path / "a.jpg"  # Pillow would start Ghostscript
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"a.jpg cannot be read as a picture .Unidentified"):
        VideoPreprocessor(1)(path)


def test_videos_are_decoded_with_limits(monkeypatch):
    """In another process, which the decoder may take down."""
    from data_prep import media

    monkeypatch.setattr(media, "opened", lambda path: pytest.fail("decoded in this process"))
    with pytest.raises(UserError, match="cannot be read as a video"):
        VideoPreprocessor(1)(__file__)
