import csv
import hashlib
import subprocess
import sys
from argparse import ArgumentParser

import cv2
import pytest

from data_prep import inspect
from surgjax.errors import UserError


def run(*arguments):
    parser = ArgumentParser()
    inspect.add_arguments(parser)
    return inspect.main(parser.parse_args([str(a) for a in arguments]))


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_pictures_and_counts_of_a_store(store, tmp_path, capsys):
    before = digests(store)
    out = tmp_path / "pictures"
    assert run(store, "--out", out) == 0
    assert run(store) == 0  # by default beside the store
    assert digests(store) == before
    assert digests(store.with_name(f"{store.name}-inspect")) == digests(out)
    for name in ("contact_sheet", "labels_phase", "labels_instrument", "histograms"):
        picture = cv2.imread(str(out / f"{name}.png"))
        assert picture is not None and picture.std() > 5, name
    with open(out / "counts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    parts = {row["part"]: row for row in rows if row["dataset"] == "synthetic"}
    assert {name: int(row["videos"]) for name, row in parts.items()} == {
        "train": 2,
        "val": 2,
        "test": 2,
    }
    assert int(rows[-1]["frames"]) == 1800 and float(rows[-1]["hours"]) == pytest.approx(0.02)
    printed = capsys.readouterr().out
    assert "phase (one_of_n, 1800 labelled frames)" in printed and str(out) in printed


def test_refused_inside_the_store_and_without_one(store, tmp_path):
    with pytest.raises(UserError, match="lies in the store"):
        run(store, "--out", store / "pictures")
    with pytest.raises(UserError, match="no store"):
        run(tmp_path / "missing")


def test_loads_no_jax():
    code = "import sys, data_prep.inspect, data_prep.synthesize; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
