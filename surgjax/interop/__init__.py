"""Weights that travel: one key table per outside format, read in both directions.

    files.py    bytes -> named arrays, checked before anything is allocated; no pickle
    keys.py     what a key table is, and how it is read in both directions
    sources.py  `init_params`: any source of weights -> parameters of ours, with their provenance
    licence.py  which terms follow from the data and the weights a model was made of
    public.py   `load`: a public model, asked in the public class's own words
    card.py     the model card of an export

Every other file is one outside format, found by its name: it holds the table and knows how such a
folder or file looks. A new format is a new file. Nothing is imported before it is needed.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from surgjax.errors import UserError, nearest

if TYPE_CHECKING:
    from surgjax.interop.public import Model

MACHINERY = {"__init__", "card", "files", "keys", "licence", "public", "sources"}


def formats() -> list[str]:
    """Names of the outside formats, sorted."""
    return sorted({p.stem for p in Path(__file__).parent.glob("*.py")} - MACHINERY)


def find_format(name: str) -> ModuleType:
    """The module of an outside format. Raises UserError that names the nearest one."""
    if name not in formats():
        raise UserError(
            f"unknown format {name!r}{nearest(name, formats())}; formats: {', '.join(formats())}"
        )
    return import_module(f"surgjax.interop.{name}")


def load(path: str | Path) -> "Model":
    """A public model from its folder; see `public.load`."""
    from surgjax.interop import public

    return public.load(path)
