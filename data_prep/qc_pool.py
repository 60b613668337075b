"""The scans of many recordings: a function that does one, and the processes that call it.

`scan_one(task)` depends on its argument only and does nothing when its result is there. It leaves

    scan/NNNNN.json      what was found
    sheets/NNNNN.jpg     the contact sheet
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple
from pathlib import Path

from data_prep import contact_sheet, guarded, keyframes, names, out_of_body
from data_prep.limits import DECODING, Limits, limit_this_process
from data_prep.media import Unreadable
from data_prep.parts import disk_full_message, is_disk_full
from data_prep.scan import scan
from surgjax.errors import UserError
from surgjax.files import whole, write_whole

UNFINISHED, SHEETS = "scan", "sheets"


def result_path(task: dict) -> Path:
    return Path(task["out"]) / UNFINISHED / f"{task['number']:05d}.json"


def sheet_path(out: Path, number: int) -> Path:
    return out / SHEETS / f"{number:05d}.jpg"


def scan_one(task: dict) -> None:
    """Result and contact sheet of one recording; of one that cannot be read only the reason.

    Raises:
      UserError: the disk is full, or the out-of-body function fails or returns no scores.
    """
    if result_path(task).exists():
        return
    now = result_path(task).with_suffix(".now")
    try:
        write_whole(now, "")
        _scan_one(task)
        now.unlink()
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(disk_full_message(Path(task["out"]))) from error


def _scan_one(task: dict) -> None:
    path, result = Path(task["path"]), _empty(task)
    try:
        if not path.is_dir():
            result["names"] += names.in_tags(path)
        samples = keyframes.read_samples(
            *(path, task["every"], task["max_gap"], task["frames_fps"], task["frames_pattern"])
        )
    except Unreadable as error:
        _fail(task, result, f"{error.reason}: {error.detail}")
        return
    found = scan(samples, out_of_body.load(task["out_of_body"]))
    with whole(sheet_path(Path(task["out"]), task["number"])) as part:
        part.write_bytes(contact_sheet.draw(samples, found))
    result |= {
        "seconds": found.length,
        "samples": len(samples),
        "shares": found.shares,
        "cuts": len(found.cuts),
        "box": found.box,
        "spans": [(span.start, span.end, span.flag, span.score) for span in found.spans],
        "texts": [astuple(text) for text in found.texts],
        "t_ms": found.t_ms.tolist(),
        "bits": found.bits.tolist(),
    }
    write_whole(result_path(task), json.dumps(result))


def _empty(task: dict) -> dict:
    found = names.in_name(task["video_id"])
    # A dataset may give a recording a plainer name than its file has.
    found += [finding for finding in names.in_name(task["below"]) if finding not in found]
    result = {"video_id": task["video_id"], "bytes": task["bytes"], "unreadable": ""}
    result |= {"seconds": None, "names": found, "shares": {}, "spans": [], "texts": []}
    return result | {"t_ms": [], "bits": []}


def _fail(task: dict, result: dict, reason: str) -> None:
    write_whole(result_path(task), json.dumps(result | {"unreadable": reason}))


# --- pool --------------------------------------------------------------------------------------


def run_scans(
    tasks: list[dict],
    workers: int | None,
    done: Callable[[bool], None],
    within: Limits = DECODING,
) -> None:
    """Scan all that have no result; in this process when `workers` is None. `done` hears of each
    one whether it is new.

    A decoder that takes its process down, or reaches a limit of it, costs its recording, never the
    run. This process has no limits.

    Raises:
      UserError: as `scan_one`.
    """
    todo = []
    for task in tasks:
        result_path(task).with_suffix(".now").unlink(missing_ok=True)
        if result_path(task).exists():
            done(False)
        else:
            todo.append(task)
    if workers is None:
        for task in todo:
            scan_one(task)
            done(True)
        return
    while todo:
        broken = _in_processes(todo, workers, done, within)
        todo = [task for task in todo if not result_path(task).exists()]
        if not broken:
            return
        for task in [t for t in todo if result_path(t).with_suffix(".now").exists()]:
            try:
                guarded.result(scan_one, task, within=within)
            except Unreadable as error:  # alone: it is this one
                _fail(task, _empty(task), f"{error.reason}: {error.detail}")
                result_path(task).with_suffix(".now").unlink(missing_ok=True)
            done(True)
            todo.remove(task)


def _in_processes(
    tasks: list[dict], workers: int, done: Callable[[bool], None], within: Limits
) -> bool:
    """Whether a process broke down."""
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        multiprocessing.get_context("spawn"),  # a fork would copy the locks of other threads
        initializer=_begin,
        initargs=(within,),
    )
    try:
        for future in as_completed([pool.submit(scan_one, task) for task in tasks]):
            future.result()
            done(True)
        return False
    except BrokenProcessPool:
        return True
    except BaseException:  # what is begun would take minutes; it is begun again by the next run
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(within: Limits) -> None:
    limit_this_process(within)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    parent = multiprocessing.parent_process()

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
