"""Whether cells are what they should be, a column or a batch at once; a bad one is named by its fault, not its content.

Every kind of file comes down to the same three readings, so that a table means the same in every format: numbers for
inputs, whole numbers for labels, texts for names and categories. In array comments, n is the number of rows and d of
input columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import pyarrow
import pyarrow.compute as compute
from numpy.typing import NDArray

from federation.schema import Column

MISSING = ("", "na", "n/a", "#n/a", "nan", "-nan", "null")  # in small letters
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_INFINITY = r"^[+-]?inf(inity)?$"  # in small letters
_SHORT_WHOLE, _LONG_WHOLE = r"^[+-]?0*\d{1,18}$", r"^[+-]?0*\d{19}$"  # fits int64; may fit
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_WHOLE_FLOAT32 = 2**24  # beyond it float32 holds only every other whole number
_LARGEST_WHOLE_FLOAT64 = 2**53
_LARGEST_INT64 = 2**63 - 1

Faults = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Fault(IntEnum):
    """What can be wrong with a cell."""

    NONE = 0
    EMPTY = 1
    NOT_NUMBER = 2
    TOO_LARGE = 3
    NOT_WHOLE = 4
    INEXACT = 5
    BELOW = 6
    ABOVE = 7
    NOT_CATEGORY = 8
    NO_NAME = 9
    SEEN = 10


def reason(fault: int, column: Column) -> str:
    """How a person is told: goes on after "the cell ..."."""
    reasons = {
        Fault.EMPTY: "is empty, but the schema asks for a value",
        Fault.NOT_NUMBER: "is not a number",
        Fault.TOO_LARGE: "is infinite, or too large",
        Fault.NOT_WHOLE: "is not a whole number",
        Fault.INEXACT: f"is a whole number beyond {_LARGEST_WHOLE_FLOAT32}, which float32 may not hold exactly",
        Fault.BELOW: f"is below the schema's lower bound {_written(column.lower)}",
        Fault.ABOVE: f"is above the schema's upper bound {_written(column.upper)}",
        Fault.NOT_CATEGORY: "is not one of the schema's categories",
        Fault.NO_NAME: "is empty, but every record needs a value here",
        Fault.SEEN: "was seen before",
    }
    return reasons[Fault(fault)]


def _written(bound: float | None) -> str:
    return str(int(bound)) if bound is not None and float(bound).is_integer() else str(bound)


def inputs(cells: Sequence[pyarrow.Array], columns: Sequence[Column]) -> tuple[NDArray[np.float32], Faults]:
    """Input columns as numbers, (d, n), NaN where a cell is missing; and their faults, (d, n).

    Bounds are compared in float32, as the task sees both: 0.1 is not above 0.1, whatever type the file keeps it in.
    """
    values: Floats = np.full((len(cells), len(cells[0])), np.nan)
    faults: Faults = np.zeros(values.shape, dtype=np.uint8)
    numeric = [place for place, column in enumerate(columns) if column.kind != "category"]
    values[numeric], faults[numeric] = _numbers([cells[place] for place in numeric], len(cells[0]))
    for place, column in enumerate(columns):
        if column.kind == "category":
            values[place], faults[place] = _positions(cells[place], column)
    optional = np.array([column.may_be_missing for column in columns])[:, None]
    faults[optional & (faults == Fault.EMPTY)] = Fault.NONE
    whole = np.array([column.kind == "integer" for column in columns])[:, None]
    _mark(faults, Fault.TOO_LARGE, np.abs(values) > _LARGEST)
    _mark(faults, Fault.NOT_WHOLE, whole & ~np.isnan(values) & (values != np.trunc(values)))
    _mark(faults, Fault.INEXACT, whole & (np.abs(values) > _LARGEST_WHOLE_FLOAT32))
    with np.errstate(over="ignore"):  # those are bad cells
        rounded = values.astype(np.float32)
    rounded[np.isnan(rounded)] = np.nan  # one NaN of the many, because `rows.record_bytes` compares bytes
    for row, marks, column in zip(rounded, faults, columns, strict=True):
        _bound(row, marks, column)
    return rounded, faults


def labels(cells: pyarrow.Array, column: Column) -> tuple[NDArray[np.int64], Faults]:
    """A label column as whole numbers, exact, or as positions among categories, (n,) int64; and its faults, (n,)."""
    if column.kind == "category":
        positions, faults = _positions(cells, column)
        values = np.nan_to_num(positions).astype(np.int64)
    else:
        values, faults = _whole_numbers(cells)
        _bound(values, faults, column)
    faults[faults == Fault.EMPTY] = Fault.NO_NAME
    return values, faults


def names(cells: pyarrow.Array) -> tuple[pyarrow.Array, Faults]:
    """Units or identifiers as texts, and their faults, (n,): without spaces around, else as written; 17.0 is 17."""
    written = _texts(cells)
    faults: Faults = np.zeros(len(written), dtype=np.uint8)
    _mark(faults, Fault.NO_NAME, _mask(_missing(written)))
    return written, faults


def _numbers(cells: Sequence[pyarrow.Array], n: int) -> tuple[Floats, Faults]:
    """Columns as numbers and faults, (d, n) each; texts are read all at once, which is what makes wide tables fast."""
    values: Floats = np.full((len(cells), n), np.nan)
    faults: Faults = np.zeros(values.shape, dtype=np.uint8)
    texts = [place for place, column in enumerate(cells) if _is_text(column)]
    for place in set(range(len(cells))) - set(texts):
        values[place] = _floats(cells[place])
        faults[place][np.isnan(values[place])] = Fault.EMPTY
    if texts:
        read, wrong = _numbers_from_texts(pyarrow.concat_arrays([cells[place] for place in texts]))
        values[texts], faults[texts] = read.reshape(len(texts), n), wrong.reshape(len(texts), n)
    return values, faults


def _numbers_from_texts(cells: pyarrow.Array) -> tuple[Floats, Faults]:
    trimmed = _texts(cells)
    right = compute.match_substring_regex(trimmed, _NUMBER)
    values = _floats(compute.if_else(right, trimmed, None))
    faults: Faults = np.zeros(len(values), dtype=np.uint8)
    others = np.flatnonzero(~_mask(right))
    if len(others):
        words = compute.utf8_lower(trimmed.take(pyarrow.array(others)))
        faults[others] = np.where(_mask(_missing(words)), Fault.EMPTY, Fault.NOT_NUMBER)
        faults[others[_mask(compute.match_substring_regex(words, _INFINITY))]] = Fault.TOO_LARGE
        for number, word in enumerate(("false", "true")):
            meant = others[_mask(compute.equal(words, word))]
            values[meant], faults[meant] = number, Fault.NONE
    return values, faults


def _whole_numbers(cells: pyarrow.Array) -> tuple[NDArray[np.int64], Faults]:
    """Exact up to int64 where they are written or stored as whole numbers, else up to what float64 tells apart."""
    if _is_text(cells):
        exact, written = _whole_numbers_from_texts(_texts(cells))
    elif pyarrow.types.is_integer(cells.type):
        unsigned = pyarrow.types.is_uint64(cells.type)
        largest = pyarrow.scalar(_LARGEST_INT64, pyarrow.uint64())
        fits = compute.less_equal(cells, largest) if unsigned else cells.is_valid()
        exact, written = _int64(compute.if_else(fits, cells, None)), _mask(compute.fill_null(fits, False))
    else:
        exact, written = np.zeros(len(cells), dtype=np.int64), np.zeros(len(cells), dtype=np.bool_)
    ((floats,), (faults,)) = _numbers([cells], len(cells))
    _mark(faults, Fault.NOT_WHOLE, ~written & np.isfinite(floats) & (floats != np.trunc(floats)))
    _mark(faults, Fault.TOO_LARGE, ~written & (np.abs(floats) > _LARGEST_WHOLE_FLOAT64))
    counted = ~written & (faults == Fault.NONE)
    exact[counted] = floats[counted].astype(np.int64)
    return exact, faults


def _whole_numbers_from_texts(trimmed: pyarrow.Array) -> tuple[NDArray[np.int64], Mask]:
    """The cells that are written as whole numbers within int64, and which they are; the others are 0."""
    short = compute.match_substring_regex(trimmed, _SHORT_WHOLE)
    values = _int64(compute.utf8_ltrim(compute.if_else(short, trimmed, None), "+"))
    written = _mask(short)
    for place in np.flatnonzero(_mask(compute.match_substring_regex(trimmed, _LONG_WHOLE)) & ~written):
        number = int(trimmed[int(place)].as_py())
        if -_LARGEST_INT64 - 1 <= number <= _LARGEST_INT64:
            values[place], written[place] = number, True
    return values, written


def _positions(cells: pyarrow.Array, column: Column) -> tuple[Floats, Faults]:
    """Where each cell stands among the categories, (n,), NaN where it does not; a category may be called "NA"."""
    written = _texts(cells)
    values = _floats(compute.index_in(written, value_set=pyarrow.array(column.categories, pyarrow.string())))
    faults: Faults = np.zeros(len(values), dtype=np.uint8)
    unknown = np.isnan(values)
    _mark(faults, Fault.EMPTY, unknown & _mask(_missing(written)))
    _mark(faults, Fault.NOT_CATEGORY, unknown)
    return values, faults


def _texts(cells: pyarrow.Array) -> pyarrow.Array:
    """Cells as texts without spaces around, "" where missing; whole numbers without a decimal point."""
    if pyarrow.types.is_floating(cells.type):
        written = compute.cast(cells, pyarrow.string())
        whole = compute.equal(compute.trunc(cells), cells)
        small = compute.less_equal(compute.abs(cells), _LARGEST_WHOLE_FLOAT64)
        as_whole = compute.cast(compute.if_else(compute.and_(whole, small), cells, None), pyarrow.int64())
        cells = compute.coalesce(compute.cast(as_whole, pyarrow.string()), written)
    return compute.fill_null(compute.utf8_trim_whitespace(compute.cast(cells, pyarrow.string())), "")


def _bound(values: NDArray[np.float32] | NDArray[np.int64], faults: Faults, column: Column) -> None:
    """One column, (n,) each."""
    kind = values.dtype if values.dtype.kind == "f" else np.float64
    with np.errstate(over="ignore"):  # a bound beyond float32 is none
        if column.lower is not None:
            _mark(faults, Fault.BELOW, values < np.asarray(column.lower, dtype=kind))
        if column.upper is not None:
            _mark(faults, Fault.ABOVE, values > np.asarray(column.upper, dtype=kind))


def _mark(faults: Faults, fault: Fault, where: Mask) -> None:
    """A cell's first fault stands."""
    faults[where & (faults == Fault.NONE)] = fault


def _missing(written: pyarrow.Array) -> pyarrow.Array:
    return compute.is_in(compute.utf8_lower(written), value_set=pyarrow.array(MISSING))


def _is_text(cells: pyarrow.Array) -> bool:
    return bool(pyarrow.types.is_string(cells.type))


def _floats(cells: pyarrow.Array) -> Floats:
    """(n,) float64; null is NaN, true is 1."""
    if pyarrow.types.is_boolean(cells.type):
        cells = compute.cast(cells, pyarrow.int8())
    return np.array(compute.cast(cells, pyarrow.float64(), safe=False).fill_null(np.nan))


def _int64(cells: pyarrow.Array) -> NDArray[np.int64]:
    """(n,) int64; null is 0."""
    return np.array(compute.cast(cells, pyarrow.int64()).fill_null(0))


def _mask(cells: pyarrow.Array) -> Mask:
    return np.array(cells, dtype=np.bool_)
