"""Who is in which split: splits/<dataset>.yaml, and splits made here where nobody published one.

    dataset: m2cai16
    version: 1
    videos: workflow_video_01-27 test_workflow_video_01-14     all there are; may be left out
    splits:
      official:
        source_tier: official        published with the data; or community (a family of papers),
                                     paper-release (one paper's code or data), ours
        source: folders of the challenge
        train: workflow_video_01-27
        test: test_workflow_video_01-14
        sha256: ...                  `digest` of the parts
        val_is_test: true            only if so: its validation cases are its test cases
        leaky: true                  only if so: cases are in more than one part
        fold: true                   only if so: one of a cross-validation, where everything is
                                     tested once; pretraining does not look at it

Names are those of videos or of cases. `a01-03` means a01 a02 a03.
"""

import hashlib
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from data_prep.sources import PARTS

FOLDER = Path(__file__).resolve().parent / "splits"
FLAGS = ("val_is_test", "leaky", "fold")
SHARES = {"test": 10, "val": 5}  # one case in so many; the rest is for training


@dataclass(frozen=True)
class Manifest:
    """Splits of a dataset.

    Attributes:
      names: all that belong to it; empty where that is not known.
      splits: split -> name -> train, val or test.
      about: split -> {"tier": official | community | paper-release | ours} and the FLAGS it has.
      digests: split -> sha256 as the file gives it.
    """

    names: frozenset[str]
    splits: dict[str, dict[str, str]]
    about: dict[str, dict]
    digests: dict[str, str]


def read(dataset: str) -> Manifest:
    """The manifest of a dataset; one without splits if there is no file."""
    path = FOLDER / f"{dataset}.yaml"
    data = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {"splits": {}}
    splits, about = {}, {}
    for name, split in data["splits"].items():
        splits[name] = {one: part for part in PARTS for one in expand(split.get(part, ""))}
        about[name] = {"tier": split["source_tier"]}
        about[name] |= {flag: True for flag in FLAGS if split.get(flag)}
    digests = {name: split["sha256"] for name, split in data["splits"].items()}
    return Manifest(frozenset(expand(data.get("videos", ""))), splits, about, digests)


def digest(parts: Mapping[str, str]) -> str:
    """sha256 over the sorted lines `<part> <name>` of a split, to tell its versions apart."""
    lines = sorted(f"{part} {name}\n" for name, part in parts.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def divide(cases: Mapping[str, Hashable], seed: int = 0) -> dict[str, str]:
    """Cases divided 7:2:1 into train, val and test; a test case from two on, val from three on.

    Which case goes where depends on the names and the seed alone. Cases of one stratum are spread
    over the parts.

    Args:
      cases: name of a case -> its stratum, such as the classes it shows.
    """
    drawn = {name: hashlib.sha256(f"{seed} {name}".encode()).digest() for name in cases}
    left = sorted(cases, key=lambda name: (repr(cases[name]), drawn[name]))
    parts, enough = {}, {"test": 2, "val": 3}
    for part, one_in in SHARES.items():
        count = max(1, round(len(cases) / one_in)) if len(cases) >= enough[part] else 0
        chosen = [left[(2 * i + 1) * len(left) // (2 * count)] for i in range(count)]
        parts |= dict.fromkeys(chosen, part)
        left = [name for name in left if name not in parts]
    return parts | dict.fromkeys(left, "train")


def expand(text: str) -> Iterator[str]:
    """The names in a text: `a01-03 b` is a01 a02 a03 b."""
    for word in str(text).split():
        span = re.fullmatch(r"(.*?)(\d+)-(\d+)", word)
        if span is None:
            yield word
            continue
        stem, first, last = span.groups()
        for number in range(int(first), int(last) + 1):
            yield f"{stem}{number:0{len(first)}d}"
