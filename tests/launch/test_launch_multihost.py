"""Every objective trains to the same numbers on two processes, on one, and on one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from surgjax.checkpoint import read_params

sys.path.insert(0, str(Path(__file__).parent))
from every_objective import OBJECTIVES, train_recorded  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "tests/launch/every_objective.py"
DECIDING = ("rows", "pixels", "masks")


def world(processes: int, devices: int, *command: str, **environment: str) -> subprocess.Popen:
    """A program as so many processes of a job, of so many devices each."""
    launch = [sys.executable, "launch/local_multiproc.py", "--processes", str(processes)]
    return subprocess.Popen(
        [*launch, "--devices", str(devices), "--", sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, timeout: int = 300) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()  # its processes end with it
    return process.returncode, output


def logged(run: Path, *names: str) -> np.ndarray:
    """Scalars of the training steps, (steps, names)."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return np.array([[line[name] for name in names] for line in lines if "loss" in line])


def arrays(run: Path) -> dict[str, np.ndarray]:
    """All of the newest checkpoint, averages too, but for what rounding alone moves."""
    found = {}
    for item in ("params", "opt_state", *(["ema"] if read_params(run)[1]["ema_of"] else [])):
        leaves = jax.tree_util.tree_leaves_with_path(read_params(run, item=item)[0])
        found |= {f"{item}{jax.tree_util.keystr(path)}": leaf for path, leaf in leaves}
    key_bias = found.get("params['text_encoder']['blocks']['attention']['qkv']['bias']")
    if key_bias is not None:  # a softmax does not see it; Adam makes steps of what is left of zero
        key_bias[:, 32:64] = 0
    return found


def compare(run: Path, other: Path, rtol: float = 1e-5) -> None:
    """Equal clips and masks at every step; losses within `rtol`, all arrays within 1e-5."""
    assert np.array_equal(logged(run, *DECIDING), logged(other, *DECIDING))
    assert len(np.unique(logged(run, "rows"))) == len(logged(run, "rows")) >= 4
    np.testing.assert_allclose(logged(run, "loss"), logged(other, "loss"), rtol=rtol)
    ours, theirs = arrays(run), arrays(other)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for path, value in ours.items():
        np.testing.assert_allclose(value, theirs[path], rtol=1e-5, atol=1e-5, err_msg=path)


def test_averages_and_pairs_are_those_of_one_device(store, tmp_path):
    """What collectives could spoil: an average in pieces, and pairs of clips on two machines."""
    names = ("jepa", "clip")
    two = world(2, 4, PROGRAM, str(store), str(tmp_path / "two"), ",".join(names))
    for name in names:
        train_recorded(name, store, tmp_path / "one" / name, devices=1)
    code, output = finish(two)
    assert code == 0, output
    wrote = {s[:3]: {*s.split()[2:]} for s in output.splitlines() if "] writers:" in s}
    savers, host_0 = {"checkpoint.py", "orbax", "etils"}, {"writers.py", "tensorboardX"}
    assert wrote["[1]"] & savers and not wrote["[1]"] - savers
    assert "writers.py" in wrote["[0]"] and wrote["[0]"] <= savers | host_0 | {"multihost.py"}
    for name in names:
        compare(tmp_path / "two" / name, tmp_path / "one" / name, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_of_four_devices_train_as_one_of_eight(store, tmp_path, name):
    two = world(2, 4, PROGRAM, str(store), str(tmp_path / "two"), name)
    train_recorded(name, store, tmp_path / "one", devices=1)
    train_recorded(name, store, tmp_path / "eight")
    code, output = finish(two)
    assert code == 0, output
    compare(tmp_path / "two" / name, tmp_path / "eight")
    compare(tmp_path / "two" / name, tmp_path / "one", rtol=1e-4)


@pytest.mark.slow
def test_the_number_of_processes_may_change_in_a_run(store, tmp_path):
    """Two processes, one, then four, with parameters and their average split over all devices."""
    run, steps = tmp_path / "changing", "total_steps=6"
    code, output = finish(
        world(2, 2, PROGRAM, str(store), str(run), "jepa", steps, "stop_at_step=2")
    )
    assert code == 0, output
    train_recorded("jepa", store, run / "jepa", devices=8, total_steps=6, stop_at_step=4)
    code, output = finish(world(4, 1, PROGRAM, str(store), str(run), "jepa", steps))
    assert code == 0, output
    train_recorded("jepa", store, tmp_path / "straight", devices=1, total_steps=6)
    assert len(logged(run / "jepa", "loss")) == 6
    compare(run / "jepa", tmp_path / "straight")
