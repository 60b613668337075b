"""One video with the real yt-dlp from a server that has every bad habit; what is never opened."""

import logging
import re
import socket
from pathlib import Path

import pytest
import small_videos as make
import web as server
from web import names, run

from data_prep import catalogue, fetching, jobs
from data_prep.fetching import Failed, Wanted
from surgjax.errors import UserError

HTML = b"<!doctype html><html><title>../../evil $(id)</title>"
ONE = HTML + b"<video src='/x.mp4'></video>"
TWO = ONE + b"<video src='/y.mp4'></video>"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files(tmp_path, web, large, share):
    """Whole as the server sees it, so yt-dlp reports success."""
    web.files["/x.mp4"] = large.read_bytes()[: int(share * large.stat().st_size)]
    row = run(tmp_path, {"a": f"{web.url}/x.mp4"})["a"]
    assert (row["state"], row["error"], row["attempts"]) == ("failed", "damaged", 2)
    assert names(tmp_path / "out") == [".lock", "jobs.parquet"]
    web.files["/x.mp4"] = large.read_bytes()
    assert run(tmp_path, {"a": f"{web.url}/x.mp4"})["a"]["state"] == "done"


def test_a_whole_file_passes_the_same_check(large, small):
    assert fetching.check_file(large).seconds == 12.0
    assert fetching.check_file(small).frames == 50


@pytest.mark.parametrize(
    "location, refused",
    [
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254"),
        ("http://10.0.0.1/x.mp4", "10.0.0.1"),
        ("http://192.168.1.1:8080/", "192.168.1.1"),
        ("http://100.64.0.1/x.mp4", "100.64.0.1"),
        ("http://[fd00::1]/x.mp4", "fd00::1"),
        ("http://[::ffff:10.0.0.1]/x.mp4", "10.0.0.1"),
        ("http://0x0a000001/x.mp4", "10.0.0.1"),
        ("http://0.0.0.0/", "0.0.0.0"),
    ],
)
def test_redirects_into_private_networks(tmp_path, web, location, refused):
    web.moved["/x.mp4"] = location
    row = run(tmp_path, {"a": f"{web.url}/x.mp4"})["a"]
    assert (row["state"], row["error"]) == ("given up", "refused")
    assert refused in row["detail"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_other_schemes(tmp_path, web, location):
    web.moved["/x.mp4"] = location
    row = run(tmp_path, {"a": f"{web.url}/x.mp4"})["a"]
    assert row["state"] in ("failed", "given up") and not row["file"]
    assert names(tmp_path / "out") == [".lock", "jobs.parquet"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1", "0x7f.1"])
def test_this_machine_is_refused_without_the_tests_argument(tmp_path, web, small, host):
    """Names are resolved by the real resolver; no request arrives."""
    url = web.add("x.mp4", small).replace("127.0.0.1", host)
    row = run(tmp_path, {"a": url}, loopback=False)["a"]
    assert (row["state"], row["error"]) == ("given up", "refused") and not web.asked
    assert not list(tmp_path.rglob("*.mp4"))


def test_a_page_that_names_a_private_address(tmp_path, web):
    web.pages["/watch"] = ("text/html", HTML + b"<video src='http://10.1.2.3/x.mp4'></video>")
    row = run(tmp_path, {"a": f"{web.url}/watch"})["a"]
    assert (row["error"], row["state"]) == ("refused", "given up") and "10.1.2.3" in row["detail"]


@pytest.mark.parametrize(
    "address, public",
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("64:ff9b::808:808", True),
        ("64:ff9b::a00:1", False),
        ("::ffff:8.8.8.8", True),
        ("::ffff:127.0.0.1", False),
        ("2002:a00:1::1", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("172.31.0.1", False),
        ("example.org", False),
    ],
)
def test_public_addresses(address, public):
    assert fetching.is_public(address) is public


def test_loopback_allows_nothing_else():
    assert fetching.is_public("127.0.0.1", loopback=True)
    assert not fetching.is_public("10.0.0.1", loopback=True)
    with fetching._public_sockets(loopback=True) as refused:
        with pytest.raises(PermissionError, match="10.0.0.1 is no public address"):
            socket.create_connection(("10.0.0.1", 80), timeout=1)
        with socket.socket(socket.AF_UNIX) as local, pytest.raises(PermissionError):
            local.connect("/tmp/none")
    assert refused == ["10.0.0.1", "a local socket"]


@pytest.mark.parametrize(
    "name, kind, body, error",
    [
        ("/a.html", "text/html", server.PAGE % b"x", "no video"),
        ("/a.m3u8", "application/vnd.apple.mpegurl", b"#EXTM3U\n#EXTINF:2,\nx.ts\n", "refused"),
        ("/a.mp4", "video/mp4", b"#EXTM3U\n#EXTINF:2,\nfile:///etc/passwd\n", "refused"),
        ("/a.mp4", "video/mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", "refused"),
        ("/a.bin", "application/octet-stream", b"\x7fELF" * 500, "no video"),
        ("/a.mp4", "video/mp4", b"", "network"),
        ("/two", "text/html", TWO, "no video"),
        ("/a.exe", "application/x-msdownload", b"MZ" * 500, "no video"),
    ],
)  # fmt: skip
def test_what_is_no_video_file(tmp_path, web, name, kind, body, error):
    web.pages[name] = (kind, body)
    row = run(tmp_path, {"a": f"{web.url}{name}"})["a"]
    assert row["error"] == error
    assert names(tmp_path / "out") == [".lock", "jobs.parquet"]


def test_sound_only_is_no_video(tmp_path, web):
    url = web.add("x.mp4", make.write_audio(tmp_path / "sound.mp4"))
    assert run(tmp_path, {"a": url})["a"]["error"] == "no video"


def test_a_page_with_one_video(tmp_path, web, small):
    web.add("x.mp4", small)
    web.pages["/watch"] = ("text/html", ONE)
    assert run(tmp_path, {"a": f"{web.url}/watch"})["a"]["file"] == "a.mp4"
    assert names(tmp_path / "out") == [".lock", "a.mp4", "jobs.parquet"]


def test_a_page_without_end(tmp_path, web, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_PAGE", 100_000)
    web.pages["/watch"] = ("text/html", ONE + b" " * 200_000)
    row = run(tmp_path, {"a": f"{web.url}/watch"})["a"]
    assert (row["error"], row["detail"]) == ("refused", "a page of more than 100,000 bytes")


def test_too_large(tmp_path, web, large):
    row = run(tmp_path, {"a": web.add("x.mp4", large)}, wanted=Wanted(max_bytes=100_000))["a"]
    assert (row["state"], row["error"]) == ("given up", "too large")
    assert names(tmp_path / "out") == [".lock", "jobs.parquet"]


def test_cookies_are_sent_and_kept_nowhere(tmp_path, web, small, capfd, caplog):
    url = web.add("x.mp4", small)
    web.locked.add("/x.mp4")
    assert run(tmp_path, {"a": url})["a"]["error"] == "forbidden"
    jar = server.cookie_file(tmp_path / "cookies.txt")
    before, stamp = jar.read_bytes(), jar.stat().st_mtime_ns
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with caplog.at_level(logging.DEBUG), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        assert run(tmp_path, {"a": url}, cookies=jar)["a"]["state"] == "done"
    assert (jar.read_bytes(), jar.stat().st_mtime_ns) == (before, stamp)
    assert not list(temporary.iterdir())
    said = capfd.readouterr()
    assert server.SECRET not in said.out + said.err + caplog.text
    for file in (tmp_path / "out").rglob("*"):
        assert not file.is_file() or server.SECRET.encode() not in file.read_bytes()


def test_a_server_that_tells_the_cookie(tmp_path, web):
    """Errors quote addresses; a cookie or a token in one stays out of the table."""
    jar = server.cookie_file(tmp_path / "cookies.txt")
    jar.chmod(0o644)
    web.pages[f"/{server.SECRET}"] = ("text/html", server.PAGE % b"x")
    web.moved["/x"] = f"/{server.SECRET}?token=abcdef123"
    row = run(tmp_path, {"a": f"{web.url}/x"}, cookies=jar)["a"]
    assert row["error"] == "no video"
    data = (tmp_path / "out" / "jobs.parquet").read_bytes()
    assert server.SECRET.encode() not in data and b"abcdef123" not in data


def test_cookies_others_may_read(tmp_path, web, small, capsys):
    jar = server.cookie_file(tmp_path / "cookies.txt")
    jar.chmod(0o644)
    run(tmp_path, {"a": web.add("x.mp4", small)}, cookies=jar)
    assert "other users may read" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    ["", '[{"name": "s3cr3t"}]', "a=b; s3cr3t=1", "#a\tb\tc\td\te\tf\ts3cr3t"],
    ids=["empty", "json", "header", "comment"],
)
def test_no_cookies(tmp_path, content):
    jar = tmp_path / "cookies.txt"
    jar.write_text(content)
    with pytest.raises(UserError, match="holds no cookies in Netscape's format") as error:
        fetching.Cookies(jar)
    assert "s3cr3t" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        fetching.Cookies(tmp_path / "none.txt")


def form(name, ext, height=None, vcodec="avc1.4d", acodec="none", protocol="https"):
    return dict(format_id=name, ext=ext, height=height, vcodec=vcodec, acodec=acodec) | dict(
        protocol=protocol
    )


YOUTUBE = [  # in yt-dlp's order, worst first
    form("sb0", "mhtml", 90, "none", protocol="mhtml"),
    form("140", "m4a", vcodec="none", acodec="mp4a.40.2"),
    form("251", "webm", vcodec="none", acodec="opus"),
    form("18", "mp4", 360, acodec="mp4a.40.2"),
    form("135", "mp4", 480),
    form("244", "webm", 480, "vp9"),
    form("231", "mp4", 480, protocol="m3u8_native"),
    form("136", "mp4", 720),
]


@pytest.mark.parametrize(
    "wanted, chosen",
    [
        (Wanted(), ["135"]),
        (Wanted(max_height=1080), ["136"]),
        (Wanted(max_height=400), ["18"]),
        (Wanted(max_height=144), ["18"]),
        (Wanted(audio=True), ["135", "140"]),
        (Wanted(400, audio=True), ["18"]),
    ],
)
def test_chosen_forms(wanted, chosen):
    found = fetching._choose(YOUTUBE, wanted, fetching._Messages())
    assert [one["format_id"] for one in found] == chosen


def test_sound_where_it_is_not_apart():
    without = [one for one in YOUTUBE if one["format_id"] != "140"]
    found = fetching._choose(without, Wanted(audio=True), fetching._Messages())
    assert [one["format_id"] for one in found] == ["18"]


def test_no_javascript_runtime():
    messages = fetching._Messages()
    messages.warning("No supported JavaScript runtime could be found. Only deno is enabled")
    with pytest.raises(Failed, match="javascript"):
        fetching._choose(YOUTUBE[:1], Wanted(), messages)


def test_a_sound_file(tmp_path):
    fetching._check_sound(make.write_audio(tmp_path / "good.m4a"))
    (tmp_path / "bad.m4a").write_bytes((tmp_path / "good.m4a").read_bytes()[:500])
    with pytest.raises(Failed, match="damaged"):
        fetching._check_sound(tmp_path / "bad.m4a")
    assert not (tmp_path / "bad.m4a").exists()


@pytest.mark.parametrize(
    "message, status, kind",
    [
        ("[youtube] x: Sign in to confirm you\u2019re not a bot", None, "bot check"),
        ("Video unavailable. The current session has been rate-limited", None, "rate limited"),
        ("Private video. Sign in if you've been granted access", None, "private"),
        ("Sign in to confirm your age", None, "private"),
        ("Join this channel to get access to members-only content", None, "private"),
        ("Video unavailable. This video has been removed by the uploader", None, "unavailable"),
        ("The uploader has not made this video available in your country", None, "unavailable"),
        ("This live event will begin in 3 days", None, "live"),
        ("HTTP Error 429: Too Many Requests", 429, "rate limited"),
        ("HTTP Error 403: Forbidden", 403, "forbidden"),
        ("Unsupported URL: http://a.org", None, "no video"),
        ("something new", None, "other"),
    ],
)
def test_kinds(message, status, kind):
    assert fetching.classify(message, status) == kind
    assert kind in jobs.KINDS


def test_no_shell():
    assert catalogue.VIDEO_ID.fullmatch("-rf")  # a name, never an argument: nothing is a command
    source = "".join(
        (ROOT / "data_prep" / f"{name}.py").read_text()
        for name in ("catalogue", "jobs", "fetching", "download", "explore")
    )
    assert not re.search(r"subprocess|os\.system|popen|shell\s*=|eval\(|exec\(", source, re.I)
