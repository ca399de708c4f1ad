"""Where a passphrase comes from: a descriptor or a private file, never waited for; what it is stays unsaid."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from privacy.errors import KeyFileInvalid, KeyRefused, WrongPassphrase
from privacy.passphrases import (
    FEWEST_CHARACTERS,
    asked,
    asked_twice,
    from_descriptor,
    from_file,
    new,
    nobody_to_ask,
)
from privacy.secret import Secret

LINES = [
    (b"four random words here", b"four random words here"),
    (b"four random words here\n", b"four random words here"),
    (b"four random words here\r\n", b"four random words here"),
    (b"the first line\nanother\n", b"the first line"),
    (b"  blanks count  \n", b"  blanks count  "),
    (b"\tso do tabs\t", b"\tso do tabs\t"),
    ("drei Wörter, größer".encode(), "drei Wörter, größer".encode()),
    (b"\xff\x00 bytes that are no text\n", b"\xff\x00 bytes that are no text"),
]
NOTHING = [b"", b"\n", b"\r\n", b"\nan empty first line"]


@contextmanager
def pipe(content: bytes) -> Iterator[int]:
    """The end of a pipe from which this, and then nothing more, can be read."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    try:
        yield reader
    finally:
        os.close(reader)


def private(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(("content", "expected"), LINES)
def test_the_first_line_is_the_passphrase_wherever_it_comes_from(
    tmp_path: Path, content: bytes, expected: bytes
) -> None:
    with pipe(content) as number:
        assert from_descriptor(number) == Secret(expected)
    assert from_file(private(tmp_path / "secret", content))() == Secret(expected)


@pytest.mark.parametrize("content", NOTHING)
def test_an_empty_first_line_is_no_passphrase(tmp_path: Path, content: bytes) -> None:
    with pipe(content) as number, pytest.raises(KeyRefused, match=f"file descriptor {number} holds no passphrase"):
        from_descriptor(number)
    with pytest.raises(KeyRefused, match="secret holds no passphrase"):
        from_file(private(tmp_path / "secret", content))()


def test_a_descriptor_stays_open_for_its_owner_and_no_other_is_left(tmp_path: Path) -> None:
    path = private(tmp_path / "secret", b"four random words here\n")
    with path.open("rb") as stream:
        before = open_descriptors()
        from_descriptor(stream.fileno())
        assert open_descriptors() == before
        os.fstat(stream.fileno())


def test_a_passphrase_may_follow_others_in_a_file_that_was_read_up_to_it(tmp_path: Path) -> None:
    path = private(tmp_path / "secret", b"not this line\nfour random words here\n")
    handle = os.open(path, os.O_RDONLY)
    os.lseek(handle, len(b"not this line\n"), os.SEEK_SET)
    assert from_descriptor(handle) == Secret(b"four random words here")
    os.close(handle)


@pytest.mark.parametrize("kind", ["closed", "write-only", "a folder", "negative"])
def test_a_descriptor_that_can_not_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    handle = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    folder = os.open(tmp_path, os.O_RDONLY)
    number = {"closed": 987, "write-only": handle, "a folder": folder, "negative": -1}[kind]
    with pytest.raises(KeyRefused, match=f"file descriptor {number} can't be read: "):
        from_descriptor(number)
    os.close(handle)
    os.close(folder)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666, 0o777])
def test_a_file_that_anybody_else_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "secret", b"four random words here\n", mode)
    with pytest.raises(KeyFileInvalid, match="can be read by others: chmod 600") as error:
        from_file(path)()
    assert "random words" not in str(error.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert from_file(private(tmp_path / "secret", b"four random words here", mode))() == Secret(
        b"four random words here"
    )


def test_a_file_behind_a_link_must_be_private_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(private(tmp_path / "secret", b"four random words here"))
    assert from_file(tmp_path / "link")() == Secret(b"four random words here")
    (tmp_path / "secret").chmod(0o640)
    with pytest.raises(KeyFileInvalid):
        from_file(tmp_path / "link")()


def test_a_file_is_read_when_it_is_needed_and_each_time_anew(tmp_path: Path) -> None:
    ask = from_file(tmp_path / "secret")
    with pytest.raises(KeyFileInvalid, match="can't be read: No such file"):
        ask()
    for word in (b"one passphrase", b"another one"):
        private(tmp_path / "secret", word)
        assert ask() == Secret(word)


@pytest.mark.parametrize("text", ["", "eleven char", "\u00e9" * 11, "\U0001f512" * 11])
def test_a_short_passphrase_locks_nothing(text: str) -> None:
    with pytest.raises(KeyRefused, match=f"fewer than {FEWEST_CHARACTERS} characters") as error:
        new(Secret(text.encode()))
    assert not text or text not in str(error.value)


@pytest.mark.parametrize("text", ["twelve chars", "\u00e9" * 12, "a" * 4000])
def test_a_passphrase_of_twelve_characters_may_lock_something(text: str) -> None:
    assert new(Secret(text.encode())) == Secret(text.encode())


@pytest.mark.parametrize("ask", [lambda: asked("Passphrase"), lambda: asked_twice("New passphrase"), nobody_to_ask])
def test_where_there_is_no_terminal_nobody_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Secret]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("four random words here\nfour random words here\n"))
    with pytest.raises(WrongPassphrase, match="--passphrase-fd, or passphrase-file"):
        ask()


def test_a_passphrase_tells_nothing_of_itself() -> None:
    with pipe(b"four random words here") as number:
        found = from_descriptor(number)
    assert "random" not in f"{found!r} {found} {vars(Secret)['__slots__']}"
