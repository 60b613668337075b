"""What a checkpoint costs the loop: how long `Checkpoints.save` holds it, and what goes on behind.

    python tests/benchmarks/save.py [--size B --batch 2 --steps 5 --saves 3]

SurgRec-MAE's step on random clips; `blocks` is the time `save` takes while no other save is under
way, `commit` the time until Orbax has renamed the folder, `whole` until its digests are written.
Steps are timed alone and while a save is under way. Then the checkpoint is verified and restored.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from surgjax import build
from surgjax.checkpoint import Checkpoints
from surgjax.config import defaults
from surgjax.digests import damaged_files
from surgjax.models.video_vit import SIZES
from surgjax.sharding import batch_sharding, make_mesh, put_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="B", choices=list(SIZES))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="timed without a save")
    parser.add_argument("--saves", type=int, default=3)
    given = parser.parse_args()
    state, abstract, step = make(given.size, given.batch)
    state, _ = step(state)  # compiled
    alone, during, saves = [], [], []
    for _ in range(given.steps):
        state, seconds = step(state)
        alone.append(seconds)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        for number in range(1, given.saves + 1):
            began = time.perf_counter()
            checkpoints.save(state, number, {"step": number})
            saved = {"blocks": time.perf_counter() - began}
            while "whole" not in saved:
                state, seconds = step(state)
                during.append(seconds)
                checkpoints.poll()
                target = checkpoints.folder / str(number)
                if target.is_dir():
                    saved.setdefault("commit", time.perf_counter() - began)
                if number in checkpoints.steps():
                    saved["whole"] = time.perf_counter() - began
            checkpoints.wait()
            saves.append(saved)
        files = [f for f in target.rglob("*") if f.is_file()]
        gigabytes = sum(f.stat().st_size for f in files) / 1e9
        began = time.perf_counter()
        assert not damaged_files(target)
        verified = time.perf_counter() - began
        checkpoints.restore(given.saves, abstract)
        restored = time.perf_counter() - began - verified
        checkpoints.close()
    report(given, alone, during, saves, gigabytes, len(files), verified, restored)


def make(size: str, batch: int):
    """(state, abstract state, function state -> (state, seconds of a step))."""
    cfg = defaults()
    cfg.encoder.size, cfg.batch_size, cfg.total_steps = size, batch, 1000
    cfg.objective = dict(name="mae", mask_ratio=0.85, decoder_depth=4)
    cfg.data.frames, cfg.data.size = 16, 224
    mesh = make_mesh()
    learner = build.make_learner(cfg)
    abstract = learner.abstract(mesh)
    state, _ = build.init_state(learner, cfg, abstract)
    compiled = build.make_step(learner, cfg, mesh, abstract)
    video = np.random.default_rng(0).integers(0, 256, (batch, 16, 224, 224, 3), np.uint8)
    rows = put_batch(mesh, {"video": video, "index": np.arange(batch)}, batch)
    stop = jax.device_put(np.zeros(mesh.devices.size, np.int32), batch_sharding(mesh))

    def step(state):
        began = time.perf_counter()
        state, scalars = compiled(state, rows, stop, None)
        float(scalars["loss"])
        return state, time.perf_counter() - began

    return state, abstract, step


def report(given, alone, during, saves, gigabytes, files, verified, restored) -> None:
    median = statistics.median(alone)
    print(f"step {median:.2f} s alone (median of {len(alone)})")
    print(f"checkpoint {gigabytes:.2f} GB in {files} files")
    for number, saved in enumerate(saves, start=1):
        blocks, commit, whole = (saved[name] for name in ("blocks", "commit", "whole"))
        print(
            f"save {number}: blocks {blocks:.3f} s = {blocks / median:.3f} steps; "
            f"commit {commit:.1f} s, whole {whole:.1f} s (a save before then would wait)"
        )
    slower = statistics.median(during) / median
    print(f"steps while a save is under way: {slower:.2f}x ({len(during)} of them)")
    print(f"verify {verified:.2f} s = {gigabytes / verified:.2f} GB/s, restore {restored:.2f} s")
    results = {"step_s": median, "during": slower, "saves": saves, "gigabytes": gigabytes}
    results |= {"verify_s": verified, "restore_s": restored}
    setting = vars(given) | {"backend": jax.default_backend(), "jax": jax.__version__}
    print(json.dumps({"setting": setting, "results": results}))


if __name__ == "__main__":
    main()
