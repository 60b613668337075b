"""Which terms a model carries: those of its data and of the weights it started from, all together.

A rule of thumb for model cards, no legal advice. Names are SPDX identifiers; what the table does
not know counts as unknown, the most restrictive of all.
"""

from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = "unknown"
UNKNOWN_DATA = [UNKNOWN]
# Condition letters: BY name the source, SA share alike, NC no commercial use, ND no derivatives;
# X own terms that the table cannot weigh. The order is that of restriction.
CONDITIONS: dict[str, frozenset[str]] = {
    "CC0-1.0": frozenset(),
    "MIT": frozenset({"BY"}),
    "BSD-2-Clause": frozenset({"BY"}),
    "BSD-3-Clause": frozenset({"BY"}),
    "Apache-2.0": frozenset({"BY"}),
    "CC-BY-4.0": frozenset({"BY"}),
    "CC-BY-SA-4.0": frozenset({"BY", "SA"}),
    "CC-BY-NC-4.0": frozenset({"BY", "NC"}),
    "CC-BY-NC-SA-4.0": frozenset({"BY", "NC", "SA"}),
    "CC-BY-ND-4.0": frozenset({"BY", "ND"}),
    "CC-BY-NC-ND-4.0": frozenset({"BY", "NC", "ND"}),
    UNKNOWN: frozenset({"BY", "NC", "SA", "ND", "X"}),
}
OUR_CODE = "Apache-2.0"  # of weights that nothing restricts further

NOTES = {
    "NC": "Some of the data or weights behind this model allow no commercial use.",
    "SA": "Some of the data or weights behind this model ask that what is made of them is shared "
    "under the same terms.",
    "ND": "Some of the data or weights behind this model allow no derivatives to be shared. Ask "
    "their owners before publishing this model.",
    "X": "The terms of some of the data or weights behind this model are not known. Find them out "
    "before sharing it.",
}


def normalised(name: str | None) -> str:
    """The table's spelling of a licence name; names it does not know stay as they are."""
    text = (name or UNKNOWN).strip()
    key = "-".join(text.lower().replace("_", "-").split())
    return next((known for known in CONDITIONS if known.lower() == key), text)


def combined(names: Iterable[str]) -> str:
    """The least restrictive licence of the table that keeps every condition of the names given.

    Nothing given means that nothing is known.
    """
    names = list(names)
    if not names:
        return UNKNOWN
    conditions = CONDITIONS[OUR_CODE].union(*(conditions_of(name) for name in names))
    if "X" in conditions:
        return UNKNOWN
    if conditions == CONDITIONS[OUR_CODE]:
        return OUR_CODE
    if "ND" in conditions:  # nothing derived may be shared, so "alike" has no meaning beside it
        conditions -= {"SA"}
    return next(name for name, kept in CONDITIONS.items() if conditions <= kept)


def conditions_of(name: str) -> frozenset[str]:
    """Condition letters of a licence; those of UNKNOWN for a name the table does not know."""
    return CONDITIONS.get(normalised(name), CONDITIONS[UNKNOWN])


def notes(names: Iterable[str]) -> list[str]:
    """A sentence for every condition beyond naming the source."""
    names = list(names)
    unclear = any("X" in conditions_of(name) for name in names)
    clear = frozenset().union(*(conditions_of(n) for n in names if "X" not in conditions_of(n)))
    return [
        text for letter, text in NOTES.items() if letter in clear or (letter == "X" and unclear)
    ]


def licences(meta: Mapping[str, Any]) -> dict[str, str]:
    """What a run was made of -> its licence: datasets, the weights it began with, its teacher."""
    found = {str(k): str(v or UNKNOWN) for k, v in (meta.get("licences") or {}).items()}
    for role in ("init_from", "teacher"):
        if meta.get(role):
            source = meta[role]
            found[f"weights of {source['source']}"] = str(source.get("licence") or UNKNOWN)
    return found


def pretrained_on(meta: Mapping[str, Any]) -> list[str]:
    """Datasets (and splits) a run's weights have seen, those of its starting weights included."""
    seen = []
    for of in (meta, meta.get("init_from") or {}):
        named = of.get("pretrained_on") or []
        seen += map(str, named) if isinstance(named, list) else [str(named)]
    return sorted(set(seen)) or list(UNKNOWN_DATA)
