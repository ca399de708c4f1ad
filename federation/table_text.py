"""Two watchers over a CSV file that is read in blocks: its bytes are UTF-8, and its torn rows keep their numbers."""

from __future__ import annotations

import codecs
from collections import deque
from typing import BinaryIO, Literal

import numpy as np
import pyarrow.csv
from numpy.typing import NDArray

_MOST_TORN_ROWS = 1_000_000  # kept at once: a file of another delimiter would fill the memory


class Utf8Stream:
    """A stream that ends after the first byte that is no UTF-8, so that its last record is the one to blame.

    pyarrow would hand its text to `TornRows` and fail on the way, or quote it in an error.

    cut:  whether that has happened
    tail: the last bytes before the line breaks at the end of what was read
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._begun = b""  # a letter's first bytes, which wait for the rest
        self.cut = False
        self.tail = b""
        self.closed = False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, at least four; none at the end."""
        if self.cut:
            return b""
        piece = self._stream.read(size - len(self._begun))
        found = self._begun + piece
        try:
            _, length = codecs.utf_8_decode(found, "strict", not piece)
        except UnicodeDecodeError as error:
            self.cut, length, found = True, error.start + 1, found[: error.start] + b"?"
        self._begun, found = found[length:], found[:length]
        self.tail = (self.tail + found[-8:])[-8:].rstrip(b"\r\n") or self.tail
        return found

    def close(self) -> None:
        """Nothing: who opened the stream closes it."""


class TornRows:
    """Rows whose number of cells is not the header's, as pyarrow meets them, and the numbers of the rows between.

    next_row: the number of the first row that has not been placed; the header is row 1
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int, bool]] = deque()
        self.next_row = 2

    def note(self, row: pyarrow.csv.InvalidRow) -> Literal["skip", "error"]:
        """Called by pyarrow, which may be some blocks ahead."""
        if len(self._waiting) >= _MOST_TORN_ROWS:
            return "error"
        self._waiting.append((row.number, row.actual_columns, "\n" in row.text or "\r" in row.text))
        return "skip"

    def place(self, count: int) -> tuple[NDArray[np.int64], list[tuple[int, int, bool]]]:
        """The numbers of the next `count` whole rows, and the torn ones up to there: number, cells, any line breaks."""
        waiting = np.array([number for number, _, _ in self._waiting.copy()], dtype=np.int64)
        candidates = np.arange(self.next_row, self.next_row + count + len(waiting))
        rows = candidates[~np.isin(candidates, waiting)][:count]
        self.next_row = int(rows[-1]) + 1 if count else self.next_row
        torn = []
        while self._waiting and self._waiting[0][0] <= self.next_row:
            torn.append(self._waiting.popleft())
            self.next_row = max(self.next_row, torn[-1][0] + 1)
        return rows, torn
