"""Decoding and choice of frames, on recordings of every kind."""

from pathlib import Path

import av
import numpy as np
import pytest
import small_videos as make

from data_prep.media import Unreadable
from data_prep.video import Seen, kept_frames, list_images, probe, stored_size


def keep(path: Path, fps=None, short_side=320, **options):
    seen = Seen()
    return list(kept_frames(path, fps=fps, short_side=short_side, seen=seen, **options)), seen


CONTAINERS = [
    ("a.mp4", "libx264"),
    ("a.mov", "libx264"),
    ("a.mkv", "libx264"),
    ("a.avi", "mpeg4"),
    ("b.avi", "libx264"),
    ("a.webm", "libvpx-vp9"),
    ("a.mpg", "mpeg2video"),
    ("a.gif", "gif"),
]


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_any_container_gives_each_frame_once_and_whole_seconds(tmp_path, name, codec):
    path = make.write_video(tmp_path / name, 60, codec=codec)
    frames, seen = keep(path)
    assert [frame.index for frame in frames] == list(range(60))
    assert [frame.t_ms for frame in frames] == [40 * i for i in range(60)]
    assert (seen.native_fps, seen.damaged, seen.variable_rate) == (25.0, 0, False)
    for i, frame in enumerate(frames):  # the right picture at the right time
        truth = make.picture(i)[40:, 40:].mean()
        assert abs(frame.image[40:, 40:].mean() - truth) < 6
    seconds, _ = keep(path, fps=1)
    assert [(frame.t_ms, frame.index) for frame in seconds] == [(0, 0), (1000, 25), (2000, 50)]
    header = probe(path)
    assert header.fps == 25 and (header.width, header.height) == (96, 64)
    if name != "a.mpg":  # its length is FFmpeg's guess
        assert header.frames == 60 and abs(header.seconds - 2.4) < 0.001


def test_variable_rate_goes_by_timestamps(tmp_path):
    pts = [0, 40, 80, 120, 900, 1010, 1020, 1990, 2005, 4100, 4140, 5000]
    path = make.write_video(tmp_path / "a.mkv", len(pts), pts=pts)
    frames, seen = keep(path)
    assert [frame.t_ms for frame in frames] == pts and seen.variable_rate
    # The first frame at or after 0, 1, 2, (3 has none), 4 and 5 seconds.
    assert [frame.t_ms for frame in keep(path, fps=1)[0]] == [0, 1010, 2005, 4100, 5000]


@pytest.mark.parametrize("rate", [24, 30, 50, 60])
def test_rate_above_the_recording_keeps_every_frame_and_repeats_none(tmp_path, rate):
    path = make.write_video(tmp_path / "a.mkv", 30, rate=rate)  # 1 ms timestamps
    assert len(keep(path, fps=100)[0]) == 30
    assert [frame.index for frame in keep(path, fps=rate / 2)[0]] == list(range(0, 30, 2))


@pytest.mark.parametrize(
    ("rotation", "corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1)), (0, (0, 0))]
)
def test_rotated_recordings_stand_upright(tmp_path, rotation, corner):
    path = make.write_video(tmp_path / "a.mp4", 5, rotation=rotation)
    image = keep(path)[0][0].image
    assert image.shape == ((64, 96, 3) if rotation % 180 == 0 else (96, 64, 3))
    # Counter-clockwise by 90 degrees the upper left corner comes to the lower left.
    y, x = (8 if c == 0 else s - 8 for c, s in zip(corner, image.shape, strict=False))
    green = image[y, x].astype(int)
    assert green[1] > 150 and green[0] < 90


def test_odd_sizes_and_short_side(tmp_path):
    path = make.write_video(tmp_path / "a.mp4", 5, width=97, height=63)
    assert keep(path)[0][0].image.shape == (63, 97, 3)
    assert keep(path, short_side=48)[0][0].image.shape == (48, 74, 3)
    assert stored_size(854, 480, 320) == (570, 320)
    assert stored_size(480, 854, 320) == (320, 570)
    assert stored_size(1920, 1080, 320) == (568, 320)
    assert stored_size(200, 300, 320) == (200, 300)  # never enlarged


def test_area_filter_equals_block_means(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (16, 24, 1), np.uint8).repeat(4, 0).repeat(4, 1).repeat(3, 2)
    path = make.write_video(
        tmp_path / "a.mp4", 2, images=[noise, noise], options={"crf": "0", "preset": "ultrafast"}
    )
    image = keep(path, short_side=16)[0][0].image
    assert np.abs(image.astype(int) - noise[::4, ::4]).mean() < 4


def test_square_pixels(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 90, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(make.picture(i, 90, 64), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert keep(path)[0][0].image.shape == (64, 180, 3)


def test_interlaced_is_deinterlaced(tmp_path):
    def bar(x):
        image = np.full((64, 96, 3), 30, np.uint8)
        image[:, x : x + 12] = 220
        return image

    images = []
    for i in range(20):  # two fields, taken one after the other
        image = bar(4 * i)
        image[1::2] = bar(4 * i + 2)[1::2]
        images.append(image)
    options = {"flags": "+ildct+ilme", "qscale": "2", "top": "1"}
    path = tmp_path / "a.mpg"
    make.write_video(path, 20, codec="mpeg2video", images=images, options=options)
    frames, seen = keep(path)
    assert seen.interlaced and [f.t_ms for f in frames] == [40 * i for i in range(20)]

    def combing(pictures):
        return np.mean([np.abs(np.diff(p[:, :, 1].astype(int), axis=0)).mean() for p in pictures])

    with av.open(str(path)) as container:
        raw = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert combing([frame.image for frame in frames]) < 0.4 * combing(raw)
    for i in (5, 12):  # and the frames are still in their places
        column = frames[i].image[:, :, 1].astype(float).mean(0)
        assert abs(np.flatnonzero(column > 120).mean() - (4 * i + 6.5)) < 3


def test_a_clock_that_starts_again_goes_on(tmp_path):
    for name in ("a.mpg", "b.mpg"):
        make.write_video(tmp_path / name, 50, codec="mpeg2video")
    joined = tmp_path / "c.mpg"
    joined.write_bytes((tmp_path / "a.mpg").read_bytes() + (tmp_path / "b.mpg").read_bytes())
    frames, _ = keep(joined)
    times = [frame.t_ms for frame in frames]
    assert len(frames) >= 99 and times == sorted(set(times)) and 3900 <= times[-1] <= 4100


@pytest.mark.parametrize(
    "name, codec",
    [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.wmv", "wmv2"), ("a.nut", "ffv1")],
)
def test_a_clock_that_starts_late_is_as_long_as_its_frames(tmp_path, name, codec):
    """4 s from second 5 on, in formats whose length is the time of the end."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 64, 96, 3), np.uint8)
    times = {"pts": [5000 + 40 * i for i in range(100)], "images": list(noise)}
    late = make.write_video(tmp_path / name, 100, codec=codec, **times)
    assert abs(probe(late).seconds - 4) < 0.1
    frames, _ = keep(late)
    assert [frame.t_ms for frame in frames] == [40 * i for i in range(100)]
    if name == "a.mkv":  # and what is missing is missed
        with pytest.raises(Unreadable) as error:
            keep(cut(late, 0.6))
        assert error.value.reason == "truncated" and "of 4.0 seconds" in error.value.detail


def test_folder_of_frames(tmp_path):
    folder = make.write_images(tmp_path / "v", [1, 2, 4, 5], "png")
    frames, seen = keep(folder, frames_fps=2.0)
    assert [frame.t_ms for frame in frames] == [0, 500, 1500, 2000]  # number 3 is missing
    assert [frame.index for frame in frames] == [0, 1, 3, 4]
    np.testing.assert_array_equal(frames[0].image, make.picture(0))  # png keeps every pixel
    assert [f.t_ms for f in keep(folder, fps=1, frames_fps=2.0)[0]] == [0, 1500, 2000]
    (folder / "f_000004.png").write_bytes(b"not a picture")
    assert keep_damaged(folder) == "damaged"


def keep_damaged(folder):
    with pytest.raises(Unreadable) as caught:
        keep(folder, frames_fps=2.0)
    return caught.value.reason


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (["img10.jpg", "img9.jpg", "img11.jpg"], {"img9.jpg": 0, "img10.jpg": 1, "img11.jpg": 2}),
        (["f0.png", "f25.png", "f75.png"], {"f0.png": 0, "f25.png": 1, "f75.png": 3}),
        (["b.jpg", "a.jpg"], {"a.jpg": 0, "b.jpg": 1}),
        (["1.jpg", "2.jpg", "90000.jpg"], {"1.jpg": 0, "2.jpg": 1, "90000.jpg": 2}),
    ],
)
def test_order_of_frame_files(tmp_path, names, positions):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert {file.name: position for position, file in list_images(tmp_path)} == positions


def test_a_pattern_chooses_frame_files(tmp_path):
    for name in ("2.tif", "3.TIFF", "26.tif", "27.png", "a2.tif", "2.bmp"):
        (tmp_path / name).write_bytes(b"x")
    assert [file.name for _, file in list_images(tmp_path, r"(?:2|3)\.")] == ["2.tif", "3.TIFF"]
    assert [file.name for _, file in list_images(tmp_path, "2")] == ["2.tif", "26.tif", "27.png"]


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def unreadable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Name -> (file, expected reason)."""
    fast = {"movflags": "faststart"}
    noise = np.random.default_rng(0).integers(0, 256, (100, 64, 96, 3), np.uint8)
    files = {
        "zero": (tmp_path / "zero.mp4", "empty file"),
        "text": (tmp_path / "text.mp4", "not readable"),
        "audio": (make.write_audio(tmp_path / "audio.m4a").rename(tmp_path / "a.mp4"), "no video"),
        "one": (make.write_video(tmp_path / "one.mp4", 1), "one frame"),
        "no_index": (cut(make.write_video(tmp_path / "no_index.mp4"), 0.6), "not readable"),
        "playlist": (tmp_path / "hidden.mp4", "refused"),
        "concat": (tmp_path / "concat.mkv", "refused"),
    }
    for name, codec, options in (
        ("truncated.mp4", "libx264", fast),
        ("truncated.mkv", "libx264", {}),
        ("truncated.avi", "mpeg4", {}),
    ):
        path = tmp_path / name
        make.write_video(path, 100, codec=codec, images=list(noise), container_options=options)
        files[name] = (cut(path, 0.6), "truncated")
    files["zero"][0].write_bytes(b"")
    files["text"][0].write_text("this is no video\n" * 100)
    files["playlist"][0].write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    files["concat"][0].write_text("ffconcat version 1.0\nfile '/etc/passwd'\n")
    return files


def test_what_cannot_be_used_is_refused_with_a_reason(tmp_path):
    for name, (path, reason) in unreadable(tmp_path).items():
        try:
            probe(path)
            keep(path)
        except Unreadable as error:
            assert (error.reason, name) == (reason, name)
            assert str(tmp_path) not in error.detail
        else:
            pytest.fail(f"{name} was read")


def test_formats_that_open_other_files_stay_closed(tmp_path):
    make.write_video(tmp_path / "a.mp4", 5)
    # No known first bytes: only the list of allowed formats stops this one.
    (tmp_path / "list.mp4").write_text("# a comment\nffconcat version 1.0\nfile 'a.mp4'\n")
    (tmp_path / "frames%03d.mp4").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    for name in ("list.mp4", "frames%03d.mp4"):
        with pytest.raises(Unreadable):
            probe(tmp_path / name)


def test_a_few_broken_packets_cost_those_frames_only(tmp_path):
    noise = list(np.random.default_rng(0).integers(0, 256, (100, 64, 96, 3), np.uint8))
    path = make.write_video(tmp_path / "a.avi", 100, codec="mjpeg", images=noise)
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8", len(data) // 2)  # one picture of the middle
    data[start : start + 600] = bytes(600)
    path.write_bytes(data)
    frames, seen = keep(path)
    assert seen.damaged == 1 and len(frames) == 99
    gone = ({*range(100)} - {frame.index for frame in frames}).pop()
    assert {frame.t_ms for frame in frames} == {40 * i for i in range(100)} - {40 * gone}


def test_titles_that_are_no_utf8_do_no_harm(tmp_path):
    path = make.write_video(tmp_path / "a.mkv", 10, metadata={"title": "Gallenblase, Oktober"})
    path.write_bytes(path.read_bytes().replace(b"Gallenblase", b"\xff\xfe\xe4enblase"))
    assert probe(path).frames == 10 and len(keep(path)[0]) == 10
