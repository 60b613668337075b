"""Runs a test's reader in a process of its own, which may crash, hang or ask for any memory."""

import importlib
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from surgjax.errors import UserError, line_of

CASE_SECONDS = 5  # of processor time
LOAD_SECONDS = 120  # of the first case, which imports what it needs
HANG_SECONDS = 60  # of the clock, on a busy machine
MORE_BYTES = 2 << 30  # address space beyond what the first case took
MORE_RESIDENT = 512 << 20  # bytes, what one case may add to the peak


class Reader:
    """A child process that calls functions of test modules on cases.

    A case's outcome is what the function returns, or "refused: ..." for a UserError. An
    AssertionError tells of every other exception, of the end of the process, of more than
    CASE_SECONDS, and of memory beyond the bounds.
    """

    def __init__(self):
        self._process, self._known = None, set()
        self.folder = Path(tempfile.mkdtemp(prefix="surgjax-fuzz-"))

    def __call__(self, check: Callable[..., str], *case: object) -> str:
        """`check(folder, *case)` with an empty folder; `check` stands at the top of its module."""
        if self._process is None:
            self._start()
        name = check.__module__, check.__qualname__
        try:
            self._pipe.send((*name, case))
            if not self._pipe.poll(HANG_SECONDS if name in self._known else LOAD_SECONDS):
                raise AssertionError(f"{name[1]} hangs")
            kind, text = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode
            raise AssertionError(f"{name[1]} ended its process with {code}") from error
        except AssertionError:
            self._process.kill()
            raise
        finally:
            if self._process.exitcode is not None or not self._process.is_alive():
                self._process, self._known = None, set()
        self._known.add(name)
        assert kind != "failed", text
        return text

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.folder), daemon=True)
        self._process.start()
        theirs.close()


def _serve(pipe, folder: Path) -> None:
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    known = set()
    while True:
        try:
            module, name, case = pipe.recv()
        except EOFError:
            return
        here = folder / "case"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        is_first = (module, name) not in known
        if is_first:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        check = getattr(importlib.import_module(module), name)
        answer = _judge(check, here, case, is_first)
        if is_first:
            known.add((module, name))
            with open("/proc/self/statm") as file:
                size = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MORE_BYTES, -1))
        os.ftruncate(1, 0)
        pipe.send(answer)


def _judge(check: Callable, folder: Path, case: tuple, is_first: bool) -> tuple[str, str]:
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numpy's, of numbers that do not fit
            answer = "read", str(check(folder, *case))
    except UserError as error:
        line = line_of(error).replace(str(folder), "")
        answer = ("refused", f"refused: {line}") if line else ("failed", "an error without words")
    except BaseException:
        answer = "failed", traceback.format_exc()
    seconds = time.process_time() - start
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    if not is_first and seconds > CASE_SECONDS:
        answer = "failed", f"{seconds:.1f} s for {answer}"
    if not is_first and grown > MORE_RESIDENT:
        answer = "failed", f"{grown >> 20} MiB for {answer}"
    return answer
