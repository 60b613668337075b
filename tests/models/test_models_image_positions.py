import jax.numpy as jnp
import numpy as np
import pytest

from surgjax.models import image_positions


@pytest.mark.torch
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("sizes", [(37, 14), (16, 24), (4, 5), (14, 14), (3, 1)])
def test_positions_are_resampled_as_torch_does(sizes, antialias):
    torch = pytest.importorskip("torch")
    inputs, outputs = sizes
    table = np.random.default_rng(0).standard_normal((inputs, inputs, 5)).astype(np.float32)
    found = image_positions.resampled(
        jnp.asarray(table), (outputs, outputs + 1), antialias=antialias
    )
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(table).permute(2, 0, 1)[None],
        size=(outputs, outputs + 1),
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_a_rotation_keeps_lengths_and_tells_places_apart():
    """A product of a query and a key depends on how far apart they are, and the class token's on
    neither place; written out for one channel pair."""
    rotate = image_positions.half_rotation((3, 5), 8, prefix=2)
    x = np.random.default_rng(0).standard_normal((1, 17, 1, 8)).astype(np.float32)
    turned = np.asarray(rotate(jnp.asarray(x)))
    np.testing.assert_array_equal(turned[:, :2], x[:, :2])
    np.testing.assert_allclose((turned**2).sum(-1), (x**2).sum(-1), rtol=1e-5)
    place = 2 + 1 * 5 + 4  # second row of three, last column of five
    row, column = 0.0, 2 * (4.5 / 5) - 1
    for channel, angle in ((0, row), (1, row / 10), (2, column), (3, column / 10)):
        angle *= 2 * np.pi
        a, b = x[0, place, 0, [channel, channel + 4]]
        expected = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
        np.testing.assert_allclose(turned[0, place, 0, [channel, channel + 4]], expected, atol=1e-5)
