import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from surgjax.errors import UserError
from surgjax.models.token_decoder import TokenDecoder
from surgjax.models.video_vit import SIZES, VideoViT, token_grid, tubelets


@pytest.fixture(scope="module")
def encoder():
    return VideoViT("T", frames=4, image_size=48, rngs=nnx.Rngs(0))


def test_tubelets_run_over_time_rows_columns_channels():
    video = np.random.default_rng(0).standard_normal((1, 4, 48, 32, 3))
    cubes = np.asarray(tubelets(video, (2, 16, 16)))
    assert cubes.shape == (1, 2 * 3 * 2, 1536)
    t, h, w, p0, p1, p2, c = 1, 2, 1, 1, 3, 5, 2
    expected = video[0, 2 * t + p0, 16 * h + p1, 16 * w + p2, c]
    assert cubes[0, (t * 3 + h) * 2 + w, ((p0 * 16 + p1) * 16 + p2) * 3 + c] == expected


def test_hidden_pixels_are_unseen(encoder):
    keep = jnp.array([[0, 4, 17], [2, 3, 9]], jnp.int32)
    video = np.random.default_rng(1).standard_normal((2, 4, 48, 48, 3)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda video: jnp.sin(encoder(video, keep)).sum()))(video)
    touched = np.abs(np.asarray(encoder.tubelets(gradient))).max(axis=-1) > 0
    for row, kept in zip(touched, np.asarray(keep), strict=True):
        assert set(np.flatnonzero(row)) == set(kept)


def test_keeping_everything_is_the_full_encoder(encoder):
    video = np.random.default_rng(2).standard_normal((1, 4, 48, 48, 3)).astype(np.float32)
    keep = jnp.arange(18, dtype=jnp.int32)[None]
    full = jax.jit(lambda video: encoder(video))(video)
    np.testing.assert_allclose(jax.jit(encoder)(video, keep), full, atol=1e-6)


def test_positions_are_told_apart_and_can_be_chosen(encoder):
    video = np.ones((1, 4, 48, 48, 3), np.float32)
    tokens = np.asarray(encoder(video))[0]
    assert np.abs(tokens[0] - tokens[1]).max() > 1e-3
    other = VideoViT("T", 4, 48, positions="sincos_3d", rngs=nnx.Rngs(0))
    assert not np.allclose(other(video), encoder(video))


def test_embedding_starts_within_torchs_default_bound(encoder):
    for leaf in (encoder.embed.kernel[...], encoder.embed.bias[...]):
        assert 0.9 * 1536**-0.5 < np.abs(leaf).max() <= 1536**-0.5


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_consistent(size):
    row = SIZES[size]
    assert row.width % row.heads == 0 and row.decoder_width % row.decoder_heads == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("B", 15, 224), "data.frames is 15.*use 14 or 16"),
        (("B", 16, 220), "data.size is 220.*use 208 or 224"),
        (("B", 16, 8), "data.size is 8.*use 16"),
        (("XL", 16, 224), "encoder.size is 'XL'"),
    ],
)
def test_what_does_not_fit_is_the_users_error(arguments, message):
    with pytest.raises(UserError, match=message):
        VideoViT(*arguments, rngs=nnx.Rngs(0))


def test_token_grid():
    assert token_grid(16, 224, (2, 16, 16)) == (8, 14, 14)


def test_decoder_predicts_hidden_tokens_wherever_they_stand_in_the_list():
    decoder = TokenDecoder(12, 7, width=24, depth=2, heads=2, grid=(2, 3, 3), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(3).standard_normal((1, 4, 12)), jnp.float32)
    keep = jnp.array([[0, 5, 9, 14]], jnp.int32)
    hidden = jnp.array([[1, 2, 11, 17]], jnp.int32)
    decode = jax.jit(lambda *arrays: decoder(*arrays))
    out = decode(x, keep, hidden)
    assert out.shape == (1, 4, 7)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(decode(x, keep, hidden[:, order]), out[:, order], atol=1e-5)
    np.testing.assert_allclose(decode(x[:, order], keep[:, order], hidden), out, atol=1e-5)


def test_mask_token_is_cut_at_one_deviation():
    decoder = TokenDecoder(12, 7, width=960, depth=1, heads=2, grid=(2, 3, 3), rngs=nnx.Rngs(0))
    token = np.asarray(decoder.mask_token[...])
    assert token.shape == (1, 1, 960) and 0.018 < np.abs(token).max() <= 0.02
    assert token.std() == pytest.approx(0.02 * 0.5396, rel=0.1)  # of a normal cut at +-1
