"""Folders of images: one sub-folder a class; an image that is damaged, hostile or of another size is one bad row."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from federation import table_images
from federation.schema import Column, Schema
from federation.table_selection import Selection
from privacy.errors import DataInvalid
from tests.federation.table_builders import bits, read

LABELLED = Selection(label="folder")


def draw(path: Path, colour: int | tuple[int, int, int] = 7, size: tuple[int, int] = (3, 2), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def animals(folder: Path) -> Path:
    """Rows in order: cat/1.png, cat/2.bmp, dog/1.png."""
    draw(folder / "dog" / "1.png", 30)
    draw(folder / "cat" / "2.bmp", 20)
    draw(folder / "cat" / "1.png", 10)
    return folder


def test_sub_folders_are_classes_by_name_and_images_follow_by_path(tmp_path: Path) -> None:
    found = read(animals(tmp_path), Selection(label="folder", unit="file", identifier=None))
    assert (found.y, found.units, found.told) == ([0, 0, 1], ["cat/1.png", "cat/2.bmp", "dog/1.png"], [])
    expected = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None, None].expand(3, 1, 2, 3).contiguous()
    assert bits(found.rows["x"]) == bits(expected)


def test_colours_are_channels_first(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png", (1, 2, 3), mode="RGB")
    found = read(tmp_path, LABELLED)
    assert found.rows["x"].shape == (1, 3, 2, 3)
    assert found.rows["x"][0, :, 0, 0].tolist() == [1, 2, 3]
    assert found.rows["x"].is_contiguous()


def test_photographs_are_read_and_a_folder_may_be_the_unit(tmp_path: Path) -> None:
    draw(tmp_path / "p7" / "1.JPG", size=(8, 8))
    draw(tmp_path / "p8" / "1.jpeg", size=(8, 8))
    found = read(tmp_path, Selection(label=None, unit="folder", identifier="file"))
    assert (found.units, set(found.rows.fields)) == (["p7", "p8"], {"x"})


def test_a_schema_fixes_the_order_of_the_classes(tmp_path: Path) -> None:
    label = Column(name="animal", kind="category", categories=("dog", "cat"))
    assert read(animals(tmp_path), Selection(label="folder", schema=Schema(columns=(), label=label))).y == [1, 1, 0]
    only_dogs = Column(name="animal", kind="category", categories=("dog",))
    found = read(tmp_path, Selection(label="folder", schema=Schema(columns=(), label=only_dogs)))
    assert found.told == [f"row {row}, column 'folder' is not one of the schema's categories" for row in (1, 2)]


def test_an_empty_sub_folder_is_a_class_all_the_same(tmp_path: Path) -> None:
    (animals(tmp_path) / "bird").mkdir()
    assert read(tmp_path, LABELLED).y == [1, 1, 2]


def test_images_side_by_side_have_no_class(tmp_path: Path) -> None:
    draw(tmp_path / "2.png")
    draw(tmp_path / "1.png")
    (tmp_path / "README.txt").write_text("what systems and people leave")
    assert read(tmp_path, Selection(label=None, unit="file")).units == ["1.png", "2.png"]
    with pytest.raises(DataInvalid, match="has no column 'folder'"):
        read(tmp_path, LABELLED)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_operating_systems_leave_is_no_image(tmp_path: Path, name: str) -> None:
    (animals(tmp_path) / "cat" / name).write_bytes(b"x")
    (tmp_path / name).write_bytes(b"x")
    assert read(tmp_path, LABELLED).told == []


@pytest.mark.parametrize(
    ("size", "mode", "told"),
    [
        ((2, 3), "L", "has another size or colour mode than the first image"),
        ((3, 2), "RGB", "has another size or colour mode than the first image"),
        ((3, 2), "RGBA", "has colour mode RGBA, but only grey (L) and RGB are read: convert it"),
        ((3, 2), "P", "has colour mode P, but only grey (L) and RGB are read: convert it"),
        ((3, 2), "1", "has colour mode 1, but only grey (L) and RGB are read: convert it"),
        ((3, 2), "I;16", "has colour mode I;16, but only grey (L) and RGB are read: convert it"),
    ],
)
def test_an_image_of_another_size_or_mode_is_a_bad_row(
    tmp_path: Path, size: tuple[int, int], mode: str, told: str
) -> None:
    draw(animals(tmp_path) / "cat" / "3.png", 0, size, mode)
    found = read(tmp_path, LABELLED)
    assert (found.told, found.y) == ([f"row 3, column 'file' {told}"], [0, 0, 1])


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claimed(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says how large it is."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 14_000, 60_000])
@pytest.mark.parametrize("name", ["cat/0.png", "cat/3.png"])
def test_a_decompression_bomb_is_a_bad_row_and_never_decoded(tmp_path: Path, side: int, name: str) -> None:
    (animals(tmp_path) / name).write_bytes(claimed(side, side))
    found = read(tmp_path, LABELLED)
    assert [cell.row for cell in found.bad] == [1 if name == "cat/0.png" else 3]
    assert found.bad[0].reason == "has more pixels than an honest image: a decompression bomb"
    assert found.y == [0, 0, 1]


@pytest.mark.parametrize("name", ["cat/0.png", "cat/3.png"])
def test_damaged_images_are_bad_rows(tmp_path: Path, name: str) -> None:
    honest = draw(animals(tmp_path) / name, size=(3, 2)).read_bytes()
    flipped = bytearray(honest)
    flipped[honest.index(b"IDAT") + 9] ^= 1
    for content in (b"", b"x" * 100, honest[:20], honest[:40], honest[:-20], flipped):
        (tmp_path / name).write_bytes(content)
        found = read(tmp_path, LABELLED)
        assert [str(cell.reason) for cell in found.bad] == ["is damaged, or no image"]
        assert found.y == [0, 0, 1]


def test_a_file_that_is_called_an_image_but_is_another_kind_is_a_bad_row(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(animals(tmp_path) / "cat" / "3.png", format="TIFF")
    (tmp_path / "dog" / "notes.txt").write_text("x")
    assert [(cell.row, cell.reason) for cell in read(tmp_path, LABELLED).bad] == [
        (3, "is damaged, or no image"),
        (5, "is none of .png, .jpg, .jpeg, .bmp"),
    ]


@pytest.mark.parametrize("most", [1, 12, 10**6])
def test_parts_of_any_size_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(table_images, "BATCH_BYTES", most)
    (animals(tmp_path) / "cat" / "15.png").write_bytes(b"x")
    found = read(tmp_path, LABELLED)
    assert (found.y, [cell.row for cell in found.bad]) == ([0, 0, 1], [2])
    assert found.rows["x"][:, 0, 0, 0].tolist() == [10, 20, 30]
    assert [len(batch.rows) for batch in found.batches] == {1: [1, 1, 1], 12: [2, 1]}.get(most, [3])


def test_a_folder_that_is_no_such_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="has no records"):
        read(tmp_path, Selection(label=None))
    draw(tmp_path / "a" / "1.png")
    with pytest.raises(DataInvalid, match="has no column 'label'"):
        read(tmp_path, Selection(label="label"))
    with pytest.raises(DataInvalid, match="'image' should hold 1 columns, which the schema names"):
        read(tmp_path, Selection(label="folder", schema=Schema(columns=(Column(name="age"),))))
    draw(tmp_path / "b" / "c" / "1.png")
    with pytest.raises(DataInvalid, match="should hold images only, but one holds a folder"):
        read(tmp_path, LABELLED)
    draw(tmp_path / "1.png")
    with pytest.raises(DataInvalid, match="holds images beside its sub-folders"):
        read(tmp_path, LABELLED)
