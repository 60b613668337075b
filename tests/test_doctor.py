import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from surgjax import doctor

ROOT = Path(__file__).resolve().parent.parent


def test_says_what_is_there_and_leaves_with_zero():
    done = subprocess.run(
        [sys.executable, "-m", "surgjax.doctor"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("python", "jax devices", "memory", "disk", importlib.metadata.version("jax")):
        assert word in done.stdout
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    assert ("huge pages" in done.stdout) == pages.is_file()
    assert "all required parts are there" in done.stdout


def test_names_missing_optional_parts_with_their_fix(monkeypatch):
    monkeypatch.setattr(doctor, "_found", lambda module: False)
    text = "\n".join(doctor._optional())
    for module, (_, fix) in doctor.OPTIONAL.items():
        assert f"{module}" in text and fix in text


def test_a_missing_or_broken_required_part_is_a_problem(monkeypatch):
    known = doctor._version
    gone = {"einops"}
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in gone else known(name))
    real = doctor.importlib.import_module

    def load(name):
        if name == "simplejpeg":
            raise ImportError("no such symbol")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    problems = []
    doctor._required(problems)
    assert any("simplejpeg" in p and "pip install --force-reinstall" in p for p in problems)
    assert any("missing: einops; pip install -r requirements.txt" in p for p in problems)


def test_main_exits_one_on_a_problem(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda folder: (["python 3"], ["einops is missing"]))
    monkeypatch.setattr(sys, "argv", ["doctor"])
    assert doctor.main() == 1
    assert "einops is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "platforms, word", [("", "pip install 'jax[cuda12]=="), ("cpu", "unset it")]
)
def test_a_card_that_jax_does_not_use_is_told_with_the_fix(monkeypatch, platforms, word):
    monkeypatch.setattr(doctor, "_gpus", lambda: ["NVIDIA H100"])
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    problems = []
    text = "\n".join(doctor._devices(problems))
    assert "NVIDIA H100" in text and word in text and not problems


def test_every_requirement_is_looked_for():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = [line.split("#")[0].strip() for line in lines]
    names = [name for name in names if name]
    wanted = {
        n.split("=")[0].split(">")[0].split("[")[0].strip().lower().replace("_", "-") for n in names
    }
    assert wanted <= {name.lower().replace("_", "-") for name in doctor.REQUIRED.values()}
