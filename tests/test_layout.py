"""The house: what may import what, how long a file may be, what loads without jax."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    f for d in ("surgjax", "data_prep", "configs", "launch") for f in (ROOT / d).rglob("*.py")
)
FORBIDDEN = [
    ("surgjax.models", ("surgjax.objectives", "surgjax.data", "surgjax.evals", "surgjax.train")),
    ("surgjax.data", ("surgjax.models", "surgjax.objectives", "surgjax.train")),
    ("surgjax.objectives", ("surgjax.train", "surgjax.evals", "surgjax.optim", "optax", "orbax")),
    ("surgjax.benchmark", ("jax", "surgjax.models", "surgjax.evals", "surgjax.train")),
    ("surgjax", ("configs",)),
    ("data_prep", ("jax", "flax", "surgjax.models", "surgjax.train", "surgjax.objectives")),
]


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name, package):
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("package, never", FORBIDDEN, ids=[p for p, _ in FORBIDDEN])
def test_imports_point_down(package, never):
    found = [
        (module_of(file), name)
        for file in FILES
        if below(module_of(file), package)
        for name in imported(file)
        if any(below(name, other) for other in never)
    ]
    assert not found


def test_files_stay_readable():
    assert not {f.name: n for f in FILES if (n := len(f.read_text().splitlines())) > 500}
    assert len((ROOT / "surgjax" / "train.py").read_text().splitlines()) < 300


def test_only_one_file_knows_orbax():
    users = {module_of(f) for f in FILES if any(below(n, "orbax") for n in imported(f))}
    assert users == {"surgjax.checkpoint"}


LIGHT = """
import importlib, pkgutil, sys
import data_prep, surgjax.benchmark, surgjax.data.store, surgjax.data.plan, surgjax.data.leakage
for package in (data_prep, surgjax.benchmark):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
assert not {"jax", "flax", "tensorflow", "torch"} & set(sys.modules)
"""


def test_preparation_and_numbers_load_no_jax():
    subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, check=True)


def test_every_module_can_be_imported():
    for file in FILES:
        if file.parent.name not in ("configs", "launch") and file.stem != "__main__":
            importlib.import_module(module_of(file).removesuffix(".__init__"))
