"""Start a command again when it was stopped or killed, until it is done.

    python launch/supervisor.py -- python -m surgjax.main --config=... --workdir=RUN
    python launch/supervisor.py -- python launch/local_multiproc.py --processes 2 -- python -m ...

Started again: exit code 75 (SIGTERM: saved) and death by a signal (kill -9, out of memory, the
watchdog, a lost peer; a shell's 129 and more, but not 130). Everything else is final: 0 done, 1 a
bug, 2 a user's mistake, 130 Ctrl-C. The waits double from --delay to --max-delay and begin anew
after progress: a newer checkpoint in RUN, or ten minutes of running where there is no RUN. After
--max-restarts without progress it gives up. SIGTERM and Ctrl-C are passed on to the command, whose
exit code is then the last word; killed itself, it takes the command with it (Linux). The exit code
is the command's, 128 + n after signal n.
"""

import argparse
import random
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from orphans import end_with_parent, send

REQUEUE, INTERRUPTED = 75, 130  # of surgjax/errors.py
ORPHANS_S = 1.5  # that what a dead command leaves behind may take to end
HEALTHY_S = 600  # so long a run is progress, where no RUN tells


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="folder of the run; default: COMMAND's --workdir")
    parser.add_argument("--max-restarts", type=int, default=10, help="without progress")
    parser.add_argument("--delay", type=float, default=5, help="seconds before the first restart")
    parser.add_argument("--max-delay", type=float, default=300, help="seconds")
    parser.add_argument("--dry-run", action="store_true", help="print the command, start nothing")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT ...]")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.max_restarts < 0 or args.delay < 0:
        parser.error("give a command after --, and no negative numbers")
    run = args.run or _workdir(command)
    if args.dry_run:
        print(shlex.join(command))
        return 0
    return Supervisor(command, run, args.max_restarts, args.delay, args.max_delay).supervise()


class Supervisor:
    """Runs one command until it is done; see the module.

    Attributes:
      starts: how often it was started.
    """

    def __init__(
        self,
        command: list[str],
        run: Path | None,
        max_restarts: int,
        delay: float,
        max_delay: float,
    ):
        self.command, self.run = command, run
        self.max_restarts, self.delay, self.max_delay = max_restarts, delay, max_delay
        self.starts = 0
        self._child: subprocess.Popen | None = None
        self._told = 0  # the first signal that told us to leave
        self._passed_on = False  # to the child that runs now

    def supervise(self) -> int:
        """The exit code to leave with."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        in_vain = 0
        while True:
            began, newest = time.monotonic(), _newest_checkpoint(self.run)
            code = self._once()
            seconds = time.monotonic() - began
            now = _newest_checkpoint(self.run)
            progress = now > newest if self.run else seconds > HEALTHY_S
            in_vain = 0 if progress else in_vain + 1
            what = f"ended with {code} after {seconds:.1f} s"
            if self._told or not starts_again(code):
                return self._leave(code, what)
            if in_vain > self.max_restarts:
                return self._leave(code, f"{what}; {in_vain} times without progress, giving up")
            wait = back_off(in_vain, self.delay, self.max_delay) * random.uniform(0.5, 1)
            _log(f"{what}; again in {wait:.1f} s")
            self._sleep(wait)
            if self._told:
                code = REQUEUE if self._told == signal.SIGTERM else INTERRUPTED
                return self._leave(code, "told to leave while waiting")

    def _once(self) -> int:
        self.starts, self._passed_on = self.starts + 1, False
        _log(f"start {self.starts}: {shlex.join(self.command)}")
        try:
            self._child = subprocess.Popen(
                self.command,
                start_new_session=True,  # a Ctrl-C of the terminal reaches it once, through us
                preexec_fn=partial(end_with_parent, signal.SIGTERM),  # so that it saves
            )
        except OSError as error:
            print(f"error: cannot start {self.command[0]}: {error.strerror}", file=sys.stderr)
            return 2
        if self._told and not self._passed_on:  # it came while the child was being started
            self._pass_on(self._told, None)
        # Not wait(): a signal just before it blocks would be handled only when the child has ended.
        while (code := self._child.poll()) is None:
            time.sleep(0.05)
        if code and not self._told:
            # Loader processes of a killed command hold memory, devices and locks. SIGTERM first:
            # Python's tracker of shared memory outlives it, and frees what they leave.
            send(self._child.pid, signal.SIGTERM)
            time.sleep(ORPHANS_S)
            send(self._child.pid, signal.SIGKILL)
        self._child = None
        return 128 - code if code < 0 else code

    def _pass_on(self, number: int, _: object) -> None:
        self._told = self._told or number
        if self._child is not None:
            self._passed_on = True
            send(self._child.pid, number)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._told and time.monotonic() < end:
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))

    def _leave(self, code: int, what: str) -> int:
        _log(f"{what}; {self.starts} starts, {self.starts - 1} restarts, exit {code}")
        return code


def starts_again(code: int) -> bool:
    """Whether a command that ended with this code, 128 + n after signal n, is started again."""
    return code == REQUEUE or (code > 128 and code != INTERRUPTED)


def back_off(in_vain: int, delay: float, max_delay: float) -> float:
    """Longest seconds to wait before a restart, `in_vain` ends without progress before it."""
    return min(max_delay, delay * 2.0 ** min(max(0, in_vain - 1), 50))


def _newest_checkpoint(run: Path | None) -> int:
    """Newest step with digests, -1 without."""
    if run is None:
        return -1
    steps = [file.parent.name for file in run.glob("checkpoints/*/DIGESTS.json")]
    return max((int(step) for step in steps if step.isdigit()), default=-1)


def _workdir(command: list[str]) -> Path | None:
    """The run folder that the command names; None where its checkpoints cannot be looked at."""
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word.startswith("--workdir="):
            following = word.partition("=")[2]
        elif word != "--workdir":
            continue
        return None if "://" in following else Path(following)
    return None


def _log(text: str) -> None:
    now, line = time.strftime("%FT%TZ", time.gmtime()), text.replace("\n", "\\n")
    print(f"{now} supervisor: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
