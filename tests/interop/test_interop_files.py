import json
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from surgjax.errors import UserError
from surgjax.interop import files


def write_raw(path, header, payload=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    return path


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "b.odd": rng.integers(0, 9, 3, np.uint8),  # leaves what follows unaligned
        "a": rng.random((2, 3), np.float32),
        "c": rng.random((4,), np.float32).astype(np.float16),
        "empty": np.zeros((0, 5), np.float32),
        "scalar": np.array(3, np.float32),
    }


def test_equals_the_library_both_ways(tmp_path, tensors):
    files.write_safetensors(tmp_path / "ours.safetensors", tensors, {"note": "x"})
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    safetensors.numpy.save_file(tensors, tmp_path / "theirs.safetensors", {"note": "x"})
    ours, metadata = files.read_safetensors(tmp_path / "theirs.safetensors")
    assert metadata == {"note": "x"} and set(ours) == set(theirs) == set(tensors)
    for name, tensor in tensors.items():
        for other in (ours[name], theirs[name]):
            assert other.dtype == tensor.dtype and other.shape == tensor.shape
            np.testing.assert_array_equal(other, tensor)
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".")] == []


def test_equal_input_gives_equal_bytes(tmp_path, tensors):
    metadata = {"one": "1", "two": "2", "three": "3"}
    files.write_safetensors(tmp_path / "a", tensors, metadata)
    files.write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safetensors.safe_open(tmp_path / "a", "np") as file:
        assert file.metadata() == {"format": "pt", **metadata}


def test_bfloat16_is_read(tmp_path):
    payload = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    path = write_raw(tmp_path / "x.safetensors", {"a": entry([2], [0, 4], "BF16")}, payload)
    tensors, _ = files.read_safetensors(path)
    np.testing.assert_array_equal(tensors["a"].astype(np.float32), [1.5, -2.0])


HUGE = 2**40
BAD = {
    "header larger than the file": struct.pack("<Q", HUGE) + b"{}",
    "three bytes": b"abc",
    "not json": struct.pack("<Q", 4) + b"ab{]",
    "a list": struct.pack("<Q", 2) + b"[]",
    "deep nesting": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "type": ({"a": entry([1], [0, 4], "F33")}, b"1234"),
    "huge shape": ({"a": entry([HUGE, HUGE], [0, 4])}, b"1234"),
    "negative shape": ({"a": entry([-1], [0, 4])}, b"1234"),
    "text shape": ({"a": entry(["1"], [0, 4])}, b"1234"),
    "true as shape": ({"a": entry([True], [0, 4])}, b"1234"),
    "offsets behind the end": ({"a": entry([2], [0, 8])}, b"1234"),
    "three offsets": ({"a": entry([1], [0, 4, 8])}, b"1234"),
    "overlap": ({"a": entry([1], [0, 4]), "b": entry([1], [2, 6])}, b"123456"),
    "hole": ({"a": entry([1], [0, 4]), "b": entry([1], [8, 12])}, b"x" * 12),
    "truncated": ({"a": entry([4], [0, 16])}, b"x" * 10),
    "bytes left over": ({"a": entry([1], [0, 4])}, b"x" * 10),
    "metadata": ({"__metadata__": {"format": 3}}, b""),
    "no entry": ({"a": 3}, b""),
}


@pytest.mark.parametrize("name", BAD)
def test_unsound_headers_are_refused(tmp_path, name):
    path, bad = tmp_path / "bad.safetensors", BAD[name]
    path.write_bytes(bad) if isinstance(bad, bytes) else write_raw(path, *bad)
    with pytest.raises(UserError, match="bad.safetensors is no sound safetensors file"):
        files.read(path)


def test_a_name_twice_is_refused(tmp_path):
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":3}'
    path = write_raw(tmp_path / "bad.safetensors", text, b"1")
    with pytest.raises(UserError, match="appears twice"):
        files.read(path)


def test_folder_without_weights_and_unknown_suffix(tmp_path):
    with pytest.raises(UserError, match="holds no weights.*model.safetensors"):
        files.read(tmp_path)
    (tmp_path / "weights.h5").touch()
    with pytest.raises(UserError, match="unknown suffix"):
        files.read(tmp_path / "weights.h5")
    with pytest.raises(UserError, match="does not exist"):
        files.read(tmp_path / "none.safetensors")


def test_sharded_folder(tmp_path, tensors):
    one, two = {"a": tensors["a"]}, {"c": tensors["c"]}
    files.write_safetensors(tmp_path / "m-1.safetensors", one, {})
    files.write_safetensors(tmp_path / "m-2.safetensors", two, {})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "c": "m-2.safetensors"}}))
    weights = files.read(tmp_path)
    np.testing.assert_array_equal(weights.tensors["c"], tensors["c"])
    assert len(weights.sha256) == 64

    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "z": "m-2.safetensors"}}))
    with pytest.raises(UserError, match="names \\['z'\\]"):
        files.read(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(UserError, match="of its own folder"):
        files.read(tmp_path)


def test_without_torch_the_message_has_the_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "x.pth").touch()
    with pytest.raises(UserError, match="needs PyTorch.*pip install"):
        files.read(tmp_path / "x.pth")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_run_no_code(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path, trap = tmp_path / "x.pth", tmp_path / "trap"
    content = {"model": {"w": torch.ones(2)}, "extra": Payload(str(trap))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="holds Python objects"):
        files.read(path)
    assert not trap.exists()


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_with_options_beside_the_model(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    from argparse import Namespace

    weight = torch.arange(6.0).reshape(2, 3)
    model = {"w": weight, "half": weight.bfloat16()}
    content = {"model": model, "args": Namespace(lr=1.0, path="x"), "epoch": 149, "optimizer": {}}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    tensors = files.read(tmp_path / "x.pth").tensors
    np.testing.assert_array_equal(tensors["w"], weight.numpy())
    np.testing.assert_array_equal(tensors["half"], weight.numpy())
    assert tensors["half"].dtype == np.float32


@pytest.mark.torch
@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "no tensors"])
def test_damaged_torch_files(tmp_path, damage):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pth"
    torch.save({"epoch": 3} if damage == "no tensors" else {"w": torch.ones(3)}, path)
    data = {"empty": b"", "text": b"hello there", "truncated": path.read_bytes()[:-200]}
    if damage in data:
        path.write_bytes(data[damage])
    with pytest.raises(UserError, match="x.pth"):
        files.read(path)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["repeated", "repeated bfloat16", "meta", "sparse", "unnamed"])
def test_tensors_that_are_no_arrays_of_a_file(tmp_path, kind):
    torch = pytest.importorskip("torch")
    one = torch.ones(1, dtype=torch.bfloat16 if "bfloat16" in kind else torch.float32)
    tensor = {"meta": torch.ones(3, device="meta"), "sparse": torch.eye(3).to_sparse()}
    held = {"w": tensor.get(kind, one.expand(2**42))} if kind != "unnamed" else {1: one}
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(UserError, match="tensor 'w' cannot be read|holds no tensors"):
        files.read(tmp_path / "x.pth")


@pytest.mark.torch
def test_a_torch_file_unpacks_to_what_it_is(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(3)}, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as good,
        zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in good.namelist():
            bomb.writestr(name, good.read(name) + bytes(2**20) * name.endswith("data.pkl"))
    with pytest.raises(UserError, match="its parts are compressed"):
        files.read(tmp_path / "y.pth")
