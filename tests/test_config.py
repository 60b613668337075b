"""Every shipped config, and every mistake one can make on the command line."""

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from surgjax import build, config, main
from surgjax.complete import complete
from surgjax.errors import UserError
from surgjax.sharding import make_mesh
from surgjax.state import split

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {path.stem: path for path in sorted((ROOT / "configs").glob("*.py"))}
del CONFIGS["benchmark"]  # which trains nothing; see test_evaluate_encoder.py
VARIANTS = [(name, variant) for name in CONFIGS for variant in ("", "demo", "one_gpu")]
VARIANTS += [("surgvista", "script"), ("surgvista", "C")]
VARIANTS += [("finetune", "linear"), ("finetune", "attentive")]
VARIANTS += [("surgrec_jepa", "reference"), ("surgclip", "siglip"), ("surgclip", "partly_frozen")]
# "" is `one_gpu` without accumulation, which `demo` lacks too.
LOWERED = [(name, "one_gpu") for name in CONFIGS]
SELDOM = [(name, "demo") for name in CONFIGS]
SELDOM += [("finetune", "attentive"), ("surgrec_jepa", "reference"), ("surgclip", "siglip")]
LOWERED += [pytest.param(*case, marks=pytest.mark.slow) for case in SELDOM]
PLATFORMS = ("cuda", "tpu")


def load(name, variant="", store="somewhere"):
    spec = spec_from_file_location(name, CONFIGS[name])
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    cfg = module.get_config(variant)
    cfg.data.stores = str(store)
    return cfg


@pytest.mark.parametrize("name, variant", [*VARIANTS, ("surgrec_jepa", "vjepa1")])
def test_config_is_valid_and_its_state_has_a_shape(name, variant, store):
    cfg = load(name, variant, store)
    config.check(cfg, name)
    cfg = complete(cfg)
    abstract = build.make_learner(cfg).abstract(make_mesh())
    assert sum(x.size for x in jax.tree.leaves((abstract.params, abstract.frozen))) > 1e5


def test_variants_keep_the_global_batch():
    for name in CONFIGS:
        assert load(name, "one_gpu").batch_size == load(name).batch_size
        demo = load(name, "demo")
        assert demo.batch_size % 8 == 0 and demo.total_steps / demo.checkpoint.every >= 5
        assert demo.total_steps / demo.log.every >= 20


@pytest.mark.parametrize("name, variant", LOWERED)
def test_the_train_step_lowers_for_accelerators(name, variant, store):
    cfg = load(name, variant, store)
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1),
        ("data", "fsdp"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
    )
    cfg = complete(cfg)
    learner = build.make_learner(cfg, dtype=jnp.bfloat16)
    abstract = learner.abstract(mesh)
    side, rows = cfg.data.size, cfg.accumulation
    video = jax.ShapeDtypeStruct((rows, cfg.data.frames, side, side, 3), jnp.uint8)
    batch = {"video": video, "index": jax.ShapeDtypeStruct((rows,), jnp.uint32)}
    for name, (shape, kind) in learner.batch_extras.items():
        batch[name] = jax.ShapeDtypeStruct((rows, *shape), kind)
    teacher = learner.make_teacher and nnx.eval_shape(
        lambda: learner.make_teacher(jax.random.key(0))
    )
    step = build.make_step(learner, cfg, mesh, abstract, teacher)
    stop = jax.ShapeDtypeStruct((1,), jnp.int32)
    taught = split(teacher)[1] if teacher else None
    exported = export.export(step, platforms=PLATFORMS)(abstract, batch, stop, taught)
    assert exported.platforms == PLATFORMS
    assert "bf16" in exported.mlir_module()


COMMAND = ["--config=configs/surgrec_mae.py:demo", "--workdir={tmp}/run"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            [*COMMAND, "--config.optim.peek_lr=1"],
            "no field 'optim.peek_lr' (did you mean 'optim.peak_lr'?)",
        ),
        ([*COMMAND, "--config.optimm.peak_lr=1"], "no field 'optimm.peak_lr'"),
        (
            [*COMMAND, "--config.optim.peak_lr=abc"],
            "config.optim.peak_lr must be float, found 'abc'",
        ),
        ([*COMMAND, "--config.batch_size=1.5"], "config.batch_size must be int, found '1.5'"),
        (
            [*COMMAND, "--config.objective.mask_ration=0.5"],
            "(did you mean 'objective.mask_ratio'?)",
        ),
        ([*COMMAND, "--wokdir=x"], "unknown flag --wokdir (did you mean '--workdir'?)"),
        (
            ["--config=configs/surgrec_mea.py", "--workdir=x"],
            "(did you mean 'configs/surgrec_mae.py'?)",
        ),
        (["--config=configs/surgrec_mae.py:dmeo", "--workdir=x"], "unknown variant 'dmeo'"),
        (["--workdir=x"], "--config is missing"),
        (["--config=configs/surgrec_mae.py"], "--workdir is missing"),
        ([*COMMAND, "--config.data.stores=/nowhere/at/all"], "/nowhere/at/all"),
        (COMMAND, "data.stores is empty"),
        ([*COMMAND, "--config.data.stores=x", "--config.data.size=100"], "data.size is 100"),
        ([*COMMAND, "--config.data.stores=x", "--config.data.frames=15"], "data.frames is 15"),
        (
            [*COMMAND, "--config.data.stores=x", "--config.batch_size=12"],
            "batch_size=12 is not divisible",
        ),
        ([*COMMAND, "--config.data.stores=x", "--config.encoder.size=X"], "encoder.size is 'X'"),
        (
            [*COMMAND, "--config.data.stores=x", "--config.objective.name=mea"],
            "(did you mean 'mae'?)",
        ),
        ([*COMMAND, "--multihost=perhaps"], "none of auto, on, off"),
        ([*COMMAND, "--mode=evaluate"], "is no run"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        main.main([a.format(tmp=tmp_path) for a in arguments])
    assert message in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_command_leaves_with_2_and_help_with_0():
    wrong = subprocess.run(
        [sys.executable, "-m", "surgjax.main", "--config=configs/surgrec_mae.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith("error: ") and "Traceback" not in wrong.stderr
    helped = subprocess.run(
        [sys.executable, "-m", "surgjax.main", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert helped.returncode == 0 and "--workdir" in helped.stdout


@pytest.mark.parametrize("given", [None, "glibc.malloc.check=0"])
def test_the_command_has_huge_pages_where_programs_must_ask_and_keeps_what_is_set(tmp_path, given):
    file = tmp_path / "told.py"
    file.write_text("import os; raise SystemExit(str(os.environ.get('GLIBC_TUNABLES')))")
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    told = subprocess.run(
        [sys.executable, "-m", "surgjax.main", f"--config={file}", "--workdir=run"],
        env=environment | ({"GLIBC_TUNABLES": given} if given else {}),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    ask = setting.is_file() and "[madvise]" in setting.read_text()
    expected = given or ("glibc.malloc.hugetlb=1" if ask else None)
    assert told.stderr.splitlines()[-1] == str(expected)


def test_a_config_with_an_unknown_field_or_a_wrong_type_is_named():
    cfg = load("surgrec_mae")
    cfg.optim.momentum = 0.9
    with pytest.raises(UserError, match="'optim.momentum'"):
        config.check(cfg)
    cfg = load("surgrec_mae")
    cfg.objective = {"name": "mae", "mask_ratio": "high"}
    with pytest.raises(UserError, match="objective.mask_ratio must be float"):
        config.check(cfg)
    cfg = load("surgrec_mae")
    cfg.evals = {"knn": {"store": "x"}}
    with pytest.raises(UserError, match="evals.knn.every"):
        config.check(cfg)
