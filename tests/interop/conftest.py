"""One tiny run on disk for the tests of this folder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from surgjax import objectives
from surgjax.checkpoint import Checkpoints
from surgjax.state import TrainState, flatten, split, unflatten

CONFIG = {
    "seed": 0,
    "total_steps": 10,
    "batch_size": 8,
    "data": {"frames": 4, "size": 32, "stride": "0.16s", "stores": "/somewhere/private/store"},
    "encoder": {"size": "T", "positions": "sincos_1d", "remat": "none", "drop_path": 0.0},
    "objective": {"name": "mae", "mask_ratio": 0.75},
    "optim": {"peak_lr": 1e-3},
}
META = {
    "config": CONFIG,
    "licences": {"cholec80": "CC-BY-NC-SA-4.0", "synthetic": "CC0-1.0"},
    "used_cases": ["cholec80/video01", "cholec80/video02", "synthetic/video05"],
    "pretrained_on": ["cholec80 (train)", "synthetic (train)"],
    "versions": {"jax": jax.__version__},
    "init_from": None,
}


def build(config=CONFIG):
    """The objective without numbers."""
    return nnx.eval_shape(
        lambda: objectives.build(
            **config["objective"],
            frames=config["data"]["frames"],
            size=config["data"]["size"],
            encoder=config["encoder"],
            rngs=nnx.Rngs(0),
        )
    )


def random_params(objective, seed=0):
    """Parameters no two of which are alike: fresh ones have biases of zero and scales of one."""
    rng = np.random.default_rng(seed)
    drawn = {
        path: path.endswith("scale") + 0.05 * rng.standard_normal(leaf.shape, np.float32)
        for path, leaf in flatten(split(objective)[1]).items()
    }
    return unflatten(drawn)


def save_run(folder, params, meta=META, step=3):
    checkpoints = Checkpoints(folder / "checkpoints")
    opt_state = {"count": jnp.zeros((), jnp.int32)}
    state = TrainState(jnp.int32(step), jax.tree.map(jnp.asarray, params), {}, opt_state, None)
    checkpoints.save(state, step, meta)
    checkpoints.close()
    return folder


@pytest.fixture(scope="session")
def tiny():
    """(the objective without numbers, its parameters as nested dict of numpy arrays)."""
    objective = build()
    return objective, random_params(objective)


@pytest.fixture(scope="session")
def shapes(tiny):
    return jax.tree.map(lambda x: x.shape, tiny[1])


@pytest.fixture(scope="session")
def tiny_run(tiny, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "tiny", tiny[1])


@pytest.fixture(scope="session")
def exported(tiny_run, tmp_path_factory):
    from surgjax.export import export

    out = tmp_path_factory.mktemp("exports") / "tiny"
    export(tiny_run, out)
    return out


@pytest.fixture
def kit():
    """The makers above, for tests that need another run."""
    from types import SimpleNamespace

    return SimpleNamespace(
        CONFIG=CONFIG, META=META, build=build, random_params=random_params, save_run=save_run
    )
