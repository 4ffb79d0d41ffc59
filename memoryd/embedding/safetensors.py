"""Reader of the safetensors format, as far as published encoders use it.

Layout of a file: 8 bytes little-endian length of the header, the header (JSON: name -> dtype, shape, byte range),
then the raw little-endian tensors. See https://github.com/huggingface/safetensors#format.
Used only to build a model; the daemon never reads weights.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

_DTYPES: Final[Mapping[str, str]] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
_LENGTH: Final = struct.Struct("<Q")  # part of the file format
_MAX_HEADER: Final = 100_000_000  # part of the file format: longer headers are refused by the reference reader


def read_safetensors(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Map every tensor of `path`, without copying, under its name.

    Raises OSError if the file cannot be read and ValueError if it is not a whole safetensors file.
    """
    raw = np.memmap(path, dtype=np.uint8, mode="r")
    if raw.size < _LENGTH.size:
        raise ValueError("shorter than the length of a safetensors header")
    (length,) = _LENGTH.unpack(raw[: _LENGTH.size].tobytes())
    start = _LENGTH.size + length
    if length > _MAX_HEADER or start > raw.size:
        raise ValueError("the safetensors header is longer than the file")
    header = json.loads(raw[_LENGTH.size : start].tobytes())
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"tensor {name} has the unsupported type {entry['dtype']}")
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end <= raw.size - start:
            raise ValueError(f"tensor {name} reaches past the end of the file")
        tensors[name] = raw[start + begin : start + end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors
