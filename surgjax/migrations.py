"""What is on disk has a number, and what an older surgjax wrote goes on in a newer one.

`format` in a step's meta counts the layouts that checkpoints have had:

    0  nothing says it: surgjax 0.1 before checkpoints were numbered
    1  the same arrays; meta says `format` and `saved_from`

To change the layout, raise FORMAT and add the function that turns the one before into it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from surgjax.errors import UserError

FORMAT = 1
# Item ("params", "opt_state", "ema", "frozen") -> {"a/b/c": array}; only the items that are read.
Items = Mapping[str, Mapping[str, Any]]
# From the format that is the key to the next: (items, meta) -> (items, meta), changing neither.
MIGRATIONS: dict[int, Callable[[Items, dict], tuple[Items, dict]]] = {
    0: lambda items, meta: (items, meta),
}


def migrate(items: Items, meta: dict[str, Any], where: object) -> tuple[Items, dict[str, Any]]:
    """(items, meta) in today's format.

    Args:
      where: the step's folder, for the message.

    Raises:
      UserError: a newer surgjax wrote it.
    """
    found = meta.get("format", 0)
    if found > FORMAT:
        raise UserError(
            f"{where} has format {found} and this surgjax knows formats up to {FORMAT}; update it, "
            f"or go on with the version that wrote the checkpoint"
        )
    for number in range(found, FORMAT):
        items, meta = MIGRATIONS[number](items, meta)
        meta = meta | {"format": number + 1}
    return items, meta
