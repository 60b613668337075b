"""A folder that answers as Google Cloud Storage does, for what reads and writes gs://.

tensorstore, below Orbax, speaks to a small server of the service's JSON interface; etils' paths go
through fsspec to the same files. What is missing for the real service is said in `open_bucket`.
"""

import json
import os
import re
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/(.+)$")
LISTING = re.compile(r"/(?:upload/)?storage/v1/b/([^/]+)/o$")


def open_bucket(root: Path) -> None:
    """Make gs://NAME the folder root/NAME in this process, before jax is imported.

    Stands for a login, for gcsfs, and for google-cloud-storage, which Orbax asks what kind of
    bucket it is.
    """
    import fsspec
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    Handler.root = root
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "none"
    os.environ["EPATH_USE_TF"] = "0"  # etils prefers TensorFlow where it is installed

    class Bucket(DirFileSystem):
        protocol = ("gs", "gcs")

        def __init__(self, **options):
            super().__init__(path=str(root), fs=LocalFileSystem(auto_mkdir=True))

    for name in Bucket.protocol:
        fsspec.register_implementation(name, Bucket, clobber=True)
    flat = types.SimpleNamespace(hierarchical_namespace_enabled=False)
    client = types.SimpleNamespace(get_bucket=lambda name: flat)
    for name in ("gcsfs", "google.cloud", "google.cloud.storage"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    storage = sys.modules["google.cloud"].storage = sys.modules["google.cloud.storage"]
    storage.Client = lambda: client


class Handler(BaseHTTPRequestHandler):
    """Objects with generations, which conditional reads and writes compare."""

    protocol_version = "HTTP/1.1"
    root: Path
    lock = threading.Lock()
    generations: dict[Path, int] = {}

    def do_GET(self) -> None:
        url, asked = self._asked()
        if listing := LISTING.match(url.path):
            return self._list(listing[1], asked)
        file = self._file(url)
        if not file.is_file():
            return self._answer(404)
        content, generation = file.read_bytes(), str(self._generation(file))
        if asked.get("ifGenerationNotMatch") == generation:
            return self._answer(304)
        headers, code = {"x-goog-generation": generation}, 200
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, code = content[first : last + 1], 206
        self._answer(code, content, headers)

    def do_POST(self) -> None:
        url, asked = self._asked()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        name = LISTING.match(url.path)[1]
        file = self.root / name / asked["name"]
        with self.lock:
            generation = self._generation(file)
            if asked.get("ifGenerationMatch", str(generation)) != str(generation):
                return self._answer(412)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            self.generations[file] = generation + 1
        self._answer(200, self._about(name, file))

    def do_DELETE(self) -> None:
        self._file(self._asked()[0]).unlink(missing_ok=True)
        self._answer(204)

    def log_message(self, *words) -> None:
        """Say nothing."""

    def _list(self, name: str, asked: dict[str, str]) -> None:
        folder = self.root / name
        names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
        first, end = asked.get("startOffset", ""), asked.get("endOffset", "\U0010ffff")
        found = [n for n in names if n.startswith(asked.get("prefix", "")) and first <= n < end]
        items = ",".join(self._about(name, folder / n).decode() for n in found)
        self._answer(200, f'{{"items":[{items}]}}'.encode())

    def _asked(self):
        url = urlsplit(self.path)
        return url, dict(parse_qsl(url.query))

    def _file(self, url) -> Path:
        bucket, name = OBJECT.match(url.path).groups()
        return self.root / bucket / unquote(name)

    def _generation(self, file: Path) -> int:
        """0 for what is not there."""
        return self.generations.setdefault(file, 1) if file.is_file() else 0

    def _about(self, bucket: str, file: Path) -> bytes:
        about = {"name": str(file.relative_to(self.root / bucket)), "bucket": bucket}
        about |= {"size": str(file.stat().st_size), "generation": str(self._generation(file))}
        about |= dict.fromkeys(("updated", "timeCreated"), "2026-01-01T00:00:00Z")
        return json.dumps(about).encode()

    def _answer(self, code: int, content: bytes = b"", headers: dict | None = None) -> None:
        self.send_response(code)
        for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
