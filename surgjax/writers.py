"""What a run leaves behind besides checkpoints: metrics.jsonl (ground truth), train.log, STATUS.

TensorBoard (through CLU) and Weights & Biases mirror metrics.jsonl. Only rank 0 writes.
"""

import datetime
import hashlib
import importlib.util
import json
import logging
import math
import sys
import time
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from surgjax.config import refuse_changes
from surgjax.errors import UserError
from surgjax.files import held, is_remote, parse_json, whole, write_whole
from surgjax.testing import fault

BEAT_S = 15  # between two renewals of STATUS

log = logging.getLogger("surgjax")


class RunFolder:
    """The folder of one run, held by one job at a time; process 0 of the job alone writes to it.

    Raises UserError when another job holds it, or it cannot be written to.
    """

    def __init__(self, path: Path):
        self.path = path
        self.writes = jax.process_index() == 0
        self._held, self._handler = ExitStack(), None
        self._next_beat = 0.0
        self._is_silent = False
        if not self.writes:
            return
        with _writing(path):
            self._held.enter_context(held(path))
            if is_remote(path):  # object stores know no appending; stderr has the log
                return
            self._handler = logging.FileHandler(path / "train.log")
        self._handler.handleError = lambda record: None  # a full disk; stderr has the line
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self._handler)

    def claim(self, config: dict[str, Any], is_continued: bool) -> None:
        """Write config.json once; a continuation may only differ where that changes no number.

        Raises UserError naming a field that may not.
        """
        file = self.path / "config.json"
        if is_continued and file.is_file():
            refuse_changes(json.loads(file.read_text()), config, str(self.path))
        self.write(file.name, json.dumps(config, indent=2) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """A file that appears whole."""
        if self.writes:
            with _writing(self.path), whole(self.path / name) as part:
                part.write_bytes(content.encode() if isinstance(content, str) else content)

    def status(self, text: str) -> None:
        """STATUS: running: ... | done | failed: <reason> | preempted | interrupted.

        Where it cannot be written, one warning says so: a run neither ends nor fails for it.
        """
        try:
            self.write("STATUS", f"{text}\n")
            self._is_silent = False
        except UserError as error:
            if not self._is_silent:
                log.warning("STATUS is not up to date: %s", error)
            self._is_silent = True

    def beat(self, text: str) -> None:
        """STATUS says what a run is doing and when it last moved, renewed every BEAT_S at most."""
        now = time.monotonic()
        if not self.writes or now < self._next_beat:
            return
        self._next_beat = now + BEAT_S
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.status(f"running: {text}, {at}")

    def close(self) -> None:
        if self._handler is not None:
            log.removeHandler(self._handler)
            self._handler.close()
        self._held.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Makes what a full disk or a folder of others raises one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {path}: {error.strerror or error}; free space, or give a --workdir "
            f"that is a folder of yours"
        ) from error


class Metrics:
    """metrics.jsonl and its mirrors.

    Args:
      run: the run folder.
      restored_step: lines past it are cut, so a continued run reads like an unbroken one.
      wandb: Weights & Biases project, or "".
      config: written to the mirrors as hyperparameters.
    """

    def __init__(self, run: Path, restored_step: int, wandb: str, config: dict[str, Any]):
        self.file = run / "metrics.jsonl"
        self.evaluated: set[str] = set()  # evaluations already done at the restored step
        if self.file.is_file():
            text = self.file.read_text(errors="replace")  # a damaged byte costs its line at most
            lines = [line for line in text.splitlines() if _step(line) is not None]
            kept = [line for line in lines if _step(line) <= restored_step]
            write_whole(self.file, "".join(f"{line}\n" for line in kept))
            self.evaluated = _evaluated(kept, restored_step)
        self._wandb = _wandb_run(wandb, run, config) if wandb else None
        self._tensorboard = None
        try:
            if not is_remote(run):
                self._tensorboard = tensorboard_writer(run / "tensorboard")
        except OSError as error:
            log.warning("tensorboard mirror stopped: %s", error)
        self._unwritten: list[str] = []

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line {"step", name: value, ...}.

        A mirror that fails is dropped with one warning; lines that cannot be written to
        metrics.jsonl are kept and written with a later one.
        """
        values = {name: float(value) for name, value in scalars.items()}
        finite = {k: v if math.isfinite(v) else repr(v) for k, v in values.items()}
        self._unwritten.append(json.dumps({"step": step, **finite}) + "\n")
        self._flush(step)
        for name in ("_tensorboard", "_wandb"):
            try:
                if name == "_tensorboard" and self._tensorboard is not None:
                    self._tensorboard.write_scalars(step, values)
                elif self._wandb is not None and name == "_wandb":
                    self._wandb.log(values, step=step)
            except Exception as error:  # training must not stop for a mirror
                log.warning("%s mirror stopped: %s", name[1:], error)
                setattr(self, name, None)

    def _flush(self, step: int) -> None:
        was_failing = len(self._unwritten) > 1
        try:
            fault("metrics", step)
            if is_remote(self.file):
                before = self.file.read_text() if self.file.is_file() else ""
                write_whole(self.file, before + "".join(self._unwritten))
                self._unwritten.clear()
                return
            with self.file.open("ab", buffering=0) as file:  # a buffer would come after truncate
                end, rest = file.tell(), "".join(self._unwritten).encode()
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError:
                    file.truncate(end)  # half a line would spoil the next
                    raise
            self._unwritten.clear()
        except OSError as error:
            if not was_failing:
                log.warning("%s cannot be written, tried again later: %s", self.file, error)

    def close(self) -> None:
        if self._unwritten:
            self._flush(0)
        if self._unwritten:
            log.error("%d lines of %s are lost", len(self._unwritten), self.file)
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _step(line: str) -> int | None:
    try:
        return int(parse_json(line)["step"])
    except (ValueError, OverflowError, KeyError, TypeError):
        return None  # the last line of a killed run


def _evaluated(lines: list[str], step: int) -> set[str]:
    names = {name for line in lines if _step(line) == step for name in json.loads(line)}
    return {name.removesuffix("/done") for name in names if name.endswith("/done")}


def _wandb_run(project: str, run: Path, config: dict[str, Any]):
    if importlib.util.find_spec("wandb") is None:
        raise UserError("log.wandb is set but wandb is missing: pip install wandb, or log.wandb=''")
    import wandb

    # Runs of one name in different folders stay apart; the same folder continues its curve.
    ident = hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16]
    return wandb.init(
        project=project, dir=str(run), id=ident, name=run.name, resume="allow", config=config
    )


def tensorboard_writer(folder: Path):
    """CLU's writer of TensorBoard files, with and without TensorFlow."""
    # CLU's own needs both; TensorFlow no longer brings TensorBoard along.
    if not all(map(importlib.util.find_spec, ("tensorflow", "tensorboard"))):
        _install_summary_writer()
    from clu import metric_writers

    return metric_writers.SummaryWriter(str(folder))


def _install_summary_writer() -> None:
    """Stand in for the one CLU module that needs TensorFlow, under the name CLU imports."""
    name = "clu.metric_writers.summary_writer"
    if name in sys.modules:
        return
    EventFile = _event_file()

    class SummaryWriter:
        def __init__(self, log_dir: str):
            self._events = EventFile(log_dir)

        def write_scalars(self, step: int, scalars: dict[str, Any]) -> None:
            for key, value in scalars.items():
                self._events.add_scalar(key, float(np.asarray(value)), step)

        def write_images(self, step: int, images: dict[str, Any]) -> None:
            for key, value in images.items():
                self._events.add_images(key, np.asarray(value), step, dataformats="NHWC")

        def write_texts(self, step: int, texts: dict[str, str]) -> None:
            for key, value in texts.items():
                self._events.add_text(key, value, step)

        def write_hparams(self, hparams: dict[str, Any]) -> None:
            self.write_texts(0, {"hparams": json.dumps(hparams, indent=1, default=str)})

        def flush(self) -> None:
            self._events.flush()

        def close(self) -> None:
            self._events.close()

    module = types.ModuleType(name)
    module.SummaryWriter = SummaryWriter
    sys.modules[name] = module


def _event_file() -> type:
    """tensorboardX's writer. Importing it would import PyTorch, for seconds, to name one type."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter
