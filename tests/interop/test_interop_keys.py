import numpy as np
import pytest

from surgjax.errors import UserError
from surgjax.interop import find_format, formats
from surgjax.interop.keys import LINEAR, Row, Table, from_ours, to_ours, tubelet

ROWS = (
    Row("encoder/blocks/qkv", ("layer.{i}.q", "layer.{i}.k", "layer.{i}.v"), LINEAR),
    Row("encoder/blocks/q_bias", "layer.{i}.q_bias", also="layer.{i}.q.bias"),
    Row("encoder/norm", "norm"),
    Row("decoder/head", "head", LINEAR),
)
TABLE = Table(ROWS, ignored={"*.k_bias": "cancels"})


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    made = {f"layer.{i}.{n}": rng.random((4, 4), np.float32) for i in range(11) for n in "qkv"}
    made |= {f"layer.{i}.q_bias": rng.random(4, np.float32) for i in range(11)}
    return made | {"norm": rng.random(4, np.float32), "head": rng.random((6, 4), np.float32)}


def test_reads_rows_as_pytorch_means_them(tensors):
    params = to_ours(TABLE, tensors).params
    x = np.random.default_rng(1).random(4, np.float32)
    expected = np.concatenate([tensors[f"layer.10.{n}"] @ x for n in "qkv"])  # layer 10 after 9
    np.testing.assert_allclose(x @ params["encoder/blocks/qkv"][10], expected, rtol=1e-6)
    assert params["encoder/blocks/qkv"].shape == (11, 4, 12)
    np.testing.assert_allclose(x @ params["decoder/head"], tensors["head"] @ x, rtol=1e-6)


def test_round_trip_keeps_every_bit_and_writes_both_names(tensors):
    back = from_ours(TABLE, to_ours(TABLE, tensors).params)
    assert set(back) == set(tensors) | {f"layer.{i}.q.bias" for i in range(11)}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name].view(np.uint32), tensor.view(np.uint32))
        assert back[name].flags.c_contiguous
    np.testing.assert_array_equal(back["layer.7.q.bias"], tensors["layer.7.q_bias"])


def test_tubelet_is_the_convolution():
    rng = np.random.default_rng(0)
    conv = rng.standard_normal((5, 3, 2, 4, 4)).astype(np.float32)
    cube = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)  # time, row, column, channel
    transform = tubelet(2, 4, 4)
    kernel = transform.to_ours(conv)
    expected = np.einsum("dcthw,thwc->d", conv, cube)
    np.testing.assert_allclose(cube.reshape(-1) @ kernel, expected, rtol=1e-5)
    np.testing.assert_array_equal(transform.from_ours(kernel, 1)[0], conv)


def test_either_second_name_is_read(tensors):
    renamed = {n.replace("q_bias", "q.bias"): x for n, x in tensors.items()}
    first, second = to_ours(TABLE, tensors), to_ours(TABLE, renamed)
    for path, array in first.params.items():
        np.testing.assert_array_equal(array, second.params[path])


def test_two_names_must_agree(tensors):
    to_ours(TABLE, tensors | {"layer.3.q.bias": tensors["layer.3.q_bias"]})
    with pytest.raises(UserError, match=r"two different tensors.*layer\.3\.q_bias"):
        to_ours(TABLE, tensors | {"layer.3.q.bias": tensors["layer.3.q_bias"] + 1})


@pytest.mark.parametrize("name", ["layer.4.k", "layer.10.q_bias", "norm"])
def test_missing_names_are_an_error(tensors, name):
    del tensors[name]
    with pytest.raises(UserError, match=rf"lacks '{name}'"):
        to_ours(TABLE, tensors)


def test_missing_layer_is_an_error(tensors):
    for name in [n for n in tensors if n.startswith("layer.4.")]:
        del tensors[name]
    with pytest.raises(UserError, match="lacks layer 4"):
        to_ours(TABLE, tensors)


def test_unused_names_are_an_error_unless_allowed(tensors):
    tensors |= {"classifier.weight": np.zeros(2), "layer.0.k_bias": np.zeros(4)}
    with pytest.raises(UserError, match="1 tensors.*'classifier.weight'"):
        to_ours(TABLE, tensors)
    notes = to_ours(TABLE, tensors, allow=["classifier.*"]).notes
    assert "ignored: classifier.weight (allowed)" in notes
    assert "ignored: layer.0.k_bias (cancels)" in notes


def test_allowed_paths_stay_fresh(tensors):
    shapes = {path: x.shape for path, x in to_ours(TABLE, tensors).params.items()}
    del tensors["norm"]
    reading = to_ours(TABLE, tensors, shapes, allow=["encoder/norm"])
    assert reading.fresh == ["encoder/norm"]


def test_encoder_alone_leaves_the_decoder_fresh(tensors):
    shapes = {path: x.shape for path, x in to_ours(TABLE, tensors).params.items()}
    del tensors["head"]
    reading = to_ours(TABLE, tensors, shapes, source="x.pth")
    assert reading.fresh == ["decoder/head"]
    assert reading.notes == ["fresh: decoder (not in x.pth)"]


def test_a_network_we_do_not_have_is_left_out(tensors):
    shapes = {p: x.shape for p, x in to_ours(TABLE, tensors).params.items() if "decoder" not in p}
    reading = to_ours(TABLE, tensors, shapes)
    assert reading.fresh == [] and reading.notes == ["left out: decoder (1 tensors)"]
    assert "decoder/head" not in reading.params


def test_our_own_path_outside_the_table_is_missing(tensors):
    shapes = {path: x.shape for path, x in to_ours(TABLE, tensors).params.items()}
    with pytest.raises(UserError, match="encoder/registers"):
        to_ours(TABLE, tensors, shapes | {"encoder/registers": (4, 4)})


def test_nothing_known_in_the_file():
    with pytest.raises(UserError, match="holds no decoder or encoder.*'resnet.conv'"):
        to_ours(TABLE, {"resnet.conv": np.zeros(3)})


def test_export_of_a_path_without_a_place(tensors):
    params = to_ours(TABLE, tensors).params | {"encoder/registers": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match="no place for 'encoder/registers'"):
        from_ours(TABLE, params)


def test_formats_are_files():
    assert {"videomae", "videomae_official"} <= set(formats())
    for name in formats():
        module = find_format(name)
        paths = [row.ours for row in module.TABLE.rows]
        names = [n for row in module.TABLE.rows for n in (*row.names, row.also) if n]
        assert len(set(paths)) == len(paths) and len(set(names)) == len(names)
    with pytest.raises(UserError, match="did you mean 'videomae'"):
        find_format("video_mae")
