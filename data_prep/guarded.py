"""Decoding in a process of its own, so that a file that breaks a decoder costs that file alone.

The process has the limits of data_prep/limits.py. It is no prison: it runs as the same user and may
do what that user may; what a recording can make FFmpeg open is restricted in data_prep/media.py.
"""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from data_prep import limits
from data_prep.limits import DECODING, Limits
from data_prep.media import Unreadable, too_large
from data_prep.sources import Video, cached_by_file
from data_prep.video import Header, probe
from surgjax.errors import UserError

THREADS = 8  # opening files waits for the disk most of the time
HEADER = Limits(seconds=30)  # a header is read in a second of computing, if it is a large one
FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
ITEM, ERROR, END = range(3)  # of the messages to the parent
BEGIN = "import sys; from data_prep.guarded import serve; serve(int(sys.argv[1]))"
ROOT = Path(__file__).resolve().parent.parent


def results(
    function: Callable[..., Iterable], *arguments: Any, threads: int = 1, within: Limits = DECODING
) -> Iterator:
    """What `function(*arguments)` yields in another process; it ends when this iterator is closed.

    Args:
      function: of a module, as it is found there by its name.
      threads: of its decoder.

    Raises:
      Unreadable: the process broke down or was ended, perhaps at a limit.
      UserError: as the function does; or the process was ended from outside.
    """
    ours, theirs = multiprocessing.Pipe()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    theirs.close()
    try:
        ours.send((function, arguments, threads, within))
        while (message := ours.recv())[0] == ITEM:
            yield message[1]
    except (EOFError, ConnectionError):
        if (code := process.wait()) in FROM_OUTSIDE:
            raise UserError(
                f"a decoder was ended from outside (exit code {code}), perhaps for lack of memory; "
                f"run the same command again to continue"
            ) from None
        raise broken_down(code, within) from None
    finally:
        process.kill()
        process.wait()
        ours.close()
    if message[0] == ERROR:
        raise message[1]


def result(function: Callable, *arguments: Any, within: Limits = DECODING) -> Any:
    """What `function(*arguments)` returns; as `results`."""
    with closing(results(_only, function, *arguments, within=within)) as found:
        return next(found)


def broken_down(code: int, within: Limits) -> Unreadable:
    """Of a process that decoded and left with this exit code."""
    if code == -signal.SIGPROF:
        return Unreadable("refused", f"no frame after {within.seconds:g} s of computing")
    return Unreadable("not readable", "the decoder broke down")


def headers(
    videos: Sequence[Video], seconds: float | None = None, within: Limits = HEADER
) -> list[Header | Unreadable | None]:
    """Header of each recording, or why there is none.

    Args:
      seconds: those that are not begun by then are None, but for the first; None reads all.
    """
    found: dict[int, Header | Unreadable | None] = {}
    end = None if seconds is None else time.monotonic() + seconds
    while left := [(i, *probed(v)) for i, v in enumerate(videos) if i not in found]:
        rest = None if end is None else end - time.monotonic()
        try:
            for number, header in results(_headers, left, rest, threads=THREADS, within=within):
                if isinstance(header, Unreadable) and header.args == too_large().args:
                    header = _alone(videos[number], within)  # others took of its memory
                found[number] = header
        except Unreadable:  # it is one of these: they were begun in this order
            left = [task for task in left if task[0] not in found]
            for number, *_ in left[:THREADS]:
                found[number] = _alone(videos[number], within)
    return [found[i] for i in range(len(videos))]


def header_of(video: Video) -> Header:
    """Of one recording, remembered until its file changes. Raises Unreadable."""
    path, *options = probed(video)
    return _header(path, *options)


@cached_by_file
def _header(path: Path, *options: Any) -> Header:
    return result(probe, path, *options, within=HEADER)


def serve(number: int) -> None:
    """The other process: answers one call, over a connection that is open under this number."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)  # they reach the parent too, which ends us
    connection = Connection(number)
    with suppress(EOFError, ConnectionError):  # when the parent is gone
        function, arguments, threads, within = connection.recv()
        limits.limit_this_process(within, threads)
        try:
            for item in function(*arguments):
                connection.send((ITEM, item))
        except (Unreadable, UserError) as error:
            connection.send((ERROR, error))
        except MemoryError:
            connection.send((ERROR, too_large()))
        except ConnectionError:
            raise
        except Exception:  # some exceptions do not survive the way to another process
            connection.send((ERROR, RuntimeError(traceback.format_exc())))
        else:
            connection.send((END, None))


def probed(video: Video) -> tuple[Path, float | None, str]:
    """The arguments of `probe`."""
    return video.path, video.frames_fps, video.frames_pattern


def _headers(
    tasks: list[tuple], seconds: float | None
) -> Iterator[tuple[int, Header | Unreadable | None]]:
    end = math.inf if seconds is None else time.monotonic() + seconds

    begin = threading.Event()  # not before all threads are there: their stacks take memory too

    def one(task: tuple) -> tuple[int, Header | Unreadable | None]:
        begin.wait()
        number, *arguments = task
        if time.monotonic() > end and task is not tasks[0]:
            return number, None
        try:
            return number, probe(*arguments)
        except Unreadable as error:
            return number, error

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            found = pool.map(one, tasks)
        finally:
            begin.set()
        yield from found


def _alone(video: Video, within: Limits) -> Header | Unreadable:
    """The header of a recording, or why there is none, found in a process for it alone."""
    try:
        return result(probe, *probed(video), within=within)
    except Unreadable as error:
        return error


def _only(function: Callable, *arguments: Any) -> Iterator:
    yield function(*arguments)
