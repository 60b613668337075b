"""Micro-batches one after the other give the loss and the gradient of the whole batch, in f32."""

import jax
import numpy as np
import pytest
from launch.every_objective import config

from surgjax import build, sharding
from surgjax.complete import complete
from surgjax.data.batch import UNKNOWN
from surgjax.sharding import make_mesh, put_batch

ROWS, PARTS = 8, 4


def batch_for(learner: build.Learner, size: int) -> dict[str, np.ndarray]:
    """Noise; each task is known of some clips alone, unevenly over the micro-batches."""
    rng = np.random.default_rng(0)
    batch = {
        "video": rng.integers(0, 256, (ROWS, 4, size, size, 3), dtype=np.uint8),
        "index": rng.permutation(ROWS).astype(np.int64),
    }
    if "labels" in learner.batch_extras:
        (columns,), dtype = learner.batch_extras["labels"]
        batch["labels"] = (rng.random((ROWS, columns)) < 0.3).astype(dtype)
        batch["labels"][[0, 1, 2, 4], : columns // 2] = UNKNOWN
        batch["labels"][[0, 5], columns // 2 :] = UNKNOWN
    return batch


LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("vista", "jepa")]


@pytest.mark.parametrize("name", ["mae", "classify", *LONG])
def test_the_first_step_is_that_of_the_whole_batch(store, monkeypatch, name):
    one = jax.local_devices()[:1]
    monkeypatch.setattr(sharding.jax, "devices", lambda: one)
    cfg = config(name, store, batch_size=ROWS)
    if name == "classify":  # mixed clips come in pairs of a micro-batch, so they are other clips
        cfg.objective.mixup = cfg.objective.cutmix = 0.0
    cfg, mesh = complete(cfg), make_mesh()
    learner = build.make_learner(cfg)
    abstract, teacher = learner.abstract(mesh), build.load_teacher(cfg, learner, mesh)
    fresh, _ = build.init_state(learner, cfg, abstract)
    batch = put_batch(mesh, batch_for(learner, cfg.data.size), ROWS)
    stop = np.zeros(1, np.int32)
    found = []
    for cfg.accumulation in (1, PARTS):
        step = build.make_step(learner, cfg, mesh, abstract, teacher and teacher.module)
        copy = jax.tree.map(jax.numpy.copy, fresh)
        state, scalars = step(copy, batch, stop, teacher and teacher.params)
        # From zero, Adam's first moment is the gradient times 1 - b1.
        gradient = np.concatenate([x.ravel() for x in jax.tree.leaves(state.opt_state["adam"].mu)])
        found.append((float(scalars["loss"]), gradient.astype(np.float64)))
    (loss, whole), (loss_of_parts, parts) = found
    assert loss_of_parts == pytest.approx(loss, rel=1e-6)
    assert np.linalg.norm(parts - whole) <= 1e-6 * np.linalg.norm(whole) > 0
