"""`fedseal bench storage`: what sealing costs: checkpoints and training rows, beside files in the clear.

Peers are the libraries themselves, installed: PyTorch, safetensors, and Parquet modular encryption (pyarrow). Every
case ends with tensors of which one byte a page was touched, because a memory map alone has read nothing. Cases take
turns and medians count; files are warm in the page cache. Goals divide CPU seconds, because cores and disk are shared;
wall seconds stand beside them.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pyarrow.parquet.encryption as parquet_encryption
import safetensors.torch
import torch
from torch import Tensor

from clients.data import DataSet
from clients.sealing import Source, seal_rows
from federation.rows import Rows
from federation.tensors import pieces, views
from privacy import files
from privacy.key_stores import KeyFileStore
from privacy.keys import KeyRing
from privacy.vault import Label, Vault
from simulations.benchmarks.harness import Figure, Findings, Goal

_MIB = 2**20
_PAGE_BYTES = 4096
_TENSORS = 8
_COLUMNS = 38
_CHECKPOINT = Label("model", "checkpoint")
_RANDOM_ROWS = 1000
_WRITING = ("write", "seal")


@dataclass(slots=True, kw_only=True)
class _Case:
    """One way to do one thing, and its timings: wall and CPU seconds."""

    name: str
    act: Callable[[], object]
    total_bytes: int
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def time(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.act()
        self.seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)

    @property
    def cpu(self) -> float:
        return median(self.cpu_seconds)

    def row(self) -> dict[str, Figure]:
        return {
            "name": self.name,
            "mib": round(self.total_bytes / _MIB),
            "seconds": median(self.seconds),
            "cpu_seconds": self.cpu,
            "gb_a_cpu_second": self.total_bytes / self.cpu / 1e9,
            "repetitions": len(self.seconds),
        }


def storage(quick: bool) -> Findings:
    """Measures a checkpoint of 512 MiB (256 with `quick`) and training rows of 154 MB (15)."""
    with TemporaryDirectory(prefix="fedseal-bench-") as name, _one_thread():
        folder = Path(name)
        keyring = KeyRing.create(folder / "keyring", "bench", KeyFileStore.create(folder / "key"))
        vault = Vault(folder / "vault", keyring)
        cases = {
            **_checkpoint_cases(folder, vault, 256 if quick else 512),
            **_row_cases(folder, vault, 100_000 if quick else 1_000_000),
        }
        reading = [case for key, case in cases.items() if key not in _WRITING]
        writing = [case for key, case in cases.items() if key in _WRITING]
        for group in (reading, writing):  # apart, because the read after a large write pays for the memory it took
            _take_turns(group, 5 if quick else 9)
    return Findings(benchmark="storage", rows=[case.row() for case in cases.values()], goals=_goals(cases))


def _take_turns(cases: list[_Case], repetitions: int) -> None:
    """Times each case so often, in another order each time, after one turn that does not count."""
    order = Random(0)
    for case in cases:
        case.act()
    for _ in range(repetitions):
        for case in order.sample(cases, len(cases)):
            case.time()


def _goals(cases: Mapping[str, _Case]) -> dict[str, Goal]:
    opened, sealed, rows = cases["open"], cases["seal"], cases["rows"]
    return {
        "open a checkpoint / plain read (CPU)": Goal(value=opened.cpu / cases["read"].cpu, reach="<= 2"),
        "open a checkpoint / torch.load (CPU)": Goal(value=opened.cpu / cases["torch"].cpu, reach="<= 1"),
        "seal a checkpoint, GB a CPU second": Goal(value=sealed.total_bytes / sealed.cpu / 1e9, reach=">= 1"),
        "sealed rows to tensors, GB a CPU second": Goal(value=rows.total_bytes / rows.cpu / 1e9, reach=">= 1"),
    }


def _checkpoint_cases(folder: Path, vault: Vault, mib: int) -> dict[str, _Case]:
    generator = torch.Generator().manual_seed(0)
    values = mib * _MIB // _TENSORS // 4
    tensors = {f"layer{number}": torch.randn(values, generator=generator) for number in range(_TENSORS)}
    plain, pickled, safe = folder / "plain", folder / "checkpoint.pt", folder / "checkpoint.safetensors"
    sync = files.replacing
    serialised = [bytes(piece) for piece in pieces(tensors)]

    def written() -> None:
        with sync(plain) as draft:
            for piece in serialised:
                draft.write(piece)

    def read() -> None:
        _touch_bytes(plain.read_bytes())

    def read_fast() -> None:
        content = np.empty(plain.stat().st_size, np.uint8)
        with plain.open("rb", buffering=0) as stream:
            stream.readinto(content.data)
        _touch(views(content.data)[0])

    def opened() -> None:
        _touch(views(vault.open(_CHECKPOINT))[0])

    written()
    vault.seal(_CHECKPOINT, serialised)
    torch.save(tensors, pickled)
    safetensors.torch.save_file(tensors, safe)
    acts: dict[str, tuple[str, Callable[[], object]]] = {
        "read": ("checkpoint: plain file read into memory", read),
        "fast": ("checkpoint: plain file read into one buffer of huge pages, as ours", read_fast),
        "open": ("checkpoint: sealed, opened into memory", opened),
        "torch": ("checkpoint: torch.load(weights_only)", lambda: _touch(torch.load(pickled, weights_only=True))),
        "mapped": ("checkpoint: safetensors, mapped", lambda: _touch(safetensors.torch.load_file(safe))),
        "write": ("checkpoint: plain file, written and synced", written),
        "seal": ("checkpoint: sealed, written and synced", lambda: vault.seal(_CHECKPOINT, serialised)),
    }
    return {key: _Case(name=name, act=act, total_bytes=mib * _MIB) for key, (name, act) in acts.items()}


def _row_cases(folder: Path, vault: Vault, records: int) -> dict[str, _Case]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(records, _COLUMNS, generator=generator)
    rows = Rows(fields={"x": table, "y": torch.zeros(records, dtype=torch.int64)})
    source = Source(name="rows", imported="", columns=("x",))
    data = seal_rows(vault, source, [(rows, None)])
    plain, clear, hidden = folder / "rows.npy", folder / "rows.parquet", folder / "rows.encrypted.parquet"
    np.save(plain, table.numpy())
    columns = pyarrow.table({f"c{number}": table[:, number].numpy() for number in range(_COLUMNS)})
    locks = _ParquetLocks(columns.column_names)
    plain_options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    pyarrow.parquet.write_table(columns, clear, **plain_options)
    pyarrow.parquet.write_table(columns, hidden, encryption_properties=locks.writing(), **plain_options)
    size = records * _COLUMNS * 4
    chosen = torch.randint(0, records, (_RANDOM_ROWS,), generator=generator)
    acts: dict[str, tuple[str, Callable[[], object], int]] = {
        "array": ("rows: .npy in the clear", lambda: _touch({"x": torch.from_numpy(np.load(plain))}), size),
        "rows": ("rows: sealed data set to tensors", lambda: _touch(dict(data.read().fields)), size + 8 * records),
        "parquet": ("rows: Parquet in the clear to tensors", lambda: _touch(_parquet(clear, None)), size),
        "locked": (
            "rows: Parquet modular encryption to tensors",
            lambda: _touch(_parquet(hidden, locks.reading())),
            size,
        ),
        "range": (
            f"rows: {_RANDOM_ROWS} at random, straight from the sealed file",
            lambda: _taken(data, chosen),
            _RANDOM_ROWS * (_COLUMNS * 4 + 8),
        ),
    }
    return {key: _Case(name=name, act=act, total_bytes=total) for key, (name, act, total) in acts.items()}


def _taken(data: DataSet, positions: Tensor) -> None:
    data.take(positions)


def _parquet(path: Path, properties: object) -> dict[str, Tensor]:
    table = pyarrow.parquet.read_table(path, decryption_properties=properties, use_threads=False)
    return {
        name: torch.frombuffer(table[name].combine_chunks().buffers()[1], dtype=torch.float32)
        for name in table.column_names
    }


def _touch(tensors: Mapping[str, Tensor]) -> None:
    for tensor in tensors.values():
        tensor.reshape(-1).view(torch.uint8)[::_PAGE_BYTES].sum()


def _touch_bytes(content: bytes) -> None:
    np.frombuffer(content, np.uint8)[::_PAGE_BYTES].sum()


class _ParquetLocks:
    """Parquet modular encryption with one key for footer and columns, wrapped by a key held in memory."""

    def __init__(self, columns: list[str]) -> None:
        self._factory = parquet_encryption.CryptoFactory(lambda _: _MemoryKms())
        self._connection = parquet_encryption.KmsConnectionConfig()
        self._configuration = parquet_encryption.EncryptionConfiguration(
            footer_key="footer", column_keys={"columns": columns}, encryption_algorithm="AES_GCM_V1"
        )

    def writing(self) -> object:
        return self._factory.file_encryption_properties(self._connection, self._configuration)

    def reading(self) -> object:
        return self._factory.file_decryption_properties(self._connection)


class _MemoryKms(parquet_encryption.KmsClient):  # type: ignore[misc]
    """Stands for a key service; wrapping a key costs nothing here, which favours the peer."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
