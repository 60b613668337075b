import gc
import logging
import multiprocessing
import pickle
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from surgjax.data import batch as batches
from surgjax.data import loader
from surgjax.data.clip import decode_clip
from surgjax.data.plan import ClipShape, Plan
from surgjax.data.store import open_store
from surgjax.data.transforms import CENTRE, MULTISCALE
from surgjax.errors import UserError

SHAPE = ClipShape(4, 2, 32)


def make_plan(stores, batch_size=8, **options):
    masks = [np.ones(len(store), bool) for store in stores]
    return Plan(stores, masks, SHAPE, batch_size, seed=3, **options)


def load(plan, start=0, stop=6, **options):
    with loader.train_batches(
        plan, plan.stores, clip=SHAPE, start_step=start, stop_step=stop, **options
    ) as source:
        return [({k: v.copy() for k, v in batch.items()}, stats) for batch, stats in source]


def same(first, second):
    assert len(first) == len(second)
    for (a, _), (b, _) in zip(first, second, strict=True):
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def damage(path, shard):
    file = sorted(path.glob("*array_record*"))[shard]
    data = bytearray(file.read_bytes())
    first = data.find(b"\xff\xd8\xff")
    data[first + 100 : first + 140] = bytes(40)
    file.write_bytes(data)


@pytest.fixture(scope="module")
def stores(made_store, make_store, tmp_path_factory):
    other = make_store(tmp_path_factory.mktemp("other") / "other", (30,), frames_per_record=8)
    return [open_store(made_store), open_store(other)]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    before = {p.name for p in Path("/dev/shm").glob("psm_*")}
    yield
    left = [t for t in threading.enumerate() if t.name.startswith("grain")]
    for thread in left:
        thread.join(10)
    assert not [t for t in left if t.is_alive()]
    assert not multiprocessing.active_children()
    gc.collect()  # grain's iterators are reference cycles
    for _ in range(50):  # grain frees shared memory on a thread of its own
        if not {p.name for p in Path("/dev/shm").glob("psm_*")} - before:
            return
        time.sleep(0.1)
    raise AssertionError("shared memory left behind")


@pytest.mark.parametrize("k", [1, 3])
def test_batches_hold_the_pixels_of_the_plans_rows(stores, k):
    plan = make_plan(stores, weights="0.6,0.4", clips_per_window=k)
    loaded = load(plan)
    assert len(loaded) == 6
    for step, (batch, stats) in enumerate(loaded):
        batches.check(batch, b=8, t=4, h=32, w=32)
        rows = plan.rows(step)
        np.testing.assert_array_equal(batch["index"], rows["index"])
        for r, row in enumerate(rows):
            clip = decode_clip(stores[row["store"]], row, SHAPE, MULTISCALE)
            np.testing.assert_array_equal(batch["video"][r], clip)
        assert stats["clips"] == 8 and stats["substituted"] == 0 and stats["wait_s"] >= 0
        if k == 1:
            assert stats["frames_decoded"] == 8 * 4
        else:  # at least frames + k - 1 a window, less than decoding each clip
            assert 8 * (4 + k - 1) / k <= stats["frames_decoded"] < 8 * 4


@pytest.mark.parametrize("k, hosts", [(1, 2), (1, 4), (3, 2)])
def test_hosts_share_the_rows_of_a_step(stores, k, hosts):
    plan = make_plan(stores, clips_per_window=k)
    whole = load(plan)
    parts = [load(plan, host=host, num_hosts=hosts) for host in range(hosts)]
    for step in range(6):
        for name in ("video", "index"):
            joined = np.concatenate([part[step][0][name] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][0][name])


@pytest.mark.parametrize("k, start", [(1, 1), (1, 4), (3, 1), (3, 2), (3, 5)])
def test_starting_at_a_step_is_continuing(stores, k, start):
    plan = make_plan(stores, clips_per_window=k)
    same(load(plan, start=start, stop=7), load(plan, stop=7)[start:])


def test_processes_deliver_and_report_what_threads_do(tmp_path, make_store):
    path = make_store(tmp_path / "s", frames=(200,), records_per_shard=50)
    damage(path, 2)
    plan = make_plan([open_store(path)], clips_per_window=2)
    found = []
    for workers in (0, 2):
        bad = []
        loaded = load(
            plan,
            start=1,
            workers=workers,
            max_bad_share=0.5,
            on_bad=lambda *record, to=bad: to.append(record),
        )
        found.append((loaded, bad))
    same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] != []


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_early_leaves_nothing_running(stores, workers):
    plan = make_plan(stores)
    source = loader.train_batches(
        plan, stores, clip=SHAPE, start_step=0, stop_step=10**6, workers=workers
    )
    batch, _ = next(source)
    assert batch["video"].any()
    del batch
    source.close()
    source.close()
    with pytest.raises(StopIteration):
        next(source)


def test_unreadable_records_are_replaced_counted_and_named(tmp_path, make_store, caplog):
    path = make_store(tmp_path / "s", frames=(200,), records_per_shard=50)
    damage(path, 2)  # its first record, frame 100
    plan = make_plan([open_store(path)])
    bad = []
    loaded = load(plan, max_bad_share=0.5, on_bad=lambda *b: bad.append(b))
    changed = sum(
        (batch["index"] != plan.rows(step)["index"]).sum() for step, (batch, _) in enumerate(loaded)
    )
    assert 0 < sum(stats["substituted"] for _, stats in loaded) == changed <= len(bad)
    assert {record[:3] for record in bad} == {("s", "video00", 100)}
    assert all("orrupt" in reason for *_, reason in bad)
    same(loaded, load(plan, max_bad_share=0.5, on_bad=lambda *b: None))
    with caplog.at_level(logging.WARNING):
        load(plan, max_bad_share=0.5)
    assert "unreadable record: store s video video00 frame 100" in caplog.text


def test_too_many_unreadable_records_stop_the_run(tmp_path, make_store):
    path = make_store(tmp_path / "s", frames=(64,), records_per_shard=16)
    sorted(path.glob("*array_record*"))[1].write_bytes(b"")
    plan = make_plan([open_store(path)])
    with pytest.raises(UserError, match=r"of \d+ clips .* could not be read, more than the 1.0%"):
        load(plan, stop=20, on_bad=lambda *b: None)


def test_a_missing_shard_stops_the_run_from_a_worker_too(tmp_path, make_store):
    path = make_store(tmp_path / "s")
    plan = make_plan([open_store(path)])
    for file in path.glob("*array_record*"):
        file.unlink()
    for workers in (0, 1):
        with pytest.raises(UserError, match="is missing; run"):
            load(plan, workers=workers)


def test_impossible_requests_are_refused(stores, monkeypatch):
    plan = make_plan(stores)
    with pytest.raises(UserError, match="batch_size 8 is not a multiple of the 3 hosts"):
        load(plan, num_hosts=3)
    with pytest.raises(ValueError, match="another clip shape"):
        loader.train_batches(plan, stores, clip=ClipShape(4, 1, 32), start_step=0, stop_step=1)
    usage = namedtuple("usage", "total used free")(64 << 20, 64 << 20, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"/dev/shm has 0 MiB free.*--shm-size.*data.workers=0"):
        load(plan, workers=2)


def test_prefetch_is_bounded_by_memory(stores, monkeypatch):
    work = loader._LoadGroup(make_plan(stores), stores, slice(0, 8), CENTRE)
    assert work.shape == (1, 8, 4, 32, 32, 3)
    calls = []
    monkeypatch.setattr(loader, "PREFETCH_BYTES", 3 * int(np.prod(work.shape)))
    original = loader._LoadGroup.__call__
    monkeypatch.setattr(
        loader._LoadGroup, "__call__", lambda s, g: calls.append(g) or original(s, g)
    )
    plan = make_plan(stores)
    with loader.train_batches(plan, stores, clip=SHAPE, start_step=0, stop_step=100) as source:
        next(source)
        next(source)
    assert max(calls) <= 2 + 3


def test_work_travels_light(stores):
    work = loader._LoadGroup(make_plan(stores), stores, slice(0, 8), CENTRE)
    again = pickle.loads(pickle.dumps(work))
    np.testing.assert_array_equal(again(2)["video"], work(2)["video"])
    assert again.stores[0] is again.plan.stores[0]


def test_a_batch_that_breaks_the_contract_is_named():
    good = {"video": np.zeros((2, 4, 8, 8, 3), np.uint8), "index": np.zeros(2, np.int64)}
    batches.check(good, b=2, t=4)
    for change, message in [
        ({"index": np.zeros(3, np.int64)}, "index has b=3, expected b=2"),
        ({"index": np.zeros(2, np.int32)}, "index is int32"),
        ({"video": np.zeros((2, 4, 8, 8, 1), np.uint8)}, "1 channels"),
        ({"video": np.zeros((2, 4, 8, 8, 3), np.float32)}, "video is float32"),
        ({"mask": np.zeros(2)}, "expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            batches.check(good | change)
    with pytest.raises(ValueError, match="t=4, expected t=16"):
        batches.check(good, t=16)


def test_reading_a_store_loads_no_jax(run_python):
    run_python(
        "import sys\n"
        "from surgjax.data import batch, clip, leakage, loader, plan, record, store, transforms\n"
        "assert not {'jax', 'grain', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
