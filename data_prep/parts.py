"""The work: a pure function that turns a part of the plan into shards, and the pool that calls it.

`write_part(task)` depends on its argument only and does nothing when its result is there, so a
local pool, a SLURM array or Beam can call it, any number of times. A part leaves

    parts/NNNNN.json       what is in it: shards, times of every frame, quarantined videos
    parts/NNNNN-S          its shards of at most MAX_RECORDS records, named for good by merge.py
"""

import errno
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import simplejpeg
from array_record.python import array_record_module

from data_prep.plan import PARTS, Plan
from data_prep.tables import sha256
from data_prep.video import Seen, Unreadable, kept_frames
from surgjax.data.record import MAX_RECORDS, WRITER_OPTIONS, Record, serialize
from surgjax.errors import UserError
from surgjax.files import write_whole

SPOOL_BYTES = 2**27  # frames of one video held in memory; the rest waits in a temporary file
DARK = 16  # mean of 0..255 below which a frame shows nothing
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_counter = None  # stored frames of all workers, shared with the parent


def tasks(plan: Plan, root: Path, out: Path, threads: int) -> list[dict]:
    """One argument of `write_part` for each part."""
    settings = plan.settings
    return [
        {
            "out": str(out / PARTS),
            "part": number,
            "root": str(root),
            "videos": [plan.videos[i] for i in part],
            "fps": settings.rate,
            "short_side": settings.short_side,
            "quality": settings.quality,
            "frames_per_record": settings.frames_per_record,
            "threads": threads,
        }
        for number, part in enumerate(plan.parts)
    ]


def write_part(task: dict, advance: Callable[[int], None] | None = None) -> dict:
    """Shards and sidecar of one part; returns the sidecar.

    A video that turns out to be unreadable leaves no record, only a row in `refused`.

    Raises:
      UserError: the disk is full.
    """
    out = Path(task["out"])
    sidecar = out / f"{task['part']:05d}.json"
    if sidecar.exists():
        return json.loads(sidecar.read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    crashed = out / f"{task['part']:05d}.crashed"
    skip = set(crashed.read_text(encoding="utf-8").split("\n")) if crashed.exists() else set()
    done = {"shards": [], "videos": [], "refused": []}
    try:
        with _Shards(out, f"{task['part']:05d}", done["shards"]) as shards:
            for video in task["videos"]:
                try:
                    if video["video_id"] in skip:
                        raise Unreadable("not readable", "the decoder broke down")
                    write_whole(out / f"{task['part']:05d}.now", video["video_id"])
                    done["videos"].append(_write_video(task, video, shards, advance or _advance))
                except Unreadable as error:
                    row = {"video_id": video["video_id"], "path": video["path"]}
                    done["refused"].append(row | {"reason": error.reason, "detail": error.detail})
        write_whole(sidecar, json.dumps(done))
    except (OSError, RuntimeError, ValueError) as error:
        if not is_disk_full(error):
            raise
        raise UserError(disk_full_message(out.parent)) from error
    return done


def is_disk_full(error: Exception) -> bool:
    """Also for array_record, which reports the system's error as text."""
    text = str(error)
    return getattr(error, "errno", None) in DISK_FULL or any(
        word in text for word in ("No space left", "File too large", "quota exceeded")
    )


def disk_full_message(out: Path) -> str:
    return (
        f"the disk is full while writing {out}; finished parts are kept: free some space and run "
        f"the same command again to continue, or start with a smaller --fps, --short-side or "
        f"--quality in another --out"
    )


def _write_video(
    task: dict, video: dict, shards: "_Shards", advance: Callable[[int], None]
) -> dict:
    # A video may fail at its very end, so its frames wait in a file until it is known to be good.
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=task["out"]) as spool:
        kept = _decode(task, video, spool, advance)
        first = shards.written
        spool.seek(0)
        n = task["frames_per_record"]
        for start in range(0, len(kept.t_ms), n):
            jpegs = tuple(spool.read(size) for size in kept.sizes[start : start + n])
            t_ms = tuple(kept.t_ms[start : start + n])
            shards.write(serialize(Record(video["video_id"], start, t_ms, jpegs)))
    seen, (height, width) = kept.seen, kept.shape
    slow = task["fps"] is None or task["fps"] > seen.native_fps
    return {
        "video_id": video["video_id"],
        "first_record": first,
        "t_ms": kept.t_ms,
        "index": kept.index,
        "decoded": seen.length or seen.frames + seen.damaged,
        "native_fps": seen.native_fps,
        "stored_fps": seen.native_fps if slow else task["fps"],
        "width": width,
        "height": height,
        "flags": {
            "damaged": seen.damaged > 0,
            "dark": 2 * kept.dark > len(kept.t_ms),
            "interlaced": seen.interlaced,
            "small": min(width, height) < task["short_side"],
            "variable_rate": seen.variable_rate,
        },
    }


@dataclass
class _Kept:
    """The stored frames of one video: their JPEGs are in a file, one after another."""

    seen: Seen
    t_ms: list[int]
    index: list[int]
    sizes: list[int]
    shape: tuple[int, int] = (0, 0)
    dark: int = 0


def _decode(task: dict, video: dict, spool, advance: Callable[[int], None]) -> _Kept:
    threads = task["threads"]
    while True:
        kept = _Kept(Seen(), [], [], [])
        frames = kept_frames(
            Path(task["root"]) / video["path"],
            fps=task["fps"],
            short_side=task["short_side"],
            seen=kept.seen,
            threads=threads,
            frames_fps=video["frames_fps"],
            frames_prefix=video.get("frames_prefix", ""),
        )
        try:
            for frame in frames:
                jpeg = simplejpeg.encode_jpeg(frame.image, task["quality"], "RGB", "420")
                spool.write(jpeg)
                kept.sizes.append(len(jpeg))
                kept.t_ms.append(frame.t_ms)
                kept.index.append(frame.index)
                kept.dark += bool(frame.image[::4, ::4].mean() < DARK)
                kept.shape = frame.image.shape[:2]
                advance(1)
        except Unreadable:
            if threads == 1:
                raise
        else:
            if threads == 1 or not kept.seen.damaged:
                return kept
        # Only intact streams decode alike with any number of threads; a store must not vary.
        threads = 1
        spool.seek(0)
        spool.truncate()


class _Shards:
    """Records in, shards of at most MAX_RECORDS out; each appears whole under its name."""

    def __init__(self, out: Path, stem: str, shards: list[dict]):
        self.out, self.stem, self.shards = out, stem, shards
        self.written = 0
        self.writer = None
        self.in_shard = 0

    def __enter__(self) -> "_Shards":
        return self

    def write(self, record: bytes) -> None:
        if self.writer is None:
            self.path = self.out / f"{self.stem}-{len(self.shards)}"
            self.part = self.out / f".{self.path.name}.{os.getpid()}.part"
            self.writer = array_record_module.ArrayRecordWriter(str(self.part), WRITER_OPTIONS)
        self.writer.write(record)
        self.written += 1
        self.in_shard += 1
        if self.in_shard == MAX_RECORDS:
            self._finish()

    def _finish(self) -> None:
        writer, self.writer = self.writer, None
        writer.close()
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        size, digest = self.part.stat().st_size, sha256(self.part)
        os.replace(self.part, self.path)
        self.shards.append(
            {"file": self.path.name, "records": self.in_shard, "bytes": size, "sha256": digest}
        )
        self.in_shard = 0

    def __exit__(self, *error) -> None:
        if self.writer is not None and error[0] is None:
            self._finish()
        elif self.writer is not None:
            try:
                self.writer.close()
            except (OSError, RuntimeError, ValueError):
                pass  # the first error is the one to report
            self.part.unlink(missing_ok=True)


# --- pool --------------------------------------------------------------------------------------


def run_parts(jobs: list[dict], workers: int | None, progress: Callable[[int], None]) -> None:
    """Do all parts; in this process when `workers` is None. `progress` hears the frames so far.

    A decoder that takes its process down costs its video, never the run.

    Raises:
      UserError: the disk is full, or a worker was killed from outside.
    """
    if workers is None:
        count = itertools.count(1)
        for job in jobs:
            write_part(job, lambda n: progress(next(count)))
        return
    # Long parts first, so that no worker is left alone with one at the end.
    waiting = sorted(jobs, key=lambda job: sum(video["frames"] for video in job["videos"]))
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
    counter = context.Value("q", 0)
    team = [_Worker(context, counter) for _ in range(min(workers, len(jobs)))]
    try:
        while waiting or any(worker.job for worker in team):
            for worker in team:
                if worker.job is None and waiting:
                    worker.start(waiting.pop())
            busy = {worker.connection: worker for worker in team if worker.job}
            for connection in multiprocessing.connection.wait(busy, timeout=0.2):
                worker = busy[connection]
                if not worker.finish():
                    waiting.append(worker.job)
                    team[team.index(worker)] = _Worker(context, counter)
            progress(counter.value)
    finally:
        for worker in team:
            worker.process.terminate()
            worker.process.join()


class _Worker:
    """A process that does one part after another."""

    def __init__(self, context, counter):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, counter), daemon=True)
        self.process.start()
        theirs.close()
        self.job: dict | None = None

    def start(self, job: dict) -> None:
        self.job = job
        self.connection.send(job)

    def finish(self) -> bool:
        """Whether the part is done; False after a decoder crashed, with its video marked."""
        try:
            error = self.connection.recv()
        except EOFError:
            self.process.join()
            _blame(self.job, self.process.exitcode)
            return False
        self.job = None
        if error is not None:
            raise error
        return True


def _serve(connection, counter) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            write_part(job)
            connection.send(None)
        except UserError as error:
            connection.send(error)
        except Exception:  # some exceptions do not survive the way to another process
            connection.send(RuntimeError(traceback.format_exc()))


def _blame(job: dict, code: int) -> None:
    stem = Path(job["out"]) / f"{job['part']:05d}"
    now, crashed = stem.with_suffix(".now"), stem.with_suffix(".crashed")
    before = crashed.read_text(encoding="utf-8").split("\n") if crashed.exists() else []
    video = now.read_text(encoding="utf-8") if now.exists() else None
    if code in (-signal.SIGKILL, -signal.SIGTERM) or video is None or video in before:
        raise UserError(
            f"a worker was ended from outside (exit code {code}), perhaps for lack of memory; run "
            f"the same command again to continue, with fewer --workers"
        )
    write_whole(crashed, "\n".join([*before, video]))


def _advance(n: int) -> None:
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += n
