"""The train state, and the border between NNX modules and plain dicts of arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Params = dict[str, Any]  # nested dict of arrays, keyed like the module's attributes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that training changes, and all that a checkpoint holds.

    Attributes:
      step: int32 scalar, global batches consumed (skipped updates included).
      params: the leaves that are trained.
      frozen: whole leaves kept as they were given; no gradient, no optimizer state.
      opt_state: the optimizer's state over `params`, with the counters of skipped updates.
      ema: moving average of the sub-tree named by the objective's `ema_of`, or None.
    """

    # Any, because the same tree also carries shapes, shardings and tracers.
    step: Any
    params: Any
    frozen: Any
    opt_state: Any
    ema: Any


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """A module as its static definition and its parameters as a nested dict."""
    graphdef, state = nnx.split(module, nnx.Param)
    return graphdef, nnx.to_pure_dict(state)


def rebuild(graphdef: nnx.GraphDef, params: Params) -> nnx.Module:
    """Inverse of `split`; cheap, meant to be called inside jit."""
    return nnx.merge(graphdef, nnx.State(params))


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"a/b/c": leaf}, in the order of the tree."""
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Inverse of `flatten`, with sorted names so that equal contents are equal trees."""
    tree: Params = {}
    for path in sorted(flat):
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = flat[path]
    return tree


def partition(
    params: Params, is_frozen: Callable[[str, tuple[int, ...]], bool]
) -> tuple[Params, Params]:
    """(trained, frozen): two trees with disjoint leaves, decided by path and shape."""
    flat = flatten(params)
    frozen = {path: leaf for path, leaf in flat.items() if is_frozen(path, leaf.shape)}
    trained = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return unflatten(trained), unflatten(frozen)


def join(params: Params, frozen: Params) -> Params:
    """Inverse of `partition`."""
    return unflatten(flatten(params) | flatten(frozen)) if frozen else params


def subtree(params: Params, path: str) -> Params:
    """The part of a nested dict below "a/b"."""
    for name in path.split("/"):
        params = params[name]
    return params


def with_average(params: Params, ema: Params | None, path: str | None) -> Params:
    """What a run is used as: its parameters, the average in the place of what it averages.

    Evaluation, export and the start of another run take the average, as the field does; only
    training itself goes on from the parameters it trains.
    """
    if ema is None:
        return params
    name, _, rest = path.partition("/")
    return params | {name: with_average(params[name], ema, rest) if rest else ema}


def lerp(old: Params, new: Params, momentum: jax.Array | float) -> Params:
    """momentum * old + (1 - momentum) * new, leaf by leaf, in f32."""
    mix = lambda m, p: momentum * m.astype(jnp.float32) + (1 - momentum) * p.astype(jnp.float32)  # noqa: E731
    return jax.tree.map(mix, old, new)
