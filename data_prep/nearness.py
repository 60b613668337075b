"""How near the videos of a corpus are to the sets of a benchmark."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import manifest, sources
from data_prep.corpus import NOT_STATED, Corpus, words_of
from surgjax.benchmark import suites
from surgjax.data.leakage import held_out_cases
from surgjax.data.store import Store, open_store
from surgjax.errors import UserError, nearest

VAGUE = {NOT_STATED, "mixed"}  # words that are no domain, procedure or anatomy
SHOWN = ("domain", "procedure", "anatomy")
NEARNESS = ("same procedure", "same anatomy", "same domain", "neither")


@dataclass(frozen=True)
class BenchmarkSet:
    """A set that models are tested on: what it shows, and its validation and test cases."""

    name: str
    domains: frozenset[str]
    procedures: frozenset[str]
    anatomies: frozenset[str]
    held_out: frozenset[str]


@dataclass(frozen=True)
class Nearness:
    """What pretraining data has for a benchmark set.

    Attributes:
      hours: of each of NEARNESS; a video counts once, in the first that fits.
      verdict: in-domain, near, out-of-domain, or NOT_STATED.
      own_videos, own_hours: of the set itself.
      left_out: cases of the set that the stores hold, under any name, and pretraining leaves out.
      leaked: its validation and test cases that pretraining would use, sorted.
    """

    hours: dict[str, float]
    verdict: str
    own_videos: int
    own_hours: float
    left_out: int
    leaked: list[str]


def benchmark_sets(against: str) -> list[BenchmarkSet]:
    """What --against names: suites and sets with commas, or all sets of a store in a folder.

    Raises:
      UserError: an unknown name, or no store.
    """
    if is_folder(against):
        return _sets_of(open_store(against))
    known, of_suites, found = _known_sets(), suites.names(), []
    words = against.replace(",", " ").split() or [against]
    lists = (suites.load(word).datasets if word in of_suites else [word] for word in words)
    names = [name for of in lists for name in of]
    for name in dict.fromkeys(names):
        if name not in known:
            raise UserError(
                f"--against names {name!r}{nearest(name, [*of_suites, *known])}; expected a suite "
                f"({', '.join(of_suites)}), names of data sets with commas as "
                f"`python -m data_prep datasets` lists them, or the folder of a store"
            )
        about, parts = _about(name), manifest.read(name).splits.get("strict", {})
        held_out = {f"{name}/{case}" for case, part in parts.items() if part != "train"}
        words = ({about[key]} - VAGUE for key in SHOWN)
        found.append(BenchmarkSet(name, *map(frozenset, words), frozenset(held_out)))
    return found


def compare(
    corpus: Corpus,
    kept: np.ndarray,
    held_out: Collection[str],
    used: Collection[str],
    of: BenchmarkSet,
) -> Nearness:
    """What the kept videos, (videos,) bool, have for a benchmark set. Its own show its procedure.

    Args:
      held_out: names of the cases that pretraining leaves out, as `leakage.held_out_cases`.
      used: all names of the cases that it uses.
    """
    named = (("procedure", of.procedures), ("anatomy", of.anatomies))
    fits = [_shows(corpus.words[dimension], wanted) for dimension, wanted in named]
    own = corpus.words["source"] == of.name
    fits[0] |= own
    fits.append(np.isin(corpus.words["domain"], np.array(sorted(of.domains), str)))
    fits.append(np.ones(len(kept), bool))
    left, hours = kept.copy(), {}
    for name, fit in zip(NEARNESS, fits, strict=True):
        hours[name] = float(corpus.counts["hours"][left & fit].sum())
        left &= ~fit
    if (kept & fits[0]).any():
        verdict = "in-domain"
    elif not of.procedures and not of.anatomies:
        verdict = NOT_STATED
    else:
        verdict = "near" if (kept & fits[1]).any() else "out-of-domain"
    return Nearness(
        hours,
        verdict,
        int((kept & own).sum()),
        float(corpus.counts["hours"][kept & own].sum()),
        sum(case.startswith(f"{of.name}/") for case in held_out),
        sorted(of.held_out.intersection(used)),
    )


def is_folder(against: str) -> bool:
    """Names of suites and sets come first; a folder of such a name is given as ./name."""
    if not against or against in (*suites.names(), *_known_sets()):
        return False
    return "/" in against or Path(against).is_dir()


def _known_sets() -> list[str]:
    return sorted({*sources.known(), *suites.read()["sets"]} - {sources.FOLDER})


def _about(name: str) -> dict[str, str]:
    """domain, procedure and anatomy of a set; what a source says of itself comes first."""
    if name in sources.known():
        return vars(sources.load(name).ABOUT)
    return suites.read()["sets"][name]


def _sets_of(store: Store) -> list[BenchmarkSet]:
    """The data sets of a store."""
    words, held_out, found = words_of(store), held_out_cases([store]), []
    for name in sorted(set(words["source"])):
        own = words["source"] == name
        shown = (frozenset(words[key][own]) - VAGUE for key in SHOWN)
        tested = frozenset(case for case in held_out if case.startswith(f"{name}/"))
        found.append(BenchmarkSet(name, *shown, tested))
    return found


def _shows(words: np.ndarray, wanted: Collection[str]) -> np.ndarray:
    """Whether a word of the corpus is one of those wanted or a kind of it, (n,) bool."""
    distinct, group = np.unique(words, return_inverse=True)
    asked = [_letters(word) for word in wanted]
    fits = [any(one <= had for one in asked if one for had in _readings(word)) for word in distinct]
    return np.array(fits, bool)[group]


def _readings(word: str) -> list[frozenset[str]]:
    """The words in a name, and those of what it lies within."""
    own = _letters(word)
    wider = [wide for narrow, wide in suites.read()["within"].items() if _letters(narrow) <= own]
    return [own, *map(_letters, wider)]


def _letters(word: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", word.lower()))
