"""The job table of a download: DIR/jobs.parquet, a row a video, written whole at every change.

    waiting    not tried yet, or to be tried again
    running    being fetched now; after a crash, what was being fetched
    done       the file is there and its frames decode
    failed     tried again by the next run
    given up   not tried again, unless asked for with --retry

The table knows no address and no cookie: `source` is the start of the address's sha256, so that a
corrected address is noticed.
"""

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.catalogue import Entry
from surgjax.errors import UserError
from surgjax.files import whole

TABLE = "jobs.parquet"
STATES = ("done", "running", "waiting", "failed", "given up")
ATTEMPTS = 5  # that a video may fail before it is given up
# Error kinds: what they mean, and whether another attempt can help.
FINAL = {
    "unavailable": "removed, or not offered here",
    "private": "needs a login; --cookies, then --retry private",
    "not found": "no such page or file",
    "refused": "an address or file that is never opened",
    "too large": "more than --max-size",
    "no video": "the page shows no single video file",
    "live": "a live stream or a premiere to come",
}
PASSING = {
    "bot check": "the site wants proof of a human",
    "rate limited": "the site asks to wait",
    "network": "no connection, or the server is down",
    "forbidden": "the server refused this request",
    "javascript": "YouTube's pages need a JavaScript runtime",
    "damaged": "frames do not decode, or the file is cut short",
    "interrupted": "the program ended while fetching it",
    "other": "see the detail",
}
KINDS = FINAL | PASSING
# These tell of the machine or the site, not of the video: they are no attempt.
NOT_COUNTED = ("bot check", "rate limited", "javascript")


@dataclass(frozen=True)
class Job:
    """A row. `seconds`, `fps`, `width`, `height` are the file's; `audio` is a second file."""

    video_id: str
    source: str
    state: str = "waiting"
    attempts: int = 0
    error: str = ""
    detail: str = ""
    file: str = ""
    audio: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    licence: str = ""
    changed: str = ""


SCHEMA = pa.schema(
    {
        name: {str: pa.string(), int: pa.int64(), float: pa.float64()}[kind]
        for name, kind in Job.__annotations__.items()
    }
)


class Jobs:
    """The table of a folder; each `put` is on disk when it returns."""

    def __init__(self, folder: Path):
        self.path = folder / TABLE
        self.rows: dict[str, Job] = {job.video_id: job for job in read(folder)}

    def put(self, job: Job, **changes: object) -> Job:
        job = replace(job, **changes, changed=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        self.rows[job.video_id] = job
        self.write()
        return job

    def write(self) -> None:
        table = pa.Table.from_pylist([asdict(job) for job in self.rows.values()], schema=SCHEMA)
        with whole(self.path) as part:
            pq.write_table(table, part)

    def fail(self, job: Job, kind: str, detail: str) -> Job:
        attempts = job.attempts - (kind in NOT_COUNTED)
        over = kind in FINAL or attempts >= ATTEMPTS
        state = "given up" if over else "failed"
        return self.put(job, state=state, attempts=attempts, error=kind, detail=detail)

    def plan(self, entries: list[Entry], retry: Collection[str] = ()) -> list[Entry]:
        """Takes in a catalogue; returns what to fetch now: half fetched, waiting, failed.

        Args:
          retry: error kinds whose videos are tried again though they were given up.
        """
        wanted: dict[str, list[Entry]] = {"running": [], "waiting": [], "failed": []}
        for entry in entries:
            source = hashlib.sha256(entry.url.encode()).hexdigest()[:16]
            job = self.rows.get(entry.video_id)
            if job is None or job.source != source:
                job = Job(entry.video_id, source)
            elif job.state == "done" and not self._there(job):
                job = Job(entry.video_id, source)
            elif job.state in ("failed", "given up") and job.error in retry:
                job = replace(job, state="waiting", attempts=0)
            first = job.state
            if job.state == "running":  # by a program that is gone: the lock is ours
                over = job.attempts >= ATTEMPTS
                job = replace(job, state="given up" if over else "waiting", error="interrupted")
                first = job.state if over else "running"
            self.rows[entry.video_id] = job
            if first in wanted:
                wanted[first].append(entry)
        self.write()
        return [entry for state in wanted for entry in wanted[state]]

    def _there(self, job: Job) -> bool:
        file = self.path.parent / job.file
        return bool(job.file) and file.is_file() and file.stat().st_size == job.bytes


def read(folder: Path) -> list[Job]:
    """Rows of the table, [] where there is none yet. Raises UserError."""
    path = folder / TABLE
    if not path.exists():
        return []
    try:
        return [Job(**row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); move it away: the files that "
            f"are there are found again"
        ) from error


def status(rows: list[Job]) -> str:
    """Counts by state, with sizes and error kinds."""
    lines = [f"{len(rows):,} videos"]
    for state in STATES:
        own = [job for job in rows if job.state == state]
        if not own:
            continue
        line = f"  {state:<9}{len(own):>8,}"
        if state == "done":
            size, hours = sum(job.bytes for job in own), sum(job.seconds for job in own) / 3600
            line += f"   {size / 1e9:,.2f} GB, {hours:,.2f} hours"
        elif state in ("failed", "given up"):
            kinds = Counter(job.error for job in own)
            line += "   " + ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
        lines.append(line)
    shown = {job.error for job in rows if job.state in ("failed", "given up")}
    lines += [f"  {kind}: {about}" for kind, about in KINDS.items() if kind in shown]
    return "\n".join(lines)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One download into a folder at a time. Raises UserError while another one runs."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(
            f"another download into {folder} is running; wait for it, or choose another --out"
        ) from error
    finally:
        os.close(handle)
