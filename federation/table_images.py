"""A folder of images as records: one sub-folder for each class, or images side by side without classes.

Each image has two columns beside its pixels: `file`, its path relative to the folder, and `folder`, its sub-folder.
Images follow each other in the order of their paths. Pixels are as stored: a photograph's rotation note is ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray
from PIL import Image

from federation.table_source import BATCH_BYTES, BATCH_ROWS, BadCell, RawBatch, without_contents
from privacy.errors import DataInvalid

FILE, FOLDER, IMAGE = "file", "folder", "image"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_DECODERS = ("PNG", "JPEG", "BMP")
_LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini")

Pixels = NDArray[np.uint8]


class ImageFolder:
    """The images of a folder, found but not read. A sub-folder without images counts as a class all the same.

    Raises:
        DataInvalid: the folder can't be read, mixes images and sub-folders, or nests deeper.
    """

    tensors: Sequence[str] = (IMAGE,)

    def __init__(self, path: Path) -> None:
        self._path = path
        with without_contents(path):
            folders = [entry for entry in _visible(path) if entry.is_dir()]
            loose = [entry for entry in _visible(path) if entry.suffix.lower() in _SUFFIXES and entry not in folders]
            self._files = [file for folder in folders for file in _visible(folder)] if folders else loose
            nested = any(file.is_dir() for file in self._files)
        if folders and loose:
            raise DataInvalid(f"{path} holds images beside its sub-folders: put each into the sub-folder of its class")
        if nested:
            raise DataInvalid(f"{path}: its sub-folders should hold images only, but one holds a folder")
        self.classes: Sequence[str] = [folder.name for folder in folders]
        self.columns: Sequence[str] = (FILE, FOLDER) if folders else (FILE,)
        _check_names(path, folders, self._files)

    def batches(self, cells: Sequence[str], tensors: Sequence[str]) -> Iterator[RawBatch]:
        """All images; the first that can be read says which size and mode the others must have."""
        found: dict[int, Pixels] = {}  # by row
        bad: list[BadCell] = []
        shape: tuple[int, ...] | None = None
        for row, file in enumerate(self._files, start=1):
            try:
                found[row] = _decoded(file, shape)
                shape = found[row].shape
            except _UnusableImage as reason:
                bad.append(BadCell(row=row, column=FILE, reason=str(reason)))
            if len(found) * prod(shape or ()) >= BATCH_BYTES or len(found) + len(bad) >= BATCH_ROWS:
                yield self._batch(cells, found, bad)
                found, bad = {}, []
        yield self._batch(cells, found, bad)

    def _batch(self, cells: Sequence[str], found: dict[int, Pixels], bad: list[BadCell]) -> RawBatch:
        files = [self._files[row - 1] for row in found]
        columns = {
            FILE: [file.relative_to(self._path).as_posix() for file in files],
            FOLDER: [file.parent.name for file in files],
        }
        images = np.stack(list(found.values())) if found else np.empty((0, 1, 1, 1), dtype=np.uint8)  # (n, c, h, w)
        return RawBatch(
            cells={name: pyarrow.array(columns[name], pyarrow.string()) for name in cells},
            tensors={IMAGE: torch.from_numpy(images)},
            rows=np.array(list(found), dtype=np.int64),
            bad=bad,
        )


class _UnusableImage(Exception):
    """An image that is left out; the text is the reason."""


def _decoded(file: Path, shape: tuple[int, ...] | None) -> Pixels:
    """(channels, height, width), which must be `shape` if that is known."""
    if file.suffix.lower() not in _SUFFIXES:
        raise _UnusableImage(f"is none of {', '.join(_SUFFIXES)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_DECODERS) as image:
                _check_header(image, shape)
                image.verify()  # checksums, which decoding skips; an image can't be decoded after it
            with Image.open(file, formats=_DECODERS) as image:
                image.load()
                pixels = np.asarray(image)  # (h, w) or (h, w, c)
    except _UnusableImage:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _UnusableImage("has more pixels than an honest image: a decompression bomb") from None
    except Exception:  # what Pillow raises on a damaged image has no common root
        raise _UnusableImage("is damaged, or no image") from None
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _check_header(image: Image.Image, shape: tuple[int, ...] | None) -> None:
    """Before any pixel is decoded."""
    channels = {"L": 1, "RGB": 3}
    if image.mode not in channels:
        raise _UnusableImage(f"has colour mode {image.mode}, but only grey (L) and RGB are read: convert it")
    if shape is not None and (channels[image.mode], image.height, image.width) != shape:
        raise _UnusableImage("has another size or colour mode than the first image")


def _visible(folder: Path) -> list[Path]:
    """What a person put there, by name."""
    return sorted(
        entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in _LEFT_BY_SYSTEMS
    )


def _check_names(path: Path, folders: Sequence[Path], files: Sequence[Path]) -> None:
    if any(folder.name != folder.name.strip() for folder in folders):
        raise DataInvalid(f"{path}: the name of a sub-folder begins or ends with a space: rename it")
    try:
        for entry in (*folders, *files):
            entry.name.encode()
    except UnicodeEncodeError:
        raise DataInvalid(f"{path}: the name of an image or sub-folder is no UTF-8: rename it") from None
