"""Weight files: headers, index files and folders, against the public safetensors reader."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import strategies as st
from mutations import ODD_JSON, damaged, odd_json

from surgjax.errors import UserError
from surgjax.interop import files

TENSORS = {
    "encoder.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "encoder.bias": np.arange(4, dtype=np.float16),
    "count": np.array(7, np.int64),
    "nothing": np.zeros((0, 5), np.uint8),
}
DATA = safetensors.numpy.save(TENSORS, {"format": "pt"})
LENGTH = struct.unpack("<Q", DATA[:8])[0]
HEADER = json.loads(DATA[8 : 8 + LENGTH])
PAYLOAD = DATA[8 + LENGTH :]


def with_header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + PAYLOAD


def entries() -> st.SearchStrategy[bytes]:
    """Headers of tensors that claim anything; only some of them fit the payload."""
    size = st.sampled_from([0, 1, 2, 3, 4, 8, 16, 64, 2**31, 2**40, 2**62, 2**64, -1, 10**15])
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from([*files.DTYPES, "F8_E4M3", "f32", "", "O"]),
            "shape": st.lists(size, max_size=4) | st.sampled_from(ODD_JSON),
            "data_offsets": st.lists(size, min_size=2, max_size=2) | st.sampled_from(ODD_JSON),
        }
    )
    names = st.sampled_from(["a", "b", "", "__metadata__", "../x", "\x00"])
    header = st.dictionaries(names, entry, max_size=3)
    return header.map(lambda one: with_header(json.dumps(one).encode("utf-8", "replace")))


def one_file(folder: Path, data: bytes) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(data)
    found = files.read(file)
    expected = dict(safetensors.deserialize(data))  # refuses what is unsound by itself
    assert set(found.tensors) == set(expected)
    for name, tensor in found.tensors.items():
        assert list(tensor.shape) == expected[name]["shape"]
        assert tensor.tobytes() == bytes(expected[name]["data"])
    return f"read {len(expected)} tensors"


def test_a_file_is_read_as_the_public_reader_does_or_refused(for_all):
    headers = odd_json(HEADER).map(with_header)
    lying = st.builds(with_header, st.just(DATA[8 : 8 + LENGTH]), st.integers(0, 2**64 - 1))
    listed = with_header(b'{"a":{"dtype":["F32"],"shape":[0],"data_offsets":[0,0]}}')
    outcomes = for_all(one_file, damaged(DATA) | headers | entries() | lying, examples=[(listed,)])
    assert outcomes["read _ tensors"] and len(outcomes) > 5


def shards_of(folder: Path, index: bytes, shard: bytes) -> str:
    (folder / "model.safetensors.index.json").write_bytes(index)
    (folder / "one.safetensors").write_bytes(shard)
    (folder.parent / "outside.safetensors").write_bytes(DATA)
    try:
        found = files.read(folder)
    finally:
        (folder.parent / "outside.safetensors").unlink()
    named = json.loads(index)["weight_map"]
    assert set(named.values()) <= {"one.safetensors"} and set(named) <= set(found.tensors)
    return "read"


def test_an_index_names_shards_of_its_own_folder(for_all):
    index = {
        "metadata": {"total_size": 64},
        "weight_map": dict.fromkeys(TENSORS, "one.safetensors"),
    }
    away = {**index, "weight_map": {"count": "../outside.safetensors"}}
    deep = (b"[" * 100_000, DATA)
    outcomes = for_all(shards_of, odd_json(index) | odd_json(away), damaged(DATA), examples=[deep])
    assert outcomes["read"] and len(outcomes) > 5


def pytorch_file(folder: Path, data: bytes) -> str:
    file = folder / "model.pth"
    file.write_bytes(data)
    tensors, _ = files.read_torch(file)
    assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())
    return f"read {len(tensors)} tensors"


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_ends_in_tensors_or_one_line(for_all, zipped):
    torch = pytest.importorskip("torch")
    import io

    file = io.BytesIO()
    model = {name: torch.from_numpy(tensor.copy()) for name, tensor in TENSORS.items()}
    torch.save({"model": model, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    data = file.getvalue()
    other_start = (bytes([data[0] ^ 1]) + data[1:],)
    outcomes = for_all(pytorch_file, damaged(data), examples=[other_start])
    assert outcomes["read _ tensors"] and len(outcomes) > 2


def test_a_claim_of_a_quadrillion_numbers_allocates_nothing(tmp_path):
    claim = {"a": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}
    file = tmp_path / "model.safetensors"
    file.write_bytes(with_header(json.dumps(claim).encode()))
    with pytest.raises(UserError, match="header describes 4000000000000000"):
        files.read(file)
