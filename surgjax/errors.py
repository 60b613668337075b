"""One way to fail: a user's mistake is one clear line, and every exit code is documented.

| code | meaning                                              |
|------|------------------------------------------------------|
| 0    | done                                                 |
| 1    | a bug, or `check` / `verify` found damage            |
| 2    | a user's mistake (one line says what, and the fix)   |
| 75   | SIGTERM: saved, please requeue; or a host was lost   |
| 130  | Ctrl-C: saved                                        |
| 134  | SIGABRT: no step for long, or a host was lost        |
| 142  | SIGALRM: no step for long, and the watchdog hung too |
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

DAMAGE, USER, REQUEUE, INTERRUPTED = 1, 2, 75, 130
MOST = 2000  # characters of an error
LEAVE_S = 5.0  # that threads of a process which was stopped or failed may take to end


class UserError(Exception):
    """Something the user can put right; one line: what was found, expected, and the fix."""


class Stopped(Exception):
    """The work was saved and stopped on request.

    Attributes:
      code: REQUEUE (75) after SIGTERM, INTERRUPTED (130) after Ctrl-C.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def line_of(error: Exception) -> str:
    """What the error says, on one line of at most MOST characters that can be printed: a file of
    somebody else may have put in what is long, or moves a terminal's cursor."""
    line = " ".join(str(error).split())
    if len(line) > MOST:
        line = f"{line[: MOST * 3 // 4]} ... {line[-MOST // 5 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def nearest(word: str, known: object, cutoff: float = 0.6) -> str:
    """' (did you mean ...?)' for the known word most like `word`, or ''."""
    import difflib

    found = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=cutoff)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _unraisable(unraisable: object) -> None:
    """Prints what no caller can catch, but not what tensorstore says after a failed write.

    Its threads then report to the event loop that the failure closed, in hundreds of lines amid
    which the one error line would be lost.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _leave_within(seconds: float, code: int) -> None:
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call `main` and leave the process with its exit code; a UserError prints one line.

    SURGJAX_DEBUG=1 keeps tracebacks of user errors too.
    """
    sys.unraisablehook = _unraisable
    try:
        code = main() or 0
    except UserError as error:
        if os.environ.get("SURGJAX_DEBUG") == "1":
            raise
        print(f"error: {line_of(error)}", file=sys.stderr)
        code = USER
        _leave_within(LEAVE_S, code)  # a compilation under way must not hold who has failed
    except Stopped as stop:
        print(str(stop), file=sys.stderr)
        code = stop.code
        # SLURM ends a job's other processes as soon as one has left, and takes their code then.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _leave_within(LEAVE_S, code)  # nor a reader that hangs, what is saved and closed
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.stdout.flush()
    sys.exit(code)
