"""The wish to stop, of all processes: it travels through the step, so that all leave together.

A process that has no batch, because its data stall or its loader was lost, makes the step void.
"""

import jax
import numpy as np
from jax.sharding import Mesh

from surgjax.preemption import StopSignal
from surgjax.sharding import batch_sharding

VOID = 256  # added to the flag of a process that has no batch; more than any exit code


class StopFlags:
    """What this process wishes, as a global array that the step reduces to its maximum."""

    def __init__(self, mesh: Mesh, signal: StopSignal):
        self._signal, self._devices = signal, mesh.devices.size
        self._sharding = batch_sharding(mesh)
        self._local = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)

    def put(self, has_batch: bool) -> jax.Array:
        """(devices,) int32: the code to leave with or 0, plus VOID where the step is void."""
        flag = self._signal.code + (0 if has_batch else VOID)
        flags = np.full(self._local, flag, np.int32)
        return jax.make_array_from_process_local_data(self._sharding, flags, (self._devices,))


def read_flags(reduced: jax.Array) -> tuple[int, bool]:
    """(code to leave with or 0, whether the step was void), the same on all processes."""
    return int(reduced) % VOID, int(reduced) >= VOID
