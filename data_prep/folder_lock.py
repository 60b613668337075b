"""One writer of a store at a time, or several that write different parts of it, on any machine.

The lock is on a file: that of a folder would be granted by each machine of a network file system
by itself. The file is there as long as the store is unfinished. A lock ends with its process.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.plan import PLAN
from surgjax.errors import UserError

LOCK = ".lock"


@contextmanager
def held(out: Path, *, shared: bool = False, wait_for: str | None = None) -> Iterator[bool]:
    """Hold the folder of a store; yields False where the file system cannot lock.

    Args:
      shared: beside all others who hold it so, instead of alone.
      wait_for: wait for one's turn, and say that it is this that one waits for.
    Raises:
      UserError: another process holds it, and `wait_for` is None.
    """
    handle = _take(out, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait_for)
    try:
        yield handle is not None
    finally:
        if not shared and not (out / PLAN).exists():
            (out / LOCK).unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _take(out: Path, kind: int, wait_for: str | None) -> int | None:
    path = out / LOCK
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            _lock(handle, kind, out, wait_for)
        except OSError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        if _is_at(handle, path):
            return handle
        os.close(handle)  # who held it before us has removed the file: take the new one


def _lock(handle: int, kind: int, out: Path, wait_for: str | None) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if wait_for is None:
            raise UserError(
                f"another process is writing {out}; wait for it, or give another --out"
            ) from error
        print(f"waiting for {wait_for}", flush=True)
        fcntl.flock(handle, kind)
        os.utime(out)  # a change lets NFS look at the folder again, instead of what it remembers


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
