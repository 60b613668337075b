"""What an older surgjax wrote goes on, bit for bit; what a newer one wrote is refused.

checkpoint_format0.zip is a run that surgjax wrote before checkpoints were numbered.
"""

import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surgjax import migrations
from surgjax.checkpoint import Checkpoints, read_frozen, read_model, read_params
from surgjax.digests import DIGESTS, digest, find_step, read_meta
from surgjax.errors import UserError
from surgjax.optim import AdamW
from surgjax.sharding import make_mesh, state_shardings
from surgjax.state import TrainState, flatten

KERNEL, BIAS, HEAD = "encoder/embed/kernel", "encoder/embed/bias", "decoder/head/kernel"
PARAMS = {
    KERNEL: 7 * np.arange(24, dtype=np.float32).reshape(4, 6),
    BIAS: np.full(6, 7, np.float32),
    HEAD: -np.arange(12, dtype=np.float32).reshape(6, 2),
}
FROZEN = {"text_encoder/table": np.arange(10, dtype=np.float32).reshape(5, 2)}
AVERAGE = {path.removeprefix("encoder/"): PARAMS[path] / 4 for path in (KERNEL, BIAS)}


@pytest.fixture
def run(tmp_path):
    with zipfile.ZipFile(Path(__file__).with_name("checkpoint_format0.zip")) as archive:
        archive.extractall(tmp_path / "run")
    return tmp_path / "run"


def abstract_state(head="decoder"):
    """Of the run above, on a mesh of all devices; `head`: the network of its last leaf."""

    def build():
        params = {
            "encoder": {"embed": {"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}},
            head: {"head": {"kernel": jnp.zeros((6, 2))}},
        }
        opt_state = AdamW(peak_lr=1e-3, total_steps=1, depth=0).init(params)
        return TrainState(jnp.int32(0), params, {}, opt_state, params["encoder"])

    shapes = jax.eval_shape(build)
    place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)  # noqa: E731
    return jax.tree.map(place, shapes, state_shardings(make_mesh(2, 4), shapes))


def same(tree, expected):
    leaves = flatten(tree)
    return leaves.keys() == expected.keys() and all(
        np.array_equal(leaves[p], expected[p]) and leaves[p].dtype == expected[p].dtype
        for p in expected
    )


def check_restored(state, params):
    assert same(state.params, params) and same(state.ema, AVERAGE)
    adam = state.opt_state["adam"]
    assert same(adam.mu, {path: leaf / 2 for path, leaf in params.items()})
    assert same(adam.nu, {path: leaf * leaf for path, leaf in params.items()})
    assert adam.count == 7 and state.opt_state["skipped"] == 0 and state.step == 7


def test_format_0_goes_on_bit_for_bit_and_is_today_s_when_saved(run):
    abstract = abstract_state()
    checkpoints = Checkpoints(run / "checkpoints")
    state, meta = checkpoints.restore(checkpoints.newest_whole(), abstract)
    check_restored(state, PARAMS)
    wanted = jax.tree.map(lambda x: x.sharding, abstract.opt_state)
    assert jax.tree.map(lambda x: x.sharding, state.opt_state) == wanted
    assert meta == {"step": 7, "ema_of": "encoder", "config": {}, "format": 1}
    checkpoints.save(state, 8, meta)
    checkpoints.close()
    written = json.loads((run / "checkpoints" / "8" / "meta" / "metadata").read_text())
    assert written["format"] == migrations.FORMAT and written["saved_from"]["devices"] == 8
    again, _ = Checkpoints(run / "checkpoints").restore(8, abstract)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (again.opt_state, state.opt_state))))


def test_the_model_of_format_0_is_read(run):
    assert same(read_params(run)[0], PARAMS | FROZEN) and same(read_frozen(run), FROZEN)
    model, meta = read_model(find_step(run))
    averages = {f"encoder/{path}": leaf for path, leaf in AVERAGE.items()}
    assert same(model, PARAMS | FROZEN | averages) and meta["format"] == 1
    assert same(
        read_params(run, below=("decoder", "text_encoder"))[0], FROZEN | {HEAD: PARAMS[HEAD]}
    )


def renamed(items, meta):
    """A migration such as another name for the decoder would need."""
    rename = lambda path: path.replace("decoder/", "predictor/")  # noqa: E731
    items = {item: {rename(p): leaf for p, leaf in flat.items()} for item, flat in items.items()}
    return items, meta | {"renamed": True}


def test_migrations_change_whatever_is_read(run, monkeypatch):
    monkeypatch.setattr(migrations, "FORMAT", 2)
    monkeypatch.setitem(migrations.MIGRATIONS, 1, renamed)
    params = {p.replace("decoder/", "predictor/"): leaf for p, leaf in PARAMS.items()}
    checkpoints = Checkpoints(run / "checkpoints")
    state, meta = checkpoints.restore(7, abstract_state("predictor"))
    check_restored(state, params)
    assert meta["format"] == 2 and meta["renamed"] and read_meta(find_step(run)) == meta
    assert same(read_params(run)[0], params | FROZEN)
    only, _ = read_params(run, below=("predictor",))
    assert same(only, {"predictor/head/kernel": PARAMS[HEAD]})
    with pytest.raises(UserError, match="does not fit this model: params decoder/head/kernel"):
        checkpoints.restore(7, abstract_state("decoder"))
    checkpoints.close()


def test_a_newer_format_is_refused_in_one_line(run):
    step = run / "checkpoints" / "7"
    file = step / "meta" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    (step / DIGESTS).write_text(json.dumps(digest(step)))
    checkpoints = Checkpoints(run / "checkpoints")
    readers = (
        lambda: checkpoints.restore(checkpoints.newest_whole(), abstract_state()),
        lambda: read_params(run),
        lambda: read_model(find_step(run)),
        lambda: read_meta(find_step(run)),
    )
    for read in readers:
        with pytest.raises(UserError, match="has format 99 and this surgjax knows formats up to 1"):
            read()
