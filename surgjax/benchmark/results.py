"""The folder of results that `run` fills and `table`, `stats`, `verify` and pictures read.

    OUT/<model>/<entry>/<task>/<protocol>/seed<k>/
        predictions.parquet    what all numbers are computed from
        score.json             what `surgjax.benchmark score --json` prints
        job.json               what was done, written last: a job with it is finished
        work/                  of the process that did it

An entry is one of a suite (suites.py).
"""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from surgjax.errors import UserError
from surgjax.files import parse_json

JOB, SCORE, PREDICTIONS, WORK = "job.json", "score.json", "predictions.parquet", "work"


@dataclass(frozen=True)
class Job:
    """A finished job. job.json holds all but `path` and `score`, and more of how it was done.

    Attributes:
      entry: id of the suite's entry.
      dataset, task, label, split: as of that entry.
      protocol: how the model was used: linear_probe, knn, finetune, zero_shot, ...
      score_protocol: of `score`.
      saw_test: whether the model was trained on test cases: yes, no or unknown.
      licence, pretrained_on: of the model, as far as it says.
      store: name of the store.
      path: its folder.
      score: {"task", "protocol", "videos", "metrics", "per_class", "floors"}, see score.py.
    """

    suite: str
    tier: str
    model: str
    entry: str
    dataset: str
    task: str
    label: str
    split: str
    protocol: str
    score_protocol: str
    seed: int
    saw_test: str = "unknown"
    licence: str = ""
    pretrained_on: str = ""
    store: str = ""
    path: Path = Path()
    score: dict = field(default_factory=dict, hash=False)

    @property
    def predictions(self) -> Path:
        return self.path / PREDICTIONS


FOLDERS = "*/*/*/*/seed*"  # of jobs, in a folder of results
FIELDS = [one.name for one in fields(Job) if one.name not in ("path", "score")]


def job_folder(out: Path, model: str, entry: str, task: str, protocol: str, seed: int) -> Path:
    """Where a job's files are; `entry` is an entry's id, so that two of one dataset differ."""
    return Path(out) / model / entry / task / protocol / f"seed{seed}"


def read(folder: Path) -> list[Job]:
    """The finished jobs in a folder, by path with seeds as numbers; unfinished ones are left out.

    Raises:
      UserError: no such folder, or a job.json or score.json that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}; expected the --out of `python -m surgjax.benchmark run`"
        )
    jobs = [_job(path.parent) for path in folder.glob(f"{FOLDERS}/{JOB}")]
    return sorted(jobs, key=lambda job: (*job.path.parent.parts, job.seed))


def _job(path: Path) -> Job:
    said, score = (read_json(path / name) for name in (JOB, SCORE))
    said.setdefault("entry", said.get("dataset"))
    said.setdefault("tier", "strict")
    if not all(isinstance(score.get(part), dict) for part in ("metrics", "floors")) or not (
        all(map(_is_metric, score["metrics"].values()))
        and all(map(_is_number, score["floors"].values()))
    ):
        raise UserError(f"{path / SCORE} has no metrics; remove the job's {JOB} and run it again")
    try:
        job = Job(**{key: said[key] for key in FIELDS if key in said}, path=path, score=score)
    except TypeError as error:
        raise UserError(
            f"{path / JOB} is no finished job's ({error}); remove it and run the job again"
        ) from error
    odd = [one.name for one in fields(Job) if type(getattr(job, one.name)) is not one.type]
    if odd := [name for name in odd if name in FIELDS]:
        raise UserError(
            f"{path / JOB} says {odd[0]} {getattr(job, odd[0])!r:.60}; remove it and run the job "
            f"again"
        )
    own = job_folder(Path(), job.model, job.entry, job.task, job.protocol, job.seed)
    if path.parts[-len(own.parts) :] != own.parts:  # a copy would count as one more seed
        raise UserError(f"{path} holds the job {own}; move copies elsewhere, rename none")
    return job


def _is_metric(found: object) -> bool:
    """Whether `score` says a number so, as far as tables read it."""
    if not isinstance(found, dict) or not _is_number(found.get("value", "")):
        return False
    bounds = found.get("ci95") or [0, 0]
    return isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_number, bounds))


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, int | float) and abs(value) < math.inf


def read_json(path: Path) -> dict:
    """An object of a job's files. Raises UserError: not readable, or something else."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove the job's {JOB} and run the job again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; remove the job's {JOB} and run it again")
    return value
