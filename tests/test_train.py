"""The loop's promises: exact continuation, any mesh, clear refusals."""

import fcntl
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from runs import everything, losses, same, tiny

from surgjax import build, sharding
from surgjax.checkpoint import read_params
from surgjax.errors import INTERRUPTED, REQUEUE, Stopped, UserError
from surgjax.state import flatten, partition
from surgjax.train import train

MAKE_STEP = build.make_step


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Most promises are about one device; the tests of several ask for `devices`."""
    use_devices(monkeypatch, 1)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Runs of equal settings share what is compiled: most of these tests' time is tracing.

    Continuing in a process of its own, as users do, is what tests/faults is about.
    """
    with pytest.MonkeyPatch.context() as patch:
        made = {}

        def once(key, make):
            if key not in made:
                made[key] = make()
            return made[key]

        def make_step(learner, cfg, mesh, abstract, teacher=None):
            places = str(jax.tree.map(lambda x: x.sharding, abstract))
            key = (learner.graphdef, learner.optimizer, cfg.seed, cfg.accumulation, places)
            step = once(key, lambda: MAKE_STEP(learner, cfg, mesh, abstract, teacher))

            def compiled(arguments):
                shapes = str(jax.tree.map(np.shape, arguments))
                return once((key, shapes), lambda: step.lower(*arguments).compile())

            return SimpleNamespace(
                lower=lambda *arguments: SimpleNamespace(compile=lambda: compiled(arguments))
            )

        def jit_once(init, **options):
            learner = getattr(init, "__self__", None)
            if learner is None:  # the weights that evaluations compare with
                return jax.jit(init, **options)
            key = (learner.graphdef, learner.optimizer, str(options))
            return once(key, lambda: jax.jit(init, **options))

        patch.setattr(build, "make_step", make_step)
        patch.setattr(build, "jit_once", jit_once)
        yield


def use_devices(monkeypatch, count):
    found = jax.local_devices()[:count]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)


def fresh_state(cfg):
    learner = build.make_learner(cfg)
    return build.init_state(learner, cfg, learner.abstract(sharding.make_mesh(1, 1)))[0]


@pytest.fixture(scope="module")
def straight(store, tmp_path_factory):
    """An unbroken run of six steps on one device."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        train(tiny(store), run)
    return run


def test_three_steps_and_three_more_are_six_bit_for_bit(store, straight, tmp_path):
    train(tiny(store, stop_at_step=3), tmp_path)
    assert max(losses(tmp_path)) == 3
    train(tiny(store), tmp_path)
    assert same(tmp_path, straight)
    assert losses(tmp_path) == losses(straight) and list(losses(straight)) == [1, 2, 3, 4, 5, 6]


def test_a_signal_in_the_last_evaluation_leaves_it_to_the_next_start(store, tmp_path, monkeypatch):
    monkeypatch.setenv("SURGJAX_TESTING", "1")
    monkeypatch.setenv("SURGJAX_FAULT", "evaluation:sigterm:1")
    cfg = tiny(store, stop_at_step=1, evals__reconstruction=dict(every=0, store=str(store)))
    with pytest.raises(Stopped) as stop:
        train(cfg, tmp_path)
    assert stop.value.code == REQUEUE and (tmp_path / "STATUS").read_text() == "preempted\n"
    assert "reconstruction/done" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("action, code", [("sigterm", REQUEUE), ("sigint", INTERRUPTED)])
def test_a_signal_saves_and_the_run_goes_on_exactly(
    store, straight, tmp_path, monkeypatch, action, code
):
    monkeypatch.setenv("SURGJAX_TESTING", "1")
    monkeypatch.setenv("SURGJAX_FAULT", f"before_step:{action}:3")
    with pytest.raises(Stopped) as stop:
        train(tiny(store, checkpoint__every=100), tmp_path)
    assert stop.value.code == code
    assert (tmp_path / "STATUS").read_text().split() == [
        "preempted" if code == REQUEUE else "interrupted"
    ]
    assert 3 <= read_params(tmp_path)[1]["step"] < 6
    monkeypatch.delenv("SURGJAX_FAULT")
    train(tiny(store, checkpoint__every=100), tmp_path)
    assert same(tmp_path, straight) and (tmp_path / "STATUS").read_text() == "done\n"


def test_a_finished_run_has_nothing_left_to_do(store, straight):
    before = (straight / "metrics.jsonl").read_text()
    train(tiny(store), straight)
    assert (straight / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("part", ["shards", "videos.parquet", "labels/phase.parquet"])
def test_a_store_prepared_anew_is_not_taken_for_the_same(store, straight, tmp_path, part):
    copy, run = tmp_path / "store", tmp_path / "run"
    shutil.copytree(store, copy)
    train(tiny(copy, stop_at_step=2), run)
    meta = json.loads((copy / "store.json").read_text())
    if part == "shards":
        meta["shards"][1]["sha256"] = "0" * 64
    else:
        meta["tables"][part] = "0" * 64
    (copy / "store.json").write_text(json.dumps(meta))
    if part.startswith("labels"):  # corrected meanwhile, and not read here
        train(tiny(copy), run)
        assert same(run, straight)
    else:
        with pytest.raises(UserError, match=f"not as the run was started with: {part} changed"):
            train(tiny(copy), run)


def close(a, b, tolerance=1e-5):
    pairs = zip(everything(a), everything(b), strict=True)
    return all(np.allclose(x, y, rtol=0, atol=tolerance) for x, y in pairs)


def test_one_device_and_data_parallel_with_sharded_parameters_agree(
    store, straight, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 1)
    use_devices(monkeypatch, 4)
    state = train(tiny(store, mesh__data=2, mesh__fsdp=2), tmp_path)
    kernel = state.params["encoder"]["embed"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 2 == kernel.size
    assert close(tmp_path, straight)


def test_a_run_continues_on_another_mesh(store, straight, tmp_path, monkeypatch):
    train(tiny(store, stop_at_step=3), tmp_path)
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 1)
    use_devices(monkeypatch, 4)
    train(tiny(store, mesh__data=2, mesh__fsdp=2), tmp_path)
    assert close(tmp_path, straight)


def test_accumulation_on_two_devices_changes_no_number(store, straight, tmp_path, monkeypatch):
    use_devices(monkeypatch, 2)
    train(tiny(store, accumulation=4), tmp_path)
    assert close(tmp_path, straight)


def test_workers_do_not_change_numbers(store, straight, tmp_path):
    train(tiny(store, data__workers=1, stop_at_step=2), tmp_path)
    assert {s: v for s, v in losses(straight).items() if s <= 2} == losses(tmp_path)


def test_frozen_leaves_keep_their_values_and_are_saved_once(store, tmp_path):
    cfg = tiny(store, optim__frozen=r"encoder/(embed|blocks/0/)", stop_at_step=3)
    train(cfg, tmp_path)
    cfg.stop_at_step = 0
    state = train(cfg, tmp_path)
    assert set(flatten(state.frozen)) == {"encoder/embed/kernel", "encoder/embed/bias"}
    assert "embed" not in state.params["encoder"]
    fresh = fresh_state(cfg)
    assert np.array_equal(
        state.frozen["encoder"]["embed"]["kernel"], fresh.frozen["encoder"]["embed"]["kernel"]
    )
    trained, first = (flatten(s.params)["encoder/blocks/mlp/up/kernel"] for s in (state, fresh))
    assert np.array_equal(trained[0], first[0]) and not np.array_equal(trained[1], first[1])
    whole, _ = read_params(tmp_path)
    assert np.array_equal(
        whole["encoder"]["embed"]["kernel"], fresh.frozen["encoder"]["embed"]["kernel"]
    )


def test_updates_that_stay_infinite_end_the_run_with_a_way_out(store, tmp_path):
    cfg = tiny(store, optim__peak_lr=1e38, optim__warmup_steps=0, total_steps=40)
    with pytest.raises(UserError, match="in a row .* lower optim.peak_lr"):
        train(cfg, tmp_path)
    assert (tmp_path / "STATUS").read_text().startswith("failed: UserError")


@pytest.mark.parametrize(
    "change, field",
    [
        ({"batch_size": 16}, "batch_size"),
        ({"optim__peak_lr": 0.5}, "optim.peak_lr"),
        ({"objective__mask_ratio": 0.5}, "objective.mask_ratio"),
        ({"seed": 1}, "seed"),
    ],
)
def test_a_changed_config_is_refused_by_field(store, straight, change, field):
    with pytest.raises(UserError, match=f"{field}="):
        train(tiny(store, **change), straight)


def test_a_second_process_is_refused(store, tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use by another process"):
            train(tiny(store), tmp_path)


def test_metrics_are_cut_back_to_the_restored_step(store, straight, tmp_path):
    train(tiny(store, stop_at_step=2), tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 3, "loss": 99.0}) + '\n{"step": 4, "lo')
    train(tiny(store), tmp_path)
    assert losses(tmp_path) == losses(straight)


def test_the_checkpoint_says_what_it_was_made_of(straight, store):
    _, meta = read_params(straight)
    assert meta["pretrained_on"] == ["synthetic (train)"] and meta["step"] == 6
    assert meta["used_cases"] and all(c.startswith("synthetic/") for c in meta["used_cases"])
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["licences"].keys() == {"synthetic"}


def test_an_average_of_the_encoder_follows_it(store, tmp_path, monkeypatch):
    from surgjax.objectives import mae

    class Averaged(mae.Objective):
        ema_of = "encoder"

        def ema_momentum(self, step, total_steps):
            return 0.5

    monkeypatch.setattr(mae, "Objective", Averaged)
    cfg = tiny(store, checkpoint__keep=10, checkpoint__every=1, total_steps=4)
    train(cfg, tmp_path)
    key = "blocks/mlp/up/kernel"
    average = flatten(fresh_state(cfg).ema)[key]
    for step in range(1, 5):
        params = flatten(read_params(tmp_path, step)[0]["encoder"])[key]
        average = 0.5 * average + 0.5 * params
        saved = flatten(read_params(tmp_path, step, "ema")[0])[key]
        np.testing.assert_allclose(saved, average, atol=1e-6)
    for step in (3, 4):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    train(cfg, tmp_path)
    resumed = flatten(read_params(tmp_path, 4, "ema")[0])[key]
    assert np.array_equal(resumed, saved)


def test_init_from_takes_the_weights_of_a_run_and_where_they_come_from(store, straight, tmp_path):
    state = train(tiny(store, init_from=str(straight), stop_at_step=1), tmp_path)
    given, _ = read_params(straight)
    # The first update has a learning rate of zero: warm-up starts there.
    assert np.array_equal(
        state.params["encoder"]["embed"]["kernel"], given["encoder"]["embed"]["kernel"]
    )
    _, meta = read_params(tmp_path)
    assert meta["init_from"]["pretrained_on"] == ["synthetic (train)"]
    assert meta["pretrained_on"] == ["synthetic (train)"]


def test_partition_and_join_are_inverse():
    params = {"a": {"x": np.ones(2), "y": np.zeros(3)}}
    trained, frozen = partition(params, lambda path, shape: path == "a/y")
    assert flatten(trained).keys() == {"a/x"} and flatten(frozen).keys() == {"a/y"}
    assert flatten(build.join(trained, frozen)).keys() == flatten(params).keys()
