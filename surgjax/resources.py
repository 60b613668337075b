"""What a run will take, before there is hardware, data or a weight: `surgjax.main --plan`.

Bytes of arrays that live through a step follow from shapes and shardings, and are exact. What a
step needs besides is estimated from its trace (traced.py); times are operations and bytes over
given rates. Nothing is allocated and nothing compiled.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from surgjax import config
from surgjax.build import Learner, batch_shapes, make_learner, make_step
from surgjax.complete import complete
from surgjax.data import loader
from surgjax.errors import UserError
from surgjax.progress import PEAK_FLOPS
from surgjax.sharding import axis_sizes, state_shardings
from surgjax.state import split
from surgjax.traced import Cost, cost

RESERVE = 0.1  # of a device's memory: fragmentation, collectives' buffers, CUDA and its libraries
UTILISATION = 0.35  # assumed: of the peak, by all operations that are run
BANDWIDTH = 25e9  # assumed: bytes/s a device sends; PCIe 4.0 x16, or a 200 Gbit/s card each
HOST_DEVICES = 8  # assumed: at most so many on a host
CLASSES = 20  # assumed: of each task while no store is given
# GB of a device -> the kind whose peak is taken.
KINDS = {24: "NVIDIA L4", 48: "NVIDIA L40S", 80: "NVIDIA A100", 141: "NVIDIA H200"}
FITS, DOES_NOT_FIT = 0, 1


@dataclass(frozen=True)
class Plan:
    """What one device holds and does in a step; the devices are alike.

    Attributes:
      data, fsdp: axes of the mesh.
      accumulation, remat: as in the config.
      rows: clips of a micro-batch.
      held: name -> exact bytes that live through a step: parameters, optimizer moments, average,
        frozen, teacher.
      gradients: exact bytes of one set.
      batch: exact bytes of this device's clips.
      activations: estimate of all else that is alive at once.
      host: bytes of clips ready ahead in a host's memory.
      checkpoint, kept_once: bytes on disk of a checkpoint's arrays, and of those written once.
      flops: useful operations, forward and backward.
      executed: estimate of those run; recomputation is in it.
      gathered, reduced: estimates of bytes sent for parameters and for gradients.
    """

    data: int
    fsdp: int
    accumulation: int
    remat: str
    rows: int
    held: Mapping[str, int]
    gradients: int
    batch: int
    activations: int
    host: int
    checkpoint: int
    kept_once: int
    flops: float
    executed: float
    gathered: float
    reduced: float

    @property
    def total(self) -> int:
        """Bytes at the fullest moment: the next batch arrives while a step runs."""
        return sum(self.held.values()) + self.gradients + self.activations + 2 * self.batch

    def fits(self, memory: float | int) -> bool:
        """Whether a device of so many bytes can do it, with `RESERVE` kept free."""
        return self.total <= (1 - RESERVE) * memory

    def seconds(self, peak: float) -> float:
        """Estimate of a step at `peak` FLOP/s: computing, then sending, one after the other."""
        return self.executed / (peak * UTILISATION) + (self.gathered + self.reduced) / BANDWIDTH


def show(cfg: ConfigDict, devices: int = 0, memory: int = 0, peak: float = 0.0) -> int:
    """Print the plan of a config.

    Args:
      devices: how many; 0 for those that are here.
      memory: GB (10^9 bytes) of each; 0 gives no verdict.
      peak: TFLOP/s of each; 0 takes the kind in `KINDS`.

    Returns:
      0; or 1 when `memory` is given and not enough.

    Raises:
      UserError: a mistake in the config, or a batch that the devices do not divide.
    """
    if devices:
        jax.config.update("jax_platforms", "cpu")  # and take no memory of a device that is here
    else:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        devices = jax.device_count()
    cfg, assumed = whole(cfg)
    found = plan(cfg, devices)
    print("\n".join(_lines(cfg, found, assumed)))
    print(_times(cfg, found, peak, memory))
    if not memory:
        return FITS
    room = f"{memory} GB less {RESERVE:.0%}"
    if found.fits(memory * 1e9):
        print(f"fits: YES, {_gb(found.total)} of {room}")
        return FITS
    print(f"fits: NO, {_gb(found.total)} of {room}")
    change = first_fit(cfg, devices, memory * 1e9)
    if change is None:
        print("no accumulation, remat or mesh.fsdp makes it fit; more devices or a smaller model")
    else:
        print(f"fits with {' '.join(changes(cfg, change))}: {_gb(change.total)}")
    return DOES_NOT_FIT


def whole(cfg: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """(the checked config with its arguments filled in, what had to be assumed).

    Stores are opened where an objective's shapes depend on them, if they are given.

    Raises:
      UserError: as `config.check` and `complete`.
    """
    cfg, assumed = cfg.copy_and_resolve_references(), []
    stores = cfg.data.stores
    cfg.data.stores = stores or "not given"
    config.check(cfg)
    cfg.data.stores = stores
    objective = config.component("surgjax.objectives", cfg.objective.name, "Objective")
    if not stores and objective.from_stores is not None:
        tasks = [name.strip() for name in cfg.objective.get("task", "").split(",")]
        classes = {"kind": "one_of_n", "classes": [str(i) for i in range(CLASSES)]}
        with cfg.unlocked():
            cfg.objective.labels = ConfigDict({name: classes for name in tasks})
        assumed.append(f"{CLASSES} classes a task: data.stores is empty")
    if cfg.epochs and not stores:
        cfg.total_steps, cfg.epochs, cfg.warmup_epochs = 1, 0.0, 0.0
        assumed.append("the number of steps is not known: it follows from epochs and data.stores")
    teacher = cfg.objective.get("teacher")
    if teacher and teacher.get("weights", "") in ("", "random") and not teacher.get("size"):
        with cfg.unlocked():
            cfg.objective.teacher.size = "L"
        assumed.append("a teacher of size L (EndoSSL's): objective.teacher.weights is empty")
    return complete(cfg), assumed


def plan(cfg: ConfigDict, devices: int) -> Plan:
    """The plan of a config that `whole` has filled in, on so many devices; computes in bfloat16.

    Raises:
      UserError: axes that do not make the devices, or a batch that they do not divide.
    """
    axes = axis_sizes(cfg.mesh.data, cfg.mesh.fsdp, devices)
    unit = cfg.accumulation * devices
    share, rest = divmod(cfg.batch_size, unit)
    if rest:
        raise UserError(
            f"batch_size={cfg.batch_size} is not divisible by accumulation={cfg.accumulation} x "
            f"{devices} devices; nearest: {max(1, round(share + rest / unit)) * unit}"
        )
    learner = make_learner(cfg, dtype=jnp.bfloat16)
    state = learner.abstract(_mesh(*axes))
    teacher, taught = None, {}
    if learner.make_teacher is not None:
        teacher = nnx.eval_shape(lambda: learner.make_teacher(jax.random.key(0)))
        taught = split(teacher)[1]
        places = state_shardings(_mesh(*axes), taught)
        taught = jax.tree.map(_placed, taught, places)
    clips = share * cfg.accumulation
    batch = batch_shapes(cfg, learner, clips)
    sizes = {
        "parameters": _held(state.params),
        "optimizer moments": _held(state.opt_state),
        "average": _held(state.ema),
        "frozen": _held(state.frozen),
        "teacher": _held(taught),
    }
    gradients = sizes["parameters"]  # shaped, typed and placed like them
    used = step_cost(cfg, learner, batch, teacher, _parts((state, taught), axes[1]))
    saved = (state.params, state.opt_state, state.ema)
    trained, fixed = _split_whole(state.params), _split_whole((state.frozen, taught))
    gathered, reduced = _sent(trained, fixed, *axes, cfg.accumulation)
    return Plan(
        *axes,
        accumulation=cfg.accumulation,
        remat=cfg.encoder.remat,
        rows=share,
        held={name: size for name, size in sizes.items() if size},
        gradients=gradients,
        batch=_bytes(batch),
        activations=max(0, used.bytes - gradients),
        host=_ahead(cfg, devices),
        checkpoint=_bytes(saved),
        kept_once=_bytes(state.frozen),
        flops=learner.flops_per_clip * clips,
        executed=used.flops,
        gathered=gathered,
        reduced=reduced,
    )


def step_cost(
    cfg: ConfigDict,
    learner: Learner,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    teacher: nnx.Module | None = None,
    parts: Mapping[tuple[int, ...], int] | None = None,
) -> Cost:
    """The cost of a training step as one device sees it, on its own rows alone.

    Args:
      teacher: without its weights.
      parts: as in `traced.cost`.
    """
    mesh = _mesh(1, 1)
    state = learner.abstract(mesh)
    step = make_step(learner, cfg, mesh, state, teacher)
    stop = jax.ShapeDtypeStruct((1,), jnp.int32)
    taught = split(teacher)[1] if teacher is not None else None
    return cost(step.trace(state, batch, stop, taught).jaxpr, parts)


def first_fit(cfg: ConfigDict, devices: int, memory: float | int) -> Plan | None:
    """The first plan of the same batch that fits: more accumulation, then with remat, then with
    parameters split further (mesh.fsdp); None when none does."""
    axes = axis_sizes(cfg.mesh.data, cfg.mesh.fsdp, devices)
    rows = cfg.batch_size // devices
    parts = [n for n in range(cfg.accumulation, rows + 1) if rows % n == 0]
    levels = list(dict.fromkeys([cfg.encoder.remat, *("dots", "full")]))
    levels = levels[: levels.index("full") + 1]
    for fsdp in (n for n in range(axes[1], devices + 1) if devices % n == 0):
        for remat in levels:
            smallest = _changed(cfg, devices, fsdp, remat, parts[-1])
            if not smallest.fits(memory):
                continue
            # The fewest parts that fit, by halving: more parts never need more.
            low, high, best = 0, len(parts) - 1, smallest
            while low < high:
                middle = (low + high) // 2
                tried = _changed(cfg, devices, fsdp, remat, parts[middle])
                if tried.fits(memory):
                    high, best = middle, tried
                else:
                    low = middle + 1
            return best
    return None


def changes(cfg: ConfigDict, other: Plan) -> list[str]:
    """Flags that turn the config into that of another plan."""
    fields = (
        ("accumulation", cfg.accumulation, other.accumulation),
        ("encoder.remat", cfg.encoder.remat, other.remat),
        ("mesh.fsdp", cfg.mesh.fsdp, other.fsdp),
    )
    return [f"--config.{name}={new}" for name, old, new in fields if old != new]


def out_of_memory(cfg: ConfigDict, error: Exception) -> str:
    """One line for a run that ran out of memory: what it had, and what makes it smaller."""
    first = " ".join(str(error).split())[:160] or "MemoryError"
    clips = cfg.batch_size // cfg.accumulation
    return (
        f"out of memory with {clips} clips a micro-batch on {jax.device_count()} devices "
        f"({first}); raise accumulation (now {cfg.accumulation}), set encoder.remat (now "
        f"{cfg.encoder.remat}), raise mesh.fsdp (now {cfg.mesh.fsdp}) or lower batch_size; --plan "
        f"says what fits"
    )


def _changed(cfg: ConfigDict, devices: int, fsdp: int, remat: str, accumulation: int) -> Plan:
    cfg = cfg.copy_and_resolve_references()
    cfg.mesh.data, cfg.mesh.fsdp = devices // fsdp, fsdp
    cfg.encoder.remat, cfg.accumulation = remat, accumulation
    return plan(cfg, devices)


def _mesh(data: int, fsdp: int) -> AbstractMesh:
    return AbstractMesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _held(tree: Any) -> int:
    """Bytes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _bytes(tree: Any) -> int:
    """Bytes of all of it."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _is_split(leaf: Any) -> bool:
    return leaf.sharding.shard_shape(leaf.shape) != leaf.shape


def _parts(tree: Any, fsdp: int) -> dict[tuple[int, ...], int]:
    return {leaf.shape: fsdp for leaf in jax.tree.leaves(tree) if _is_split(leaf)}


def _split_whole(tree: Any) -> tuple[int, int]:
    """(bytes of leaves that are split over fsdp, bytes of the others)."""
    leaves = jax.tree.leaves(tree)
    divided = [leaf for leaf in leaves if _is_split(leaf)]
    return _bytes(divided), _bytes(leaves) - _bytes(divided)


def _sent(
    trained: tuple[int, int], fixed: tuple[int, int], data: int, fsdp: int, accumulation: int
) -> tuple[float, float]:
    """(bytes a device sends to gather parameters, to reduce gradients) in a step, in rings.

    Over n devices, a ring gathers or reduce-scatters b bytes by sending b (n - 1) / n, and
    all-reduces them by sending twice that. Split leaves are gathered for the forward and for the
    backward pass of every micro-batch; gradients are reduced for every micro-batch, split ones over
    fsdp first, then their shards over data.
    """
    ring = lambda size, n: size * (n - 1) / n  # noqa: E731
    gathered = ring(2 * trained[0] + 2 * fixed[0], fsdp)
    reduced = ring(trained[0], fsdp) + 2 * ring(trained[0] / fsdp, data)
    reduced += 2 * ring(trained[1], data * fsdp)
    return gathered * accumulation, reduced * accumulation


def _ahead(cfg: ConfigDict, devices: int) -> int:
    """Bytes of clips that a host's loader keeps ready, as data/loader.py has them."""
    clips = cfg.batch_size // devices * min(devices, HOST_DEVICES)
    element = cfg.data.clips_per_window * clips * cfg.data.frames * cfg.data.size**2 * 3
    if cfg.data.workers:
        return cfg.data.workers * (loader.WORKER_BUFFER + 2) * element
    return max(2, min(loader.PREFETCH, loader.PREFETCH_BYTES // element)) * element


def _lines(cfg: ConfigDict, found: Plan, assumed: list[str]) -> list[str]:
    data = cfg.data
    once = f", {_gb(found.kept_once)} of frozen leaves once" if found.kept_once else ""
    return [
        f"{cfg.objective.name}, {data.frames} x {data.size} x {data.size}, batch {cfg.batch_size}, "
        f"devices {found.data * found.fsdp} (data {found.data} x fsdp {found.fsdp})",
        f"a device: {found.accumulation} x {found.rows} clips, remat {found.remat}, bfloat16",
        *(f"assumed: {what}" for what in assumed),
        "exact, of the fullest device:",
        *(_row(name, size) for name, size in found.held.items()),
        _row("gradients", found.gradients),
        _row("batch", found.batch, "twice: the next arrives meanwhile"),
        "estimated, of the fullest device:",
        _row("activations", found.activations, "all else alive at once, from the trace"),
        _row("total", found.total),
        f"host: up to {_gb(found.host)} of clips ahead ({data.workers} workers, at most "
        f"{HOST_DEVICES} devices a host)",
        f"disk: {_gb(found.checkpoint)} a checkpoint before compression{once}; "
        f"checkpoint.keep={cfg.checkpoint.keep}, and one is being written",
    ]


def _row(name: str, size: int, note: str = "") -> str:
    return f"  {name:<18}{size:>18,} bytes {_gb(size):>10}  {note}".rstrip()


def _times(cfg: ConfigDict, found: Plan, peak: float, memory: int) -> str:
    """Estimates of what a device computes and sends in a step, and how long that takes.

    Args:
      peak: TFLOP/s of a device, or 0. memory: its GB, or 0.
    """
    kind = KINDS.get(memory, "")
    rate = peak * 1e12 or PEAK_FLOPS.get(kind)
    sent = (
        f"estimated, a step of a device: {found.executed / 1e12:.4g} TFLOP "
        f"({found.flops / 1e12:.4g} useful), sends {_gb(found.gathered)} to gather parameters and "
        f"{_gb(found.reduced)} to reduce gradients"
    )
    if not rate:
        return f"{sent}; --peak=TFLOP/S says how long it takes"
    seconds = found.seconds(rate)
    hours = f", {cfg.total_steps * seconds / 3600:.3g} h in all" if cfg.total_steps > 1 else ""
    return (
        f"{sent}\nestimated: {seconds:.3g} s a step{hours}, at {UTILISATION:.0%} (assumed) of "
        f"{rate / 1e12:g} TFLOP/s{'' if peak else f' ({kind})'} and {BANDWIDTH / 1e9:g} GB/s "
        f"(assumed)"
    )


def _gb(size: float | int) -> str:
    return f"{size / 1e9:.2f} GB"
