"""What `run` does: a job for each entry of a suite, protocol and seed, and its command.

| protocol | how the model is used |
|---|---|
| linear_probe, knn, few_shot, zero_shot, coop, temporal | frozen, by an evaluation of that name |
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
from surgjax.benchmark import few_shot, predictions, results, score, statistics
from surgjax.benchmark.suites import Entry, Suite, store_of
from surgjax.data.leakage import saw
from surgjax.data.store import Store
from surgjax.errors import UserError, nearest
from surgjax.files import whole
from surgjax.interop.licence import UNKNOWN, UNKNOWN_DATA, combined, licences, pretrained_on

CONFIGS = Path(surgjax.__file__).resolve().parents[1] / "configs"
FROZEN = ("linear_probe", "knn", "few_shot", "zero_shot", "coop", "temporal")
ONE_SEED = ("linear_probe", "knn", "zero_shot", "few_shot", "coop")
PREFERRED = ("readme", "ours")  # of sets of prompts
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
PROTOCOLS = (*FROZEN, "finetune", "surgrec_release")


@dataclass(frozen=True)
class Weights:
    """A model as far as its files tell without opening it.

    Attributes:
      path: a run, a public model's folder, a weight file or features.parquet.
      sha256: of its content; of a run, of its newest step's digests.
      used_cases: what it was trained on, None where not known.
      licence, pretrained_on: "unknown" where a file does not tell.
    """

    path: Path
    sha256: str
    used_cases: tuple[str, ...] | None = None
    licence: str = UNKNOWN
    pretrained_on: str = UNKNOWN


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


def open_weights(path: Path) -> Weights:
    """What can be known of a model without loading it.

    Raises:
      UserError: nothing there, or a run without a finished checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"--model {path} does not exist; expected a run, a Hugging Face folder, a weight file "
            f"or a features.parquet"
        )
    if path.suffix == ".parquet":
        told = read_vectors_about(path)
        cases, seen = told.get("used_cases"), told.get("pretrained_on") or UNKNOWN
        return Weights(
            *(path, sha256(path), None if cases is None else tuple(cases)),
            licence=told.get("licence") or UNKNOWN,
            pretrained_on=seen if isinstance(seen, str) else ", ".join(seen),
        )
    step = newest_step(path)
    if step is None:
        return Weights(path, sha256(path))
    meta = read_meta(step)
    known = UNKNOWN_DATA[0] not in pretrained_on(meta)
    cases = meta.get("used_cases")
    return Weights(
        path,
        sha256(step / "DIGESTS.json"),
        tuple(cases) if known and cases is not None else None,
        combined(licences(meta).values()),
        ", ".join(pretrained_on(meta)),
    )


def read_vectors_about(path: Path) -> dict[str, Any]:
    """What features made elsewhere say of their model. Raises UserError: unreadable."""
    try:
        return json.loads((pq.read_schema(path).metadata or {}).get(b"about", b"{}"))
    except (OSError, ValueError) as error:  # pyarrow's are among them
        raise UserError(f"{path} cannot be read as features ({error})") from error


def newest_step(path: Path) -> Path | None:
    """The newest completed checkpoint of a run (or the step folder itself); None for no run.

    Raises:
      UserError: a run without one.
    """
    if (path / "DIGESTS.json").is_file():
        return path
    if not (path / "checkpoints").is_dir():
        return None
    steps = [f.parent for f in path.glob("checkpoints/*/DIGESTS.json") if f.parent.name.isdigit()]
    if not steps:
        raise UserError(f"{path} has no completed checkpoint; train it first")
    return max(steps, key=lambda folder: int(folder.name))


def read_meta(step: Path) -> dict[str, Any]:
    """What a checkpoint says about itself. Raises UserError: unreadable."""
    try:
        return json.loads((step / "meta" / "metadata").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{step} is damaged ({error}); use an older checkpoint") from error


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
        bucket = np.floor(t_ms / (1000 * every_s(entry))).astype(np.int64)
        clips = len(np.unique(np.stack([video, bucket]), axis=1).T)
    frames = store.frames[some]
    hours = float((frames / store.videos["stored_fps"][some]).sum()) / 3600
    size = sum(file.stat().st_size for file in store.path.glob("*.array_record-*"))
    return Volume(clips, hours, size / 1e9 * float(frames.sum() / store.frames.sum()))


def missing_parts(job: Planned) -> str:
    """What the split lacks that the protocol needs, in words; "" where it has all."""
    _, _, part = _labelled(job)
    needed = ("test",) if job.protocol == "zero_shot" else ("train", "test")
    missing = " and ".join(name for name in needed if not (part == name).any())
    return f"no labelled {missing} cases in split {job.entry.split}" if missing else ""


def saw_test(job: Planned) -> str:
    """Whether the model was trained on test cases, before anything is run: yes, no or unknown."""
    tested = job.store.videos[f"split_{job.entry.split}"] == "test"
    cases = map(str, np.unique(job.store.videos["case"][tested]))
    return saw(job.store, cases, job.weights.used_cases)


def keep_predictions(made: Path, file: Path) -> str:
    """Copies predictions; of several sets of prompts the rows of the one that stands for the job,
    which is returned: those that the paper printed, else ours, else the first."""
    table = pq.read_table(made)
    chosen = ""
    if "setting" in table.column_names and "draw" not in table.column_names:
        known = pc.unique(table["setting"]).to_pylist()
        chosen = next((name for name in PREFERRED if name in known), known[0])
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


def sha256(path: Path) -> str:
    """Of a file, or of a folder's weight and configuration files with their names."""
    if path.is_dir():
        kinds = {".json", ".safetensors", ".bin", ".pth", ".pt", ".txt", ".model"}
        files = sorted(file for file in path.iterdir() if file.suffix in kinds)
        lines = "".join(f"{file.name} {sha256(file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
