"""Memory and operations of a program that was traced and never compiled: read off its jaxpr.

XLA writes the results of matrix products, reductions and loops to memory and computes what lies
between them inside the kernels that read it. So here: a value of an elementwise operation takes no
memory until something needs it as an array, and what it is made of stays alive until then. Values
die after their last use, in the order of the trace. Measured against compiled programs in
tests/test_resources.py.
"""

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Calls whose inside is looked at as if it stood in their place, and where their program is.
CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "remat", "checkpoint")
CALLS += ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "eval_jaxpr")
LOOPS = ("scan", "while", "cond")
# Their operands have to be arrays in memory, and their results are.
KERNELS = ("dot_general", "conv_general_dilated", "sort", "top_k", "cumsum", "cumlogsumexp")
KERNELS += ("cummax", "cummin", "cumprod", "dot_product_attention_fwd", "dot_product_attention_bwd")
# Their results are arrays; elementwise operations before them are computed inside.
READERS = ("gather", "scatter", "scatter-add", "argmax", "argmin", "dynamic_update_slice")


@dataclass(frozen=True)
class Cost:
    """Of one execution.

    Attributes:
      bytes: largest sum of values alive at once, arguments and results not counted.
      flops: of matrix products, those inside loops as often as they run.
    """

    bytes: int
    flops: float


def cost(program: ClosedJaxpr, parts: Mapping[tuple[int, ...], int] | None = None) -> Cost:
    """Memory and operations of a traced program.

    Args:
      parts: shape -> over how many devices arrays of this shape are split; others are whole.
    """
    parts = parts or {}

    def size(aval: Any) -> int:
        shape = getattr(aval, "shape", ())
        return math.prod(shape) * _item_bytes(aval.dtype) // parts.get(shape, 1)

    peak, flops = _walk(program.jaxpr, size)
    return Cost(peak, flops)


@dataclass
class _Step:
    """One operation of a program without calls. Values are numbers, equal for equal values."""

    name: str
    inputs: list[int]
    outputs: list[int]
    inside: int = 0  # bytes of a loop's body


@dataclass
class _Flat:
    sizes: list[int] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)
    flops: float = 0.0

    def new(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1


def _walk(
    jaxpr: Jaxpr,
    size: Callable[[Any], int],
    slices: Set[int] = frozenset(),
    carried: Set[int] = frozenset(),
) -> tuple[int, float]:
    """(peak bytes, flops) of a program.

    Args:
      slices: positions of arguments that are cut out of larger arrays when they are needed.
      carried: positions of results that are arrays when it ends.
    """
    flat = _Flat()
    arguments = [flat.new(size(v.aval) if i in slices else 0) for i, v in enumerate(jaxpr.invars)]
    constants = [flat.new(0) for _ in jaxpr.constvars]
    results = _flatten(jaxpr, arguments, constants, size, flat)
    given = {v for i, v in enumerate(arguments) if i not in slices} | set(constants)
    return _peak(flat, given, {results[i] for i in carried}), flat.flops


def _flatten(jaxpr: Jaxpr, arguments, constants, size, flat: _Flat) -> list[int]:
    """Append the steps of `jaxpr` to `flat`; the numbers of its results."""
    number = dict(zip(jaxpr.invars, arguments, strict=True))
    number |= dict(zip(jaxpr.constvars, constants, strict=True))
    read = lambda v: flat.new(0) if isinstance(v, Literal) else number[v]  # noqa: E731
    for equation in jaxpr.eqns:
        inputs, name = [read(v) for v in equation.invars], equation.primitive.name
        if name in CALLS:
            inner = _called(equation.params)
            held = [flat.new(0) for _ in inner.constvars]
            outputs = _flatten(inner, inputs, held, size, flat)
            number |= dict(zip(equation.outvars, outputs, strict=True))
            continue
        outputs = [flat.new(size(v.aval)) for v in equation.outvars]
        number |= dict(zip(equation.outvars, outputs, strict=True))
        inside, flops = _inside(name, equation, size)
        flat.steps.append(_Step(name, inputs, outputs, inside))
        flat.flops += flops
    return [read(v) for v in jaxpr.outvars]


def _called(params: Mapping[str, Any]) -> Jaxpr:
    return _opened(next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params))


def _opened(program: Jaxpr | ClosedJaxpr) -> Jaxpr:
    """Versions of jax differ in which of them a parameter is."""
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def _inside(name: str, equation: Any, size) -> tuple[int, float]:
    """(bytes, flops) of the body of a loop or branch; (0, flops) of a matrix product."""
    params = equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        depth = math.prod(shape[axis] for axis in contracted)
        return 0, 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "scan":
        body = _opened(params["jaxpr"])
        # What is scanned over, and what is stacked up, has an axis more outside than inside.
        inputs = zip(equation.invars, body.invars, strict=True)
        results = zip(equation.outvars, body.outvars, strict=True)
        slices = {i for i, (out, of) in enumerate(inputs) if out.aval.shape != of.aval.shape}
        carried = {i for i, (out, of) in enumerate(results) if out.aval.shape == of.aval.shape}
        peak, flops = _walk(body, size, slices, carried)
        return peak, flops * params["length"]
    if name == "while":  # how often it runs is not known; once
        return _walk(_opened(params["body_jaxpr"]), size)
    if name == "cond":
        costs = [_walk(_opened(branch), size) for branch in params["branches"]]
        return max(peak for peak, _ in costs), max(flops for _, flops in costs)
    return 0, 0.0


def _peak(flat: _Flat, given: set[int], carried: set[int]) -> int:
    """Largest sum of sizes alive at once."""
    arrays = set(given)
    for step in flat.steps:
        if step.name in KERNELS or step.name in LOOPS:
            arrays.update(step.inputs)
        if _writes(step.name):
            arrays.update(step.outputs)
    needs: dict[int, frozenset[int]] = {v: frozenset({v}) for v in arrays}
    needs |= {v: frozenset() for v in range(len(flat.sizes)) if v not in arrays}
    born: dict[int, int] = {}
    last: dict[int, int] = {}
    made_of: dict[int, frozenset[int]] = {}
    for i, step in enumerate(flat.steps):
        reads = frozenset().union(*(needs[v] for v in step.inputs)) if step.inputs else frozenset()
        if _writes(step.name):
            for v in reads:
                last[v] = i
                if v not in born:  # elementwise until now: written by the kernel before this
                    born[v] = i
                    for source in made_of.get(v, ()):
                        last[source] = max(last.get(source, 0), i)
            born |= {v: i for v in step.outputs}
            continue
        for v in step.outputs:
            made_of[v] = reads
            if v not in arrays:
                needs[v] = reads
    end = len(flat.steps)
    for v in carried:
        for source in needs[v]:
            last[source] = end
    events: list[list[int]] = [[] for _ in range(end + 1)]
    for v, i in born.items():
        if v not in given:
            events[i].append(v)
    alive = peak = 0
    ends: dict[int, int] = {}
    for i, step in enumerate(flat.steps):
        for v in events[i]:
            alive += flat.sizes[v]
            done = last.get(v, i)
            ends[done] = ends.get(done, 0) + flat.sizes[v]
        peak = max(peak, alive + step.inside)
        alive -= ends.pop(i, 0)
    return peak


def _writes(name: str) -> bool:
    return (
        name in KERNELS or name in LOOPS or name in READERS or name.startswith("reduce_")
    ) and name != "reduce_precision"


def _item_bytes(dtype: Any) -> int:
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return 8
    return dtype.itemsize
