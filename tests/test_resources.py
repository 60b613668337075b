"""`--plan`: exact bytes against real arrays, estimates against compiled programs, every config."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import tiny
from test_config import ROOT, load

from surgjax import build, main, resources, traced
from surgjax.errors import UserError
from surgjax.progress import PEAK_FLOPS
from surgjax.sharding import make_mesh, put_batch, state_shardings
from surgjax.state import split

VARIANTS = {
    "surgrec_mae": ("", "demo", "one_gpu"),
    "surgvista": ("", "script", *"ABCDE", "demo", "one_gpu"),
    "surgrec_jepa": ("", "reference", "vjepa1", "demo", "one_gpu"),
    "surgclip": ("", "ours", "siglip", "frozen", "frozen_video", "frozen_text", "partly_frozen")
    + ("demo", "one_gpu"),
    "finetune": ("", "linear", "attentive", "surgvista", "surgvista_triplet", "surgvista_clip")
    + ("surgvista_frame", "surgrec", "surgrec_release", "demo", "one_gpu"),
}
TEXT = dict(family="bert", vocab_size=900, length=16, width=96, depth=1, heads=3)
OBJECTIVES = {
    "mae": dict(mask_ratio=0.75, decoder_depth=1),
    "jepa": dict(predictor_width=96, predictor_depth=1, predictor_heads=3),
    "vista": dict(
        mask_ratio=0.75,
        decoder_depth=1,
        feature_decoder_depth=1,
        teacher=dict(weights="random", size="two blocks"),
    ),
    "clip": dict(video="vit", text=TEXT, tokens=16, dim=64, temperature="log_scale"),
    "classify": dict(task="phase"),
}


def small(name, **changes):
    """A tiny config without a store."""
    objective = {"name": name} | OBJECTIVES[name]
    frozen = {"optim__frozen": "text_encoder/"} if name == "clip" else {}
    size = {"data__size": 96} if name == "jepa" else {}  # its blocks need room
    return tiny("", objective=objective, **frozen, **size, **changes)


def on_one_device(tree):
    """Bytes of the fullest device's shards of real arrays."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_said_to_be_exact_is(name):
    cfg, _ = resources.whole(small(name, batch_size=16))
    learner, key = build.make_learner(cfg), jax.random.key(0)
    drawn, taught = jax.jit(learner.init)(key), {}
    if learner.make_teacher is not None:
        taught = jax.jit(lambda key: split(learner.make_teacher(key))[1])(key)
    for fsdp in (4, 1):
        cfg.mesh.fsdp = fsdp
        found = resources.plan(cfg, 8)
        assert (found.data, found.fsdp) == (8 // fsdp, fsdp)
        mesh = make_mesh(-1, fsdp)
        state = jax.device_put(drawn, state_shardings(mesh, drawn))
        taught = jax.device_put(taught, state_shardings(mesh, taught))
        real = {
            "parameters": state.params,
            "optimizer moments": state.opt_state,
            "average": state.ema,
            "frozen": state.frozen,
            "teacher": taught,
        }
        sizes = {part: on_one_device(tree) for part, tree in real.items()}
        assert dict(found.held) == {part: size for part, size in sizes.items() if size}
        everything = sum(x.nbytes for x in jax.tree.leaves(state.params))
        assert (found.held["parameters"] < everything) == (fsdp > 1)
        assert ("frozen" in found.held, "average" in found.held) == (name == "clip", name == "jepa")
        saved = jax.tree.leaves((state.params, state.opt_state, state.ema))
        assert found.checkpoint == sum(x.nbytes for x in saved)
        rows = build.batch_shapes(cfg, learner, 16)
        rows = {part: np.zeros(x.shape, x.dtype) for part, x in rows.items()}
        rows["index"] = rows["index"].astype(np.int64)
        assert found.batch == on_one_device(put_batch(mesh, rows, 16))


@pytest.mark.parametrize(
    "name, changes, loops",
    [
        ("mae", dict(batch_size=512, data__size=96), False),
        ("classify", dict(batch_size=512, data__size=96, accumulation=4), True),
    ],
)
def test_estimates_are_near_what_xla_allots_and_sends(name, changes, loops):
    cfg, _ = resources.whole(small(name, **changes))
    learner, mesh = build.make_learner(cfg), make_mesh()
    found = resources.step_cost(cfg, learner, build.batch_shapes(cfg, learner, 64))
    state, batch = learner.abstract(mesh), build.batch_shapes(cfg, learner, 512)
    stop = jax.ShapeDtypeStruct((8,), jnp.int32)
    step = build.make_step(learner, cfg, mesh, state).lower(state, batch, stop, None).compile()
    # Of a program that is compiled quickly; of ViT-B, compiled as users do, 0.9 to 1.1.
    assert 0.6 < found.bytes / step.memory_analysis().temp_size_in_bytes < 1.2
    in_loops, once = (reduced(part) for part in step.as_text().split("\nENTRY "))
    params = sum(x.size * 4 for x in jax.tree.leaves(state.params))
    assert (in_loops if loops else once) == pytest.approx(params, rel=2e-3)
    assert (once if loops else in_loops) < 1000
    planned = resources.plan(cfg, 8)
    assert planned.gathered == 0
    assert planned.reduced == pytest.approx(2 * params * 7 / 8 * cfg.accumulation)


def reduced(program):
    """Bytes of what a compiled program all-reduces."""
    total = 0
    for shapes in re.findall(r"= (.*?) all-reduce(?:-start)?\(", program):
        for dims in re.findall(r"[fsu]32\[([\d,]*)\]", shapes):
            total += 4 * int(np.prod([int(n) for n in dims.split(",") if n]))
    return total


def test_operations_and_memory_of_small_programs():
    x, w = jnp.zeros((64, 256)), jnp.zeros((8, 256, 256))
    unit = x.nbytes

    def layer(x, w):
        return jnp.tanh(x @ w), None

    def network(x, w):
        return jax.lax.scan(layer, x, w)[0].sum()

    def trace(function):
        return traced.cost(jax.make_jaxpr(function)(x, w))

    assert traced.cost(jax.make_jaxpr(lambda x: jnp.exp(x) * 2 + x)(x)) == traced.Cost(0, 0.0)
    forward = trace(network)
    assert forward.flops == 8 * 2 * 64 * 256 * 256
    assert forward.bytes < 5 * unit + w.nbytes // 8 + 100
    backward = trace(jax.grad(network, argnums=1))
    assert backward.flops == 3 * forward.flops
    # Inputs and derivatives of all layers, and the gradient.
    assert 16 * unit + w.nbytes <= backward.bytes < 26 * unit + w.nbytes * 1.3
    layer = jax.checkpoint(layer, prevent_cse=False)
    again = trace(jax.grad(network, argnums=1))
    assert again.flops == 4 * forward.flops
    assert again.bytes < backward.bytes
    halved = traced.cost(jax.make_jaxpr(jax.grad(network, argnums=1))(x, w), {w.shape: 2})
    assert again.bytes - halved.bytes == w.nbytes // 2


SHORT = [(name, "one_gpu") for name in VARIANTS]
ALL = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]


@pytest.mark.parametrize("cases", [SHORT, pytest.param(ALL, marks=pytest.mark.slow)])
def test_every_config_has_a_plan_and_one_gpu_is_enough(cases):
    for name, variant in cases:
        cfg, _ = resources.whole(load(name, variant, store=""))
        found = resources.plan(cfg, 1)
        assert found.rows * found.accumulation == cfg.batch_size
        # Frozen towers have no backward pass; :reference fills its rows up.
        assert 0.3 < found.executed / found.flops < 3.2, (name, variant)
        if variant == "one_gpu":
            assert found.fits(80e9 if name == "surgrec_jepa" else 24e9), name


def test_no_config_and_no_documented_variant_is_forgotten():
    assert set(VARIANTS) == {path.stem for path in (ROOT / "configs").glob("*.py")} - {"benchmark"}
    for name, variants in VARIANTS.items():
        text = (ROOT / "configs" / f"{name}.py").read_text()
        assert set(re.findall(r"^  :(\w+)", text, re.M)) <= set(variants)


def test_the_first_fit_is_the_first():
    cfg, _ = resources.whole(load("surgrec_mae", "demo", store=""))
    memory = 0.9 * resources.plan(cfg, 1).total
    found = resources.first_fit(cfg, 1, memory)
    changed = resources.changes(cfg, found)
    assert changed == [f"--config.accumulation={found.accumulation}"] and found.fits(memory)
    cfg.accumulation = found.accumulation // 2
    assert not resources.plan(cfg, 1).fits(memory)
    # Moments and parameters alone leave no room: they have to be split.
    cfg.accumulation, cfg.batch_size = 2, 8
    assert resources.first_fit(cfg, 1, 1e6) is None
    cfg.accumulation, cfg.mesh.fsdp = 1, 2
    state = sum(resources.plan(cfg, 8).held.values())
    parted = resources.first_fit(cfg, 8, state)
    assert parted.fsdp == 4 and parted.fits(state)


def test_a_huge_model_on_many_devices_allocates_nothing():
    before = len(jax.live_arrays())
    cfg = load("surgrec_mae", store="")
    cfg.encoder.size, cfg.mesh.fsdp = "H", 8
    cfg, _ = resources.whole(cfg)
    found = resources.plan(cfg, 256)
    assert (found.data, found.fsdp, found.rows) == (32, 8, 4)
    assert found.held["parameters"] * 7 < found.checkpoint / 3 < found.held["parameters"] * 8
    assert found.gathered > 0 and len(jax.live_arrays()) <= before


def plan(capsys, *arguments, config="configs/surgrec_mae.py:demo"):
    code = main.main([f"--config={config}", "--plan", *arguments])
    return code, capsys.readouterr().out


def test_the_command(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, printed = plan(capsys)  # needs no --workdir
    assert code == 0 and "devices 8 (data 8 x fsdp 1)" in printed and "fits" not in printed
    code, printed = plan(capsys, "--devices=2", "--memory=24")
    assert code == 0 and "fits: YES" in printed and "of 121 TFLOP/s (NVIDIA L4)" in printed
    code, printed = plan(
        capsys, "--devices=1", "--memory=1", "--peak=50", "--config.batch_size=4096"
    )
    assert code == 1 and "fits: NO" in printed and "of 50 TFLOP/s" in printed
    assert re.search(r"fits with --config.accumulation=\d+: 0\.\d+ GB", printed)
    classes = "configs/finetune.py:demo"
    code, printed = plan(capsys, "--devices=1", config=classes)
    assert "assumed: 20 classes a task" in printed
    with pytest.raises(UserError, match="trains nothing"):
        plan(capsys, config="configs/benchmark.py")
    with pytest.raises(UserError, match="batch_size=64 is not divisible by .* 3 devices; nearest"):
        plan(capsys, "--devices=3")
    with pytest.raises(UserError, match="mesh.fsdp=4 does not make the 2 devices"):
        plan(capsys, "--devices=2", "--config.mesh.fsdp=4")
    with pytest.raises(UserError, match="--devices goes with --plan"):
        main.main(["--config=configs/surgrec_mae.py", "--workdir=x", "--devices=2"])


def readme_table():
    """The README's table: SurgRec-MAE at a batch of 1,024 where it first fits."""
    places = ((1, 24), (8, 24), (8, 80), (64, 80), (256, 80))
    names = " | ".join(f"{n} x {memory} GB" for n, memory in places)
    lines = [f"| SurgRec-MAE | {names} |", "|---" * (len(places) + 1) + "|"]
    for size in "BLH":
        cells = []
        for devices, memory in places:
            cfg = load("surgrec_mae", store="")
            cfg.encoder.size = size
            cfg, _ = resources.whole(cfg)
            found = resources.first_fit(cfg, devices, memory * 1e9)
            if found is None:
                cells.append("no")
                continue
            how = [text.removeprefix("--config.") for text in resources.changes(cfg, found)]
            seconds = found.seconds(PEAK_FLOPS[resources.KINDS[memory]])
            cells.append(f"{', '.join([f'{found.total / 1e9:.0f} GB', *how])}, {seconds:.2g} s")
        lines.append(f"| ViT-{size} | {' | '.join(cells)} |")
    return "\n".join(lines)


@pytest.mark.slow
def test_the_readme_has_the_table():
    assert readme_table() in (ROOT / "README.md").read_text()
