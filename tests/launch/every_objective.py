"""Every objective on a tiny network, trained in this process or as one process of a job.

    python tests/launch/every_objective.py STORE OUT NAMES [FIELD=VALUE ...]

NAMES are joined by commas; RUN folders are OUT/<name>. Beside the loss, metrics.jsonl gets what
decides it: `rows` of the batch's clips and their order, `pixels` of the clips, and `masks` of the
tokens that the objective hides, each as a number that no order of summation changes.
"""

import ast
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest  # noqa: F401 - quick compilation, and the project on the path
from runs import tiny

from surgjax import masking, multiblock, multihost, sharding
from surgjax.errors import run
from surgjax.objectives import classify, clip, jepa, mae, vista
from surgjax.train import train

PACKAGE = Path(masking.__file__).parent
TEXT = dict(family="bert", vocab_size=150, length=24, width=32, depth=1, heads=2)
FEW = dict(blocks=2, scale=0.3, keep=0.25, predict=0.25)
OBJECTIVES = {
    "mae": dict(mask_ratio=0.75, decoder_depth=1),
    "jepa": dict(
        predictor_depth=1,
        predictor_width=36,
        predictor_heads=3,
        ema_start=0.5,
        ema_end=1.0,
        blocks={"few": FEW},
    ),
    "vista": dict(
        mask_ratio=0.75,
        decoder_depth=1,
        feature_decoder_depth=1,
        teacher=dict(weights="random", size=(64, 1, 2)),
    ),
    "clip": dict(text=TEXT, tokens=24, dim=16, tokenizer="captions"),
    "classify": dict(
        task="phase,instrument",
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        random_erasing=0.5,
        head_dropout=0.2,
    ),
}
# Parameters, their average and a teacher that are split over all processes.
SHARDED = ("jepa", "vista")
MODULES: dict[str, ModuleType] = dict(mae=mae, jepa=jepa, vista=vista, clip=clip, classify=classify)


def config(name: str, store: Path, **changes) -> ConfigDict:
    """Four steps of eight clips."""
    changes = {"objective": dict(name=name, **OBJECTIVES[name]), "total_steps": 4} | changes
    cfg = tiny(store, **changes)
    cfg.encoder.drop_path, cfg.checkpoint.every = 0.2, 100
    if name == "jepa":
        cfg.data.size, cfg.encoder.positions, cfg.encoder.qkv_bias = 48, "rope_3d", "all"
    if name == "clip":
        cfg.data.captions.quotas = "0.25,0.25,0.5"
    return cfg


def train_recorded(name: str, store: Path, run: Path, devices: int | None = None, **changes):
    """Train one objective on the first `devices` (all without a number), split over them."""
    cfg = config(name, store, **changes)
    found = jax.devices()[:devices]
    if name in SHARDED:
        cfg.mesh.data, cfg.mesh.fsdp = 1, len(found)
    drawn: list[jax.Array] = []
    objective = MODULES[name].Objective
    loss, tube, draw = objective.loss, masking.tube, multiblock.MultiBlock.draw

    def recording(self, batch, **given):
        drawn.clear()
        value, scalars = loss(self, batch, **given)
        index = jnp.asarray(batch["index"], jnp.uint32)
        clips = jnp.asarray(batch["video"]).reshape(len(index), -1)
        masks = sum((digest(index, hidden) for hidden in drawn), jnp.uint32(0))
        rows = digest(jnp.arange(len(index)), index[:, None])
        return value, scalars | {"rows": rows, "pixels": digest(index, clips), "masks": masks}

    def recorded_tube(*given):
        keep, hidden = tube(*given)
        drawn.append(hidden)
        return keep, hidden

    def recorded_draw(self, *given):
        mask = draw(self, *given)
        drawn.append(mask.hidden)
        return mask

    with (
        mock.patch.object(objective, "loss", recording),
        mock.patch.object(masking, "tube", recorded_tube),
        mock.patch.object(multiblock.MultiBlock, "draw", recorded_draw),
        mock.patch.object(sharding, "MIN_SHARDED_SIZE", 1),
        mock.patch.object(sharding.jax, "devices", lambda: found),
    ):
        return train(cfg, run)


def digest(names: jax.Array, values: jax.Array) -> jax.Array:
    """uint32 of a name (b,) and values (b n) a row; the order of rows counts for nothing."""

    def mixed(x):
        x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
        return x ^ (x >> 16)

    places = jnp.arange(values.shape[1], dtype=jnp.uint32)
    names = mixed(names.astype(jnp.uint32) + 1)[:, None]
    return mixed(mixed(values.astype(jnp.uint32) + mixed(places + 1)) ^ names).sum(dtype=jnp.uint32)


def note_writers(folder: Path, writers: set[str]) -> None:
    """From now on, put the file of ours, or the package, that changes anything below `folder` into
    `writers`, as "checkpoint.py". The files that only carry out what another asks for do not count.
    """

    def note(event: str, given: tuple) -> None:
        if event == "open" and not (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            return
        if isinstance(given[0], int) or not Path(os.fsdecode(given[0])).is_relative_to(folder):
            return
        frame, names = sys._getframe(), []
        while frame is not None:
            names.append(frame.f_code.co_filename)
            frame = frame.f_back
        ours = [f.name for f in map(Path, names) if f.parent == PACKAGE and f.name != "files.py"]
        others = [n.split("/site-packages/")[1].split("/")[0] for n in names if "-packages/" in n]
        writers.add([*ours, *others[-1:], names[-1]][0])

    sys.addaudithook(note)


def main() -> int:
    store, out, names, *fields = sys.argv[1:]
    changes = {name: ast.literal_eval(value) for name, value in (f.split("=") for f in fields)}
    writers: set[str] = set()
    note_writers(Path(out), writers)
    with multihost.job():
        for name in names.split(","):
            train_recorded(name, Path(store), Path(out) / name, **changes)
    print("writers:", *sorted(writers))
    return 0


if __name__ == "__main__":
    run(main)
