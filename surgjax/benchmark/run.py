"""`python -m surgjax.benchmark run --suite S --model M --stores DIR --out OUT`: a model on a suite.

    python -m surgjax.benchmark run --suite surgvista13 --model RUN --stores STORES --out OUT

MODEL is a run of ours, a public model's folder, a weight file, or a features.parquet made
elsewhere. Each folder of --stores is a store or holds stores. What will be done is printed first,
with how much there is to read. Each job is a process `python -m surgjax.main`; work/log.txt has
what it prints. What is finished is skipped: after a stop (SIGTERM, Ctrl-C) the same command goes
on, inside a job too, by video or checkpoint. A job that fails does not stop the others.
--config.FIELD=VALUE goes to every job.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from surgjax.benchmark import jobs, predictions, results, suites
from surgjax.benchmark.jobs import Planned
from surgjax.benchmark.weights import listed, open_weights
from surgjax.errors import DAMAGE, INTERRUPTED, REQUEUE, USER, Stopped, UserError
from surgjax.files import sha256
from surgjax.preemption import StopSignal
from surgjax.verbs import between_commas

SAW = "the model was trained on its test cases; --allow-seen does it anyway, marked"
KEPT = "kept"  # folder of features
PASSED_ON = "--config."  # arguments of this beginning go to the jobs
SHOWN_EVERY = 10.0  # seconds between lines of a job that are passed through
LAST_LINES = 8  # of a job that failed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--suite", required=True, help=", ".join(suites.names()))
    add("--tier", default="strict", help="splits: strict, or release as the paper has them")
    add("--model", required=True, type=Path, help="run, folder, weight file, features.parquet")
    add("--name", help="its row in tables (default: name of the file or folder)")
    add("--stores", required=True, help="stores or folders of stores, with commas")
    add("--out", required=True, type=Path, help="folder of results")
    add("--protocol", default="", help=f"with commas: {', '.join(jobs.PROTOCOLS)}")
    add("--seeds", default="0", help="with commas (default 0)")
    add("--only", default="", help="datasets or entries of the suite, with commas")
    add("--allow-seen", action="store_true", help="also test cases that the model trained on")
    add("--dry-run", action="store_true", help="print what would be done, and the commands")


def main(args: argparse.Namespace) -> int:
    """Returns 0; 1 when a job failed, 2 when all that failed are the user's mistakes.

    Raises:
      UserError: as `open_weights`, `jobs.plan` and `suites.load`; no store of the suite.
      Stopped: after SIGTERM or Ctrl-C.
    """
    suite = suites.load(args.suite, args.tier)
    stores = suites.open_stores(between_commas(args.stores))
    weights = open_weights(args.model)
    name = args.name or args.model.absolute().stem
    if Path(name).name != name or name.startswith(".") or not name.isprintable():
        raise UserError(f"--name is {name!r}; expected a plain word, it names a folder")
    planned = jobs.plan(
        *(suite, stores, args.out, name, weights),
        protocols=between_commas(args.protocol),
        seeds=read_seeds(args.seeds),
        only=between_commas(args.only),
        fields=args.passed_on,
    )
    for line in suites.needed(suite, stores) if not args.only else ():
        print(f"not here: {line}")
    if not planned:
        raise UserError(
            f"no store of suite {suite.name} in {args.stores}: prepare one as the lines above say"
            if not args.only
            else f"no store of {args.only} in {args.stores}; "
            f"`python -m surgjax.benchmark list --suite {suite.name}` says what is needed"
        )
    return run(planned, allow_seen=args.allow_seen, dry_run=args.dry_run)


def read_seeds(text: str) -> list[int]:
    """Numbers of --seeds, each once. Raises UserError: some are none, or there is none."""
    words = between_commas(text)
    if not words or not all(word.isdecimal() for word in words):
        raise UserError(f"--seeds is {text!r}; expected numbers, as 0,1,2")
    return list(dict.fromkeys(map(int, words)))


def run(planned: Sequence[Planned], *, allow_seen: bool = False, dry_run: bool = False) -> int:
    """Does what is not finished yet; returns the exit code of `main`.

    Raises:
      UserError: finished jobs of other weights or settings.
      Stopped: after SIGTERM or Ctrl-C.
    """
    done = [is_finished(job) for job in planned]
    refused = [jobs.missing_parts(job) for job in planned]
    seen = [jobs.saw_test(job) == "yes" for job in planned]
    if not allow_seen:
        refused = [why or SAW * saw for why, saw in zip(refused, seen, strict=True)]
    print(table(planned, done, refused), flush=True)
    if dry_run:
        for job, finished, why in zip(planned, done, refused, strict=True):
            if not finished and not why:
                print(shlex.join(["python", *jobs.command(job)]))
        return 0
    failed: list[int] = []
    with _Stop() as stop:
        todo = list(zip(planned, done, refused, seen, strict=True))
        for number, (job, finished, why, saw) in enumerate(todo, 1):
            if finished:
                continue
            print(f"[{number}/{len(planned)}] {job.title}", flush=True)
            if why:
                print(f"  refused: {why}", flush=True)
                failed.append(USER)
                continue
            if saw:
                print("  the model was TRAINED on these test cases", flush=True)
            code = _do(job, stop, allow_seen)
            if stop.code:
                raise Stopped(
                    f"stopped in {job.title}; the same command goes on from there", stop.code
                )
            if code:
                failed.append(code)
    for model in {job.out / job.model for job in planned} if not failed else ():
        jobs_of_model = model.glob("*/*/*/seed*")  # some may be another process's, under way
        if all((folder / results.JOB).is_file() for folder in jobs_of_model):
            shutil.rmtree(model / KEPT, ignore_errors=True)
    print(f"{len(planned) - len(failed)} of {len(planned)} jobs are finished", flush=True)
    return 0 if not failed else USER if set(failed) == {USER} else DAMAGE


def is_finished(job: Planned) -> bool:
    """Whether the job's results are there.

    Raises:
      UserError: they are, but of another suite, other weights or another content of the store, or
        made with other settings.
    """
    file = job.folder / results.JOB
    if not file.is_file():
        return False
    found = results.read_json(file)
    now = {"suite": job.suite, "tier": job.tier, "split": job.entry.split}
    now |= {"weights": job.weights.sha256, "settings": job.settings}
    now["store_sha256"] = jobs.store_digest(job)
    for name, value in now.items():
        if found.get(name) != value:
            raise UserError(
                f"{job.folder} was made with {name} {_short(found.get(name))}, now it is "
                f"{_short(value)}; give another --out or --name, or remove that folder"
            )
    return True


def collect(job: Planned, allow_seen: bool = False) -> str:
    """Keeps the predictions in a job's work/ and their numbers; job.json last.

    Returns:
      A line to show.

    Raises:
      UserError: as `jobs.numbers`.
    """
    work = job.folder / results.WORK
    made = work / "eval" / job.evaluation
    file = job.folder / results.PREDICTIONS
    entry = job.entry
    setting = jobs.keep_predictions(made / results.PREDICTIONS, file)
    scored = {"dataset": entry.dataset, "exclude": list(entry.exclude)}
    found = jobs.numbers(
        *(file, entry.task, entry.score_protocols[0]), **scored, allow_seen=allow_seen
    )
    predictions.write_json(job.folder / results.SCORE, found)
    weights = about(job, results.read_json(made / "metrics.json"))
    predictions.write_json(
        job.folder / results.JOB,
        {
            "suite": job.suite,
            "tier": job.tier,
            "model": job.model,
            "entry": entry.id,
            **scored,
            "task": entry.task,
            "label": entry.label,
            "split": entry.split,
            "protocol": job.protocol,
            "score_protocol": found["protocol"],
            "setting": setting,
            "seed": job.seed,
            "saw_test": found["saw_test"],
            **weights,
            "store": job.store.name,
            "store_sha256": jobs.store_digest(job),
            "weights": job.weights.sha256,
            "settings": job.settings,
            "predictions": sha256(file),
        },
    )
    name = entry.main if entry.main in found["metrics"] else next(iter(found["metrics"]))
    value = found["metrics"][name]["value"]
    shown = "null" if value is None else f"{value:.4f}"
    return f"{name} {shown}, {found['videos']} videos, model saw test cases: {found['saw_test']}"


def table(planned: Sequence[Planned], done: Sequence[bool], refused: Sequence[str]) -> str:
    """A line a job, how much each reads, and the sums of those to be done.

    Args:
      refused: why a job is not done, or "".
    """
    lines = [f"{'job':44s} {'clips':>9s} {'hours':>8s} {'GB':>8s}"]
    sums = [0.0, 0.0, 0.0]
    for job, finished, why in zip(planned, done, refused, strict=True):
        found = jobs.volume(job)
        note = "finished" if finished else "refused" if why else ""
        lines.append(
            f"{job.title:44s} {found.clips:9,d} {found.hours:8.1f} {found.gigabytes:8.2f}  {note}"
        )
        if not note:
            values = found.clips, found.hours, found.gigabytes
            sums = [a + b for a, b in zip(sums, values, strict=True)]
    left = sum(not finished and not why for finished, why in zip(done, refused, strict=True))
    lines.append(f"{f'to do: {left}':44s} {int(sums[0]):9,d} {sums[1]:8.1f} {sums[2]:8.2f}")
    return "\n".join(line.rstrip() for line in lines)


class _Stop(StopSignal):
    """SIGTERM and Ctrl-C, also a second one, go to the job's process, whose session is its own."""

    def __init__(self):
        super().__init__()
        self._number = 0
        self._process: subprocess.Popen | None = None

    def watch(self, process: subprocess.Popen) -> None:
        self._process = process
        if self.code:  # it came while the process was started
            process.send_signal(self._number)

    def note(self, number: int, frame: object) -> None:
        self._number = number
        self.code = self.code or (REQUEUE if number == signal.SIGTERM else INTERRUPTED)
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def _do(job: Planned, stop: _Stop, allow_seen: bool) -> int:
    """Runs a job and keeps its results; its exit code."""
    work = job.folder / results.WORK
    work.mkdir(parents=True, exist_ok=True)
    if job.protocol in jobs.FROZEN:
        _share_features(job, work)
    code, last = _process(jobs.command(job), work / "log.txt", stop)
    if code == 0:
        try:
            print(f"  {collect(job, allow_seen)}", flush=True)
            return 0
        except UserError as error:
            print(f"  failed: {' '.join(str(error).split())}", flush=True)
            return USER
    if code in (REQUEUE, INTERRUPTED):
        stop.code = stop.code or code
    if stop.code:
        return code
    print(f"  failed with exit code {code}; {work / 'log.txt'} ends so:", flush=True)
    for line in last:
        print(f"  | {line}", flush=True)
    return code


def _share_features(job: Planned, work: Path) -> None:
    """What evals/kept.py keeps for one job is there for the model's other jobs."""
    shared, own = job.out / job.model / KEPT, work / KEPT
    shared.mkdir(exist_ok=True)
    if not own.is_symlink():
        own.symlink_to(os.path.relpath(shared, work))


def _process(arguments: list[str], log: Path, stop: _Stop) -> tuple[int, list[str]]:
    """(exit code, last lines) of a python process; now and then a line of it is shown."""
    last: list[str] = []
    shown = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        stop.watch(process)
        with process:
            for line in process.stdout:
                file.write(line)
                file.flush()
                last = [*last, line.rstrip()][-LAST_LINES:]
                if time.monotonic() - shown >= SHOWN_EVERY:
                    shown = time.monotonic()
                    print(f"  {line.rstrip()}", flush=True)
    return process.returncode, last


def about(job: Planned, metrics: dict) -> dict[str, str]:
    """licence and pretrained_on of the model, as its files or the process tell."""
    told = metrics.get("encoder") or {}
    return {
        "licence": told.get("licence") or job.weights.licence,
        "pretrained_on": listed(told.get("pretrained_on") or job.weights.pretrained_on),
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
