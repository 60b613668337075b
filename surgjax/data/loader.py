"""Batches of the plan, loaded ahead by grain on threads or processes.

The plan decides everything; grain only runs the work early and in parallel. An element of its
data set is the host's part of one group of steps (one step unless clips_per_window > 1).
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence

import numpy as np

from surgjax.data import clip as clips
from surgjax.data.batch import BATCH
from surgjax.data.plan import ClipShape, Plan
from surgjax.data.store import Store
from surgjax.data.transforms import MULTISCALE, Augmentation
from surgjax.errors import UserError
from surgjax.testing import fault

PREFETCH = 16  # elements ahead, fewer where they are large
PREFETCH_BYTES = 4 << 30
WORKER_BUFFER = 2  # elements each worker process keeps ready
MIN_BAD = 8  # substituted clips below which no share is judged

log = logging.getLogger(__name__)


def train_batches(
    plan: Plan,
    stores: Sequence[Store],
    *,
    clip: ClipShape,
    start_step: int,
    stop_step: int,
    host: int = 0,
    num_hosts: int = 1,
    workers: int = 0,
    augment: Augmentation = MULTISCALE,
    max_bad_share: float = 0.01,
    on_bad: Callable[[str, str, int, str], None] | None = None,
) -> "TrainBatches":
    """Iterator of (batch, stats) for steps start_step to stop_step - 1; close it or use `with`.

    Args:
      plan: what to load; the stores must be those it was made of.
      clip: the plan's.
      host, num_hosts: this host takes rows [host B / num_hosts, (host + 1) B / num_hosts).
      workers: processes that load; 0 loads on threads of this process.
      augment: crop and colours of the clips.
      max_bad_share: share of substituted clips beyond which loading stops.
      on_bad: called with (store, video_id, frame, reason) for every unreadable record; by default
        they are logged as warnings.

    stats of a batch: "wait_s" seconds waited for it, "clips" in it, "frames_decoded" for them,
    "substituted" clips.

    Raises:
      UserError: a batch the hosts do not divide, too little shared memory for the workers; while
        iterating: more than max_bad_share of the clips unreadable.
      LoaderLost: while iterating: one of the workers was killed.
    """
    if plan.batch_size % num_hosts:
        raise UserError(f"batch_size {plan.batch_size} is not a multiple of the {num_hosts} hosts")
    if clip != plan.clip or [s.path for s in stores] != [s.path for s in plan.stores]:
        raise ValueError("the plan was made for another clip shape or other stores")
    share = plan.batch_size // num_hosts
    if share % plan.repeats:
        raise UserError(
            f"a host's {share} clips are not a multiple of data.repeats={plan.repeats}; choose "
            f"another batch_size"
        )
    work = _LoadGroup(plan, list(stores), slice(host * share, (host + 1) * share), augment)
    groups = range(start_step // plan.clips_per_window, -(-stop_step // plan.clips_per_window))
    source = _grain_iterator(work, groups, workers)
    return TrainBatches(source, work, start_step, stop_step, max_bad_share, on_bad)


class LoaderLost(Exception):
    """A loading process ended; a new start of the run may go well."""


class TrainBatches:
    """See `train_batches`."""

    def __init__(self, source, work, start_step, stop_step, max_bad_share, on_bad):
        self._source, self._work = source, work
        self._step, self._stop = start_step, stop_step
        self._max_bad_share, self._on_bad = max_bad_share, on_bad
        self._group, self._clips, self._bad = None, 0, []
        self._substituted = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __iter__(self):
        return self

    def __next__(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        if self._source is None or self._step >= self._stop:
            raise StopIteration
        k = self._work.plan.clips_per_window
        start = time.perf_counter()
        if self._group is None:
            try:
                self._group = next(self._source)
            except RuntimeError as error:
                if "terminated unexpectedly" not in str(error):  # grain's words
                    raise
                raise LoaderLost(
                    f"a loading process was killed, out of memory? ({error})"
                ) from error
        wait = time.perf_counter() - start
        group, j = self._group, self._step % k
        substituted = int(group["substituted"])
        self._clips += len(group["index"][j])
        self._substituted += substituted
        self._report(group)
        stats = {
            "wait_s": wait,
            "clips": len(group["index"][j]),
            "frames_decoded": int(group["frames_decoded"]) / k,
            "substituted": substituted,
        }
        # Worker processes hand over a subclass tied to shared memory; a view keeps that alive.
        batch = {name: group[name].view(np.ndarray)[j] for name in group if name in BATCH}
        self._step += 1
        if self._step % k == 0:
            self._group = None
        return batch, stats

    def blank(self) -> dict[str, np.ndarray]:
        """The batch that comes next, its video black: in place of one that cannot be waited for."""
        group, j = divmod(self._step, self._work.plan.clips_per_window)
        rows = self._work.plan.group_rows(group)[j, self._work.rows]
        made = {"index": rows["index"], **self._work.plan.extras(rows)}
        return {"video": np.zeros(self._work.shape[1:], np.uint8), **made}

    def close(self) -> None:
        """End the threads or processes; the iterator is finished afterwards."""
        source, self._source, self._group = self._source, None, None
        if source is not None:
            source.close()

    def _report(self, group: dict) -> None:
        for number, video, frame, reason in group.pop("bad", ()):
            store = self._work.stores[number]
            name = (store.name, store.video_id(video), int(frame))
            self._bad.append(name)
            if self._on_bad is not None:
                self._on_bad(*name, reason)
            else:
                log.warning("unreadable record: store %s video %s frame %d: %s", *name, reason)
        if group["error"]:
            raise UserError(group["error"])
        if self._substituted > max(MIN_BAD, self._max_bad_share * self._clips):
            share = self._substituted / self._clips
            first = ", ".join("{}:{}:{}".format(*name) for name in self._bad[:5])
            raise UserError(
                f"{self._substituted} of {self._clips} clips ({share:.1%}) could not be read, more "
                f"than the {self._max_bad_share:.1%} allowed; the first records: {first}; run "
                "`python -m data_prep verify` on the store"
            )


class _LoadGroup:
    """Group number -> the host's arrays of its k steps; travels to the worker processes."""

    def __init__(self, plan: Plan, stores: list[Store], rows: slice, augment: Augmentation):
        self.plan, self.stores, self.rows, self.augment = plan, stores, rows, augment

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.plan.clip
        size = self.rows.stop - self.rows.start
        return (self.plan.clips_per_window, size, shape.frames, shape.size, shape.size, 3)

    def __call__(self, group: int) -> dict:
        fault("loader_item", int(group))
        rows = self.plan.group_rows(int(group))[:, self.rows]
        video, read = np.empty(self.shape, np.uint8), rows.copy()
        repeats = self.plan.repeats
        bad: list[tuple[int, int, int, str]] = []
        decoded = substituted = 0
        error = ""
        try:
            for r in range(0, rows.shape[1], repeats):
                # The clips of one window: k of the same row, or the repeats of one step.
                window = (0, slice(r, r + repeats)) if repeats > 1 else (slice(None), r)
                before = len(bad)
                read[window], count = clips.decode_rows(
                    self.stores,
                    self.plan,
                    rows[window],
                    self.augment,
                    video[window],
                    lambda *record: bad.append(record),
                )
                decoded += count
                substituted += len(bad) > before
        except UserError as failure:  # kept as text: a worker process would change its type
            error = str(failure)
        extras = self.plan.extras(read.reshape(-1)) if not error else {}
        return {
            "video": video,
            "index": read["index"],
            **{name: x.reshape(*rows.shape, *x.shape[1:]) for name, x in extras.items()},
            "frames_decoded": decoded,
            "substituted": substituted,
            "bad": bad,
            "error": error,
        }


def _grain_iterator(work: _LoadGroup, groups: range, workers: int):
    # Imported here because grain loads jax, which readers of a store need not have.
    import grain
    from absl import flags

    # Processes inherit absl's flags, and grain refuses while they are unparsed, as they are in any
    # program that does not start through absl.app.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    element = int(np.prod(work.shape))
    ahead = max(2, min(PREFETCH, PREFETCH_BYTES // element))
    dataset = grain.MapDataset.range(groups.start, groups.stop).map(work)
    if not workers:
        threads = min(ahead, len(os.sched_getaffinity(0)))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        return _started(dataset.to_iter_dataset(options))
    _check_shared_memory(element, workers)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=WORKER_BUFFER)
    processes = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=WORKER_BUFFER
    )
    return _started(dataset.to_iter_dataset(options).mp_prefetch(processes))


def _started(dataset):
    """An iterator that loads already while the caller compiles its first step."""
    iterator = iter(dataset)
    iterator.start_prefetch()
    return iterator


def _check_shared_memory(element: int, workers: int) -> None:
    if not os.path.isdir("/dev/shm"):
        return
    need, free = workers * (WORKER_BUFFER + 2) * element, shutil.disk_usage("/dev/shm").free
    if free < need:
        raise UserError(
            f"/dev/shm has {free >> 20} MiB free and {workers} worker processes need up to "
            f"{(need >> 20) + 1} MiB for batches; give the container more (docker run "
            "--shm-size=16g), or set data.workers=0 to load on threads"
        )
