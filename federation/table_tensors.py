"""Arrays by name, one entry a record: .npz of NumPy and .safetensors. Nothing in them can run code.

A .safetensors file is read piece by piece; an array of an .npz file lies in memory as a whole: NumPy reads it so.
In shape comments, n is the number of records and d of columns.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from torch import Tensor

from federation.table_source import BATCH_BYTES, BATCH_ROWS, RawBatch, TableSource, without_contents
from federation.tensors import Place, header_length, read_header
from privacy.errors import DataInvalid

_AS_TENSORS = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


class TensorFile:
    """Named arrays: each may be an input as it is, and one of a single dimension may be a label, unit or identifier.

    Raises:
        DataInvalid: the file can't be read.
    """

    classes: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        with without_contents(path):
            arrays = _in_npz(path) if path.suffix.lower() == ".npz" else _in_safetensors(path)
        self._arrays = dict(arrays)
        self.columns: Sequence[str] = [name for name, _ in arrays]
        self.tensors: Sequence[str] = self.columns

    def batches(self, cells: Sequence[str], tensors: Sequence[str]) -> Iterator[RawBatch]:
        """All records.

        Raises:
            DataInvalid: the arrays differ in length, one of cells has more than one dimension, or one is damaged or of
                a type that can't be read.
        """
        with without_contents(self._path):
            arrays = {name: self._arrays[name]() for name in (*cells, *tensors)}
            for name in cells:
                if len(arrays[name].shape) != 1:
                    raise DataInvalid(f"{self._path}: array {name!r} should hold one entry a record, of shape (n,)")
            count = self._count({name: array.shape[0] if array.shape else 0 for name, array in arrays.items()})
            record_bytes = sum(arrays[name].record_bytes for name in tensors)
            most = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, record_bytes)))
            for start in range(0, count, most):
                stop = min(start + most, count)
                yield RawBatch(
                    cells={name: arrays[name].cells(start, stop) for name in cells},
                    tensors={name: arrays[name].tensor(start, stop) for name in tensors},
                    rows=np.arange(start + 1, stop + 1),
                )

    def _count(self, lengths: Mapping[str, int]) -> int:
        if len(set(lengths.values())) != 1:
            told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise DataInvalid(f"{self._path}: the arrays should hold one entry a record, but {told}")
        return next(iter(lengths.values()))


class MatrixTable:
    """A file whose array of shape (n, d) is read as d named columns of cells."""

    tensors: Sequence[str] = ()

    def __init__(self, path: Path, source: TableSource, array: str, names: Sequence[str]) -> None:
        self._path = path
        self._source = source
        self._array = array
        self._names = names
        self.classes = source.classes
        self.columns: Sequence[str] = [*(name for name in source.columns if name != array), *names]

    def batches(self, cells: Sequence[str], tensors: Sequence[str]) -> Iterator[RawBatch]:
        """All records.

        Raises:
            DataInvalid: as the file raises it, or the array has no column for each name.
        """
        others = [name for name in cells if name not in self._names]
        for raw in self._source.batches(others, [self._array]):
            matrix = raw.tensors[self._array]  # (n, d)
            if matrix.dim() != 2 or matrix.shape[1] != len(self._names):
                raise DataInvalid(
                    f"{self._path}: {self._array!r} should hold {len(self._names)} columns, which the schema names, "
                    f"but a record there has shape {tuple(matrix.shape[1:])}"
                )
            columns = {name: _as_cells(matrix[:, place]) for place, name in enumerate(self._names)}
            yield replace(raw, cells={**raw.cells, **columns}, tensors={})


@dataclass(frozen=True, slots=True)
class _InMemory:
    """An array of an .npz file."""

    path: Path
    name: str
    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def record_bytes(self) -> int:
        return prod(self.shape[1:]) * self.array.itemsize

    def tensor(self, start: int, stop: int) -> Tensor:
        if self.array.dtype.name not in _AS_TENSORS:
            raise self._wrong_type()
        return torch.from_numpy(np.ascontiguousarray(self.array[start:stop]))

    def cells(self, start: int, stop: int) -> pyarrow.Array:
        if self.array.dtype.kind not in "biufU":
            raise self._wrong_type()
        return pyarrow.array(self.array[start:stop])

    def _wrong_type(self) -> DataInvalid:
        return DataInvalid(
            f"{self.path}: array {self.name!r} holds {self.array.dtype.name}, which can't be read here: "
            f"inputs are {', '.join(_AS_TENSORS)}"
        )


@dataclass(frozen=True, slots=True)
class _OnDisk:
    """A tensor of a .safetensors file."""

    path: Path
    place: Place

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.shape

    @property
    def record_bytes(self) -> int:
        return prod(self.shape[1:]) * self.place.dtype.itemsize

    def tensor(self, start: int, stop: int) -> Tensor:
        with self.path.open("rb") as stream:
            stream.seek(self.place.start + start * self.record_bytes)
            content = bytearray(stream.read((stop - start) * self.record_bytes))
        flat = torch.frombuffer(content, dtype=self.place.dtype) if content else torch.empty(0, dtype=self.place.dtype)
        return flat.reshape(stop - start, *self.shape[1:])

    def cells(self, start: int, stop: int) -> pyarrow.Array:
        return _as_cells(self.tensor(start, stop))


_Array: TypeAlias = _InMemory | _OnDisk
_Unread: TypeAlias = tuple[str, Callable[[], _Array]]


def _as_cells(entries: Tensor) -> pyarrow.Array:
    """A tensor of one dimension as cells; NumPy has no bfloat16."""
    return pyarrow.array((entries.float() if entries.dtype == torch.bfloat16 else entries).contiguous().numpy())


def _in_npz(path: Path) -> Sequence[_Unread]:
    with _without_archive_errors(path), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    return [(member.removesuffix(".npy"), partial(_read_member, path, member)) for member in members]


def _read_member(path: Path, member: str) -> _Array:
    with _without_archive_errors(path), zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return _InMemory(path, member.removesuffix(".npy"), native)


@contextmanager
def _without_archive_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, RuntimeError):
        raise DataInvalid(f"{path} can't be read: it is damaged, encrypted, or no .npz file") from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataInvalid(
            f"{path} holds Python objects (pickle), which could run code when they are read: save numbers or texts"
        ) from None


def _in_safetensors(path: Path) -> Sequence[_Unread]:
    with path.open("rb") as stream:
        try:
            text = stream.read(header_length(stream.read(8)))
            places, _ = read_header(text, path.stat().st_size)
        except DataInvalid as error:
            raise DataInvalid(f"{path}: {error}") from None
    return [(name, partial(_OnDisk, path, place)) for name, place in places.items()]
