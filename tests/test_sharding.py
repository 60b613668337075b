"""One rule places parameters; process rows are contiguous."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from surgjax.errors import UserError
from surgjax.sharding import host_rows, make_mesh, param_spec, put_batch, to_host


def test_parameters_split_their_largest_dimension_but_never_the_layers():
    assert param_spec("encoder/embed/kernel", (1536, 768), 4) == P("fsdp", None)
    assert param_spec("encoder/blocks/mlp/up/kernel", (12, 768, 3072), 4) == P(None, None, "fsdp")
    assert param_spec("encoder/blocks/norm1/scale", (12, 768), 4) == P()  # small
    assert param_spec("encoder/embed/kernel", (1537, 769), 4) == P(None, None)
    assert param_spec("encoder/embed/kernel", (1536, 768), 1) == P()


def test_mesh_takes_what_is_left_and_refuses_what_does_not_fit():
    assert dict(make_mesh(-1, 2).shape) == {"data": 4, "fsdp": 2}
    assert dict(make_mesh(2, -1).shape) == {"data": 2, "fsdp": 4}
    with pytest.raises(UserError, match="8 devices present"):
        make_mesh(3, 2)


def test_batches_are_put_whole_and_index_keeps_its_value():
    mesh = make_mesh(-1, 2)
    batch = {"video": np.arange(16, dtype=np.uint8), "index": np.arange(16) + 3_000_000_000}
    placed = put_batch(mesh, batch, 16)
    assert placed["index"].dtype == np.uint32
    assert np.array_equal(to_host(placed["index"]), batch["index"])
    assert len(placed["video"].addressable_shards) == jax.device_count()


def test_the_batch_must_divide_over_the_mesh():
    assert host_rows(make_mesh(), 16) == (0, 16)
    with pytest.raises(UserError, match="nearest: 16"):
        host_rows(make_mesh(), 15)
