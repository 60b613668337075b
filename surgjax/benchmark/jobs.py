"""What `run` does: a job for each entry of a suite, protocol and seed, and its command.

| protocol | how the model is used |
|---|---|
| those of FROZEN | frozen, by an evaluation of that name |
| finetune | as the suite's paper fine-tunes, by a variant of configs/finetune.py |
| surgrec_release | as SurgRec's released program does |

An evaluation without chance in it, or with draws of its own, is done for the first seed alone.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

import surgjax
from surgjax.benchmark import (
    few_shot,
    predictions,
    prompt_sets,
    results,
    score,
    statistics,
)
from surgjax.benchmark.suites import Entry, Suite, store_of
from surgjax.benchmark.weights import Weights
from surgjax.data.labelled import first_in_every
from surgjax.data.leakage import saw
from surgjax.data.store import Store
from surgjax.errors import UserError, nearest
from surgjax.files import whole

CONFIGS = Path(surgjax.__file__).resolve().parents[1] / "configs"
FROZEN = ("linear_probe", "attentive_probe", "knn", "few_shot", "zero_shot", "coop", "temporal")
ONE_SEED = ("linear_probe", "knn", "zero_shot", "few_shot", "coop")
# Suite -> variant of configs/finetune.py that "finetune" is there, by task where tasks differ.
FINETUNE = {
    "surgrec16": {"": "surgrec"},
    "surgvista13": {
        "phase": "surgvista",
        "step": "surgvista",
        "triplet": "surgvista_triplet",
        "clip": "surgvista_clip",
        "": "surgvista_frame",
    },
    "synthetic": {"": "demo"},
    "": {"": ""},
}
OF_VECTORS = ("linear_probe", "knn", "few_shot", "temporal")  # what a features.parquet allows
PROTOCOLS = (*FROZEN, "finetune", "surgrec_release")


@dataclass(frozen=True)
class Planned:
    """A job that can be done.

    Attributes:
      model: its name in tables.
      store: which has the entry's set.
      out: folder of all results.
      fields: --config.X=Y arguments handed on.
    """

    suite: str
    tier: str
    model: str
    weights: Weights
    entry: Entry
    protocol: str
    seed: int
    store: Store
    out: Path
    fields: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its results go."""
        where = (self.out, self.model, self.entry.id, self.entry.task, self.protocol, self.seed)
        return results.job_folder(*where)

    @property
    def title(self) -> str:
        return f"{self.entry.id} {self.protocol} seed {self.seed}"

    @property
    def evaluation(self) -> str:
        """The block of the config whose predictions are the result."""
        return self.protocol if self.protocol in FROZEN else "trained_head"

    @property
    def settings(self) -> list[str]:
        """The fields, files named without their folders."""
        return [f"{k}={Path(v).name}" for k, _, v in (f.partition("=") for f in self.fields)]


@dataclass(frozen=True)
class Volume:
    """How much a job reads: labelled clips, hours of their videos, and 10^9 bytes of these."""

    clips: int
    hours: float
    gigabytes: float


def plan(
    suite: Suite,
    stores: Sequence[Store],
    out: Path,
    model: str,
    weights: Weights,
    *,
    protocols: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    only: Sequence[str] = (),
    fields: Sequence[str] = (),
) -> list[Planned]:
    """The jobs of a suite that the stores allow, in its order.

    Args:
      protocols: some of PROTOCOLS; empty: those of each entry.
      only: entries or datasets; empty: all.

    Raises:
      UserError: an unknown protocol, or one of `only` that the suite does not have.
    """
    known = {e.id for e in suite.entries} | {e.dataset for e in suite.entries}
    for given, all_of_them in ((protocols, PROTOCOLS), (only, known)):
        if unknown := [word for word in given if word not in all_of_them]:
            raise UserError(
                f"suite {suite.name} has no {unknown[0]!r}{nearest(unknown[0], all_of_them)}; "
                f"expected {', '.join(sorted(all_of_them))}"
            )
    return [
        Planned(
            *(suite.name, suite.tier, model, weights, entry, protocol, seed, store, Path(out)),
            tuple(fields),
        )
        for entry in suite.entries
        if not only or {entry.id, entry.dataset} & set(only)
        if (store := store_of(entry, stores)) is not None
        for protocol in (protocols or entry.protocols)
        if _fits(protocol, entry, store)
        for seed in (seeds[:1] if protocol in ONE_SEED else seeds)
    ]


def command(job: Planned) -> list[str]:
    """Arguments of `python`."""
    entry, store = job.entry, str(job.store.path)
    evals = f"--config.evals.{job.evaluation}"
    if job.protocol in FROZEN:
        config = f"{CONFIGS / 'benchmark.py'}"
        how = ["--mode=evaluate"]
    else:
        variants = FINETUNE.get(job.suite, FINETUNE[""])
        variant = variants.get(entry.task, variants.get("", ""))
        variant = job.protocol if job.protocol != "finetune" else variant
        config = f"{CONFIGS / 'finetune.py'}" + (f":{variant}" if variant else "")
        how = [
            f"--config.data.stores={store}",
            f"--config.data.split={entry.split}",
            f"--config.data.unit={entry.unit}",
            f"--config.objective.task={entry.label}",
            "--config.encoder.size=",  # as the weights have it
        ]
    asked: dict[str, Any] = {"store": store, "task": entry.label, "split": entry.split}
    if entry.unit == "frame":
        asked["every_s"] = every_s(entry)
    if job.protocol != "temporal":
        asked["unit"] = entry.unit
    if job.protocol not in FROZEN and entry.unit == "frame":
        asked["segments"] = 1
    return [
        *("-m", "surgjax.main", *how[:1], f"--config={config}", *how[1:]),
        f"--workdir={job.folder / results.WORK}",
        f"--config.init_from={job.weights.path}",
        f"--config.seed={job.seed}",
        *(f"{evals}.{name}={value}" for name, value in asked.items()),
        *job.fields,
    ]


def every_s(entry: Entry) -> float:
    """Seconds between the labelled frames that count."""
    return 1.0 if entry.fps == "native" else 1 / float(entry.fps)


def volume(job: Planned) -> Volume:
    """How much the job reads once; training reads its part in every epoch."""
    entry, store = job.entry, job.store
    video, t_ms, part = _labelled(job)
    known = part == "test" if job.protocol == "zero_shot" else part != ""
    video, t_ms = video[known], t_ms[known]
    some = np.unique(video)
    clips = len(some)
    if entry.unit == "frame":
        order = np.lexsort((t_ms, video))
        clips = int(first_in_every(every_s(entry), video[order], t_ms[order]).sum())
    frames = store.frames[some]
    hours = float((frames / store.videos["stored_fps"][some]).sum()) / 3600
    size = sum(file.stat().st_size for file in store.path.glob("*.array_record-*"))
    return Volume(clips, hours, size / 1e9 * float(frames.sum() / store.frames.sum()))


def missing_parts(job: Planned) -> str:
    """What split or model lack that the protocol needs, in words; "" where they have all."""
    _, _, part = _labelled(job)
    needed = ("test",) if job.protocol == "zero_shot" else ("train", "test")
    missing = " and ".join(name for name in needed if not (part == name).any())
    if missing:
        return f"no labelled {missing} cases in split {job.entry.split}"
    if job.weights.path.suffix == ".parquet" and job.protocol not in OF_VECTORS:
        return f"{job.protocol} needs the model itself; vectors do for {', '.join(OF_VECTORS)}"
    return ""


def store_digest(job: Planned) -> str:
    """sha256 of what the job reads of its store: frames, videos with their splits, its labels."""
    meta = job.store.meta
    names = ("videos.parquet", f"labels/{job.entry.label}.parquet")
    tables = {name: meta["tables"].get(name) for name in names}
    content = [meta["settings"], meta["shards"], tables, meta["tasks"][job.entry.label]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def saw_test(job: Planned) -> str:
    """Whether the model was trained on test cases, before anything is run: yes, no or unknown."""
    tested = job.store.videos[f"split_{job.entry.split}"] == "test"
    cases = map(str, np.unique(job.store.videos["case"][tested]))
    return saw(job.store, cases, job.weights.used_cases)


def keep_predictions(made: Path, file: Path) -> str:
    """Copies predictions; of several sets of prompts the rows of `prompt_sets.main_set`, which is
    returned."""
    table = pq.read_table(made)
    chosen = ""
    if "setting" in table.column_names and "draw" not in table.column_names:
        chosen = prompt_sets.main_set(pc.unique(table["setting"]).to_pylist())
        table = table.filter(pc.equal(table["setting"], chosen))
    with whole(file) as part:
        if chosen:
            pq.write_table(table, part)
        else:
            shutil.copyfile(made, part)
    return chosen


def numbers(
    file: Path,
    task: str,
    score_protocol: str,
    *,
    dataset: str,
    exclude: Sequence[str] = (),
    allow_seen: bool = False,
) -> dict[str, Any]:
    """score.json of a job's predictions: what `score.score` gives; where there are several draws of
    settings, the numbers of each setting as "<metric> <setting>".

    Raises:
      UserError: as these.
    """
    table = predictions.read(file)
    if "draw" not in table:
        return score.score(
            *(file, task, score_protocol),
            dataset=dataset,
            exclude=exclude,
            allow_seen=allow_seen,
        )
    score.refuse_seen(table, file, allow_seen)
    found = few_shot.score(file)
    first, *others = found["models"]
    values = {
        name: {f"{metric} {k}": each for k, of in by.items() for metric, each in of.items()}
        for name, by in found["models"].items()
    }
    return {
        "task": task,
        "protocol": score_protocol,
        "videos": len(found["videos"]),
        "saw_test": table.saw_test,
        "metrics": {
            name: statistics.Interval(**interval).as_metric(dict.fromkeys(found["videos"], nan))
            for name, interval in values[first].items()
        },
        "per_class": {},
        "floors": {
            f"{other}_{name}": interval["value"]
            for other in others
            for name, interval in values[other].items()
        },
    }


def _fits(protocol: str, entry: Entry, store: Store) -> bool:
    """Temporal heads need frames, and CoOp one class a clip."""
    is_one_of_n = store.meta["tasks"][entry.label]["kind"] == "one_of_n"
    return {"temporal": entry.unit == "frame", "coop": is_one_of_n}.get(protocol, True)


def _labelled(job: Planned) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(video, t_ms, part of the split) of every label."""
    labels = job.store.labels(job.entry.label)
    known = labels["label"] >= 0 if "label" in labels else np.ones(len(labels["t_ms"]), bool)
    parts = np.array([part or "" for part in job.store.videos[f"split_{job.entry.split}"]])
    return labels["video"][known], labels["t_ms"][known], parts[labels["video"][known]]
