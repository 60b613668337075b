import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from surgjax import masking, objectives
from surgjax.errors import UserError

TINY = dict(frames=4, size=48, encoder=dict(size="T"), mask_ratio=0.7)


def build(**changes):
    return objectives.build("mae", **{**TINY, **changes}, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def objective():
    return build()


@pytest.fixture(scope="module")
def batch():
    video = np.random.default_rng(0).integers(0, 256, (3, 4, 48, 48, 3), dtype=np.uint8)
    video[1, :2, :16, :16] = 77  # a cube without contrast
    return {"video": video, "index": np.array([4, 8, 15], np.uint32)}


def expected_target(video, token):
    """One cube of VideoMAE's target by its definition, in float64."""
    t, h, w = np.unravel_index(token, (2, 3, 3))
    cube = video[2 * t : 2 * t + 2, 16 * h : 16 * h + 16, 16 * w : 16 * w + 16] / 255.0
    rows = cube.reshape(512, 3)
    mean = rows.sum(axis=0) / 512
    variance = ((rows - mean) ** 2).sum(axis=0) / 511
    return ((rows - mean) / (np.sqrt(variance) + 1e-6)).ravel()


def test_targets_and_loss_against_float64(objective, batch):
    rng = jax.random.key(3)
    picture = jax.jit(objective.reconstruct)(batch, rng)
    picture = {name: np.asarray(value) for name, value in picture.items()}
    assert picture["masked"].shape == (3, 12)
    target = np.array(
        [
            [expected_target(video, token) for token in tokens]
            for video, tokens in zip(batch["video"], picture["masked"], strict=True)
        ]
    )
    flat = np.abs(target).max(axis=-1) < 1e-3  # no contrast: rounding divided by 1e-6
    np.testing.assert_allclose(picture["target"][~flat], target[~flat], atol=2e-5)
    loss, scalars = jax.jit(lambda batch: objective.loss(batch, rng=rng))(batch)
    expected = ((picture["prediction"].astype(np.float64) - picture["target"]) ** 2).mean()
    assert loss.dtype == jnp.float32 and scalars["loss"] == loss
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_reconstruction_returns_to_pixels(objective, batch):
    picture = jax.jit(objective.reconstruct)(batch, jax.random.key(3))
    pixels = picture["target"].reshape(3, 12, -1, 3) * picture["std"][:, :, None]
    pixels = np.asarray(pixels + picture["mean"][:, :, None]).reshape(3, 12, -1) * 255
    cubes = np.asarray(objective.encoder.tubelets(batch["video"]))
    expected = np.take_along_axis(cubes, np.asarray(picture["masked"])[:, :, None], axis=1)
    np.testing.assert_allclose(pixels, expected, atol=1e-3)


@pytest.fixture(scope="module")
def step(objective):
    """(state, batch) -> (loss, gradients), compiled once."""
    graphdef, _ = nnx.split(objective, nnx.Param)
    return jax.jit(
        jax.value_and_grad(
            lambda state, batch: nnx.merge(graphdef, state).loss(batch, rng=jax.random.key(0))[0]
        )
    )


def test_a_clip_without_contrast_keeps_gradients_finite(objective, step, batch):
    flat = {**batch, "video": np.full_like(batch["video"], 77)}
    loss, grads = step(nnx.state(objective, nnx.Param), flat)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_loss_falls_on_one_batch(objective, step, batch):
    state, losses = nnx.state(objective, nnx.Param), []
    for _ in range(12):
        loss, grads = step(state, batch)
        state = jax.tree.map(lambda p, g: p - 0.1 * g, state, grads)
        losses.append(float(loss))
    assert losses[-1] < 0.97 * losses[0]


def test_hidden_pixels_are_unseen(objective, batch):
    keep, hidden = masking.tube(jax.random.key(0), batch["index"], (2, 3, 3), 0.7)
    cubes = np.array(objective.encoder.tubelets(batch["video"]))
    predict = jax.jit(lambda cubes: objective.predict(cubes, keep, hidden))
    before = predict(cubes)
    for row, tokens in zip(cubes, np.asarray(hidden), strict=True):
        row[tokens] = 255 - row[tokens]
    np.testing.assert_array_equal(predict(cubes), before)
    cubes[:, np.asarray(keep)[0, 0]] //= 2
    assert (predict(cubes)[0] != before[0]).any()


def test_a_samples_share_does_not_depend_on_its_row(batch):
    objective = build(decode_fraction=0.5, encoder=dict(size="T", drop_path=0.5))
    loss = jax.jit(lambda batch: objective.loss(batch, rng=jax.random.key(1))[0])

    def rows(*order):
        return {name: value[list(order)] for name, value in batch.items()}

    alone = [float(loss(rows(i, i, i))) for i in range(3)]
    assert len(set(alone)) == 3
    assert float(loss(batch)) == pytest.approx(np.mean(alone), rel=1e-5)
    assert float(loss(rows(2, 0, 1))) == pytest.approx(np.mean(alone), rel=1e-5)


def test_decoding_a_subset_estimates_the_same_mean(batch):
    """With attention off, tokens do not meet, so a subset's predictions are rows of the whole's."""
    objective = build(decode_fraction=0.25)
    assert objective.hidden == 12 and objective.decoded == 3
    kernel = objective.decoder.blocks.attention.out.kernel
    kernel[...] = jnp.zeros_like(kernel[...])
    keep, hidden = masking.tube(jax.random.key(0), batch["index"], (2, 3, 3), 0.7)
    chosen = masking.subset(jax.random.key(1), batch["index"], hidden, 3)
    cubes = objective.encoder.tubelets(batch["video"])
    predict = jax.jit(objective.predict)
    whole = np.asarray(predict(cubes, keep, hidden))
    for i, part in enumerate(np.asarray(predict(cubes, keep, chosen))):
        rows = np.searchsorted(np.asarray(hidden)[i], np.asarray(chosen)[i])
        np.testing.assert_allclose(part, whole[i, rows], atol=1e-5)


def test_encode_sees_the_whole_clip_and_returns_float32(batch):
    objective = build(dtype="bfloat16")
    tokens = jax.jit(objective.encode)(batch["video"])
    assert tokens.shape == (3, 18, 192) and tokens.dtype == jnp.float32


def abstract(**options):
    return nnx.eval_shape(lambda: objectives.build("mae", **options, rngs=nnx.Rngs(0)))


def vit_b(**options):
    return abstract(frames=16, size=224, encoder=dict(size="B"), **options)


def test_parameter_count_is_videomaes():
    leaves = jax.tree.leaves(nnx.state(vit_b()))
    assert sum(leaf.size for leaf in leaves) == 94_210_944


# Published forward counts of ViT-B at 16 x 224 x 224, times three.
@pytest.mark.parametrize("ratio, billions", [(0.75, 344.6), (0.85, 256.8), (0.9, 212.6)])
def test_flops_are_the_published_count(ratio, billions):
    assert vit_b(mask_ratio=ratio).flops_per_clip() / 1e9 == pytest.approx(billions, abs=0.15)


def test_flops_of_a_decoded_half_are_videomae_v2s():
    forward = vit_b(mask_ratio=0.9, decode_fraction=784 / 1408).flops_per_clip() / 3e9
    assert forward == pytest.approx(51.7, abs=0.8)  # there, some of the 784 are visible ones


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_gradient_lowers_for_accelerators(platform, batch):
    graphdef, state = nnx.split(abstract(**{**TINY, "dtype": "bfloat16"}), nnx.Param)

    def step(state, batch, rng):
        return jax.grad(lambda state: nnx.merge(graphdef, state).loss(batch, rng=rng)[0])(state)

    exported = jax.export.export(jax.jit(step), platforms=[platform])(
        state, batch, jax.random.key(0)
    )
    assert exported.platforms == (platform,)
    assert {aval.dtype for aval in exported.out_avals} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(mask_ratio=1.0), "mask_ratio"),
        (dict(decode_fraction=0.0), "decode_fraction"),
        (dict(decoder_width=100), "decoder_heads"),
        (dict(size=50), "data.size is 50"),
        (dict(encoder=dict(size="T", positions="rope")), "encoder.positions"),
        (dict(encoder=dict(size="T", remat="some")), "remat"),
    ],
)
def test_what_does_not_fit_is_the_users_error(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_an_unknown_objective_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'mae'"):
        objectives.build("maes")
