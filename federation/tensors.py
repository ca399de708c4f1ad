"""Named tensors as safetensors bytes, piece by piece, and back as views: no pickle, no second copy in memory.

The format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, JSON header, tensor data.
Written and read here because the library makes one bytes object of everything; it stays the oracle in tests. Reading
trusts nothing: every offset is checked before a view is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from privacy.errors import DataInvalid

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LARGEST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: `start` and `end` in bytes from the beginning of everything."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def pieces(tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> Iterator[memoryview]:
    """The bytes, header first, then one piece a tensor, which is the tensor's own memory where it lies on the CPU."""
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # keeps every tensor aligned
    header: dict[str, object] = {"__metadata__": dict(notes)} if notes else {}
    start = 0
    for name in ordered:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise DataInvalid(f"tensor {name!r} has dtype {tensor.dtype}, which is not stored: convert it first")
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in ordered:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if len(flat):  # torch may give an empty tensor a stride that no view likes
            yield flat.view(torch.uint8).numpy().data


def views(content: memoryview) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, as views of `content`, and the notes.

    Raises:
        DataInvalid: the bytes are no safetensors.
    """
    length = header_length(bytes(content[:8]))
    if 8 + length > len(content):
        raise DataInvalid("these bytes are no safetensors: the header ends beyond them")
    places, notes = read_header(bytes(content[8 : 8 + length]), len(content))
    return {name: _view(content, place) for name, place in places.items()}, notes


def header_length(first: bytes) -> int:
    """What the first eight bytes say.

    Raises:
        DataInvalid: they say nothing sensible.
    """
    length = int.from_bytes(first, "little")
    if len(first) != 8 or length > _LARGEST_HEADER_BYTES:
        raise DataInvalid("these bytes are no safetensors: the header's length makes no sense")
    return length


def read_header(text: bytes, total: int) -> tuple[dict[str, Place], dict[str, str]]:
    """Where each tensor lies in `total` bytes, and the notes.

    Raises:
        DataInvalid: the header is no header, or a tensor would lie outside.
    """
    try:
        header = json.loads(text, object_pairs_hook=_each_once)
        notes = header.pop("__metadata__", {})
        places = {name: _place(entry, 8 + len(text)) for name, entry in header.items()}
        if not all(isinstance(note, str) for note in notes.values()):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataInvalid("these bytes are no safetensors: the header can't be read") from None
    end = 8 + len(text)
    for place in sorted(places.values(), key=lambda place: (place.start, place.end)):
        if place.start != end:
            raise DataInvalid("these bytes are no safetensors: tensors overlap, or leave a hole")
        end = place.end
    if end != total:
        raise DataInvalid("these bytes are no safetensors: a tensor lies outside of them, or bytes are left over")
    return places, notes


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object in which no name stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _view(content: memoryview, place: Place) -> Tensor:
    part = content[place.start : place.end]
    flat = torch.frombuffer(part, dtype=place.dtype) if len(part) else torch.empty(0, dtype=place.dtype)
    try:
        return flat.reshape(place.shape)
    except (RuntimeError, TypeError, OverflowError):
        raise DataInvalid("these bytes are no safetensors: an empty tensor has an absurd shape") from None


def _place(entry: Mapping[str, object], base: int) -> Place:
    dtype, shape, offsets = _DTYPES[str(entry["dtype"])], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError
    numbers = [*shape, *offsets]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError
    start, end = offsets
    if end - start != math.prod(shape) * dtype.itemsize or (base + start) % dtype.itemsize:
        raise ValueError
    return Place(dtype, tuple(shape), base + start, base + end)
