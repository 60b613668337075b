"""Hostile recordings: what they name stays closed, and limits of memory and time hold."""

import csv
import itertools
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import small_videos as make

from data_prep import engines, guarded
from data_prep.__main__ import main
from data_prep.arrived import whole_video
from data_prep.limits import Limits
from data_prep.media import Unreadable, too_large
from data_prep.sources import Video
from data_prep.video import Seen, kept_frames, probe
from surgjax.recording import Sampling, recording_clips

LITTLE_TIME = Limits(seconds=0.15)
LITTLE_MEMORY = Limits(memory=2**25, memory_a_thread=0)


@pytest.fixture(scope="session")
def bomb(tmp_path_factory) -> Path:
    """Two frames of 12000 x 11000 black pixels in half a megabyte: seconds of computing each."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 12_000, 11_000, "gray"
        frame = av.VideoFrame.from_ndarray(np.zeros((11_000, 12_000), np.uint8), format="gray")
        frame.pts = 0
        packet = stream.encode(frame)[0]  # the same one twice: compressing takes its time
        data = bytes(packet)
        container.mux(packet)
        again = av.Packet(data)
        again.stream, again.pts, again.dts, again.time_base = stream, 40, 40, stream.time_base
        container.mux(again)
    assert path.stat().st_size < 2**20
    return path


@pytest.fixture
def recordings(tmp_path, bomb) -> Path:
    """A good one on each side of the bomb."""
    root = tmp_path / "videos"
    for name in ("a", "c"):
        make.write_video(root / f"{name}.mp4", 50)
    os.link(bomb, root / "b.mov")
    return root


def read(path: Path) -> int:
    return sum(1 for _ in kept_frames(path, fps=None, short_side=64, seen=Seen()))


def videos(root: Path) -> list[Video]:
    about = dict.fromkeys(("case", "domain", "procedure", "anatomy", "licence"), "")
    return [Video(p.stem, p, "own", **about) for p in sorted(root.iterdir())]


# --- files that name others --------------------------------------------------------------------

LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{at}\n#EXT-X-ENDLIST\n",
    "hls after a mark": "\ufeff\n\n#EXTM3U\n#EXTINF:10,\n{at}\n#EXT-X-ENDLIST\n",
    "hls after many lines": "\n" * 100 + "#EXTM3U\n#EXTINF:10,\n{at}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{at}'\n",
    "concat after a remark": "# nothing\nffconcat version 1.0\nfile '{at}'\n",
    "dash": '<?xml version="1.0"?>\n<MPD><Period><AdaptationSet><Representation>'
    "<BaseURL>{at}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
    "smil": "<smil><body><video src='{at}'/></body></smil>",
    "real": "{at}\n",
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_others_in_the_clothes_of_a_video_opens_none_of_them(tmp_path, kind):
    secret = make.write_video(tmp_path / "secret.mp4", 5)
    came = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen():
            with suppress(OSError):
                while True:
                    server.accept()[0].close()
                    came.append(kind)

        listener = threading.Thread(target=listen)
        listener.start()
        port = server.getsockname()[1]
        web = f"http://127.0.0.1:{port}/x.mp4"
        for suffix, at in itertools.product(
            ("mp4", "mkv", "ts", "avi"), ("/etc/passwd", secret, "secret.mp4", web)
        ):
            path = tmp_path / f"list.{suffix}"
            path.write_text(LISTS[kind].format(at=at, port=port))
            for look in (probe, read):
                with pytest.raises(Unreadable) as error:
                    look(path)
                assert error.value.reason in ("refused", "not readable")
        server.shutdown(socket.SHUT_RDWR)
        listener.join()
    assert not came


def test_names_that_ffmpeg_would_read_as_addresses_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:x.mp4", "concat:a|b.mp4", "pipe:0.mp4", "-i.mp4", "a%03d.mp4"):
        make.write_video(tmp_path / "plain.mp4", 5).rename(tmp_path / name)
        assert read(Path(name)) == 5


def test_formats_that_no_recording_has_are_not_read(tmp_path):
    make.write_images(tmp_path / "frames", [1], "png")
    picture = next((tmp_path / "frames").iterdir()).rename(tmp_path / "picture.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n")
    for path in (picture, text):
        with pytest.raises(Unreadable, match="not readable"):
            probe(path)


def test_folders_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    for path in (tmp_path / "a.mp4", Path("/dev/zero")):
        with pytest.raises(Unreadable, match="not a regular file"):
            probe(path)


# --- limits ------------------------------------------------------------------------------------


def test_a_frame_that_computes_for_too_long_ends_its_process_alone(bomb, tmp_path):
    good = make.write_video(tmp_path / "a.mp4", 50)
    assert guarded.result(whole_video, good, within=LITTLE_TIME).frames == 50
    start = time.monotonic()
    with pytest.raises(Unreadable, match=r"no frame after 0\.15 s of computing"):
        guarded.result(whole_video, bomb, within=LITTLE_TIME)
    assert time.monotonic() - start < 60


def test_a_frame_that_takes_too_much_memory(bomb, tmp_path):
    good = make.write_video(tmp_path / "a.mp4", 50)
    assert guarded.result(whole_video, good, within=LITTLE_MEMORY).frames == 50
    with pytest.raises(Unreadable, match="more memory than is allowed|broke down|do not decode"):
        guarded.result(whole_video, bomb, within=LITTLE_MEMORY)


def test_a_decoder_that_crashes_is_no_crash_of_ours():
    with pytest.raises(Unreadable, match="the decoder broke down"):
        guarded.result(os.abort)
    with pytest.raises(RuntimeError, match="TypeError"):  # a bug is told as one
        guarded.result(whole_video)


def test_closing_ends_the_process():
    numbers = guarded.results(range, 10**9)
    assert [next(numbers) for _ in range(3)] == [0, 1, 2]
    numbers.close()


def test_headers_of_all_but_the_hostile_one(recordings):
    found = guarded.headers(videos(recordings), within=LITTLE_TIME)
    assert [getattr(header, "frames", None) for header in found] == [50, None, 50]
    assert found[1].reason == "refused" and guarded.headers([]) == []


def test_a_header_too_large_beside_others_is_read_alone(tmp_path, monkeypatch):
    make.write_video(tmp_path / "a.mp4", 50)
    results = guarded.results

    def crowded(function, *arguments, **options):
        if function is guarded._headers:
            return iter([(number, too_large()) for number, *_ in arguments[0]])
        return results(function, *arguments, **options)

    monkeypatch.setattr(guarded, "results", crowded)
    assert [header.frames for header in guarded.headers(videos(tmp_path))] == [50]


@pytest.mark.parametrize("within", [LITTLE_TIME, LITTLE_MEMORY], ids=["time", "memory"])
def test_shards_put_the_hostile_one_aside(recordings, tmp_path, monkeypatch, within):
    monkeypatch.setattr(engines.local, "__defaults__", (within,))
    out = tmp_path / "store"
    assert main(["shards", "--videos", str(recordings), "--out", str(out), "--workers", "2"]) == 0
    assert pq.read_table(out / "videos.parquet")["video_id"].to_pylist() == ["a", "c"]
    (row,) = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert row["video_id"] == "b" and row["reason"] in ("refused", "not readable", "damaged")
    if within is LITTLE_TIME:
        assert row["detail"] == "no frame after 0.15 s of computing"


def test_qc_puts_the_hostile_one_aside(recordings, tmp_path, monkeypatch):
    from data_prep import qc_pool

    monkeypatch.setattr(qc_pool.run_scans, "__defaults__", (LITTLE_TIME,))
    root = str(recordings)
    command = ["qc", "--root", root, "--out", str(tmp_path / "qc"), "--out-of-body", "none"]
    assert main([*command, "--workers", "2"]) == 0
    with (tmp_path / "qc" / "videos.csv").open(newline="") as file:
        rows = {row["video"]: row["unreadable"] for row in csv.DictReader(file)}
    assert rows == {"a": "", "b": "refused: no frame after 0.15 s of computing", "c": ""}


def test_a_recording_looked_through_ends_with_a_reason(recordings, monkeypatch):
    monkeypatch.setitem(guarded.results.__kwdefaults__, "within", LITTLE_TIME)
    sampling = Sampling(frames=2, size=32, rate=25.0, fps=25.0)
    assert len(list(recording_clips(recordings / "a.mp4", sampling))) == 50
    with pytest.raises(Unreadable, match="of computing"):
        list(recording_clips(recordings / "b.mov", sampling))


def test_a_recording_of_a_thousand_hours_is_refused(tmp_path):
    path = make.write_video(tmp_path / "a.mkv", 3, pts=[0, 40, 3_600_000_000])
    with pytest.raises(Unreadable, match="1,000 hours"):
        probe(path)
    with pytest.raises(Unreadable, match="longer than 100 hours"):
        read(path)
