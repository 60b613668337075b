"""Checkpoints: retention, damage, fallback, another mesh, parts of them, a full disk."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surgjax import digests, sharding
from surgjax.checkpoint import Checkpoints, read_frozen, read_model, read_params, write_frozen
from surgjax.digests import completed_steps, damaged_files, find_step
from surgjax.errors import UserError
from surgjax.optim import AdamW
from surgjax.sharding import make_mesh, state_shardings
from surgjax.state import TrainState, flatten, subtree


def make_state(mesh, value=1.0, width=256):
    def build():
        kernel = value * jnp.arange(width * 512, dtype=jnp.float32).reshape(width, 512)
        params = {"encoder": {"embed": {"kernel": kernel, "bias": jnp.full((4,), value)}}}
        opt_state = AdamW(peak_lr=1e-3, total_steps=1, depth=0).init(params)
        ema = jax.tree.map(jnp.copy, params["encoder"])
        return TrainState(jnp.int32(3), params, {}, opt_state, ema)

    abstract = jax.eval_shape(build)
    shardings = state_shardings(mesh, abstract)
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    return jax.jit(build, out_shardings=shardings)(), jax.tree.map(place, abstract, shardings)


def write(folder, steps, keep=2, keep_every=0):
    checkpoints = Checkpoints(folder / "checkpoints", keep, keep_every)
    for step in steps:
        state, _ = make_state(make_mesh(), float(step))
        checkpoints.save(state, step, {"step": step, "config": {}})
    checkpoints.close()
    return checkpoints


def equal(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def payload(folder, step, item="params"):
    """The largest file of an item: where its numbers are."""
    files = (folder / "checkpoints" / str(step) / item).rglob("*")
    return max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)


def test_the_newest_and_every_so_many_stay(tmp_path):
    assert write(tmp_path, [1, 2, 3, 4, 5, 6], keep=2, keep_every=3).steps() == [3, 5, 6]


def uneven_state(mesh):
    """Arrays that a mesh divides along different axes, or not at all; all bits are random."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    encoder = {
        "embed": {"kernel": draw(3, 255, 264), "bias": draw(5)},
        "blocks": {"mlp": {"kernel": draw(8, 130, 68)}},
        "positions": draw(257, 263),
    }
    params = {"encoder": encoder, "decoder": {"head": {"kernel": draw(96, 770)}}}
    adam = AdamW(peak_lr=1e-3, total_steps=1, depth=0)
    opt_state = jax.eval_shape(adam.init, params)
    opt_state = jax.tree.map(
        lambda x: draw(*x.shape) if x.ndim else np.array(9, x.dtype), opt_state
    )
    frozen = {"text_encoder": {"table": draw(520, 129)}}
    ema = jax.tree.map(lambda x: draw(*x.shape), encoder)
    state = TrainState(np.array(9, np.int32), params, frozen, opt_state, ema)
    shardings = state_shardings(mesh, state)
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    return jax.device_put(state, shardings), jax.tree.map(place, state, shardings)


def use_mesh(monkeypatch, count, fsdp):
    found = jax.local_devices()[:count]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    return make_mesh(-1, fsdp)


def test_any_mesh_restores_what_any_other_has_saved(tmp_path, monkeypatch):
    """8 -> 4 -> 1 -> 8 devices, fsdp and data: averages, moments and frozen leaves too."""
    meshes = [(8, 8), (4, 2), (1, 1), (8, 1), (4, 4)]
    state, abstract = uneven_state(use_mesh(monkeypatch, *meshes[0]))
    expected = jax.device_get(state)
    write_frozen(tmp_path, state.frozen)
    for step, (count, fsdp) in enumerate(meshes, start=1):
        mesh = use_mesh(monkeypatch, count, fsdp)
        _, abstract = uneven_state(mesh)
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        if step > 1:
            state, meta = checkpoints.restore(checkpoints.newest_whole(), abstract)
            before = meshes[step - 2]
            assert meta["saved_from"]["devices"] == before[0]
            assert meta["saved_from"]["mesh"] == {"data": before[0] // before[1], "fsdp": before[1]}
            assert int(state.step) == step - 1
            for name in ("params", "opt_state", "ema"):
                assert equal(getattr(state, name), getattr(expected, name)), name
                wanted = jax.tree.map(lambda x: x.sharding, getattr(abstract, name))
                assert wanted == jax.tree.map(lambda x: x.sharding, getattr(state, name))
        checkpoints.save(state, step, {})
        checkpoints.close()
    assert equal(read_frozen(tmp_path), expected.frozen)
    kernel = state.params["encoder"]["embed"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 255, 66)}


def test_digests_of_nothing_vouch_for_nothing(tmp_path):
    write(tmp_path, [1])
    step = tmp_path / "checkpoints" / "1"
    (step / "DIGESTS.json").write_text("{}")
    assert damaged_files(step) == ["DIGESTS.json"]


def test_an_old_step_that_cannot_be_removed_ends_no_run(tmp_path, monkeypatch, caplog):
    def remove(folder):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(folder))

    monkeypatch.setattr("surgjax.digests.remove_folder", remove)
    write(tmp_path, [1, 2, 3])
    assert "1 cannot be removed now" in caplog.text
    assert completed_steps(tmp_path / "checkpoints") == [2, 3]
    assert (tmp_path / "checkpoints" / "1").is_dir()


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_noticed_and_the_step_before_is_used(tmp_path, damage, caplog):
    write(tmp_path, [1, 2])
    file = payload(tmp_path, 2)
    if damage == "flip":
        flip(file)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.raises(UserError, match="damaged"):
        Checkpoints(tmp_path / "checkpoints").newest_whole(strict=True)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest_whole() == 1
    assert "falling back" in caplog.text and file.name in caplog.text
    assert (tmp_path / "damaged" / "2").is_dir()


def test_when_all_are_damaged_nothing_starts_silently_anew(tmp_path):
    write(tmp_path, [1, 2])
    for step in (1, 2):
        flip(payload(tmp_path, step))
    for _ in range(2):  # nor when the same command is given again
        with pytest.raises(UserError, match="every checkpoint"):
            Checkpoints(tmp_path / "checkpoints").newest_whole()
    assert Checkpoints(tmp_path / "checkpoints").steps() == [1, 2]


def test_a_step_without_digests_is_not_trusted(tmp_path):
    write(tmp_path, [1, 2])
    (tmp_path / "checkpoints" / "2" / "DIGESTS.json").unlink()
    assert Checkpoints(tmp_path / "checkpoints").newest_whole() == 1
    assert not (tmp_path / "checkpoints" / "2").exists()


def test_a_full_disk_is_refused_before_writing(tmp_path, monkeypatch):
    write(tmp_path, [1])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(UserError, match="no room for a checkpoint"):
        write(tmp_path, [2])
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_nothing_saved_is_no_error(tmp_path):
    assert Checkpoints(tmp_path / "checkpoints").newest_whole() is None


def test_another_model_size_is_one_clear_line(tmp_path):
    write(tmp_path, [1])
    _, abstract = make_state(make_mesh(), width=128)
    with pytest.raises(UserError, match="does not fit this model"):
        Checkpoints(tmp_path / "checkpoints").restore(1, abstract)


def test_parameters_are_read_without_a_mesh(tmp_path):
    write(tmp_path, [1, 2])
    params, meta = read_params(tmp_path)
    state, _ = make_state(make_mesh(), 2.0)
    assert equal(params, state.params) and meta["step"] == 2
    assert isinstance(params["encoder"]["embed"]["bias"], np.ndarray)
    assert read_params(tmp_path, step=1)[1]["step"] == 1
    with pytest.raises(UserError, match="no whole checkpoint 9"):
        find_step(tmp_path, 9)


def random_leaves(folder):
    """A step whose leaves cannot be compressed, so that their bytes are found on disk."""
    rng = np.random.default_rng(1)
    sizes = {"encoder": 500, "decoder": 3_000_000, "head": 700}
    params = {n: {"kernel": rng.integers(0, 2**31, k, np.int32)} for n, k in sizes.items()}
    average = {"kernel": params["encoder"]["kernel"] + 1}
    placed = jax.device_put(params, jax.devices()[0])
    step = jax.device_put(np.int32(1), jax.devices()[0])
    opt_state = {"adam": placed}
    state = TrainState(step, placed, {}, opt_state, jax.device_put(average, jax.devices()[0]))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(state, 1, {"ema_of": "encoder"})
    checkpoints.close()
    return params, average


def bytes_read():
    """By this process, of files."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_only_the_leaves_below_a_prefix_are_read(tmp_path):
    params, average = random_leaves(tmp_path)
    folder = find_step(tmp_path)
    for file in (folder / "params").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        place = content.find(params["decoder"]["kernel"][1000:1100].tobytes())
        if place >= 0:
            file.write_bytes(content[:place] + bytes(400) + content[place + 400 :])
    with pytest.raises(UserError, match="no whole checkpoint"):
        find_step(tmp_path, 1)
    before = bytes_read()
    model, _ = read_model(folder, below=("encoder", "head"))
    assert bytes_read() - before < 100_000
    assert set(flatten(model)) == {"encoder/kernel", "head/kernel"}
    assert equal(model["head"], params["head"]) and equal(model["encoder"], average)
    assert read_model(folder, below=("enc",))[0] == {}
    before = bytes_read()
    assert not equal(read_model(folder)[0]["decoder"], params["decoder"])
    assert bytes_read() - before > 12_000_000


def test_a_model_is_read_beside_a_damaged_optimizer_state(tmp_path):
    params, average = random_leaves(tmp_path)
    flip(payload(tmp_path, 1, "opt_state"))
    assert equal(read_params(tmp_path)[0], params)
    assert equal(read_model(find_step(tmp_path))[0], params | {"encoder": average})
    encoder = read_params(tmp_path, below=("encoder",))[0]
    assert equal(subtree(encoder, "encoder"), params["encoder"]) and len(encoder) == 1
    with pytest.raises(UserError, match="no completed checkpoint"):
        read_params(tmp_path, item="opt_state")
    with pytest.raises(UserError, match="every checkpoint"):
        Checkpoints(tmp_path / "checkpoints").newest_whole()
    flip(payload(tmp_path, 1))
    with pytest.raises(UserError, match="is damaged"):  # also when its own folder is named
        find_step(tmp_path / "checkpoints" / "1")


def test_damaged_frozen_leaves_are_refused(tmp_path):
    write_frozen(tmp_path, {"table": jnp.arange(70_000.0)})
    assert equal(read_frozen(tmp_path), {"table": np.arange(70_000, dtype=np.float32)})
    flip(max((tmp_path / "frozen").rglob("*"), key=lambda f: f.stat().st_size * f.is_file()))
    with pytest.raises(UserError, match="frozen is damaged"):
        read_frozen(tmp_path)
    with pytest.raises(UserError, match="frozen is missing"):
        read_frozen(tmp_path / "other")


@pytest.mark.parametrize("moment", ["none of its files gone", "half of its files gone"])
def test_killed_while_an_old_step_is_removed(tmp_path, monkeypatch, moment):
    def stopped(folder):
        if moment == "half of its files gone":
            shutil.rmtree(folder / "params")
        raise RuntimeError("killed here")

    with monkeypatch.context() as patches:
        patches.setattr(digests, "remove_folder", stopped)
        with pytest.raises(RuntimeError, match="killed here"):
            write(tmp_path, [1, 2, 3], keep=2)
    assert (tmp_path / "checkpoints" / "1" / "opt_state").is_dir()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest_whole() == 3
    assert sorted(f.name for f in checkpoints.folder.iterdir()) == ["2", "3"]


def test_killed_between_the_commit_and_the_digests(tmp_path, monkeypatch):
    write(tmp_path, [1])
    monkeypatch.setenv("SURGJAX_FAULT", "before_commit:raise:2")
    with pytest.raises(RuntimeError, match="before_commit"):
        write(tmp_path, [2])
    monkeypatch.delenv("SURGJAX_FAULT")
    assert (tmp_path / "checkpoints" / "2").is_dir()
    for _ in range(2):
        assert Checkpoints(tmp_path / "checkpoints").newest_whole() == 1
    assert write(tmp_path, [2]).steps() == [1, 2]


def test_killed_while_damaged_steps_are_moved_aside(tmp_path):
    write(tmp_path, [1, 2, 3], keep=3)
    for step in (2, 3):
        flip(payload(tmp_path, step))
    shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "damaged" / "2")  # an earlier one
    (tmp_path / "checkpoints" / "3").rename(tmp_path / "damaged" / "3")
    for _ in range(2):
        assert Checkpoints(tmp_path / "checkpoints").newest_whole() == 1
    assert sorted(f.name for f in (tmp_path / "damaged").iterdir()) == ["2", "3"]
    assert damaged_files(tmp_path / "damaged" / "2")


def test_digests_cover_every_file(tmp_path):
    write(tmp_path, [1])
    step = tmp_path / "checkpoints" / "1"
    listed = set(json.loads((step / "DIGESTS.json").read_text()))
    present = {str(f.relative_to(step)) for f in step.rglob("*") if f.is_file()}
    assert present - listed == {"DIGESTS.json"} and not damaged_files(step)


def test_the_saved_arrays_are_those_of_the_moment(tmp_path):
    """The state is donated to the next step while the save still runs."""
    mesh = make_mesh()
    state, abstract = make_state(mesh, 5.0)
    expected = jax.device_get(state.params)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    change = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints.save(state, 3, {"step": 3})
    for _ in range(20):
        state = change(state)
    checkpoints.wait()
    restored, _ = checkpoints.restore(3, abstract)
    checkpoints.close()
    assert equal(restored.params, expected)
