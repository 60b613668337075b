"""The unpickler of label files: plain data, whatever a pickle asks for."""

import collections
import io
import os
import pickle
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from mutations import damaged, odd_value

from data_prep import label_files

PLAIN = {
    "01": [{"frame_id": 0, "phase_gt": 2, "name": "a\u00e9"}, {"frame_id": np.int64(1)}],
    "02": (1.5, None, True, b"\x00\xff", {1, 2}, collections.OrderedDict(x=1)),
    "03": np.arange(6, dtype=np.float32).reshape(2, 3),
}
TYPES = dict | list | tuple | set | frozenset | str | bytes | bytearray | int | float | complex
NUMPY = np.ndarray | np.generic | np.dtype | type(None)


class Command:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def only_plain(value: object, seen: set[int]) -> None:
    assert isinstance(value, TYPES | NUMPY), type(value)
    if id(value) in seen:
        return
    seen.add(id(value))
    items = [*value, *value.values()] if isinstance(value, dict) else value
    if isinstance(items, list | tuple | set | frozenset):
        for one in items:
            only_plain(one, seen)


def a_pickle(folder: Path, data: bytes) -> str:
    file = folder / "labels.pickle"
    file.write_bytes(data)
    os.environ["SURGJAX_FUZZ_RAN"] = "no"
    try:
        only_plain(label_files.read_pickle(file), set())
    finally:
        assert os.environ["SURGJAX_FUZZ_RAN"] == "no" and not (folder / "made").exists()
    return "read"


def pickled(value: object, protocol: int) -> bytes:
    file = io.BytesIO()
    pickle.Pickler(file, protocol).dump(value)
    return file.getvalue()


def test_a_pickle_is_plain_data_or_refused(for_all):
    protocol = st.integers(0, 5)
    bytes_of = st.builds(pickled, st.just(PLAIN), protocol).flatmap(damaged)
    plain = {name: value for name, value in PLAIN.items() if name == "01"}
    values = st.builds(pickled, odd_value(plain), protocol)
    call = st.sampled_from(
        [
            (os.putenv, "SURGJAX_FUZZ_RAN", "yes"), (exec, "import os; os.mkdir('made')"),
            (open, "made", "w"), (eval, "1"), (getattr, "x", "upper"), (np.zeros, 10**14),
            (bytearray, 10**15), (np.fromfile, "/etc/hostname"), (np.ndarray, (10**9,)),
        ]
    )  # fmt: skip
    commands = st.builds(lambda one, p: pickled([Command(*one)], p), call, protocol)
    outcomes = for_all(a_pickle, bytes_of | values | commands)
    assert outcomes["read"] and len(outcomes) > 3
