"""What a config leaves to its data and weights: the classes of a task, the size of a teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from surgjax.build import open_stores, read_config
from surgjax.config import component, to_dict
from surgjax.errors import UserError
from surgjax.interop.files import read_json
from surgjax.interop.sources import is_run, open_outside
from surgjax.models.image_vit import dimensions


def complete(cfg: ConfigDict) -> ConfigDict:
    """The config with the objective's arguments that follow from stores and weights filled in.

    Sizes and families are facts of a folder or file, classes of a store; fields that are set stay
    as they are.

    Raises:
      UserError: a store without the task; weights of no image transformer where one is asked for,
        that do not say their size, or of another size than set.
    """
    cfg = cfg.copy_and_resolve_references()
    given = to_dict(cfg.objective)
    objective = component("surgjax.objectives", given["name"], "Objective")
    with cfg.unlocked():
        if objective.from_stores is not None:
            cfg.objective.update(objective.from_stores(given, open_stores(cfg)))
        if given.get("teacher"):
            teacher = given["teacher"]
            weights = teacher.get("weights", "")
            found = image_network(teacher, weights, "objective.teacher")
            pixels = pixel_statistics(weights)
            chosen = {k: v for k, v in found.items() if v or k not in pixels}
            cfg.objective.teacher = ConfigDict({**pixels, **chosen})
        if given.get("network") == "image":
            found = image_network(
                given.get("image") or {}, cfg.init_from.split(",")[0].strip(), "objective.image"
            )
            cfg.objective.image = ConfigDict(found)
    return cfg


def image_network(given: Mapping[str, Any], weights: str, field: str) -> dict[str, Any]:
    """Arguments of the image transformer that `weights` hold, with those in `given` on top.

    Args:
      weights: folder or file of a public model, a run of ours, "random" or "".
      field: config field that messages name.

    Raises:
      UserError: see `complete`.
    """
    if weights in ("", "random"):
        return dict(given)
    if is_run(Path(weights)):
        return to_dict(read_config(Path(weights)).objective).get("image") or dict(given)
    outside = open_outside(Path(weights))
    module, theirs = outside.module, outside.config
    if not hasattr(module, "encoder_arguments"):
        raise UserError(
            f"{weights} is a {module.__name__.rsplit('.', 1)[-1]} model; {field} needs an image "
            f"transformer (vit, vit_mae, dinov2, dinov3, timm); give another"
        )
    if not theirs and hasattr(module, "config_of"):
        theirs = module.config_of(outside.weights.tensors)
    if not theirs and not given.get("size"):
        raise UserError(
            f"{weights} has no config.json beside it; expected the whole folder, or {field}.size "
            f"and what else differs from a ViT"
        )
    facts = module.encoder_arguments(theirs) if theirs else {}
    asked, known = given.get("size"), 3 if outside.config else 2  # tensors do not tell heads
    if asked and facts and dimensions(asked)[:known] != dimensions(facts["size"])[:known]:
        words = ("width {}", "{} blocks", "{} heads")[:known]
        found, expected = (
            ", ".join(words).format(*dimensions(size)) for size in (facts["size"], asked)
        )
        raise UserError(
            f"{weights} has another model size: {field}.size found {found}, expected {expected}; "
            f"leave {field}.size empty or use another checkpoint"
        )
    return {**facts, **{name: value for name, value in given.items() if value or name not in facts}}


def pixel_statistics(weights: str) -> dict[str, list[float]]:
    """mean and std of the pixels that a public folder's network expects, where it tells them."""
    file = Path(weights) / "preprocessor_config.json"
    if weights in ("", "random") or not file.is_file():
        return {}
    settings = read_json(file)
    if not settings.get("do_normalize", True):
        return {"mean": [0.0] * 3, "std": [1.0] * 3}
    names = {"mean": "image_mean", "std": "image_std"}
    return {ours: settings[theirs] for ours, theirs in names.items() if settings.get(theirs)}
