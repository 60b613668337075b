"""What is learnt. One file per objective; its file name is its name in a config."""

import importlib.util
import pkgutil
from typing import Any

from surgjax.errors import UserError, nearest


def build(name: str, **kwargs: Any) -> Any:
    """The `Objective` of objectives/<name>.py, built with `kwargs`.

    Raises:
      UserError: no such file, or an argument that the objective does not have.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in names:
        raise UserError(
            f"objective.name is {name!r}{nearest(name, names)}; choose one of {', '.join(names)}"
        )
    return importlib.import_module(f"{__name__}.{name}").Objective(**kwargs)
