"""A web server on the loopback for the tests of downloading: every habit that real servers have."""

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
import small_videos

from data_prep import download
from data_prep.fetching import Pace, Wanted

SECRET = "s3cr3t-session-value"
PAGE = b"<!doctype html><title>%s</title><p>nothing to see</p>"


@dataclass
class Web:
    """The server's files, what it was asked, and how it misbehaves.

    Attributes:
      files: path -> content; .mp4 with Range.
      asked: (path, Range header) of every request, in order.
      failing: path -> statuses of its next answers, in order.
      moved: path -> Location of a 302.
      locked: paths that need the cookie.
      cut: path -> bytes after which the connection breaks, each time.
      pages: path -> (content type, body).
      slow: path -> seconds before every 16 kB.
      headers: more headers of failing answers.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    failing: dict[str, list[int]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, path: Path) -> str:
        """Serves a file; returns its address."""
        self.files[f"/{name}"] = path.read_bytes()
        return f"{self.url}/{name}"


@contextmanager
def serve():
    """Yields a running Web."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, *_) -> None:
            pass

        def do_GET(self) -> None:
            path, wanted = unquote(self.path.split("?")[0]), self.headers.get("Range")
            web.asked.append((path, wanted))
            if web.failing.get(path):
                return self._end(web.failing[path].pop(0), web.headers)
            if path in web.moved:
                return self._end(302, {"Location": web.moved[path]})
            if path in web.locked and SECRET not in (self.headers.get("Cookie") or ""):
                return self._end(403)
            if path in web.pages:
                kind, body = web.pages[path]
                return self._end(200, {"Content-Type": kind}, body)
            if path in web.files:
                return self._file(path, web.files[path], wanted)
            return self._end(404)

        def _file(self, path: str, data: bytes, wanted: str | None) -> None:
            first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            if first >= len(data):
                return self._end(416)
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(data) - first))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            last = min(len(data), first + web.cut.get(path, len(data)))
            for start in range(first, last, 2**14):
                time.sleep(web.slow.get(path, 0))
                self.wfile.write(data[start : min(last, start + 2**14)])

        def _end(self, status: int, headers=(), body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_) -> None:
            pass  # the other side hangs up after the first bytes of a direct link

    server = Server(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cookie_file(path: Path, value: str = SECRET) -> Path:
    """A Netscape cookie file for the loopback, readable by its owner only."""
    line = "\t".join(["127.0.0.1", "FALSE", "/", "FALSE", "0", "session", value])
    path.write_text(f"# Netscape HTTP Cookie File\n{line}\n", encoding="utf-8")
    path.chmod(0o600)
    return path


# --- the work to be tested -----------------------------------------------------------------------

FAST = Pace(request_s=0, video_s=0, pause_s=0, bytes_per_s=None, retries=1)


def run(folder: Path, videos: dict[str, str], *, pace=FAST, loopback=True, **options) -> dict:
    """Downloads {video_id: address} into folder/out; returns the job table by video_id."""
    pytest.importorskip("yt_dlp")
    path, out = rows(folder / "videos.jsonl", **videos), folder / "out"
    options = {"wanted": Wanted()} | options
    assert download.download(path, out, pace=pace, loopback=loopback, **options) == 0
    return table(out)


def rows(path: Path, **videos: str) -> Path:
    """A jsonl catalogue of video_id=address."""
    lines = (json.dumps({"video_id": name, "url": url}) + "\n" for name, url in videos.items())
    path.write_text("".join(lines), encoding="utf-8")
    return path


def table(out: Path) -> dict[str, dict]:
    return {row["video_id"]: row for row in pq.read_table(out / "jobs.parquet").to_pylist()}


def names(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def large_video(path: Path) -> Path:
    """About 300 kB of 12 seconds, its index at the front as of a file made for the web."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(60)]
    options = {"options": {"crf": "20", "g": "5"}, "container_options": {"movflags": "faststart"}}
    return small_videos.write_video(path, 60, rate=5, images=images, **options)
