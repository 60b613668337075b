"""Where arrays live: one mesh with the axes ("data", "fsdp"), decided here and nowhere else.

The batch is split over both axes. Parameters are split over "fsdp" by a rule of path and shape, so
one device, data parallelism and fully sharded parameters are the same program.
"""

import math
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    get_abstract_mesh,
    use_abstract_mesh,
)
from jax.sharding import PartitionSpec as P

from surgjax.errors import UserError

AnyMesh = Mesh | AbstractMesh  # of devices, or of their number alone
MIN_SHARDED_SIZE = 2**16  # smaller tensors cost more to gather than to keep whole


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """The mesh over all devices of all processes; `data` or `fsdp` = -1 takes what is left.

    Devices are ordered by process, so that the batch rows of a process are contiguous.
    Raises UserError when the axes do not multiply to the number of devices.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    data, fsdp = axis_sizes(data, fsdp, len(devices))
    grid = np.array(devices).reshape(data, fsdp)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def axis_sizes(data: int, fsdp: int, count: int) -> tuple[int, int]:
    """Both axes over `count` devices; -1 takes what is left.

    Raises UserError when they do not multiply to the number of devices.
    """
    if data == -1 and fsdp > 0:
        data = count // fsdp
    elif fsdp == -1 and data > 0:
        fsdp = count // data
    if data < 1 or fsdp < 1 or data * fsdp != count:
        raise UserError(
            f"mesh.data={data} x mesh.fsdp={fsdp} does not make the {count} devices present; "
            f"set mesh.data=-1 and mesh.fsdp to a divisor of {count}"
        )
    return data, fsdp


def param_spec(path: str, shape: tuple[int, ...], axis_size: int) -> P:
    """Split the largest dimension the axis divides; small tensors and the layer axis stay whole."""
    if axis_size == 1 or math.prod(shape) < MIN_SHARDED_SIZE:
        return P()
    first = 1 if "/blocks/" in f"/{path}" else 0  # the scanned layer axis is never split
    fits = [i for i in range(first, len(shape)) if shape[i] % axis_size == 0]
    split = max(fits, key=lambda i: shape[i], default=None)
    return P(*("fsdp" if i == split else None for i in range(len(shape))))


def state_shardings(mesh: AnyMesh, abstract: Any) -> Any:
    """A tree of shardings for any tree of shapes whose dict keys are parameter paths."""

    def place(path, leaf):
        name = "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
        return NamedSharding(mesh, param_spec(name, leaf.shape, mesh.shape["fsdp"]))

    return jax.tree_util.tree_map_with_path(place, abstract)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Axis 0 of every array of a batch, over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
    """This process's rows of the global batch -> global arrays. `index` travels as uint32."""
    sharding = batch_sharding(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        rows = rows.astype(np.uint32) if rows.dtype == np.int64 else rows
        shape = (batch_size, *rows.shape[1:])
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return {name: put(rows) for name, rows in batch.items()}


def devices_at_hand() -> int:
    """Devices of the mesh inside `on_mesh`; 1 outside."""
    return max(1, get_abstract_mesh().size)


def on_mesh(mesh: AnyMesh) -> AbstractContextManager:
    """Inside jit: what is traced in this context may say where its arrays live."""
    return use_abstract_mesh(mesh.abstract_mesh)


def everywhere(tree: Any) -> Any:
    """Inside `on_mesh`, every array whole on every device: gathered once, here. Else unchanged."""
    if get_abstract_mesh().empty:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P()), tree)


def host_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """(first, last + 1) of the global batch rows that this process must provide.

    Raises UserError when the mesh does not divide the batch.
    """
    devices = mesh.devices.size
    if batch_size % devices:
        raise UserError(
            f"batch_size={batch_size} is not divisible by the {devices} devices of the mesh; "
            f"nearest: {max(devices, round(batch_size / devices) * devices)}"
        )
    mine = [i for i, d in enumerate(mesh.devices.flat) if d.process_index == jax.process_index()]
    rows = batch_size // devices
    return mine[0] * rows, (mine[-1] + 1) * rows


def to_host(tree: Any) -> Any:
    """Every leaf whole, as numpy, on every process (all processes must call it)."""
    if jax.process_count() > 1:
        whole = jax.tree.map(lambda x: NamedSharding(x.sharding.mesh, P()), tree)
        tree = jax.jit(lambda x: x, out_shardings=whole)(tree)
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)
    return jax.device_get(tree)
