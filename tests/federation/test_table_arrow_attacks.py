"""Parquet and Arrow files that are cut, damaged, forged or locked: refused in our words, never shown, never trusted."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet.encryption as parquet_encryption
import pytest

from federation.table_selection import Selection
from privacy.errors import DataInvalid
from tests.federation.arrow_builders import WRITERS, Write, as_file, as_parquet, as_stream
from tests.federation.table_builders import read
from tests.privacy.vault_builders import mutated


@WRITERS
def test_what_is_no_such_file_is_refused(tmp_path: Path, write: Write) -> None:
    path = write(pyarrow.table({"a": [1.0], "y": [0]}), tmp_path)
    content = path.read_bytes()
    for wrong in (b"", b"PAR1", b"ARROW1", content[:-9], content[: len(content) // 2], b"a,y\n1,0\n"):
        path.write_bytes(wrong)
        with pytest.raises(DataInvalid, match="can't be read"):
            read(path, Selection(label="y"))


def test_a_text_that_is_no_utf8_is_refused_without_showing_it(tmp_path: Path) -> None:
    offsets, letters = pyarrow.py_buffer(np.array([0, 4, 5], np.int32).tobytes()), pyarrow.py_buffer(b"doe\xff1")
    forged = pyarrow.StringArray.from_buffers(2, offsets, letters)
    for write in (as_parquet, as_file, as_stream):
        with pytest.raises(DataInvalid, match="can't be read") as raised:
            read(write(pyarrow.table({"u": forged, "a": [1.0, 2.0]}), tmp_path), Selection(label=None, unit="u"))
        assert "doe" not in str(raised.value)


def test_offsets_that_point_outside_are_refused(tmp_path: Path) -> None:
    offsets, letters = pyarrow.py_buffer(np.array([0, 2**30, 3], np.int32).tobytes()), pyarrow.py_buffer(b"doe")
    forged = pyarrow.StringArray.from_buffers(2, offsets, letters)
    path = as_stream(pyarrow.table({"u": pyarrow.array(["do", "e"]), "a": [1.0, 2.0]}), tmp_path)
    honest = np.array([0, 2, 3], np.int32).tobytes()
    content = path.read_bytes()
    assert content.count(honest) == 1
    path.write_bytes(content.replace(honest, forged.buffers()[1].to_pybytes()))
    with pytest.raises(DataInvalid, match="can't be read"):
        read(path, Selection(label=None, unit="u"))


def test_a_parquet_file_that_fails_its_checksum_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"a": np.arange(100.0)})
    path = as_parquet(table, tmp_path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float64(50).tobytes(), np.float64(51).tobytes()))
    with pytest.raises(DataInvalid, match="can't be read"):
        read(path, Selection(label=None))


class OpenKeys(parquet_encryption.KmsClient):  # type: ignore[misc]
    """Stands for a key service that locks nothing."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return key_bytes.hex().encode()

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return bytes.fromhex(wrapped_key.decode())


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_an_encrypted_parquet_file_is_refused(tmp_path: Path, plaintext_footer: bool) -> None:
    factory = parquet_encryption.CryptoFactory(lambda _: OpenKeys())
    connection = parquet_encryption.KmsConnectionConfig()
    locks = factory.file_encryption_properties(
        connection,
        parquet_encryption.EncryptionConfiguration(
            footer_key="footer", column_keys={"column": ["a"]}, plaintext_footer=plaintext_footer
        ),
    )
    path = as_parquet(pyarrow.table({"a": [1.0], "y": [0]}), tmp_path, encryption_properties=locks)
    with pytest.raises(DataInvalid, match=r"can't be read: it is damaged, .*encrypted"):
        read(path, Selection(label="y"))


@WRITERS
def test_a_wounded_file_is_read_or_refused_and_never_shown(tmp_path: Path, write: Write) -> None:
    rng = random.Random(7)
    names = [f"patient{place}" for place in range(40)]
    honest = write(pyarrow.table({"u": names, "a": np.arange(40.0), "y": [0, 1] * 20}), tmp_path)
    content = honest.read_bytes()
    for _ in range(60):
        honest.write_bytes(mutated(content, rng))
        try:
            told = "".join(read(honest, Selection(label="y", unit="u")).told)
        except DataInvalid as refusal:
            told = str(refusal)
        assert "patient" not in told
