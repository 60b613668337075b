"""Published numbers, from literature.yaml: shown beside ours and never averaged with them."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("literature.yaml")


@dataclass(frozen=True)
class Source:
    """A table of a paper. protocol: how the models were used, as the paper says; note: what is to
    be known of it, or ""."""

    paper: str
    where: str
    protocol: str
    note: str = ""


@dataclass(frozen=True)
class Cited:
    """A published row; tables of one paper and protocol that have the same model make one.

    Attributes:
      values: "<entry>:<metric>", or the name of an average, -> share.
      notes: the same keys -> what is wrong with the printed number.
    """

    model: str
    sources: tuple[Source, ...]
    values: dict[str, float] = field(hash=False)
    notes: dict[str, str] = field(hash=False)


@functools.cache
def read() -> dict[str, dict]:
    """literature.yaml: `tables` and `scaling`, in per cent."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def of_suite(suite: str) -> list[Cited]:
    """The rows of a suite, in the order of the file."""
    rows: dict[tuple[str, str, str], Cited] = {}
    for table in read()["tables"].values():
        if table["suite"] != suite:
            continue
        source = Source(*(table.get(key, "") for key in ("paper", "where", "protocol", "note")))
        for model, printed in table["rows"].items():
            values = dict(zip(_columns(table), (value / 100 for value in printed), strict=True))
            said = table.get("notes", {}).get(model)
            notes = dict.fromkeys(values, said) if said else {}
            key = (model, source.paper, source.protocol)
            old = rows.get(key, Cited(model, (), {}, {}))
            sources, values = (*old.sources, source), old.values | values
            rows[key] = Cited(model, sources, values, old.notes | notes)
    return list(rows.values())


def _columns(table: dict) -> list[str]:
    metric = f":{table['metric']}" if "metric" in table else ""
    return [f"{column}{metric}" for column in table["columns"]]
