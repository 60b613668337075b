"""Rotary positions against the published formula, written out channel by channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from surgjax.errors import UserError
from surgjax.models.positions import rotation_3d
from surgjax.models.token_decoder import TokenDecoder
from surgjax.models.video_vit import VideoViT


def turned(x, position):
    """One head's channels at (time, row, column): adjacent pairs, angles tiled over an axis."""
    width, out = len(x), x.copy()
    each = 2 * (width // 3 // 2)
    for axis, place in enumerate(position):
        frequency = [10000 ** (-k / (each / 2)) for k in range(each // 2)]
        angle = [place * f for f in [*frequency, *frequency]]
        for j in range(0, each, 2):
            a, b = axis * each + j, axis * each + j + 1
            out[a] = x[a] * np.cos(angle[j]) - x[b] * np.sin(angle[j])
            out[b] = x[b] * np.cos(angle[j + 1]) + x[a] * np.sin(angle[j + 1])
    return out


@pytest.mark.parametrize("width", [64, 32, 80, 24, 20, 7])
def test_channels_turn_as_published(width):
    """Heads of ViT-B and L, of the predictor, of ViT-H, and some that leave channels alone."""
    x = np.random.default_rng(0).standard_normal((2, 3, 2, width)).astype(np.float32)
    tokens = np.array([[0, 57, 251], [13, 200, 5]])  # of a grid of 14 x 14 places
    found = rotation_3d(tokens, (14, 14), width)(jnp.asarray(x))
    for sample, row, head in np.ndindex(2, 3, 2):
        position = np.unravel_index(tokens[sample, row], (8, 14, 14))
        expected = turned(x[sample, row, head].astype(np.float64), position)
        np.testing.assert_allclose(found[sample, row, head], expected, atol=1e-5)


def test_half_precision_keeps_its_angles():
    x = np.random.default_rng(1).standard_normal((1, 2, 1, 64)).astype(np.float32)
    low = jnp.asarray(x, jnp.bfloat16)
    rotate = rotation_3d(np.array([[1567, 1400]]), (14, 14), 64)
    exact = rotate(low.astype(jnp.float32))
    assert rotate(low).dtype == jnp.bfloat16
    np.testing.assert_allclose(rotate(low).astype(jnp.float32), exact, atol=0.02)


def test_decoder_takes_tokens_in_any_order():
    """The published predictor sorts its tokens by position; that changes nothing."""
    decoder = TokenDecoder(
        *(12, 7),
        width=32,
        depth=2,
        heads=2,
        grid=(2, 3, 3),
        positions="rope_3d",
        qkv_bias="all",
        mask_tokens=3,
        rngs=nnx.Rngs(0),
    )
    x = jnp.asarray(np.random.default_rng(3).standard_normal((1, 3, 12)), jnp.float32)
    keep, hidden = jnp.array([[0, 5, 9]], jnp.int32), jnp.array([[1, 2, 11, 17]], jnp.int32)
    decode = jax.jit(
        lambda *given: decoder(*given[:3], seen=given[3], mask_token=given[4]), static_argnums=4
    )
    out = decode(x, keep, hidden, None, 0)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(decode(x, keep, hidden[:, order], None, 0), out[:, order], atol=1e-5)
    assert np.abs(decode(x, keep, hidden, None, 1) - out).max() > 1e-4
    # Filled up with tokens that are not there, the rest is as it was.
    filled = (jnp.pad(x, ((0, 0), (0, 1), (0, 0))), jnp.pad(keep, ((0, 0), (0, 1))), hidden)
    seen = jnp.array([[True, True, True, False, True, True, True, True]])
    np.testing.assert_allclose(decode(*filled, seen, 0), out, atol=1e-5)


def test_names_and_widths_are_checked():
    with pytest.raises(UserError, match="'rope_2d' .did you mean 'rope_3d'.*sincos_1d"):
        VideoViT("T", 4, 48, positions="rope_2d", rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="at least 6 channels; this network has 4"):
        TokenDecoder(
            *(12, 7),
            width=8,
            depth=1,
            heads=2,
            grid=(1, 2, 2),
            positions="rope_3d",
            rngs=nnx.Rngs(0),
        )
