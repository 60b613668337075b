"""One video from the web into one file: yt-dlp as a library, no shell, no ffmpeg, no plugins.

The network side is not trusted. Sockets are opened to public addresses only, whatever a redirect or
a name server says; playlists (m3u8, mpd, concat) are refused, for they name other addresses; the
site never names a file; what arrived counts only when its frames decode. Cookies are kept in
memory and are never written anywhere.
"""

import hashlib
import io
import ipaddress
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from data_prep import arrived, guarded
from data_prep.catalogue import Entry, without_login
from data_prep.jobs import KINDS
from data_prep.media import VIDEO_SUFFIXES, Unreadable
from data_prep.video import Header
from surgjax.errors import UserError

INSTALL = 'pip install "yt-dlp[default]>=2026.10.26" deno'
SITES = ["youtube", "generic", "html5"]  # the last two: any page with a video, or a direct link
AUDIO = "m4a"
DETAIL = 200  # characters
MAX_PAGE = 64 * 2**20  # bytes of a page, which is read into memory
SOCKET_EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg")
NAT64 = ipaddress.ip_network("64:ff9b::/96")

# Words of error messages, first match wins. YouTube's apostrophe in "you're" is a curly one.
WORDS = (
    (r"not a bot|captcha", "bot check"),
    (r"rate-limited|too many requests", "rate limited"),
    (r"live event|premieres|is_live|live stream", "live"),
    (r"private video|members|confirm your age|age.restricted|sign in|log ?in|password", "private"),
    (
        r"unavailable|removed|not available|terminated|blocked|no longer|not made this",
        "unavailable",
    ),
    (r"did not get any data|giving up after|downloaded \d+ bytes, expected", "network"),
    (r"unsupported url|no video formats|no suitable extractor", "no video"),
)
STATUS = {401: "private", 403: "forbidden", 404: "not found", 410: "not found", 429: "rate limited"}


class Failed(Exception):
    """This video cannot be had now. `kind` is one of jobs.KINDS.

    Attributes:
      wait_s: how long the site asks to wait, or None.
    """

    def __init__(self, kind: str, detail: str, wait_s: float | None = None):
        super().__init__(kind, detail)
        assert kind in KINDS
        self.kind, self.detail, self.wait_s = kind, detail, wait_s


@dataclass(frozen=True)
class Pace:
    """How polite: seconds between requests of a page, between videos (up to twice that), and of
    the first pause that a site asks for; bytes a second; attempts after a broken connection."""

    request_s: float = 0.75
    video_s: float = 10.0
    pause_s: float = 60.0
    bytes_per_s: int | None = 4 * 2**20
    retries: int = 5


@dataclass(frozen=True)
class Wanted:
    """What to fetch: pixels of height and bytes at most, and whether sound is needed."""

    max_height: int = 480
    max_bytes: int = 8 * 10**9
    audio: bool = False


@dataclass(frozen=True)
class Fetched:
    """A file that is complete and decodes; `audio` is a second file, or None."""

    path: Path
    audio: Path | None
    header: Header
    licence: str


class Cookies:
    """A Netscape cookie file, read once and never written; `secrets` are the values in it."""

    def __init__(self, path: Path):
        try:
            self.text = path.read_text(encoding="utf-8")
            self.open_to_others = bool(path.stat().st_mode & 0o077)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--cookies {path} cannot be read as text; export it again") from error
        rows = [line.rstrip("\r\n").split("\t") for line in self.text.splitlines()]
        rows = [r for r in rows if len(r) == 7 and (r[0][:1] != "#" or r[0][:10] == "#HttpOnly_")]
        if not rows:
            raise UserError(
                f"--cookies {path} holds no cookies in Netscape's format (seven columns with tabs "
                f"between); export it as cookies.txt"
            )
        # Bad lines would be quoted in a warning.
        self.text = "# Netscape HTTP Cookie File\n" + "".join("\t".join(r) + "\n" for r in rows)
        self.secrets = sorted({r[6] for r in rows if len(r[6]) > 3}, key=len, reverse=True)


def library():
    """The module yt_dlp. Raises UserError with the install command where it is missing."""
    try:
        import yt_dlp
        import yt_dlp.downloader.http
        import yt_dlp.globals
    except ImportError as error:
        raise UserError(f"yt-dlp is not installed, or too old ({error}); {INSTALL}") from error
    yt_dlp.globals.plugin_dirs.value = []  # plugins are code from wherever they were put
    return yt_dlp


def fetch(
    entry: Entry,
    folder: Path,
    *,
    wanted: Wanted,
    pace: Pace,
    cookies: Cookies | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    loopback: bool = False,
) -> Fetched:
    """Fetches a video into `folder`, or goes on with a partial file there.

    Args:
      folder: partial files stay in it; the caller moves the complete one.
      progress: called with bytes so far and of all (None: unknown).
      loopback: addresses of this machine are allowed. For tests with a server of their own.

    Raises:
      Failed: why there is no such file.
      UserError: the disk is full, or yt-dlp is missing.
    """
    yt_dlp = library()
    folder.mkdir(parents=True, exist_ok=True)
    messages, secrets = _Messages(), cookies.secrets if cookies else []
    with _public_sockets(loopback) as refused:
        try:
            with _client(yt_dlp, wanted, pace, cookies, messages) as client:
                info, chosen = _describe(client, entry, wanted, messages)
                paths = []
                for form in chosen:
                    paths.append(_partial(folder, entry.video_id, form))
                    _download(yt_dlp, client, paths[-1], {**info, **form}, wanted, progress)
        except yt_dlp.utils.YoutubeDLError as error:
            raise _failed(error, refused, messages, secrets) from None
        except Failed as failed:
            failed.detail = _clean(failed.detail, secrets)
            raise
    header = check_file(paths[0])
    for sound in paths[1:]:
        _check_sound(sound)
    licence = _clean(str(info.get("license") or ""), secrets)
    return Fetched(paths[0], paths[1] if len(paths) > 1 else None, header, licence)


def check_file(path: Path) -> Header:
    """The header of a video whose beginning, middle and end decode.

    Raises:
      Failed: refused, no video or damaged; the file is gone then.
    """
    try:
        return guarded.result(arrived.whole_video, path)
    except Unreadable as error:
        path.unlink(missing_ok=True)
        kind = error.reason if error.reason in ("refused", "no video") else "damaged"
        raise Failed(kind, f"{error.reason}, {error.detail}") from None


def is_public(address: str, loopback: bool = False) -> bool:
    """Whether an IP address is of the public internet, IPv4 inside IPv6 included."""
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False  # a name would be resolved again, perhaps to something else
    if ip.version == 6:
        if ip.sixtofour or ip.teredo or ip.is_site_local:
            return False
        embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else ip.ipv4_mapped
        ip = embedded or ip
    if ip.is_loopback:
        return loopback
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def classify(message: str, status: int | None = None) -> str:
    """The error kind (jobs.KINDS) of an error message and an HTTP status."""
    words = next((kind for words, kind in WORDS if re.search(words, message, re.IGNORECASE)), "")
    if words in ("bot check", "rate limited"):
        return words
    if status is not None:
        return STATUS.get(status) or ("network" if status >= 500 else "other")
    return words or "other"


class _Messages:
    """yt-dlp's log: nothing is printed, warnings are looked through after a failure."""

    def __init__(self):
        self.warnings: list[str] = []

    def debug(self, message: str) -> None:
        pass

    info = error = debug

    def warning(self, message: str, *_, **__) -> None:
        self.warnings.append(message)

    @property
    def javascript_missing(self) -> bool:
        return any("javascript runtime" in message.lower() for message in self.warnings)


@dataclass
class _Guard:
    """Which sockets may be opened while a video is fetched; one hook a process, there for good."""

    active: bool = False
    loopback: bool = False
    refused: list[str] = field(default_factory=list)
    installed: bool = False

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.active or event not in SOCKET_EVENTS:
            return
        target, address = arguments
        if target.family in (socket.AF_INET, socket.AF_INET6) and is_public(
            str(address[0]), self.loopback
        ):
            return
        self.refused.append(str(address[0] if isinstance(address, tuple) else "a local socket"))
        raise PermissionError(f"{self.refused[-1]} is no public address")


_guard = _Guard()


@contextmanager
def _public_sockets(loopback: bool) -> Iterator[list[str]]:
    """In this block Python connects to public addresses only; yields what it refused.

    Connections are judged, not names: the address that a socket really goes to, after redirects
    and after the name server's answer. Python's audit events come before every one of them,
    whichever library asks.
    """
    if not _guard.installed:
        sys.addaudithook(_guard)
        _guard.installed = True
    _guard.refused, _guard.loopback, _guard.active = [], loopback, True
    try:
        yield _guard.refused
    finally:
        _guard.active = False


def _client(yt_dlp, wanted: Wanted, pace: Pace, cookies: Cookies | None, messages: _Messages):
    responses = []

    class Client(yt_dlp.YoutubeDL):
        def build_request_director(self, handlers, preferences=None):
            # The one that opens its sockets in Python, where they are judged; not libcurl.
            return super().build_request_director([h for h in handlers if h.RH_KEY == "Urllib"])

        def urlopen(self, request):
            response = super().urlopen(request)
            read = response.read

            def bounded(amount=None):
                data = read(MAX_PAGE + 1 if amount is None else amount)
                if amount is None and len(data) > MAX_PAGE:
                    raise Failed("refused", f"a page of more than {MAX_PAGE:,} bytes")
                return data

            response.read = bounded
            responses.append(response)
            return response

        def close(self):
            super().close()
            while responses:  # at once: each is in a cycle with its bounded read
                responses.pop().close()

    return Client(
        {
            "format": lambda context: _choose(context["formats"], wanted, messages),
            "allowed_extractors": SITES,
            "noplaylist": True,
            "playlist_items": "1-2",  # two are enough to see that there are several
            "logger": messages,
            "quiet": True,
            "noprogress": True,
            "color": "never",
            "cachedir": False,
            "cookiefile": io.StringIO(cookies.text) if cookies else None,
            "proxy": "",  # behind one, nobody could see where a connection goes
            "socket_timeout": 30,
            "retries": pace.retries,
            "extractor_retries": pace.retries,
            "sleep_interval_requests": pace.request_s,
            "ratelimit": pace.bytes_per_s,
            "continuedl": True,
            "overwrites": False,
            "updatetime": False,
            "fixup": "never",
        }
    )


def _describe(client, entry: Entry, wanted: Wanted, messages: _Messages) -> tuple[dict, list[dict]]:
    """(what the site says of the video, the one or two forms of it to download)."""
    info = client.extract_info(entry.url, download=False)
    if info and info.get("_type") == "playlist":
        entries = [one for one in info.get("entries") or [] if one]
        if len(entries) != 1:
            raise Failed("no video", f"a page with {len(entries) or 'no'} videos; one is expected")
        info = entries[0]
    if not info:
        raise Failed("no video", "nothing was found at this address")
    if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
        raise Failed("live", "a live stream, or one to come")
    chosen = _choose(info.get("formats") or [info], wanted, messages)
    for key in ("section_start", "section_end", "requested_formats", "requested_downloads"):
        info.pop(key, None)
    return info, chosen


def _choose(formats: list[dict], wanted: Wanted, messages: _Messages) -> list[dict]:
    """The form to download, and a second with the sound where that is wanted and apart.

    The largest height that fits (else the smallest), H.264, video alone unless sound is wanted;
    `formats` are in yt-dlp's order, worst first.
    """
    direct = [form for form in formats if form.get("protocol") in ("http", "https")]
    videos = [
        form
        for form in direct
        if form.get("vcodec") != "none" and form.get("ext") in VIDEO_SUFFIXES
    ]
    if not videos:
        if messages.javascript_missing:
            raise Failed("javascript", "yt-dlp found no JavaScript runtime")
        if not direct and any("m3u8" in str(f.get("protocol")) for f in formats):
            raise Failed("refused", "only a playlist (m3u8), which names other addresses")
        seen = ", ".join(sorted({f"{f.get('ext')} by {f.get('protocol')}" for f in formats}))
        raise Failed("no video", f"no video file by http; found {seen or 'nothing'}")
    sounds = [form for form in direct if form.get("vcodec") == "none" and form.get("ext") == AUDIO]
    apart = wanted.audio and sounds
    heights = [form.get("height") or 0 for form in videos]
    most = max([h for h in heights if h <= wanted.max_height], default=min(heights))

    def rank(index: int) -> tuple:
        form, silent = videos[index], videos[index].get("acodec") == "none"
        return (
            wanted.audio and not apart and not silent,
            -abs(heights[index] - most),
            str(form.get("vcodec")).startswith("avc1"),
            silent,
            index,
        )

    best = videos[max(range(len(videos)), key=rank)]
    muxed = best.get("acodec") != "none"
    return [best, sounds[-1]] if apart and not muxed else [best]


def _partial(folder: Path, video_id: str, form: dict) -> Path:
    """Name of a partial file, another one for another size or codec of the same video."""
    traits = [form.get(key) for key in ("format_id", "height", "vcodec", "filesize")]
    mark = hashlib.sha256(repr(traits).encode()).hexdigest()[:8]
    # The suffix is one of a fixed set (_choose), the id was checked when the catalogue was read.
    return folder / f"{video_id}.{mark}.{form['ext']}"


def _download(yt_dlp, client, path: Path, info: dict, wanted: Wanted, progress) -> None:
    def hook(status: dict) -> None:
        done, total = status.get("downloaded_bytes") or 0, status.get("total_bytes")
        if max(done, total or 0) > wanted.max_bytes:
            raise Failed("too large", f"{max(done, total or 0):,} bytes; at most --max-size")
        progress(done, total)

    # yt-dlp's own choice of downloader could be ffmpeg or a program of the user's settings.
    http = yt_dlp.downloader.http.HttpFD(client, client.params)
    http.add_progress_hook(hook)
    try:
        done, _ = http.download(str(path), info)
    except Failed:
        path.with_name(f"{path.name}.part").unlink(missing_ok=True)
        raise
    if not done or not path.is_file():
        raise Failed("network", "the transfer ended early")


def _failed(error: Exception, refused: list[str], messages: _Messages, secrets) -> Failed:
    chain, status, wait_s, no_connection = [error], None, None, False
    for one in chain:  # grows: yt-dlp keeps causes in four places
        causes = (one.__cause__, one.__context__, getattr(one, "cause", None))
        causes += (getattr(one, "exc_info", None) or (None, None))[1:2]
        chain += [c for c in causes if isinstance(c, BaseException) and c not in chain]
        status = status or getattr(one, "status", None)
        if response := getattr(one, "response", None):
            wait_s = _seconds(response.get_header("Retry-After"))
        no_connection |= isinstance(one, OSError) or type(one).__name__ in (
            "TransportError",
            "IncompleteRead",
            "ContentTooShortError",
        )
    text = _clean(str(error), secrets)
    if "No space left" in text or "Disk quota" in text:
        raise UserError(f"the disk is full ({text}); make room and run the same command again")
    if refused and status is None:
        return Failed("refused", f"{refused[-1]} is no public address")
    kind = classify(text, status)
    if kind == "no video" and messages.javascript_missing:
        kind = "javascript"
    if kind == "other" and no_connection:
        kind = "network"
    return Failed(kind, text, wait_s)


def _seconds(value: str | None) -> float | None:
    """Of a Retry-After header; a date there is taken as unknown."""
    return float(value) if value and re.fullmatch(r"\d{1,6}", value.strip()) else None


def _clean(text: str, secrets: list[str]) -> str:
    """One printable line without secrets, queries of addresses and advice about yt-dlp."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = without_login(text)
    text = re.sub(r"(https?://[^\s?#'\"]*)[?#][^\s'\"]*", r"\1", text)
    text = re.sub(r"^(ERROR: )?(\[[\w:]+\] )?([\w.-]+: )?", "", text, count=1)
    text = text.removeprefix("[download] Got error: ")
    text = re.split(r"; please report|\. Use --cookies|\(caused by| Set --|\. See  ?http", text)[0]
    text = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return text[:DETAIL]


def _check_sound(path: Path) -> None:
    try:
        guarded.result(arrived.check_sound, path)
    except Unreadable as error:
        path.unlink(missing_ok=True)
        raise Failed("damaged", f"the sound, {error.detail}") from None
