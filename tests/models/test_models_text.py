"""What each family of text transformer sees; tests/interop compares with the public classes."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from surgjax.errors import UserError
from surgjax.models.text import FAMILIES, TextTransformer
from surgjax.state import flatten, rebuild, split

SMALL = dict(vocab_size=30, length=8, width=16, depth=2, heads=2)
IDS = np.array([[5, 6, 7, 29, 1, 1], [9, 8, 29, 1, 1, 1]], np.int32)


def network(family, **options):
    return TextTransformer(family, **SMALL | {"eos": 29} | options, rngs=nnx.Rngs(0))


def tokens(family, ids=IDS, mask=None, rng=None, **options):
    graphdef, params = split(network(family, **options))
    run = jax.jit(lambda params, *args: rebuild(graphdef, params)(*args[:2], rng=args[2]))
    return run(params, jnp.asarray(ids), mask, rng)


def changes(family, place, mask=None):
    """Positions whose token is another one once the id at `place` is."""
    other = np.array(IDS)
    other[:, place] = 11
    before, after = (np.asarray(tokens(family, x, mask)) for x in (IDS, other))
    return set(np.flatnonzero(np.abs(before - after).max(axis=(0, 2)) > 1e-6))


def test_who_sees_whom():
    everyone = set(range(6))
    assert changes("clip", 2) == {2, 3, 4, 5}
    assert changes("siglip", 5) == everyone
    assert changes("bert", 5) == everyone
    padding = jnp.asarray(np.arange(6) < 4)[None].repeat(2, axis=0)
    assert changes("bert", 5, padding) == {5}
    assert changes("bert", 2, padding) == everyone
    assert changes("clip", 4, padding) == {4}


def test_what_stands_for_the_sentence():
    made = jnp.arange(2 * 6 * 16, dtype=jnp.float32).reshape(2, 6, 16)
    ids = jnp.asarray(IDS)
    for family, places in (("bert", [0, 0]), ("siglip", [5, 5]), ("clip", [3, 2])):
        found = network(family).pool(made, ids)
        np.testing.assert_array_equal(found, made[np.arange(2), np.array(places)])
    # Padding with the end token itself: the first one counts.
    padded = jnp.where(ids == 1, 29, ids)
    np.testing.assert_array_equal(network("clip").pool(made, padded), made[[0, 1], [3, 2]])
    # eos 2 in old settings: the highest id.
    np.testing.assert_array_equal(network("clip", eos=2).pool(made, ids), made[[0, 1], [3, 2]])


def test_public_sizes():
    """Parameters of the public base models: BERT without pooler, CLIP and SigLIP without maps."""
    counts = {}
    for family in FAMILIES:
        make = lambda family=family: TextTransformer(family, rngs=nnx.Rngs(0))  # noqa: E731
        leaves = flatten(split(nnx.eval_shape(make))[1]).values()
        counts[family] = sum(leaf.size for leaf in leaves)
    # transformers: BertModel 109,482,240 with a pooler of 768 x 768 + 768; CLIPTextModel (B/16);
    # SiglipTextModel 110,270,208 with a head of 768 x 768 + 768.
    assert counts == {
        "bert": 109_482_240 - 768 * 769,
        "clip": 63_165_952,
        "siglip": 110_271_744 - 768 * 769,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_options_of_training(family):
    expected = tokens(family)
    options = dict(remat="full", unroll=True, drop_path=0.9)
    np.testing.assert_allclose(tokens(family, **options), expected, atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 2)
    assert np.abs(tokens(family, rng=keys, **options) - expected).max() > 1e-3
    low = tokens(family, dtype="bfloat16")
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), expected, atol=0.1)


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="'brt' is not known .did you mean 'bert'"):
        network("brt")
    with pytest.raises(UserError, match="sentences of 9 tokens.*positions for 8"):
        network("bert")(jnp.zeros((1, 9), jnp.int32))


def test_networks_load_no_outside_library():
    code = "import sys, surgjax.models.text, surgjax.models.surgclip, surgjax.models.clip_vision\n"
    code += "assert not {'transformers', 'torch', 'tokenizers', 'sentencepiece'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
