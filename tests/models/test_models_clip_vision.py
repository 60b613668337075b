"""The picture towers' mistakes and sizes; tests/interop compares with the public classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from surgjax.errors import UserError
from surgjax.models.clip_vision import ClipVision
from surgjax.models.video_vit import Size
from surgjax.state import flatten, rebuild, split

TINY = Size(16, 2, 2)


def test_public_sizes():
    """Parameters of transformers' CLIPVisionModel (B/32) and SiglipVisionModel (B/16) at 224."""
    for family, patch, expected in (("clip", 32, 87_456_000), ("siglip", 16, 92_884_224)):
        make = lambda f=family, p=patch: ClipVision(f, 224, patch=p, rngs=nnx.Rngs(0))  # noqa: E731
        leaves = flatten(split(nnx.eval_shape(make))[1]).values()
        assert sum(leaf.size for leaf in leaves) == expected


def vector(family, **options):
    """One vector a picture, from the same fresh weights."""
    pictures = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    graphdef, params = split(ClipVision(family, 32, size=TINY, **options, rngs=nnx.Rngs(0)))
    return jax.jit(lambda params: rebuild(graphdef, params).encode(pictures))(params)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_options_of_training_change_no_number(family):
    expected = vector(family)
    options = dict(remat="full", unroll=True, drop_path=0.5)
    np.testing.assert_allclose(vector(family, **options), expected, atol=1e-5)
    low = vector(family, dtype="bfloat16")
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, atol=0.1)


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="'clp' is not known .did you mean 'clip'"):
        ClipVision("clp", 32, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="pictures of 50 pixels do not divide into 16-patches"):
        ClipVision("clip", 50, rngs=nnx.Rngs(0))
    tower = ClipVision("clip", 32, size=TINY, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="pictures of 48 x 32 pixels.*positions for 32 x 32"):
        tower(jnp.zeros((1, 48, 32, 3)))
