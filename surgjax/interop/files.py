"""Weight files to named arrays: safetensors checked before use, PyTorch files without pickle.

Nothing here runs code from a file. A safetensors header is checked completely (size, types, shapes,
offsets) before a byte of payload is mapped; a `.pth` goes through PyTorch's weights-only reader.
"""

import errno
import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgjax.errors import UserError
from surgjax.files import parse_json, sha256, to_path, whole

MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
MAX_AXES = 32  # of an array of numpy 1
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?",
}  # fmt: skip
# Where training programs keep the model inside a .pth, in the order they are tried.
MODEL_KEYS = ("model", "module", "encoder", "teacher", "state_dict", "model_state")
# Networks that V-JEPA's programs keep side by side; their tensors get these names as prefixes.
SIDE_BY_SIDE = ("encoder", "predictor", "target_encoder")
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
PIP_LINE = "pip install 'torch>=2.6' --index-url https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Weights:
    """Named arrays of one model and where they came from.

    Attributes:
      tensors: outside name -> array; safetensors payloads are memory-mapped and read when used.
      metadata: the file's own text fields.
      sha256: digest of the file, or of its parts' digests in the order of their names.
    """

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    sha256: str


def read(path: Path) -> Weights:
    """A weights file, or the weights of a Hugging Face folder (sharded ones too).

    Raises UserError: nothing there, unknown suffix, damage, unsafe content, PyTorch absent.
    """
    path = Path(path)
    if path.is_dir():
        present = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not present:
            raise UserError(
                f"{path} holds no weights; expected one of {', '.join(FOLDER_FILES)}; "
                f"download the model completely"
            )
        path = present[0]
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a weights file; check the path")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        tensors, metadata = read_torch(path)
    else:
        raise UserError(
            f"{path} has an unknown suffix; expected .safetensors or {', '.join(TORCH_SUFFIXES)}; "
            f"give a weights file or the folder that holds it"
        )
    return Weights(tensors, metadata, sha256(path))


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(name -> read-only mapped array, metadata). Raises UserError for an unsound header."""
    header, start, payload = _checked_header(Path(path))
    metadata = header.pop("__metadata__", {})
    mapped = np.memmap(path, np.uint8, "r") if payload else np.zeros(start, np.uint8)
    tensors = {}
    for name, entry in header.items():
        offset = start + entry["data_offsets"][0]
        tensors[name] = np.ndarray(entry["shape"], _dtype(entry["dtype"]), mapped, offset)
    return tensors, metadata


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a file that PyTorch readers take ("format": "pt"); it appears whole.

    Equal input gives equal bytes, which the safetensors library does not promise.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    codes = {_dtype(code): code for code in DTYPES}
    end = 0
    for name, tensor in sorted(tensors.items()):
        first, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": codes[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [first, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the payload starts aligned

    with whole(path) as part, open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in sorted(tensors.items()):
            file.write(tensor.tobytes())


def read_torch(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors of a PyTorch file, found under the first of MODEL_KEYS or at the top; no code is run.

    `argparse.Namespace` is let through as plain data: VideoMAE's programs save their options beside
    the model. Raises UserError for any other object, for damage, and where PyTorch is absent or
    older than 2.6, whose weights-only reader could be tricked into running code.
    """
    torch = import_torch(f"reading {path}")
    import argparse
    import pickle

    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _refuse_packed(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        blocked = (
            str(error).split("GLOBAL ")[-1].split(" ")[0] if "GLOBAL" in str(error) else "objects"
        )
        raise UserError(
            f"{path} is damaged or holds Python objects ({blocked}), which can run code; expected "
            f"tensors alone; convert it to safetensors where you trust it"
        ) from error
    except Exception as error:  # damage can make it fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            f"{path} cannot be read as a PyTorch file ({reason}); expected an undamaged "
            f"checkpoint; copy it again"
        ) from error
    found = content if isinstance(content, dict) else {}
    metadata = {k: v for k, v in found.items() if isinstance(v, str)}
    parts = [k for k in SIDE_BY_SIDE if isinstance(found.get(k), dict)]
    if len(parts) > 1:
        state = {f"{part}.{k}": v for part in parts for k, v in found[part].items()}
    else:
        state = next((found[k] for k in MODEL_KEYS if isinstance(found.get(k), dict)), found)
    named = [(k, v) for k, v in state.items() if isinstance(k, str) and torch.is_tensor(v)]
    tensors = {name: _numpy(tensor, torch, path, name) for name, tensor in named}
    if not tensors:
        raise UserError(
            f"{path} holds no tensors under {', '.join(MODEL_KEYS)} nor at its top; found "
            f"{sorted(map(str, found))[:8]}; check that this is a model's checkpoint"
        )
    return tensors, metadata


def write_torch(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    content: Callable[[dict, dict], dict] = lambda model, metadata: {"model": model, **metadata},
) -> None:
    """Write content(tensors, metadata) as a PyTorch file. Raises UserError without PyTorch.

    A tensor that is in it several times is stored once.
    """
    torch = import_torch(f"writing {path.name}")
    model = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    try:
        with whole(path) as part:
            torch.save(content(model, dict(metadata)), part)
    except RuntimeError as error:  # torch has no OSError for a full disk
        raise OSError(errno.ENOSPC, str(error).splitlines()[0]) from error


def import_torch(purpose: str):
    """The torch module. Raises UserError with the install line where it is absent or too old."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{purpose} needs PyTorch, which is not installed; expected torch 2.6 or newer; "
            f"{PIP_LINE}"
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 6):
        raise UserError(
            f"{purpose} is not safe with PyTorch {torch.__version__}; expected 2.6 or newer; "
            f"{PIP_LINE}"
        )
    return torch


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises UserError where it is missing or something else."""
    try:
        value = parse_json(to_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; expected a JSON file; check the folder") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); copy the file again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def _read_shards(index: Path) -> Weights:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
        raise UserError(f"{index} has no weight_map of file names; copy the file again")
    tensors, digests, metadata = {}, [], {}
    for name in sorted(set(files.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(
                f"{index} points to {name!r}; expected .safetensors files of its own folder; "
                f"get the index from the original source"
            )
        shard, metadata = read_safetensors(index.with_name(name))
        tensors |= shard
        digests.append(sha256(index.with_name(name)))
    lacking = sorted(set(files) - set(tensors))
    if lacking:
        raise UserError(f"{index} names {lacking[:6]}, which no shard holds; copy the files again")
    return Weights(tensors, metadata, hashlib.sha256("".join(digests).encode()).hexdigest())


def _checked_header(path: Path) -> tuple[dict, int, int]:
    """(header, first byte of the payload, bytes of the payload), all sizes verified."""

    def refuse(found: str):
        raise UserError(
            f"{path} is no sound safetensors file: {found}; expected a complete, undamaged file; "
            f"copy or export it again"
        )

    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                refuse(f"{size} bytes, header of {length} bytes")
            header = json.loads(file.read(length), object_pairs_hook=_unique)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        refuse(f"header is no JSON of unique names ({str(error)[:80]})")
    if not isinstance(header, dict):
        refuse("header is no object")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse("metadata is no table of texts")
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or str(entry.get("dtype")) not in DTYPES:
            refuse(f"tensor {name!r} has no known type")
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
            refuse(f"tensor {name!r} has shape {shape!r} at {offsets!r}")
        if len(shape) > MAX_AXES or math.prod(n or 1 for n in shape) >= 2**60:
            refuse(f"tensor {name!r} has shape {str(shape)[:80]}, which no array can have")
        needed = math.prod(shape) * _dtype(entry["dtype"]).itemsize
        if offsets[1] - offsets[0] != needed:
            refuse(f"tensor {name!r} of shape {shape} spans {offsets}, not {needed} bytes")
        spans.append(offsets)
    end = 0
    for first, last in sorted(spans):
        if first != end:
            refuse(f"payload has a hole or an overlap at byte {min(first, end)}")
        end = last
    if end != size - 8 - length:
        refuse(f"payload of {size - 8 - length} bytes where the header describes {end}")
    return header, 8 + length, end


def _unique(pairs: list[tuple[str, object]]) -> dict:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name appears twice")
    return table


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**62 for n in value)


def _dtype(name: str) -> np.dtype:
    if name == "BF16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(DTYPES[name])


def _refuse_packed(path: Path) -> None:
    """Raises ValueError for a zip file that unpacks to more than it is; PyTorch packs nothing."""
    with zipfile.ZipFile(path) as file:
        if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
            raise ValueError("its parts are compressed, which PyTorch never does")


def _numpy(tensor, torch, path: Path, name: str) -> np.ndarray:
    """Raises UserError for a kind that numpy has not, and for one number in the place of many."""
    try:
        if tensor.nbytes > path.stat().st_size:
            raise TypeError("it is larger than the file")
        tensor = tensor.detach()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}: tensor {name!r:.80} cannot be read ({str(error)[:80]}); expected plain "
            f"arrays of numbers; convert the file to safetensors"
        ) from error
