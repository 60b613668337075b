"""python -m surgjax.checkpoint ls | verify | prune, without jax."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from surgjax.checkpoint_verbs import main
from surgjax.digests import DIGESTS, digest
from surgjax.errors import UserError
from surgjax.writers import RunFolder

ROOT = Path(__file__).resolve().parent.parent
PARAMS = "params/array_metadatas/process_0"


@pytest.fixture
def run(tmp_path):
    """Steps 1 to 4, copies of one that surgjax wrote."""
    with zipfile.ZipFile(Path(__file__).with_name("checkpoint_format0.zip")) as archive:
        archive.extractall(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    for step in (1, 2, 3, 4):
        shutil.copytree(folder / "7", folder / str(step))
    shutil.rmtree(folder / "7")
    return tmp_path / "run"


def steps(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def spoil(run, step, name=PARAMS):
    file = run / "checkpoints" / str(step) / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_ls_tells_states_apart(run, capsys):
    step = run / "checkpoints" / "4"
    about = {"versions": {"python": "3.11.9", "jax": "0.10.2", "orbax-checkpoint": "0.12.8"}}
    about |= {"saved_from": {"processes": 2, "devices": 8, "kind": "gpu", "mesh": {"fsdp": 4}}}
    (step / "meta" / "metadata").write_text(json.dumps(about | {"format": 1}))
    (step / DIGESTS).write_text(json.dumps(digest(step)))
    (run / "checkpoints" / "3" / DIGESTS).unlink()
    (run / "checkpoints" / "2" / PARAMS).unlink()
    spoil(run, 1)
    (run / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()
    assert main(["ls", str(run)]) == 0
    table = capsys.readouterr().out
    states = [line.split()[1] for line in table.splitlines()[2:6]]
    assert states == ["unverified", "damaged", "incomplete", "unverified"], table
    assert "19." in table and "params opt_state ema" in table
    assert "8 gpu of 2 processes (fsdp=4)  python 3.11.9, jax 0.10.2, orbax 0.12.8" in table
    assert "5.orbax-checkpoint-tmp: 0.0 kB; prune removes it" in table
    main(["ls", "--verify", str(run)])
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:6]]
    assert states == ["damaged", "damaged", "incomplete", "whole"]


def test_verify_names_what_differs(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert main(["verify", str(run), str(other)]) == 0
    assert capsys.readouterr().out.count(": whole\n") == 8
    spoil(other, 1)
    (other / "checkpoints" / "2" / PARAMS).unlink()
    (other / "checkpoints" / "3" / "params" / "d" / "odd").write_text("")
    (other / "checkpoints" / "4" / DIGESTS).write_text("{}[")
    assert main(["verify", str(run), str(other)]) == 1
    said = capsys.readouterr().out.replace(str(other / "checkpoints"), "")
    for line in (
        f"/1/{PARAMS}: damaged",
        f"/2/{PARAMS}: damaged",
        "/3/params/d/odd: not one of its files",
        f"/4/{DIGESTS}: damaged",
    ):
        assert line in said.splitlines(), said
    assert said.count(": whole\n") == 4


def test_prune_keeps_what_it_is_told_and_the_newest_whole_one(run, capsys):
    (run / "damaged" / "9").mkdir(parents=True)
    (run / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    (run / "frozen.orbax-checkpoint-tmp").mkdir()
    (run / "checkpoints" / "8").mkdir()
    for step in (3, 4):
        spoil(run, step)
    there = steps(run)
    assert main(["prune", str(run), "--keep=1", "--dry-run"]) == 0
    assert "would remove" in capsys.readouterr().out
    assert steps(run) == there and (run / "damaged").is_dir()
    assert main(["prune", str(run), "--keep=1", "--keep-every=3"]) == 0
    assert steps(run) == ["2", "3", "4"]  # the newest whole, divisible, the newest
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["checkpoints", "frozen"]
    assert main(["prune", str(run), "--keep=2"]) == 0
    assert steps(run) == ["2", "3", "4"]
    spoil(run, 2)
    assert main(["prune", str(run), "--keep=1"]) == 1
    assert "nothing was removed" in capsys.readouterr().out and len(steps(run)) == 3


def test_prune_refuses_a_run_that_is_running(run):
    folder = RunFolder(run)
    with pytest.raises(UserError, match="in use"):
        main(["prune", str(run)])
    assert len(steps(run)) == 4
    folder.close()
    main(["prune", str(run)])
    assert steps(run) == ["3", "4"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["ls", "nowhere"], "nowhere has no checkpoints"),
        (["prune", "RUN", "--keep=0"], "--keep of at least 1"),
        (["prune", "RUN", "--keep-every=-1"], "--keep-every of at least 0"),
    ],
)
def test_mistakes_are_one_line(run, arguments, message):
    with pytest.raises(UserError, match=message):
        main([str(run) if word == "RUN" else word for word in arguments])


WITHOUT_JAX = """
import runpy, sys
sys.modules |= dict.fromkeys(("jax", "orbax", "orbax.checkpoint", "numpy"))  # no import finds them
codes = []
for verb in ("ls", "verify", "prune"):
    sys.argv[1:2] = [verb]
    try:
        runpy.run_module("surgjax.checkpoint", run_name="__main__", alter_sys=True)
    except SystemExit as left:
        codes.append(left.code)
print("codes", codes)
"""


def test_the_verbs_load_no_jax(run):
    spoil(run, 1)
    command = [sys.executable, "-c", WITHOUT_JAX, "VERB", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "codes [0, 1, 0]"
    assert steps(run) == ["3", "4"]
