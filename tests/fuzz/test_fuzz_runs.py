"""Files of a run: checkpoints with their digests, what they say of themselves, metrics."""

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from mutations import damaged, odd_json

from surgjax import build, digests, writers
from surgjax.benchmark import pictures, weights
from surgjax.config import defaults, to_dict
from surgjax.errors import UserError

META = {
    "config": {"objective": {"name": "mae"}, "encoder": {"size": "T"}},
    "licences": {"cholec80": "CC-BY-NC-SA-4.0"},
    "used_cases": ["cholec80/video01"],
    "pretrained_on": ["cholec80 (train)"],
    "init_from": None,
}
FILES = {"meta/metadata": json.dumps(META).encode(), "params/d/a1": bytes(range(200)), "empty": b""}


def step(run: Path) -> Path:
    folder = run / "checkpoints" / "3"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / digests.DIGESTS).write_text(json.dumps(digests.digest(folder)))
    return folder


def changed_file(folder: Path, case: tuple[str, bytes]) -> str:
    name, data = case
    found = step(folder)
    (found / name).write_bytes(data)
    assert digests.damaged_files(found) == ([] if data == FILES[name] else [name])
    try:
        assert digests.find_step(folder) == found and data == FILES[name]
    except UserError:
        assert data != FILES[name]
        return "found"
    return "whole"


def test_a_changed_file_of_a_checkpoint_is_found(for_all):
    cases = st.sampled_from(sorted(FILES)).flatmap(
        lambda name: st.tuples(st.just(name), damaged(FILES[name]))
    )
    outcomes = for_all(changed_file, cases)
    assert outcomes["found"] and outcomes["whole"]


def changed_digests(folder: Path, data: bytes) -> str:
    """Whatever DIGESTS.json says, a checkpoint is whole only if all it names is as it says."""
    found = step(folder)
    (found / digests.DIGESTS).write_bytes(data)
    if digests.damaged_files(found):
        return "damaged"
    for name, about in json.loads(data).items():
        assert digests.sha256(found / name) == about["sha256"]
    return "whole"


def test_changed_digests(for_all, tmp_path):
    about = json.loads((step(tmp_path) / digests.DIGESTS).read_text())
    outcomes = for_all(changed_digests, odd_json(about))
    assert outcomes["damaged"] and outcomes["whole"]


def said_of_a_checkpoint(folder: Path, data: bytes) -> str:
    found = step(folder)
    (found / "meta" / "metadata").write_bytes(data)
    (found / digests.DIGESTS).write_text(json.dumps(digests.digest(found)))
    told = weights.open_weights(folder)
    assert isinstance(told.licence, str) and isinstance(told.pretrained_on, str)
    assert told.used_cases is None or all(isinstance(case, str) for case in told.used_cases)
    return "read"


def test_what_a_checkpoint_says_of_itself(for_all):
    odd = [
        META | {"used_cases": "all"},
        META | {"format": -1},
        META | {"init_from": {"licence": 1}},
    ]
    examples = [(json.dumps(one).encode(),) for one in odd]
    outcomes = for_all(said_of_a_checkpoint, odd_json(META), examples=examples)
    assert outcomes["read"] and len(outcomes) > 2


LINES = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "evals/knn/macro_f1": 0.5}]


def metrics(folder: Path, data: bytes) -> str:
    file = folder / "metrics.jsonl"
    file.write_bytes(data)
    for steps, values in pictures.read_curves(file).values():
        assert steps.shape == values.shape and np.isfinite(steps).all()
    kept = writers.Metrics(folder, 2, "", {})
    kept.close() if hasattr(kept, "close") else None
    for line in file.read_text().splitlines():
        assert int(json.loads(line)["step"]) <= 2
    return "read"


def test_metrics_of_a_run(for_all):
    lines = st.lists(st.sampled_from(LINES).flatmap(odd_json), max_size=3).map(b"\n".join)
    odd = [b'{"step": Infinity, "loss": 1}', b'{"step": 1, "\xff": 1}', b"[" * 100_000]
    examples = [(one + b'\n{"step": 1, "loss": 0.5}',) for one in odd]
    outcomes = for_all(metrics, lines, examples=examples)
    assert outcomes["read"] and len(outcomes) > 1


def config(folder: Path, data: bytes) -> str:
    (folder / "config.json").write_bytes(data)
    assert build.read_config(folder).to_dict() is not None
    return "read"


def test_the_config_of_a_run(for_all):
    outcomes = for_all(config, odd_json(to_dict(defaults())))
    assert outcomes["read"] and len(outcomes) > 1
