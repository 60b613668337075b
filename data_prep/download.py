"""`python -m data_prep download`: the videos of a catalogue into a folder, one after another.

    OUT/<video_id>.mp4     or another suffix; every file is complete and its frames decode
    OUT/<video_id>.m4a     the sound, with --audio, where the site has it apart
    OUT/jobs.parquet       what became of every video; printed by --status
    OUT/.partial/          files under way; the same command goes on with them

The catalogue is SurgLaVi's SQLite file, or csv or jsonl with youtube_id or url and, where that is
to be the file's name, video_id. You need the right to use these videos, and cookies only for those
that ask for a login. After several bot checks in a row it stops and says what to do. Connections
are direct: the environment's proxies are not used.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_prep import catalogue, fetching, jobs
from data_prep.catalogue import Entry
from data_prep.fetching import Failed, Pace, Wanted
from data_prep.media import VIDEO_SUFFIXES
from data_prep.shards import show_size
from surgjax.errors import REQUEUE, Stopped, UserError, nearest

PARTIAL = ".partial"
SHOWN = 5  # refused rows that are printed
LINE_SECONDS = 30  # between lines about one file
LONGEST_PAUSE = 3600.0  # seconds that a site's wish is followed
# Failures of one kind in a row after which going on does harm or makes no sense, and what to do.
STOPS = {
    "bot check": (
        3,
        "wait some hours, raise --sleep, update yt-dlp (pip install -U yt-dlp), or give --cookies "
        "of a browser that is signed in; then run the same command again",
    ),
    "rate limited": (3, "wait some hours, raise --sleep, then run the same command again"),
    "network": (10, "check the connection and whether a proxy is needed, then run it again"),
    "javascript": (1, "`pip install deno`, then run the same command again"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--catalogue", type=Path, help="surglavi_beta.db, a csv or a jsonl file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos")
    parser.add_argument(
        "--cookies", type=Path, help="cookies.txt of a browser; kept in memory only"
    )
    parser.add_argument(
        "--max-height", type=int, default=480, help="pixels (default 480); else the smallest"
    )
    parser.add_argument("--max-size", type=float, default=8.0, help="GB a video (default 8)")
    parser.add_argument("--audio", action="store_true", help="fetch the sound too, for Whisper")
    parser.add_argument("--limit", type=int, help="try so many videos, then stop")
    parser.add_argument(
        "--sleep", type=float, default=10.0, help="seconds between videos, up to twice that (10)"
    )
    parser.add_argument(
        "--retry",
        nargs="+",
        default=[],
        metavar="KIND",
        help="try videos again that were given up for this error kind, as --retry private",
    )
    parser.add_argument("--status", action="store_true", help="print what became of the videos")


def main(args: argparse.Namespace) -> int:
    """Returns 0 when all were tried. Raises UserError, Stopped."""
    if args.status:
        rows = jobs.read(args.out)
        if not rows:
            raise UserError(f"{args.out / jobs.TABLE} is not there; nothing was downloaded to it")
        print(jobs.status(rows))
        return 0
    if args.catalogue is None:
        raise UserError("--catalogue is missing; expected surglavi_beta.db, a csv or a jsonl file")
    for name, value, least in (
        ("--max-height", args.max_height, 1),
        ("--limit", 1 if args.limit is None else args.limit, 1),
        ("--max-size", args.max_size, 0.001),
        ("--sleep", args.sleep, 0),
    ):
        if not value >= least:
            raise UserError(f"{name} is {value:g}; expected at least {least:g}")
    for kind in args.retry:
        if kind not in jobs.KINDS:
            known = ", ".join(repr(kind) if " " in kind else kind for kind in jobs.KINDS)
            raise UserError(f"--retry {kind!r}{nearest(kind, jobs.KINDS)}; known: {known}")
    wanted = Wanted(args.max_height, int(args.max_size * 1e9), args.audio)
    return download(
        args.catalogue,
        args.out,
        wanted=wanted,
        cookies=args.cookies,
        limit=args.limit,
        retry=args.retry,
        pace=Pace(video_s=args.sleep),
    )


def download(
    path: Path,
    out: Path,
    *,
    wanted: Wanted,
    pace: Pace,
    cookies: Path | None = None,
    limit: int | None = None,
    retry: Collection[str] = (),
    loopback: bool = False,
) -> int:
    """Fetches what is not yet in `out`; returns 0.

    Args:
      cookies: Netscape cookie file.
      limit: videos that are tried.
      retry: error kinds whose videos are tried again although they were given up.
      loopback: addresses of this machine are allowed. For tests with a server of their own; no
        option and no environment variable sets it.

    Raises:
      UserError: of the catalogue, the cookies, a missing yt-dlp, a full disk, or when the site
        wants no more requests for now.
      Stopped: after SIGTERM. KeyboardInterrupt after Ctrl-C. Both times the table is right.
    """
    fetching.library()
    found = catalogue.read(path)
    jar = fetching.Cookies(cookies) if cookies else None
    if jar and jar.open_to_others:
        say(f"warning: other users may read {cookies}; chmod 600 {cookies}")
    for line in found.refused[:SHOWN]:
        say(f"warning: not used: {line}")
    if len(found.refused) > SHOWN:
        say(f"warning: not used: and {len(found.refused) - SHOWN} more rows")
    if found.without_address:
        say(f"{found.without_address:,} rows of {path.name} name no address")
    with _writing(out), jobs.locked(out), _sigterm_as_interrupt():
        table = jobs.Jobs(out)
        plan = table.plan(found.entries, retry)
        say(f"{len(found.entries):,} videos, {len(plan):,} to fetch")

        def fetch(entry: Entry) -> jobs.Job:
            return _one(
                entry,
                table,
                out,
                wanted=wanted,
                pace=pace,
                cookies=jar,
                progress=_lines(entry.video_id),
                loopback=loopback,
            )

        _queue(plan if limit is None else plan[:limit], fetch, pace)
        say(jobs.status(list(table.rows.values())))
    left = Counter(job.state for job in table.rows.values())
    if left["waiting"] or left["failed"]:
        say("next: the same command again, for those that are waiting or failed")
    elif left["done"]:
        say(f"next: python -m data_prep check --root {out}")
    return 0


def say(line: str) -> None:
    print(line, flush=True)


def _queue(plan: list[Entry], fetch: Callable[[Entry], jobs.Job], pace: Pace) -> None:
    """All of the plan, what failed a second time at the end. Raises UserError to stop."""
    queue, tried, row = deque(plan), Counter(), Counter()
    while queue:
        entry = queue.popleft()
        tried[entry.video_id] += 1
        if sum(tried.values()) > 1:
            time.sleep(random.uniform(1, 2) * pace.video_s)
        count = f"[{len(tried):,}/{len(plan):,}] {entry.video_id}"
        try:
            job = fetch(entry)
        except _Again as again:
            kind, job = again.failed.kind, again.job
            row = Counter({kind: row[kind] + 1})
            say(f"{count}: {kind}, {job.detail} ({job.state})")
            most, advice = STOPS.get(kind, (None, ""))
            if most and row[kind] >= most:
                times = f"{most} times in a row" if most > 1 else "at once"
                raise UserError(f"stopped, {kind} {times} ({jobs.KINDS[kind]}): {advice}") from None
            if kind == "rate limited":
                wished = again.failed.wait_s
                pause = pace.pause_s * 2 ** (row[kind] - 1) if wished is None else wished
                say(f"waiting {min(pause, LONGEST_PAUSE):.0f} s, as the site asks")
                time.sleep(min(pause, LONGEST_PAUSE))
                queue.appendleft(entry)
            elif job.state == "failed" and tried[entry.video_id] < 2:
                queue.append(entry)
            continue
        row.clear()
        say(
            f"{count}: {show_size(job.bytes)}, {job.width}x{job.height}, {job.seconds:.0f} s"
            + (f", sound in {job.audio}" if job.audio else "")
        )


class _Again(Exception):
    """A failure that is in the table."""

    def __init__(self, failed: Failed, job: jobs.Job):
        super().__init__(failed.kind)
        self.failed, self.job = failed, job


def _one(entry: Entry, table: jobs.Jobs, out: Path, **options) -> jobs.Job:
    """One video, and its row in the table. Raises _Again."""
    job = table.rows[entry.video_id]
    job = table.put(job, state="running", attempts=job.attempts + 1, error="", detail="")
    try:
        path, audio, licence = _there(entry.video_id, out), None, job.licence
        if path is not None:  # moved, but not yet noted; or put there by hand
            header = fetching.check_file(path)
        else:
            got = fetching.fetch(entry, out / PARTIAL, **options)
            path, audio = _place(got.path, out, entry), got.audio and _place(got.audio, out, entry)
            header, licence = got.header, got.licence
    except Failed as failed:
        if failed.kind in jobs.FINAL or failed.kind == "damaged":
            _clear(entry.video_id, out)
        raise _Again(failed, table.fail(job, failed.kind, failed.detail)) from None
    except BaseException:
        with suppress(OSError):  # of a full disk; the next run finds the row "running"
            table.put(job, state="waiting", attempts=job.attempts - 1)
        raise
    _clear(entry.video_id, out)
    return table.put(
        job,
        state="done",
        file=path.name,
        audio=audio.name if audio else "",
        bytes=path.stat().st_size,
        width=header.width,
        height=header.height,
        fps=header.fps,
        seconds=header.seconds,
        licence=licence,
    )


def _there(video_id: str, out: Path) -> Path | None:
    names = (out / f"{video_id}.{suffix}" for suffix in sorted(VIDEO_SUFFIXES))
    return next((path for path in names if path.is_file()), None)


def _place(path: Path, out: Path, entry: Entry) -> Path:
    """Moves a complete file to its name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return Path(shutil.move(path, out / f"{entry.video_id}{path.suffix}"))


def _clear(video_id: str, out: Path) -> None:
    """Removes partial files; no video_id has a dot in it."""
    for path in (out / PARTIAL).glob(f"{video_id}.*"):
        path.unlink(missing_ok=True)


def _lines(video_id: str) -> Callable[[int, int | None], None]:
    """Progress of one file: a line that changes on a terminal, else one now and then."""
    terminal, last = sys.stderr.isatty(), time.monotonic()

    def progress(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= (1 if terminal else LINE_SECONDS):
            last = now
            of = f" of {show_size(total)}" if total else ""
            line = f"{video_id}: {show_size(done)}{of}"
            start, end = ("\r", "  \r") if terminal else ("", "\n")
            print(f"{start}{line}", end=end, file=sys.stderr, flush=True)

    return progress


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Errors of the disk as a line; the network's are Failed."""
    try:
        yield
    except BrokenPipeError:  # of the reader of our lines
        raise
    except OSError as error:
        words = error.strerror or type(error).__name__
        raise UserError(
            f"cannot write to {out} ({words}); make room or choose another --out, then run the "
            f"same command again"
        ) from error


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, with the exit code that asks for a requeue."""
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt  # libraries catch Exception, not this

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not the main thread, as in some tests: signals are not ours
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        if came:
            raise Stopped("stopped; run the same command again to continue", REQUEUE) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
