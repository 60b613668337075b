"""What a config leaves to its data and weights: the classes of a task, the size of a network."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from surgjax.build import open_data, open_stores, read_config
from surgjax.config import component, defaults, to_dict
from surgjax.digests import find_step, is_run, read_meta
from surgjax.errors import UserError
from surgjax.files import to_path
from surgjax.interop.files import read_json
from surgjax.interop.sources import open_outside
from surgjax.models.image_vit import dimensions
from surgjax.models.video_vit import SIZES

NORM = "encoder/blocks/norm1/scale"


def complete(cfg: ConfigDict) -> ConfigDict:
    """The config with the objective's arguments that follow from stores and weights filled in.

    Sizes and families are facts of a folder or file, classes of a store; fields that are set stay
    as they are. An empty `encoder.size` takes size, positions and biases from `init_from`. Lengths
    in epochs become steps.

    Raises:
      UserError: a store without the task; weights of no image transformer where one is asked for,
        that do not say their size, or of another size than set.
    """
    cfg = cfg.copy_and_resolve_references()
    given = to_dict(cfg.objective)
    objective = component("surgjax.objectives", given["name"], "Objective")
    with cfg.unlocked():
        if objective.from_stores is not None and cfg.data.stores:  # a plan may have none
            cfg.objective.update(objective.from_stores(given, open_stores(cfg)))
        if given.get("teacher"):
            teacher = given["teacher"]
            weights = teacher.get("weights", "")
            found = image_network(teacher, weights, "objective.teacher")
            pixels = pixel_statistics(weights)
            chosen = {k: v for k, v in found.items() if v or k not in pixels}
            cfg.objective.teacher = ConfigDict({**pixels, **chosen})
        if not cfg.encoder.size:
            found = video_encoder(cfg.init_from.split(",")[0].strip())
            if not found:
                given["network"] = cfg.objective.network = "image"
            cfg.encoder.update(found or {"size": "B"})
        if given.get("network") == "image":
            found = image_network(
                given.get("image") or {}, cfg.init_from.split(",")[0].strip(), "objective.image"
            )
            cfg.objective.image = ConfigDict(found)
        if cfg.epochs:
            plan = open_data(cfg).plan
            steps = plan.epoch_steps * plan.repeats  # a batch shows each of its clips so often
            cfg.total_steps = max(1, round(cfg.epochs * steps))
            cfg.optim.warmup_steps = round(cfg.warmup_epochs * steps)
    return cfg


def video_encoder(weights: str) -> dict[str, Any]:
    """Fields of `encoder` (size, positions, qkv_bias) that `weights` were made with.

    Args:
      weights: folder or file of a public model, a run of ours, or "": the size is then B.

    Returns:
      Empty for weights of an image transformer.

    Raises:
      UserError: as `open_outside`; a video network of no size that `encoder.size` names.
    """
    if not weights:
        return {"size": "B"}
    if is_run(to_path(weights)):
        theirs = read_meta(find_step(to_path(weights)))["config"]
        if theirs["objective"].get("network") == "image":
            return {}
        encoder = to_dict(defaults().encoder) | theirs["encoder"]  # of an older run, the default
        return {name: encoder[name] for name in ("size", "positions", "qkv_bias")}
    outside = open_outside(Path(weights))
    module = outside.module
    if hasattr(module, "encoder_arguments"):
        return {}
    norm = next((r.names[0] for r in module.TABLE.rows if r.ours == NORM), "")
    layer = re.compile(re.escape(norm).replace(r"\{i\}", r"\d+"))
    tensors = module.canonical(outside.weights.tensors)
    shapes = [array.shape for name, array in tensors.items() if norm and layer.fullmatch(name)]
    width, depth = (shapes[0][0], len(shapes)) if shapes else (0, 0)
    names = [name for name, size in SIZES.items() if (size.width, size.depth) == (width, depth)]
    if not names:
        found = f"{depth} blocks of width {width}" if shapes else "no video transformer's blocks"
        raise UserError(
            f"{weights} has {found}; expected those of encoder.size {', '.join(SIZES)}; give "
            f"weights of such a video encoder"
        )
    positions = getattr(module, "POSITIONS", "sincos_1d")
    return {
        "size": names[0],
        "positions": positions,
        "qkv_bias": "all" if positions == "rope_3d" else "qv",
    }


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
