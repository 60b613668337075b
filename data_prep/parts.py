"""The work: a pure function that turns a part of the plan into shards.

`write_part(task)` depends on its argument only and does nothing when its result is there, so every
engine can call it, any number of times. A part leaves

    parts/NNNNN.json       what is in it: shards, times of every frame, quarantined videos
    parts/NNNNN-S          its shards, named for good by merge.py
"""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from array_record.python import array_record_module

from data_prep.decisions import END, LEFT_OUT, Decision
from data_prep.encoding import X264, Jpeg
from data_prep.media import Unreadable, too_large
from data_prep.plan import PARTS, Plan, Settings
from data_prep.tables import sha256
from data_prep.video import Seen, kept_frames
from surgjax.data.record import WRITER_OPTIONS, Record, serialize
from surgjax.errors import UserError
from surgjax.files import write_whole
from surgjax.inside import inside

SPOOL_BYTES = 2**27  # frames of one video held in memory; the rest waits in a temporary file
DARK = 16  # mean of 0..255 below which a frame shows nothing
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def tasks(plan: Plan, root: Path, out: Path, threads: int) -> list[dict]:
    """One argument of `write_part` for each part."""
    return [
        {
            "out": str(out / PARTS),
            "part": number,
            "root": str(root),
            "videos": [plan.videos[i] for i in part],
            "settings": asdict(plan.settings),
            "threads": threads,
        }
        for number, part in enumerate(plan.parts)
    ]


def write_part(task: dict, advance: Callable[[int], None] = lambda n: None) -> dict:
    """Shards and sidecar of one part; returns the sidecar.

    A video that turns out to be unreadable leaves no record, only a row in `refused`.

    Raises:
      UserError: the disk is full.
    """
    out, settings = Path(task["out"]), Settings(**task["settings"])
    sidecar = out / f"{task['part']:05d}.json"
    if sidecar.exists():
        return json.loads(sidecar.read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    crashed = out / f"{task['part']:05d}.crashed"
    broken = json.loads(crashed.read_text(encoding="utf-8")) if crashed.exists() else {}
    done = {"shards": [], "videos": [], "refused": []}
    try:
        with _Shards(out, f"{task['part']:05d}", done["shards"], settings.max_records) as shards:
            for video in task["videos"]:
                try:
                    if video["video_id"] in broken:
                        raise Unreadable(*broken[video["video_id"]])
                    write_whole(out / f"{task['part']:05d}.now", video["video_id"])
                    done["videos"].append(_write_video(task, video, shards, advance))
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
    settings = Settings(**task["settings"])
    decision = Decision(**video["decision"]) if video.get("decision") else Decision()
    if [span[:2] for span in decision.left_out] == [(0, END)]:
        raise Unreadable(LEFT_OUT, decision.left_out[0][2])
    # A video may fail at its very end, so its frames wait in a file until it is known to be good.
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=task["out"]) as spool:
        kept = _decode(task, settings, decision, video, spool, advance)
        first = shards.written
        spool.seek(0)
        n = settings.frames_per_record
        for start in range(0, len(kept.t_ms), n):
            frames = tuple(spool.read(size) for size in kept.sizes[start : start + n])
            t_ms = tuple(kept.t_ms[start : start + n])
            shards.write(serialize(Record(video["video_id"], start, t_ms, frames)))
    seen, (height, width) = kept.seen, kept.shape
    slow = settings.rate is None or settings.rate > seen.native_fps
    return {
        "video_id": video["video_id"],
        "first_record": first,
        "t_ms": kept.t_ms,
        "index": kept.index,
        "decoded": seen.length or seen.frames + seen.damaged,
        "native_fps": seen.native_fps,
        "stored_fps": seen.native_fps if slow else settings.rate,
        "width": width,
        "height": height,
        "end_ms": _end(kept, settings, decision),
        "psnr": kept.psnr,
        "psnr_lowest": kept.psnr_lowest,
        "flags": {
            "damaged": seen.damaged > 0,
            "dark": 2 * kept.dark > len(kept.t_ms),
            "interlaced": seen.interlaced,
            "small": min(width, height) < settings.short_side,
            "variable_rate": seen.variable_rate,
        },
    }


@dataclass
class _Kept:
    """The stored frames of one video: encoded, they are in a file, one after another."""

    seen: Seen
    t_ms: list[int]
    index: list[int]
    sizes: list[int]
    shape: tuple[int, int] = (0, 0)
    dark: int = 0
    psnr: float | None = None
    psnr_lowest: float | None = None


def _end(kept: _Kept, settings: Settings, decision: Decision) -> float:
    """End of the recording, milliseconds, by its last stored frame or its last one."""
    rate = kept.seen.native_fps
    rate = min(settings.rate or rate, rate) or 1.0
    last = 1000 * kept.seen.seconds if decision.left_out else kept.t_ms[-1]
    return last + 1000 / rate


def _decode(
    task: dict,
    settings: Settings,
    decision: Decision,
    video: dict,
    spool,
    advance: Callable[[int], None],
) -> _Kept:
    threads = task["threads"]
    while True:
        kept, encoder = _Kept(Seen(), [], [], []), _encoder(settings)
        frames = kept_frames(
            inside(Path(task["root"]), video["path"], "plan.json"),
            fps=settings.rate,
            short_side=settings.short_side,
            seen=kept.seen,
            threads=threads,
            even=settings.codec == "x264",
            crop=decision.crop,
            frames_fps=video["frames_fps"],
            frames_pattern=video["frames_pattern"],
        )
        try:
            for frame in map(decision.covering, filter(decision.keeps, frames)):
                kept.sizes += [spool.write(data) for data in encoder.add(frame.image)]
                kept.t_ms.append(frame.t_ms)
                kept.index.append(frame.index)
                kept.dark += bool(frame.image[::4, ::4].mean() < DARK)
                kept.shape = frame.image.shape[:2]
                advance(1)
            kept.sizes += [spool.write(data) for data in encoder.finish()]
            if not kept.t_ms:
                raise Unreadable(LEFT_OUT, "every frame is")
            kept.psnr, kept.psnr_lowest = encoder.psnr, encoder.psnr_lowest
        except Unreadable:
            if threads == 1:
                raise
        except MemoryError as error:
            if threads == 1:
                raise too_large() from error
        else:
            if threads == 1 or not kept.seen.damaged:
                return kept
        # Only intact streams decode alike with any number of threads; a store must not vary.
        threads = 1
        spool.seek(0)
        spool.truncate()


def _encoder(settings: Settings) -> Jpeg | X264:
    if settings.codec == "x264":
        return X264(settings.crf, settings.frames_per_record)
    return Jpeg(settings.quality)


class _Shards:
    """Records in, shards of at most `most` of them out; each appears whole under its name."""

    def __init__(self, out: Path, stem: str, shards: list[dict], most: int):
        self.out, self.stem, self.shards, self.most = out, stem, shards, most
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
        if self.in_shard == self.most:
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
