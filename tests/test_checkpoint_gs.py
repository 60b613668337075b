"""Runs at gs://: the same checkpoints as on a disk, over a stand-in of the service (bucket.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import users_environment

from surgjax.errors import UserError
from surgjax.main import main

TESTS = Path(__file__).resolve().parent

# A process of its own: types are checked in this one, and etils' paths are not pathlib's.
CODE = """
import sys
from pathlib import Path
from bucket import open_bucket
open_bucket(Path(sys.argv[1]))

import jax
import jax.numpy as jnp
import numpy as np
from surgjax.checkpoint import Checkpoints, read_frozen, read_params, write_frozen
from surgjax.checkpoint_verbs import main
from surgjax.digests import find_step
from surgjax.errors import UserError
from surgjax.files import absolute, held, is_remote, to_path, write_whole
from surgjax.sharding import make_mesh, state_shardings
from surgjax.state import TrainState

run = to_path("gs://bucket/run")
assert is_remote(run) and str(absolute(run)) == "gs://bucket/run"
assert not is_remote(to_path("run")) and isinstance(to_path("run"), Path)
for text in ("one", "two"):
    write_whole(run / "STATUS", text)
assert (run / "STATUS").read_text() == "two"
with held(run), held(run):
    pass

params = {"encoder": {"kernel": jnp.arange(70_000.0)}}
state = TrainState(jnp.int32(3), params, {}, {"mu": params}, {"kernel": jnp.ones(5)})
shardings = state_shardings(make_mesh(), state)
state = jax.device_put(state, shardings)
described = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
abstract = jax.tree.map(described, state, shardings)
write_frozen(run, {"table": jnp.ones(7)})
checkpoints = Checkpoints(run / "checkpoints", keep=2)
for step in (2, 3):
    checkpoints.save(state, step, {"step": step})
checkpoints.close()
assert checkpoints.steps() == [2, 3]
damaged = run / "checkpoints" / "3" / "meta" / "metadata"
damaged.write_text(damaged.read_text() + " ")
(run / "checkpoints" / "4" / "params").mkdir(parents=True)
(run / "checkpoints" / "4" / "params" / "_METADATA").write_text("{}")  # a save that was killed
assert main(["ls", str(run)]) == 0 and main(["verify", str(run)]) == 1
checkpoints = Checkpoints(run / "checkpoints", keep=2)
assert checkpoints.newest_whole() == 2 and (run / "damaged" / "3").is_dir()
restored, meta = checkpoints.restore(2, abstract)
for name in ("params", "opt_state", "ema"):
    pairs = zip(*(jax.tree.leaves(getattr(s, name)) for s in (restored, state)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
checkpoints.save(restored, 3, {"step": 3})
checkpoints.close()
assert read_params(run)[1]["step"] == 3
assert read_params(find_step(run, 2), below=("table",))[0]["table"].sum() == 7
assert read_frozen(run)["table"].sum() == 7
assert main(["verify", str(run)]) == 0 and main(["prune", "--keep=1", str(run)]) == 0
assert not (run / "damaged").exists()
from etils import epath
for refused, why in (
    (lambda: Checkpoints(epath.Path("s3://bucket/run")), "not s3://"),
    (lambda: to_path("s3://bucket/run"), "pip install s3fs"),
):
    try:
        raise AssertionError(refused())
    except UserError as error:
        assert why in str(error)
print("all is well")
"""


def test_checkpoints_at_gs(tmp_path):
    (tmp_path / "bucket").mkdir()
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        env=users_environment(PYTHONPATH=paths),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.endswith("all is well\n"), done.stdout + done.stderr
    folder = tmp_path / "bucket" / "run"
    assert [f.name for f in (folder / "checkpoints").iterdir()] == ["3"]
    assert sorted(f.name for f in folder.iterdir()) == ["STATUS", "checkpoints", "frozen"]


def test_the_workdir_may_be_at_an_object_store():
    config = TESTS.parent / "configs" / "surgrec_mae.py"
    arguments = [f"--config={config}:demo", "--workdir=s3://bucket/run"]
    with pytest.raises(UserError, match="s3://bucket/run needs s3fs: pip install s3fs"):
        main([*arguments, "--multihost=off"])
