"""Arrays by name: read as they are, checked by a schema where there is one; nothing in them may run code."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from federation import table_tensors
from federation.schema import Column, Schema
from federation.table_selection import Selection
from privacy.errors import DataInvalid
from tests.federation.table_builders import bits, read
from tests.privacy.vault_builders import mutated

INF = math.inf
AGE_AND_SEX = Schema(columns=(Column(name="age", lower=0), Column(name="sex", kind="integer", upper=1)))


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "heart.npz", **arrays)
    return folder / "heart.npz"


def safe(folder: Path, **arrays: Any) -> Path:
    tensors = {name: torch.as_tensor(array).contiguous() for name, array in arrays.items()}
    safetensors.torch.save_file(tensors, folder / "heart.safetensors")
    return folder / "heart.safetensors"


BOTH = pytest.mark.parametrize("write", [npz, safe])
DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_]


@BOTH
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_array_beside_the_label_is_x_in_its_own_type_and_shape(tmp_path: Path, write: Any, dtype: Any) -> None:
    images = np.arange(24).reshape(4, 2, 3).astype(dtype)
    found = read(write(tmp_path, images=images, outcome=np.array([3, 1, 2, 0], np.int32)), Selection(label="outcome"))
    assert set(found.rows.fields) == {"x", "y"}
    assert bits(found.rows["x"]) == bits(torch.from_numpy(images))
    assert bits(found.rows["y"]) == bits(torch.tensor([3, 1, 2, 0]))


@BOTH
def test_several_arrays_keep_their_names(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path, image=np.ones((2, 4)), age=np.ones(2), y=np.array([0, 1]), id=np.array([7, 8]))
    assert set(read(path, Selection(label="y", unit="id")).rows.fields) == {"image", "age", "y"}
    assert set(read(path, Selection(label=None, columns=("image", "age"))).rows.fields) == {"image", "age"}
    assert set(read(path, Selection(label="id", columns=("image",))).rows.fields) == {"x", "y"}
    with pytest.raises(DataInvalid, match="array 'y' would be an input beside label 'id': name the inputs"):
        read(path, Selection(label="id"))


@BOTH
def test_units_are_whole_numbers_as_texts(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path, x=np.ones((2, 1)), u=np.array([7, 8]))
    assert read(path, Selection(label=None, unit="u")).units == ["7", "8"]


def test_an_npz_file_may_hold_texts_as_units(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.ones((2, 1)), u=np.array(["p1", " é "]))
    assert read(path, Selection(label=None, unit="u")).units == ["p1", "é"]


@BOTH
def test_records_with_infinity_are_reported_and_those_with_nan_are_not(tmp_path: Path, write: Any) -> None:
    values = np.array([[1, 2], [INF, 2], [np.nan, 1], [-INF, INF]], np.float32)
    found = read(write(tmp_path, x=values, z=np.array([1, 2, 3, INF])), Selection(label=None))
    assert sorted(found.told) == [
        "row 2, column 'x' is infinite, or too large",
        "row 4, column 'x' is infinite, or too large",
        "row 4, column 'z' is infinite, or too large",
    ]
    assert found.rows["z"].tolist() == [1, 3]


@BOTH
@pytest.mark.parametrize("most", [1, 9, 64, 10**6])
def test_parts_of_any_size_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, most: int
) -> None:
    monkeypatch.setattr(table_tensors, "BATCH_BYTES", most)
    values = np.arange(40, dtype=np.float32).reshape(10, 4)
    found = read(write(tmp_path, x=values, y=np.arange(10)), Selection(label="y"))
    assert bits(found.rows["x"]) == bits(torch.from_numpy(values))
    assert [len(batch.rows) for batch in found.batches] == {1: [1] * 10, 9: [1] * 10, 64: [4, 4, 2]}.get(most, [10])


@BOTH
def test_a_schema_takes_a_matrix_apart_or_arrays_by_their_names(tmp_path: Path, write: Any) -> None:
    matrix = np.array([[50, 1], [-1, 0], [60, 0.5], [70, 2]], np.float32)
    told = [
        "row 2, column 'age' is below the schema's lower bound 0",
        "row 3, column 'sex' is not a whole number",
        "row 4, column 'sex' is above the schema's upper bound 1",
    ]
    for path in (
        write(tmp_path, inputs=matrix, y=np.arange(4)),
        write(tmp_path, sex=matrix[:, 1], y=np.arange(4), age=matrix[:, 0], other=np.ones((4, 7))),
    ):
        found = read(path, Selection(label="y", schema=AGE_AND_SEX))
        assert (found.told, found.y) == (told, [0])
        assert bits(found.rows["x"]) == bits(torch.tensor([[50.0, 1.0]]))


@BOTH
def test_a_schema_that_the_arrays_do_not_fit_is_refused(tmp_path: Path, write: Any) -> None:
    for shape, told in [((4, 3), r"shape \(3,\)"), ((4,), r"shape \(\)"), ((4, 2, 1), r"shape \(2, 1\)")]:
        with pytest.raises(DataInvalid, match=f"should hold 2 columns, which the schema names, but .* {told}"):
            read(write(tmp_path, x=np.ones(shape), y=np.arange(4)), Selection(label="y", schema=AGE_AND_SEX))
    with pytest.raises(DataInvalid, match=r"one array of shape \(n, 2\), but there are 'x', 'z'"):
        read(write(tmp_path, x=np.ones((4, 2)), z=np.ones((4, 2))), Selection(label=None, schema=AGE_AND_SEX))


@BOTH
def test_a_schema_without_columns_checks_the_label_only(tmp_path: Path, write: Any) -> None:
    schema = Schema(columns=(), label=Column(name="digit", lower=0, upper=9))
    found = read(write(tmp_path, x=np.ones((2, 3, 3)), y=np.array([9, 10])), Selection(label="y", schema=schema))
    assert found.told == ["row 2, column 'y' is above the schema's upper bound 9"]
    assert found.rows["x"].shape == (1, 3, 3)


@BOTH
@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.ones((3, 2)), "y": np.arange(2)}, "one entry a record, but y has 2, x has 3"),
        ({"x": np.ones((2, 2)), "y": np.ones((2, 1))}, r"array 'y' should hold one entry a record, of shape \(n,\)"),
        ({"x": np.ones((0, 2)), "y": np.arange(0)}, "has no records"),
        ({"x": np.array(1.0), "y": np.arange(2)}, "but y has 2, x has 0"),
        ({"x": np.ones((2, 2))}, "has no column 'y'; it has 'x'"),
        ({"y": np.arange(2)}, "no column that is an input"),
    ],
)
def test_arrays_that_are_no_records_are_refused(tmp_path: Path, write: Any, arrays: dict[str, Any], told: str) -> None:
    with pytest.raises(DataInvalid, match=told):
        read(write(tmp_path, **arrays), Selection(label="y"))


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('the bomb went off')",)


@pytest.mark.parametrize("arrays", [{"x": np.array([Bomb()] * 2)}, {"x": np.ones(2), "y": np.array([Bomb()] * 2)}])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, arrays: dict[str, Any]) -> None:
    path = npz(tmp_path, **{"y": np.arange(2), **arrays})
    with pytest.raises(DataInvalid, match=r"holds Python objects \(pickle\), which could run code"):
        read(path, Selection(label="y"))


@pytest.mark.parametrize(
    "array", [np.array(["a", "b"]), np.ones(2, np.complex64), np.array([1, 2], "datetime64[D]"), np.ones(2, np.uint16)]
)
def test_an_input_that_is_no_number_is_named(tmp_path: Path, array: Any) -> None:
    with pytest.raises(DataInvalid, match=r"array 'a' holds .*inputs are float64"):
        read(npz(tmp_path, a=array, b=np.ones(2)), Selection(label=None))


def test_arrays_written_on_other_machines_and_in_other_orders_are_the_same(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    for stored in (values.astype(">f4"), np.asfortranarray(values)):
        assert bits(read(npz(tmp_path, x=stored), Selection(label=None)).rows["x"]) == bits(torch.from_numpy(values))


def test_a_safetensors_file_may_hold_bfloat16(tmp_path: Path) -> None:
    x, y = torch.tensor([[1.5], [INF]], dtype=torch.bfloat16), torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    found = read(safe(tmp_path, x=x, y=y), Selection(label="y"))
    assert (found.rows["x"].dtype, found.y, [cell.row for cell in found.bad]) == (torch.bfloat16, [1], [2])


@BOTH
def test_a_wounded_file_is_read_or_refused(tmp_path: Path, write: Any) -> None:
    rng = random.Random(3)
    path = write(tmp_path, x=np.ones((20, 2), np.float32), y=np.arange(20))
    content = path.read_bytes()
    for _ in range(150):
        path.write_bytes(mutated(content, rng))
        with suppress(DataInvalid):
            read(path, Selection(label="y"))
