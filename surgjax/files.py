"""Files that appear whole or not at all, their digests, and paths on object stores.

A path is pathlib's, or for gs:// and s3:// etils' with the same methods (`to_path`). Where the two
differ a function here does the same with either, so that local files never depend on etils.
"""

import csv
import fcntl
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from surgjax.errors import UserError

# Scheme -> distributions that read it, and their packages.
NEEDED = {
    "gs": {"gcsfs": "gcsfs", "google-cloud-storage": "google.cloud.storage"},
    "s3": {"s3fs": "s3fs"},
}
UNLOCKED = "%s cannot be locked (%s): make sure that no other job writes there"

log = logging.getLogger("surgjax")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of `path` when the block ends without an exception.

    The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        if not is_remote(path):  # an object store keeps what it has acknowledged
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, UTF-8 with the line ends of `text`."""
    with whole(path) as part:
        part.write_bytes(text.encode("utf-8"))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder, made where it is missing, against other processes.

    Object stores and some file systems (Lustre mounted without flock) know no locks: a warning.

    Raises:
      UserError: another process holds it.
    """
    if is_remote(folder):
        log.warning(UNLOCKED, folder, "an object store")
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter from NFS
            raise UserError(
                f"{folder} is in use by another process; wait for it, stop it, or use another one"
            ) from None
        except OSError as error:
            log.warning(UNLOCKED, folder, error.strerror)
        yield


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        # Large parts: after each, the thread waits for its turn among those that run Python.
        while part := file.read(16 << 20):
            made.update(part)
    return made.hexdigest()


def size(path: Path) -> int:
    """Bytes of a file."""
    stat = path.stat()
    return stat.length if is_remote(path) else stat.st_size


def files_below(folder: Path) -> Iterator[Path]:
    """Every file of a folder and its folders, sorted by name in each."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from files_below(entry)
        else:
            yield entry


def remove_folder(folder: Path) -> None:
    """Remove a folder with all it holds."""
    if is_remote(folder):
        folder.rmtree()
    else:
        shutil.rmtree(folder)


def to_path(text: str | Path) -> Path:
    """A path as the user names it.

    pathlib would make the local folder "gs:" of "gs://bucket". Checkpoints can be at gs:// alone.

    Raises:
      UserError: an object store, and what reads it is not installed.
    """
    needed = NEEDED.get(str(text).split("://")[0] if is_remote(text) else "")
    if needed is None:
        return Path(text)
    if missing := [name for name, package in needed.items() if not _is_installed(package)]:
        raise UserError(f"{text} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    from etils import epath

    return epath.Path(text)


def is_remote(path: str | Path) -> bool:
    """Whether a path is on an object store."""
    return "://" in str(path)  # pathlib makes one slash of two


def absolute(path: Path) -> Path:
    """The path from the root; etils' own would put the working directory before "gs://"."""
    return path if is_remote(path) else path.absolute()


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def csv_text(rows: Iterable[Iterable]) -> str:
    """Lines of a csv file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def parse_json(text: str | bytes) -> Any:
    """What JSON holds. Raises ValueError for all that is none, and for what nests too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
