"""Checkpoints: retention, damage, fallback, another mesh, a full disk."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surgjax.checkpoint import Checkpoints, read_params
from surgjax.digests import damaged_files, find_step
from surgjax.errors import UserError
from surgjax.optim import AdamW
from surgjax.sharding import make_mesh, state_shardings
from surgjax.state import TrainState


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


def test_restores_bit_for_bit_on_another_mesh(tmp_path):
    write(tmp_path, [7])
    state, _ = make_state(make_mesh(), 7.0)
    for data, fsdp in ((8, 1), (2, 4)):
        _, abstract = make_state(make_mesh(data, fsdp))
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        restored, meta = checkpoints.restore(checkpoints.newest_whole(), abstract)
        assert equal(restored.params, state.params) and equal(restored.ema, state.ema)
        assert equal(restored.opt_state, state.opt_state)
        assert int(restored.step) == meta["step"] == 7
        sharding = restored.params["encoder"]["embed"]["kernel"].sharding
        assert sharding == abstract.params["encoder"]["embed"]["kernel"].sharding
        checkpoints.close()


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
    with pytest.raises(UserError, match="every checkpoint"):
        Checkpoints(tmp_path / "checkpoints").newest_whole()


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
