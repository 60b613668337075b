"""Suites of a paper's sets and tasks, read from suites.yaml, and which stores have them."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from surgjax.benchmark.score import PROTOCOLS
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError, nearest

FILE = Path(__file__).with_name("suites.yaml")
TIERS = ("strict", "release")
UNITS = ("frame", "video")


@dataclass(frozen=True)
class Entry:
    """A set with one of its tasks: a column of a paper's table, or several metrics side by side.

    Attributes:
      id: unique in the suite; the dataset's name where the suite has it once.
      dataset: of data_prep/sources, or of `sets` in suites.yaml.
      title: as the paper prints it.
      domain: as `About.domain`.
      task: of `surgjax.benchmark score`.
      label: the store's task.
      unit: "frame" (labelled frames, a clip each) or "video" (one label for all of a video).
      split: of the store, without "split_".
      protocols: how papers use a model on it; the first is this paper's.
      score_protocols: of `score`; the first is what a job is scored with.
      metrics: key of `score` -> header, in the paper's order.
      main: the metric that averages take.
      exclude: classes that are not scored.
      source: what the store calls the dataset, "surgrec_csv" for lists that SurgRec released.
      store: name of the store's folder, where many stores are of one source; else "".
      fps: rate to prepare a store with.
      own: not public; whoever has it prepares it under this name, and averages leave it out.
      beside: not of the paper; averages leave it out.
      note: what is not as in the paper.
    """

    id: str
    dataset: str
    title: str
    domain: str
    task: str
    label: str
    unit: str
    split: str
    protocols: tuple[str, ...]
    score_protocols: tuple[str, ...]
    metrics: Mapping[str, str] = field(hash=False)
    main: str
    exclude: tuple[str, ...] = ()
    source: str = ""
    store: str = ""
    fps: str = "1"
    own: bool = False
    beside: bool = False
    note: str = ""


@dataclass(frozen=True)
class Suite:
    """Entries in the paper's order.

    Attributes:
      paper: what and which table it follows; "" for none.
      averages: domains (mean of each, their mean and the worst), main (mean of the entries' main
        metrics), metrics (mean of each metric) or none.
      note: what is not as in the paper, of all entries.
    """

    name: str
    tier: str
    paper: str
    averages: str
    protocols: tuple[str, ...]
    entries: tuple[Entry, ...]
    note: str = ""

    @property
    def datasets(self) -> list[str]:
        """Names of the sets, each once."""
        return list(dict.fromkeys(entry.dataset for entry in self.entries))

    @property
    def averaged(self) -> list[Entry]:
        """The public entries of the paper."""
        return [entry for entry in self.entries if not entry.own and not entry.beside]

    def entry(self, entry_id: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.id == entry_id), None)

    @property
    def notes(self) -> list[str]:
        """What is not as in the paper, a line for each entry with anything."""
        own = [f"{entry.title}: {entry.note}." for entry in self.entries if entry.note]
        return [f"{self.note}.", *own] if self.note else own


def names() -> list[str]:
    """Of all suites."""
    return list(read()["suites"])


@functools.cache
def load(name: str, tier: str = "strict") -> Suite:
    """A suite. Raises UserError: no such suite or tier."""
    if name not in names():
        raise UserError(f"no suite {name!r}{nearest(name, names())}; expected {', '.join(names())}")
    if tier not in TIERS:
        raise UserError(f"tier {tier!r}{nearest(tier, TIERS)}; expected {' or '.join(TIERS)}")
    suite = read()["suites"][name]
    entries = tuple(
        _entry(suite, entry, tier)
        for entry in suite["entries"]
        if tier in entry.get("tiers", TIERS)
    )
    protocols, note = tuple(suite["protocols"]), suite["tiers"][tier].get("note", "")
    return Suite(name, tier, suite["paper"], suite["averages"], protocols, entries, note)


@functools.cache
def read() -> dict[str, dict]:
    """suites.yaml: `suites`, `sets` that no source reads, and words `within` wider ones."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def open_stores(folders: Iterable[str | Path]) -> list[Store]:
    """The stores that folders are or hold, each once, by name of folder.

    Raises:
      UserError: a folder that is not there, or a damaged store.
    """
    found: dict[Path, Store] = {}
    for folder in map(Path, folders):
        inside = [folder] if (folder / "store.json").is_file() else sorted(folder.glob("*/"))
        stores = [path for path in inside if (path / "store.json").is_file()]
        if not folder.is_dir():
            raise UserError(
                f"no folder {folder}; expected the --out of `python -m data_prep shards`, or a "
                f"folder of such"
            )
        found |= {path.resolve(): open_store(path) for path in stores}
    return list(found.values())


def store_of(entry: Entry, stores: Iterable[Store]) -> Store | None:
    """The first store with the entry's set, labels and split."""
    return next((store for store in stores if _has(store, entry) and not lacks(entry, store)), None)


def lacks(entry: Entry, store: Store) -> str:
    """What a store of the set has not that the entry needs: "no labels of task phase"; or ""."""
    if entry.label not in store.meta.get("tasks", {}):
        return f"no labels of task {entry.label!r}"
    if f"split_{entry.split}" not in store.split_columns:
        return f"no split {entry.split!r}"
    return ""


def needed(suite: Suite, stores: Sequence[Store] = ()) -> list[str]:
    """A line for each set of which no store is there: how one gets it, and what to run then."""
    lines = []
    for entry in suite.entries:
        if store_of(entry, stores) is not None:
            continue
        short = [(store, lacks(entry, store)) for store in stores if _has(store, entry)]
        if short:
            store, what = short[0]
            lines.append(f"{entry.id}: {store.path} has {what}; prepare it again")
        else:
            lines.append(f"{entry.id}: {access(entry)} ({licence(entry)}); then {prepare(entry)}")
    return list(dict.fromkeys(lines))


def access(entry: Entry) -> str:
    """How one gets the set."""
    if entry.own:
        return "private, bring your own"
    from data_prep import sources  # only where datasets are listed: it knows of all of them

    names = dict.fromkeys((entry.source, entry.dataset))
    return "; ".join(sources.load(name).ABOUT.access for name in names)


def licence(entry: Entry) -> str:
    """SPDX identifier of the set, or NOASSERTION."""
    if entry.own:
        return "yours"
    from data_prep import sources

    return sources.load(entry.dataset).ABOUT.licence


def prepare(entry: Entry) -> str:
    """The command that makes its store from the download."""
    where = f"--out STORES/{entry.store or entry.dataset} --fps {entry.fps}"
    if entry.own:
        return f"python -m data_prep shards --videos DIR --dataset {entry.dataset} {where}"
    return f"python -m data_prep shards --dataset {entry.source} --root DIR {where}"


def _entry(suite: dict, own: dict, tier: str) -> Entry:
    of_tier = {key: value for key, value in suite["tiers"][tier].items() if key != "note"}
    said = suite.get("all", {}) | own | of_tier | own.get(tier, {})
    said = {key: value for key, value in said.items() if key not in ("tiers", *TIERS)}
    unit = said.setdefault("unit", "frame")
    dataset = said["dataset"]
    source = said.setdefault("source", dataset)
    said.setdefault("id", dataset)
    said.setdefault("protocols", suite["protocols"])
    said.setdefault("score_protocols", PROTOCOLS[said["task"]][:1])
    said.setdefault("main", next(iter(said["metrics"])))
    said.setdefault("store", "" if source == dataset else f"surgrec_{dataset}")
    said["fps"] = str(said.get("fps", "1" if unit == "frame" else "native"))
    unknown = said.keys() - {one.name for one in fields(Entry)}
    if unknown:
        raise ValueError(f"{FILE.name}, {dataset}: {', '.join(sorted(unknown))} is no field")
    for key in ("protocols", "score_protocols", "exclude"):
        said[key] = tuple(said.get(key, ()))
    return Entry(**said)


def _has(store: Store, entry: Entry) -> bool:
    if entry.store and store.path.name != entry.store:
        return False
    return entry.source in store.videos["dataset"]
