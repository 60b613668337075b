"""A public model as its folder describes it: loaded, and asked in the public class's own words."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from surgjax.errors import UserError, nearest
from surgjax.interop import licence, sources
from surgjax.interop.keys import to_ours
from surgjax.state import Params, flatten, rebuild, split, unflatten

NESTED = {"predictor_output"}  # outputs that hold outputs: theirs are "<name>.<inner name>"


@dataclass(frozen=True)
class Model:
    """A loaded public model.

    Attributes:
      family: its format, a file name of surgjax/interop.
      config: content of config.json.
      licence: SPDX id, or "unknown" where the folder states none.
      pretrained_on: datasets and splits as far as the folder states them, else ["unknown"].
      params: nested dict of float32 arrays, under our names.
      notes: one line for every tensor left out.
      provenance: the metadata an export hands on.
    """

    family: str
    config: dict[str, Any]
    licence: str
    pretrained_on: list[str]
    params: Params
    notes: list[str]
    provenance: dict[str, Any]
    _network: nnx.Module
    _prepare: Callable

    def apply(self, **inputs: Any) -> dict[str, np.ndarray]:
        """What the public class computes, its outputs under their names there, float32.

        Args:
          inputs: arrays under the class's argument names; pictures and video channel-last,
            normalised: pixel_values (b h w c) or (b t h w c) float32, input_ids (b n) int, ...

        Raises:
          UserError: an argument the class does not have.
        """
        known = [n for n in inspect.signature(type(self._network).__call__).parameters][1:]
        for name in inputs:
            if name not in known:
                raise UserError(
                    f"{self.family} models have no input {name!r}{nearest(name, known)}; "
                    f"choose from {', '.join(known)}"
                )
        missing = [n for n in _required(self._network) if n not in inputs]
        if missing:
            raise UserError(f"this {self.family} model needs {missing[0]!r} too")
        inputs = self._prepare(self.config, jax.tree.map(np.asarray, inputs))
        with jax.default_matmul_precision("highest"):
            return jax.tree.map(np.asarray, self._forward(self.params, inputs))

    @functools.cached_property
    def _forward(self) -> Callable:
        graphdef, _ = split(self._network)
        return jax.jit(lambda params, inputs: rebuild(graphdef, params)(**inputs))


def load(path: str | Path) -> Model:
    """A public model from a folder with config.json, or a weight file whose format needs none.

    Raises:
      UserError: nothing there, another family (what it looks like is said), settings our networks
        do not have, missing or unused tensors by name, other shapes than config.json says.
    """
    path = Path(path)
    outside = sources.open_outside(path)
    module, weights = outside.module, outside.weights
    config = outside.config
    if not config and hasattr(module, "config_of"):
        config = module.config_of(weights.tensors)
    if not config or not hasattr(module, "network"):
        raise UserError(
            f"{path} is a weight file without config.json; expected a folder with one; such a file "
            f"starts a training run: --config.init_from={path}"
        )
    with sources.describing(path):
        if hasattr(module, "completed"):
            config = module.completed(config, weights.tensors)
        notes = module.check_config(config, str(path))
        network = nnx.eval_shape(lambda: module.network(config, rngs=nnx.Rngs(0)))
    shapes = {name: leaf.shape for name, leaf in flatten(split(network)[1]).items()}
    reading = to_ours(module.TABLE, module.canonical(weights.tensors), shapes, source=str(path))
    sources.check_shapes(reading.params, shapes, path)
    if reading.fresh:
        raise UserError(
            f"{path} lacks {reading.fresh[0].split('/')[0]}, which a {architecture(config)} has; "
            f"get the complete file"
        )
    about = sources.provenance(path, outside)
    return Model(
        family=about["format"],
        config=config,
        licence=licence.normalised(about["licence"]),
        pretrained_on=about["pretrained_on"],
        params=unflatten(reading.params),
        notes=notes + reading.notes,
        provenance=about,
        _network=network,
        _prepare=getattr(module, "prepare", lambda config, inputs: inputs),
    )


def architecture(config: Mapping[str, Any]) -> str:
    """The class that a folder was saved by."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else "model"


def sizes(network: nnx.Module) -> dict[str, Any]:
    """What config.json says in the same words of most transformers, of one of ours."""
    blocks = network.blocks
    depth, _, hidden = blocks.mlp.up.kernel.shape
    return {
        "hidden_size": network.width,
        "num_hidden_layers": depth,
        "num_attention_heads": blocks.attention.heads,
        "intermediate_size": hidden,
        "layer_norm_eps": blocks.norm1.eps,
        "dtype": "float32",
    }


def text_tower_of(objective, family: str) -> nnx.Module:
    """A run's text tower. Raises UserError where it has none, or one of another family."""
    tower = getattr(objective, "text_encoder", None)
    if tower is None or tower.family != family:
        raise UserError(
            f"--format={family} takes the text tower of a run and this one has "
            f"{'none' if tower is None else f'one of the family {tower.family}'}; expected a run "
            f"of configs/surgclip.py with objective.text.family={family}; for a video encoder "
            f"choose --format=videomae, vjepa2 or timesformer"
        )
    return tower


def refuse_values(
    config: Mapping[str, Any], source: str, allowed: Mapping[str, Sequence[Any]]
) -> None:
    """Raise UserError for a field of config.json with another value than those allowed.

    A field that is not there has the first of them.
    """
    for field, values in allowed.items():
        if config.get(field, values[0]) not in values:
            raise UserError(
                f"{source}/config.json has {field}={config[field]!r}; expected "
                f"{' or '.join(map(repr, values))}, all that our networks know; use another "
                f"checkpoint"
            )


def reference(
    folder: Path, config: Mapping[str, Any], inputs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """What the public PyTorch class computes from a folder; inputs as for `Model.apply`."""
    import torch
    import transformers

    def tensor(name: str, value: np.ndarray) -> torch.Tensor:
        if name.startswith("pixel_values"):
            value = np.moveaxis(value, -1, -3)
        return torch.from_numpy(np.array(value, order="C"))

    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, architecture(config)).from_pretrained(folder).eval()
    given = {
        name: jax.tree.map(functools.partial(tensor, name), value) for name, value in inputs.items()
    }
    with torch.no_grad():
        out = dict(model(**given))
    for name in NESTED & set(out):
        out |= {f"{name}.{inner}": value for inner, value in out[name].items()}
    return {k: v.numpy() for k, v in out.items() if isinstance(v, torch.Tensor)}


def _required(network: nnx.Module) -> list[str]:
    parameters = inspect.signature(type(network).__call__).parameters
    return [n for n, p in parameters.items() if p.default is p.empty and n != "self"]
