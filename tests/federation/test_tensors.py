"""Tensors as bytes: the safetensors library reads what we write and writes what we read; hostile bytes are refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federation.tensors import header_length, pieces, read_header, views
from privacy.errors import DataInvalid
from tests.privacy.vault_builders import mutated

DTYPES = {
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
NAMES = st.text(max_size=8).filter(lambda name: name != "__metadata__")
NOTES = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
PLACE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bytes as a tensor of any type and a small shape: 0 dimensions, empty, NaN and infinity among them."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    length = int(np.prod(shape, dtype=int)) * dtype.itemsize
    content = bytearray(draw(st.binary(min_size=length, max_size=length)))
    if dtype == torch.bool:
        content = bytearray(byte % 2 for byte in content)
    return torch.frombuffer(content, dtype=dtype).reshape(shape) if content else torch.empty(shape, dtype=dtype)


def written(held: dict[str, Tensor], notes: dict[str, str] | None = None) -> bytearray:
    return bytearray(b"".join(pieces(held, notes)))


def exactly(held: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """The tensors as what is compared: to the bit, so that NaN equals itself and -0.0 is not 0.0."""
    return {
        name: (tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in held.items()
    }


def forged(header: object, content: bytes = bytes(8), length: int | None = None) -> memoryview:
    """Bytes with this header (raw, or an object that becomes JSON), which need not say the truth about its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    said = len(text) if length is None else length
    return memoryview(bytearray(said.to_bytes(8, "little") + text + content))


@given(st.dictionaries(NAMES, tensors(), max_size=4), NOTES)
@settings(deadline=None, max_examples=150)
def test_the_library_reads_what_we_write(held: dict[str, Tensor], notes: dict[str, str]) -> None:
    assert exactly(safetensors.torch.load(bytes(written(held, notes)))) == exactly(held)


@given(
    st.dictionaries(NAMES, tensors(), min_size=1, max_size=4), NOTES
)  # of no tensors and no notes the library makes no JSON
@settings(deadline=None, max_examples=150)
def test_we_read_what_the_library_writes(held: dict[str, Tensor], notes: dict[str, str]) -> None:
    found, said = views(memoryview(bytearray(safetensors.torch.save(held, notes))))
    assert exactly(found) == exactly(held)
    assert said == notes


@given(st.dictionaries(NAMES, tensors(), max_size=4), NOTES)
@settings(deadline=None, max_examples=150)
def test_we_read_what_we_write(held: dict[str, Tensor], notes: dict[str, str]) -> None:
    found, said = views(memoryview(written(held, notes)))
    assert exactly(found) == exactly(held)
    assert said == notes


def test_the_library_reads_our_notes(tmp_path: Path) -> None:
    notes = {"task": "task:task", "name": "zwei Krankenhäuser", "seed": "7"}
    (tmp_path / "file").write_bytes(written({"w": torch.ones(1)}, notes))
    with safetensors.safe_open(tmp_path / "file", "pt") as opened:
        assert opened.metadata() == notes


def test_every_type_is_written_under_the_librarys_name_for_it() -> None:
    held = {name: torch.ones(3, dtype=dtype) for name, dtype in DTYPES.items()}
    found = safetensors.torch.load(bytes(written(held)))
    assert {name: tensor.dtype for name, tensor in found.items()} == DTYPES


def test_every_tensor_lies_where_its_type_may_be_read_in_place() -> None:
    held = {f"{name}{count}": torch.ones(count, dtype=dtype) for name, dtype in DTYPES.items() for count in (1, 3)}
    content = written(held, {"a": "note of odd length"})
    length = header_length(bytes(content[:8]))
    places, _ = read_header(bytes(content[8 : 8 + length]), len(content))
    assert len(places) == len(held)
    assert all(place.start % place.dtype.itemsize == 0 for place in places.values())


def test_pieces_are_the_tensors_own_memory() -> None:
    tensor = torch.zeros(1000)
    _, piece = pieces({"w": tensor})
    assert np.frombuffer(piece, np.uint8).ctypes.data == tensor.data_ptr()
    tensor[0] = 1.0
    assert bytes(piece[:4]) == np.float32(1.0).tobytes()


def test_views_are_the_buffers_own_memory() -> None:
    content = written({"w": torch.zeros(1000), "v": torch.zeros(2, dtype=torch.int64)})
    found, _ = views(memoryview(content))
    start = np.frombuffer(content, np.uint8).ctypes.data
    for tensor in found.values():
        assert start <= tensor.data_ptr() < start + len(content)
    content[-1] ^= 1
    assert found["w"][-1] != 0


def test_parameters_transposed_and_expanded_tensors_are_written_by_value() -> None:
    table = torch.arange(6.0).reshape(2, 3)
    held = {"t": table.T, "e": torch.tensor([1.0]).expand(3), "p": torch.nn.Parameter(table), "s": table[:, 1]}
    found, _ = views(memoryview(written(held)))
    assert found["t"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert found["e"].tolist() == [1.0, 1.0, 1.0]
    assert found["p"].tolist() == table.tolist()
    assert found["s"].tolist() == [1.0, 4.0]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e5m2, torch.uint16])
def test_a_type_that_is_not_stored_is_refused_by_name_before_anything_is_written(dtype: torch.dtype) -> None:
    stream = pieces({"good": torch.ones(1), "odd": torch.ones(1).to(dtype)})
    with pytest.raises(DataInvalid, match="'odd' has dtype"):
        next(stream)


HOSTILE = {
    "ends after the content": {"a": {**PLACE, "data_offsets": [8, 16]}},
    "begins before the content": {"a": {**PLACE, "data_offsets": [-8, 0]}},
    "ends before it begins": {"a": {**PLACE, "data_offsets": [8, 0]}},
    "of a huge offset": {"a": {**PLACE, "data_offsets": [2**80, 2**80 + 8]}},
    "of no offsets": {"a": {**PLACE, "data_offsets": []}},
    "of three offsets": {"a": {**PLACE, "data_offsets": [0, 8, 8]}},
    "of an offset that is text": {"a": {**PLACE, "data_offsets": ["0", "8"]}},
    "of an offset that is true": {"a": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}},
    "of a fractional offset": {"a": {**PLACE, "data_offsets": [0.0, 8.0]}},
    "of offsets that are an object": {"a": {**PLACE, "data_offsets": {"0": 0, "1": 8}}},
    "of a shape that is larger than its bytes": {"a": {**PLACE, "shape": [3]}},
    "of a shape that is smaller than its bytes": {"a": {**PLACE, "shape": [1]}},
    "of a negative shape": {"a": {**PLACE, "shape": [-1, -2]}},
    "of a huge shape": {"a": {**PLACE, "shape": [2**62, 2**62]}},
    "of a shape that is true": {"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}},
    "of a fractional shape": {"a": {**PLACE, "shape": [2.0]}},
    "of a shape of texts": {"a": {**PLACE, "shape": ["2"]}},
    "of a shape of lists": {"a": {**PLACE, "shape": [[2]]}},
    "of a shape that is a number": {"a": {**PLACE, "shape": 2}},
    "of a shape that is null": {"a": {**PLACE, "shape": None}},
    "of an unknown type": {"a": {**PLACE, "dtype": "F8_E4M3"}},
    "of a type in small letters": {"a": {**PLACE, "dtype": "f32"}},
    "of a type that is a list": {"a": {**PLACE, "dtype": ["F32"]}},
    "of no type": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "that lies crooked in memory": {"a": {**PLACE, "data_offsets": [2, 10]}},
    "that is null": {"a": None},
    "that is a list": {"a": [1, 2]},
    "that is text": {"a": "F32"},
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_header_with_a_tensor_is_refused(header: object) -> None:
    with pytest.raises(DataInvalid, match="these bytes are no safetensors"):
        views(forged(header))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"nonsense",
        b"null",
        b"[]",
        b"[1]",
        b"7",
        b'"text"',
        b"{",
        b'{"a":NaN}',
        b'{"__metadata__":null}',
        b'{"__metadata__":[]}',
        b'{"__metadata__":"text"}',
        b'{"\xff":1}',
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,1]}}',
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda header: header[:20].decode("latin-1"),
)
def test_a_header_that_is_no_table_of_tensors_is_refused(header: bytes) -> None:
    with pytest.raises(DataInvalid, match="these bytes are no safetensors"):
        views(forged(header))


@pytest.mark.parametrize("length", [0, 1, 7, 100_000_001, 2**31, 2**63, 2**64 - 1])
def test_a_headers_length_that_is_not_its_length_is_refused(length: int) -> None:
    with pytest.raises(DataInvalid):
        views(forged({"a": PLACE}, length=length))


@pytest.mark.parametrize("length", [100_000_001, 2**63])
def test_no_memory_is_asked_for_a_header_of_an_absurd_length(length: int) -> None:
    with pytest.raises(DataInvalid, match="header's length"):
        header_length(length.to_bytes(8, "little"))


@pytest.mark.parametrize("length", range(8))
def test_a_file_that_ends_before_its_header_begins_is_refused(length: int) -> None:
    with pytest.raises(DataInvalid, match="header's length"):
        views(memoryview(bytearray(length)))


@pytest.mark.parametrize("shape", [[2**62, 4, 0], [0, 10**30], [2**63, 0]])
def test_an_empty_tensor_of_an_absurd_shape_is_refused(shape: list[int]) -> None:
    with pytest.raises(DataInvalid):
        views(forged({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}, b""))


TWICE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
ONE = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


@pytest.mark.parametrize(
    "forgery",
    [
        forged(TWICE, b"\1\2"),
        forged({"a": ONE, "b": ONE}, b"\1"),
        forged({"a": {**ONE, "data_offsets": [1, 2]}}, b"\1\2"),
        forged({"a": ONE}, b"\1\2"),
        forged({}, b"", length=99),
        forged({"__metadata__": {"seed": 1}}, b""),
    ],
    ids=["a name twice", "overlap", "a hole", "unclaimed bytes", "a header beyond the file", "a note that is no text"],
)
def test_what_the_library_refuses_is_refused(forgery: memoryview) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load(bytes(forgery))
    with pytest.raises(DataInvalid):
        views(forgery)


def test_a_name_that_stands_twice_is_refused_though_both_mean_the_same() -> None:
    entry = json.dumps({"a": ONE})[1:-1].encode()
    assert views(forged(b"{%s}" % entry, b"\1"))[0].keys() == {"a"}
    with pytest.raises(DataInvalid):
        views(forged(b"{%s,%s}" % (entry, entry), b"\1"))


def test_a_cut_file_is_refused_wherever_it_is_cut() -> None:
    content = written({"w": torch.ones(2), "b": torch.ones(1, dtype=torch.uint8)}, {"a": "b"})
    for length in range(len(content)):
        with pytest.raises(DataInvalid):
            views(memoryview(content[:length]))


def test_ten_thousand_wounded_files_are_read_or_refused_and_never_anything_else() -> None:
    honest = bytes(written({"w": torch.ones(2, 3), "b": torch.zeros(1, dtype=torch.bool), "n": torch.tensor(7)}))
    head = len(honest) - 24 - 8 - 1
    rng = random.Random(1)
    refused = 0
    for _ in range(10_000):
        try:
            views(memoryview(bytearray(mutated(honest[:head], rng) + honest[head:])))
        except DataInvalid:
            refused += 1
    assert 5_000 < refused < 10_000


def test_ten_thousand_headers_of_odd_values_are_read_or_refused_and_never_anything_else() -> None:
    odd = [-1, 1, 2, 8, True, None, 1.0, 1e300, "1", "F32", 2**31, 2**63, 10**30, [], [1], {}, {"a": 1}, "\0", "é"]
    rng = random.Random(2)
    refused = 0
    for _ in range(10_000):
        entry: dict[str, object] = {**PLACE, "shape": [rng.choice([1, 2, rng.choice(odd)]) for _ in range(2)]}
        entry["data_offsets"] = [rng.choice([0, 8, rng.choice(odd)]) for _ in range(rng.choice([2, 2, 2, 1, 3]))]
        if rng.random() < 0.3:
            entry[rng.choice([*PLACE, "more"])] = rng.choice(odd)
        if rng.random() < 0.1:
            del entry[rng.choice([*PLACE])]
        try:
            found, _ = views(forged({"a": entry, "b": {**PLACE, "data_offsets": [8, 16]}}, bytes(16)))
            assert found["a"].numel() * found["a"].element_size() == 8
        except DataInvalid:
            refused += 1
    assert 5_000 < refused < 10_000
