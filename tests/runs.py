"""The smallest real run, for tests of the loop: seconds on one core."""

import json
import os
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from surgjax.checkpoint import read_params
from surgjax.config import defaults
from surgjax.models.video_vit import SIZES, Size

SIZES["two blocks"] = Size(96, 2, 3, 96, 1, 3)  # what takes long in these tests is compilation


def tiny(store: Path, **changes) -> ConfigDict:
    """A six-step config on `store`; changes are given by dotted path with __ for the dots."""
    cfg = defaults()
    cfg.total_steps, cfg.batch_size = 6, 8
    cfg.data.stores = str(store)
    cfg.data.frames, cfg.data.stride, cfg.data.size = 4, "2", 32
    cfg.encoder.size = "two blocks"
    cfg.objective = dict(name="mae", mask_ratio=0.75, decoder_depth=1)
    cfg.optim.peak_lr, cfg.optim.warmup_steps = 1e-3, 2
    cfg.log.every, cfg.checkpoint.every = 1, 2
    for path, value in changes.items():
        *groups, name = path.split("__")
        node = cfg
        for group in groups:
            node = node[group]
        node[name] = ConfigDict(value) if isinstance(value, dict) else value
    return cfg


def users_environment(**more: str) -> dict[str, str]:
    """Ours without what conftest.py sets for eight devices and quick compilation."""
    return {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")} | more


def losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def everything(run: Path) -> list[np.ndarray]:
    """All arrays of the newest checkpoint."""
    params, _ = read_params(run)
    opt_state, _ = read_params(run, item="opt_state")
    return jax.tree.leaves(params) + jax.tree.leaves(opt_state)


def same(a: Path, b: Path) -> bool:
    """Bit for bit."""
    pairs = list(zip(everything(a), everything(b), strict=True))
    return len(pairs) > 20 and all(np.array_equal(x, y) for x, y in pairs)
