import math

import numpy as np
import pytest

from surgjax.errors import UserError
from surgjax.models import posemb

GRID = (8, 14, 14)


# Values of the table inside the public PyTorch class.
@pytest.mark.parametrize("width, total", [(768, 245744.99), (384, 122425.86)])
def test_sincos_1d_is_videomaes_table(width, total):
    table = posemb.table("sincos_1d", GRID, width)
    assert table.shape == (1568, width) and table.dtype == np.float32
    assert table.astype(np.float64).sum() == pytest.approx(total, abs=0.01)


def test_sincos_1d_rows():
    table = posemb.table("sincos_1d", GRID, 768)
    np.testing.assert_allclose(table[1, :4], [0.841471, 0.540302, 0.828431, 0.560091], atol=1e-6)
    np.testing.assert_allclose(
        table[1567, :4], [0.608948, -0.793210, 0.093232, -0.995644], atol=1e-6
    )


@pytest.mark.parametrize("width, half", [(768, 128), (1024, 171)])
def test_sincos_3d_is_vjepas_formula(width, half):
    table = posemb.table("sincos_3d", GRID, width)
    assert table.shape == (1568, width)
    t, h, w = 3, 5, 11
    row = []
    for position in (t, h, w):
        angles = [position / 10000 ** (i / half) for i in range(half)]
        row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    np.testing.assert_allclose(table[(t * 14 + h) * 14 + w], row[:width], atol=1e-6)


def test_sincos_3d_row_of_one_step_right():
    assert posemb.table("sincos_3d", GRID, 768)[1, 512] == pytest.approx(0.841471, abs=1e-6)


def test_tables_are_shared_and_cannot_be_written():
    table = posemb.table("sincos_1d", (2, 2, 2), 12)
    assert posemb.table("sincos_1d", (2, 2, 2), 12) is table
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 1


def test_an_unknown_name_is_the_users_error():
    with pytest.raises(UserError, match="sincos_1d"):
        posemb.table("sincos1d", GRID, 768)
