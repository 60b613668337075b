import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import losses, same, tiny

from surgjax import evaluate, multiblock, objectives, sharding
from surgjax.checkpoint import read_model, read_params
from surgjax.data.plan import ClipShape
from surgjax.digests import find_step
from surgjax.errors import UserError
from surgjax.interop import find_format
from surgjax.interop.keys import from_ours, to_ours
from surgjax.multiblock import Mask
from surgjax.objectives import jepa
from surgjax.objectives.mae import IMAGENET_MEAN, IMAGENET_STD
from surgjax.preemption import StopSignal
from surgjax.progress import Meter
from surgjax.state import flatten, rebuild, split, unflatten
from surgjax.train import train
from surgjax.writers import Metrics

ENCODER = dict(size="two blocks", positions="rope_3d", qkv_bias="all")
BLOCKS = {
    "few": dict(blocks=1, scale=0.6, keep=0.3, predict=0.4),
    "many": dict(blocks=3, scale=0.25, keep=0.3, predict=0.2),
}
TINY = dict(
    frames=4,
    size=48,
    encoder=ENCODER,
    blocks=BLOCKS,
    predictor_width=36,
    predictor_depth=2,
    predictor_heads=3,
)


def build(**changes):
    return objectives.build("jepa", **{**TINY, **changes}, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def networks():
    """(the objective without numbers, its parameters, those of a teacher), no two numbers alike."""
    objective = nnx.eval_shape(build)
    rng = np.random.default_rng(0)
    draw = lambda tree: unflatten(  # noqa: E731
        {
            path: path.endswith("scale") + 0.1 * rng.standard_normal(leaf.shape, np.float32)
            for path, leaf in flatten(tree).items()
        }
    )
    params = split(objective)[1]
    return objective, draw(params), draw(params["encoder"])


@pytest.fixture(scope="module")
def batch():
    video = np.random.default_rng(1).integers(0, 256, (4, 4, 48, 48, 3), dtype=np.uint8)
    return {"video": video, "index": np.array([4, 8, 15, 16], np.uint32)}


RNG = jax.random.key(3)


def loss_of(objective):
    """(params, teacher, batch) -> (loss, scalars)"""
    graphdef, _ = split(objective)
    teacher_def, _ = split(objective.encoder)

    def loss(params, teacher, batch):
        guide = rebuild(teacher_def, teacher)
        return rebuild(graphdef, params).loss(batch, rng=RNG, teacher=guide)

    return loss


@pytest.fixture(scope="module")
def gradient(networks):
    return jax.jit(jax.value_and_grad(loss_of(networks[0]), has_aux=True))


@pytest.fixture(scope="module")
def step(networks, batch, gradient):
    """((loss, scalars), gradients)"""
    return gradient(*networks[1:], batch)


def drawn(objective, batch):
    """The masks of a step, by name."""
    mask_rng, _ = jax.random.split(RNG)
    return {
        name: kind.draw(jax.random.fold_in(mask_rng, number), batch["index"])
        for number, (name, kind) in enumerate(objective.masks)
    }


def test_published_sizes():
    """ViT-B with the published predictor and its ten mask tokens."""
    published = dict(size="B", positions="rope_3d", qkv_bias="all")
    whole = nnx.eval_shape(
        lambda: objectives.build("jepa", frames=16, size=256, encoder=published, rngs=nnx.Rngs(0))
    )
    params = flatten(split(whole)[1])
    assert sum(x.size for x in params.values()) + 9 * 384 == 108_125_568
    lengths = [kind.lengths for _, kind in whole.masks]
    assert [name for name, _ in whole.masks] == ["long", "short"]
    assert lengths == [(128, 1433), (471, 983)]


@pytest.mark.torch
def test_loss_and_gradients_are_those_of_the_public_class_s_parts(networks, batch, step):
    """V-JEPA 2's step put together from the public modules: tokens gathered before the blocks."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    objective, params, teacher = networks
    vjepa2 = find_format("vjepa2")

    def public(params):
        flat = flatten(params)
        config = vjepa2.json_files(objective, flat)["config.json"]
        model = transformers.VJEPA2Model(transformers.VJEPA2Config(**config))
        tensors = from_ours(vjepa2.TABLE, flat)
        model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in tensors.items()})
        return model

    student, averaged = public(params), public(params | {"encoder": teacher})
    pixels = (batch["video"] / 255 - IMAGENET_MEAN) / IMAGENET_STD
    pixels = torch.from_numpy(pixels.astype(np.float32).transpose(0, 1, 4, 2, 3).copy())
    with torch.no_grad():
        target = averaged.encoder(pixels).last_hidden_state
        target = torch.nn.functional.layer_norm(target, target.shape[-1:])
    taken = lambda x, places: torch.take_along_dim(x, places[:, :, None], dim=1)  # noqa: E731
    shares = {}
    for name, mask in drawn(objective, batch).items():
        keep, hidden = (torch.from_numpy(np.array(x)).long() for x in mask[:2])
        x = taken(student.encoder.embeddings(pixels), keep)
        for layer in student.encoder.layer:
            x = layer(x, keep)[0]
        context = torch.zeros_like(target)  # the predictor picks the context itself
        places = keep[:, :, None].expand(x.shape)
        context = context.scatter(1, places, student.encoder.layernorm(x))
        guess = student.predictor(context, [keep], [hidden]).last_hidden_state
        shares[name] = (guess - taken(target, hidden)).abs().mean()
    whole = sum(shares.values()) / 2
    whole.backward()
    expected, shares = whole.item(), {name: share.item() for name, share in shares.items()}

    (loss, scalars), grads = step
    assert loss.dtype == jnp.float32 and float(loss) == pytest.approx(expected, rel=1e-5)
    for name, share in shares.items():
        assert float(scalars[f"{name}_loss"]) == pytest.approx(share, rel=1e-5)
    theirs = {name: p.grad.numpy() for name, p in student.named_parameters()}
    wanted = to_ours(vjepa2.TABLE, theirs).params
    for path, found in flatten(grads).items():
        scale = np.abs(wanted[path]).max()
        np.testing.assert_allclose(found / scale, wanted[path] / scale, atol=1e-4, err_msg=path)


def test_a_batch_is_the_mean_of_its_samples(networks, batch, gradient, step):
    halves = [{k: v[rows] for k, v in batch.items()} for rows in ([0, 1, 0, 1], [2, 3, 2, 3])]
    values = [float(gradient(*networks[1:], half)[0][0]) for half in halves]
    assert np.mean(values) == pytest.approx(float(step[0][0]), rel=1e-5)


@pytest.mark.slow
def test_reference_rows_are_those_of_their_own_lengths(networks, batch):
    """Rows filled up to the longest, against each group alone without filling."""
    _, params, teacher = networks
    objective = nnx.eval_shape(lambda: build(masks="reference(batch=2)"))
    loss, _ = jax.jit(loss_of(objective))(params, teacher, batch)
    definition, encoder = split(objective)[0], split(objective.encoder)[0]
    predict = jax.jit(lambda params, *given: rebuild(definition, params).predict(*given))
    cubes = objective.encoder.tubelets(batch["video"])
    normal = ((batch["video"] / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)
    target = jax.jit(lambda params, video: rebuild(encoder, params)(video))(teacher, normal)
    target = np.asarray(target, np.float64)
    target -= target.mean(axis=-1, keepdims=True)
    target /= np.sqrt((target**2).mean(axis=-1, keepdims=True) + 1e-5)
    shares, counts = [], set()
    for mask in drawn(objective, batch).values():
        for rows in (slice(2), slice(2, 4)):
            keep = np.array([k[s] for k, s in zip(mask.keep[rows], mask.seen[rows], strict=True)])
            hide = [h[a] for h, a in zip(mask.hidden[rows], mask.asked[rows], strict=True)]
            alone = Mask(jnp.asarray(keep), jnp.asarray(np.array(hide)))
            counts |= {keep.shape[1], len(hide[0])}
            guess = np.asarray(predict(params, cubes[rows], alone), np.float64)
            wanted = np.take_along_axis(target[rows], np.array(hide)[:, :, None], axis=1)
            shares.append(np.abs(guess - wanted).mean())
    assert len(counts) > 1 and mask.keep.shape[1] > keep.shape[1]
    assert float(loss) == pytest.approx(np.mean(shares), rel=1e-5)


def test_the_context_sees_no_hidden_pixel(networks, batch):
    graphdef, _ = split(networks[0])
    predict = jax.jit(lambda cubes, mask: rebuild(graphdef, networks[1]).predict(cubes, mask))
    mask = drawn(networks[0], batch)["few"]
    cubes = networks[0].encoder.tubelets(batch["video"])
    before = predict(cubes, mask)
    hidden, visible = cubes.copy(), cubes.copy()
    for row, kept in enumerate(np.asarray(mask.keep)):
        hidden[row, np.setdiff1d(np.arange(18), kept)] ^= 255
        visible[row, kept[0]] ^= 255
    assert np.array_equal(predict(hidden, mask), before)
    assert (np.abs(predict(visible, mask) - before) > 1e-4).any(axis=(1, 2)).all()


def test_it_starts_as_published():
    params = flatten(split(build(predictor_depth=3, predictor_width=96))[1])
    assert not params["predictor/mask_token"].any() and not params["encoder/embed/bias"].any()
    assert params["encoder/embed/kernel"].std() == pytest.approx(0.02, rel=0.02)
    assert params["predictor/blocks/mlp/up/kernel"].std() == pytest.approx(0.02, rel=0.02)
    for branch in ("attention/out", "mlp/down"):
        stds = params[f"predictor/blocks/{branch}/kernel"].std(axis=(1, 2))
        np.testing.assert_allclose(stds, 0.02 / np.sqrt([2, 4, 6]), rtol=0.05)
    assert (params["encoder/norm/scale"] == 1).all()


def test_the_average_follows_its_schedule():
    """V-JEPA: linear from 0.998 to 1 over 1.25 times the run; V-JEPA 2: constant."""
    objective = build(ema_start=0.998, ema_end=1.0)
    for step, expected in ((0, 0.998), (50, 0.9988), (100, 0.9996), (125, 1.0), (200, 1.0)):
        assert float(objective.ema_momentum(jnp.int32(step), 125)) == pytest.approx(expected, 1e-6)
    assert float(build().ema_momentum(jnp.int32(7), 10)) == pytest.approx(0.99925, 1e-7)


def test_alarms_are_the_published_measures():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 24)) @ np.diag(0.8 ** np.arange(24))
    values = np.linalg.svd(features, compute_uv=False)
    share = values / values.sum() + 1e-7
    expected = np.exp(-(share * np.log(share)).sum())
    found = jepa.effective_rank(jnp.asarray(features, jnp.float32))
    assert float(found) == pytest.approx(expected, rel=1e-3)
    alike = jnp.tile(jnp.asarray(features[:1], jnp.float32), (40, 1))
    assert float(jepa.effective_rank(alike)) == pytest.approx(1, abs=0.01)

    tokens = rng.standard_normal((3, 18, 8)).astype(np.float32)
    assert float(jepa.spread(jnp.asarray(tokens))) == pytest.approx(
        tokens.reshape(54, 8).std(axis=0).mean(), rel=1e-5
    )
    for rows, count, expected in ((3, 12, 12), (3, 500, 54), (40, 16, 16)):
        numbered = jnp.arange(rows * 18.0).reshape(rows, 18, 1)
        some = np.asarray(jepa.some_tokens(numbered, count)).ravel()
        assert len(set(some)) == len(some) == expected
        assert len(set(some // 18)) >= min(rows, count) // 2 and len(set(some % 18)) > 3


def test_a_collapse_is_one_line_in_the_log(caplog):
    meter = Meter(8, 1.0, 0, 100)
    fine, low = {"target_std": 0.5, "feature_rank": 40.0}, {"target_std": 0.5, "feature_rank": 1.2}
    with caplog.at_level(logging.WARNING, "surgjax"):
        for step, scalars in enumerate([{"loss": 1.0}, fine, low, low, fine, low]):
            meter.warn(step, scalars)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith(
        "step 2: the targets have collapsed: feature_rank 1.2 (< 3)"
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(ema_start=0.9, ema_end=0.8), "objective.ema_start is 0.9 and ema_end 0.8"),
        (dict(masks="all"), "objective.masks is 'all'; choose 'sample'"),
        (dict(blocks={"few": BLOCKS["few"] | {"keep": 0.0}}), "leaves no context of 18 tokens"),
        (dict(predictor_width=16), "attention heads of at least 6 channels; this network has 5"),
        (dict(encoder=ENCODER | {"qkv_bias": "al"}), "encoder.qkv_bias is 'al'; choose 'qv'"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: build(**change))


@pytest.fixture
def config(store, monkeypatch):
    """A config maker; runs take one device."""
    found = jax.local_devices()[:1]
    monkeypatch.setattr(sharding.jax, "devices", lambda: found)
    objective = {"name": "jepa", "blocks": {"few": BLOCKS["few"]}, "predictor_depth": 1}
    objective |= {"predictor_width": 36, "predictor_heads": 3, "ema_start": 0.5, "ema_end": 1.0}

    def make(**changes):
        cfg = tiny(store, objective=objective, data__size=48, **changes)
        cfg.encoder.positions, cfg.encoder.qkv_bias = "rope_3d", "all"
        return cfg

    return make


def evaluators(cfg, learner, folder):
    clip = ClipShape(cfg.data.frames, cfg.data.stride, cfg.data.size)
    return evaluate.Evaluators(cfg, learner, clip, None, folder, StopSignal())


def test_training_goes_on_exactly_average_included(config, tmp_path, monkeypatch):
    state = train(config(), tmp_path / "straight")
    train(config(stop_at_step=4), tmp_path / "parts")
    train(config(), tmp_path / "parts")
    assert same(tmp_path / "straight", tmp_path / "parts")
    assert losses(tmp_path / "straight") == losses(tmp_path / "parts")
    averages = [read_params(tmp_path / run, item="ema")[0] for run in ("straight", "parts")]
    for a, b in zip(*map(jax.tree.leaves, averages), strict=True):
        assert np.array_equal(a, b)
    text = (tmp_path / "straight" / "metrics.jsonl").read_text()
    assert '"target_std"' in text and '"feature_rank"' in text

    # What is evaluated, exported and started from is the average, everywhere.
    model, meta = read_model(find_step(tmp_path / "straight"))
    trained, _ = read_params(tmp_path / "straight")
    name = "encoder/blocks/mlp/up/kernel"
    assert meta["ema_of"] == "encoder"
    assert np.array_equal(flatten(model)[name], flatten({"encoder": averages[0]})[name])
    assert not np.array_equal(flatten(model)[name], flatten(trained)[name])
    seen = {}
    run_params = lambda self, params, *_, **__: seen.update(params) or {}  # noqa: E731
    monkeypatch.setattr(evaluate.Evaluators, "run_params", run_params)
    cfg = config()
    learner = evaluate.build.make_learner(cfg)
    metrics = Metrics(tmp_path, 0, "", {})
    evaluators(cfg, learner, tmp_path).run(state, 6, metrics, only={"knn"})
    metrics.close()
    for path, value in flatten(model).items():
        assert np.array_equal(flatten(seen)[path], value)


def test_pictures_of_filled_in_pixels_are_refused_at_once(config, tmp_path):
    cfg = config()
    cfg.evals = {"reconstruction": {"every": 0, "store": cfg.data.stores}}
    learner = evaluate.build.make_learner(cfg)
    with pytest.raises(UserError, match="the objective jepa fills in no pixels"):
        evaluators(cfg, learner, tmp_path)


def test_one_program_whatever_the_masks(networks, batch):
    """Counts of "reference" change with the step; shapes do not."""
    kind = multiblock.MultiBlock((2, 3, 3), multiblock.Kind(**BLOCKS["few"]), (0.75, 1.5), 2)
    draw = jax.jit(kind.draw)
    counts = {int(draw(jax.random.key(i), batch["index"]).seen.sum(axis=1)[0]) for i in range(20)}
    assert len(counts) > 1 and draw._cache_size() == 1
