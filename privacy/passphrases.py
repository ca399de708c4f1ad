"""Where a passphrase comes from: a terminal, a file descriptor, or a file. Never an argument or the environment."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from privacy.errors import KeyRefused, WrongPassphrase
from privacy.key_stores import read_private_file
from privacy.secret import Secret

FEWEST_CHARACTERS = 12
_LARGEST_BYTES = 64 * 1024


def asked(prompt: str) -> Secret:
    """Typed at the terminal, without showing it.

    Raises:
        WrongPassphrase: there is no terminal.
    """
    if not sys.stdin.isatty():
        return nobody_to_ask()
    return Secret(getpass.getpass(f"{prompt}: ").encode())


def asked_twice(prompt: str) -> Secret:
    """A new passphrase, typed twice.

    Raises:
        KeyRefused: the two differ, or it is too short to stand Argon2id's guessing.
    """
    first = asked(prompt)
    if asked(f"{prompt} again") != first:
        raise KeyRefused("the two passphrases differ: nothing was changed")
    return new(first)


def new(passphrase: Secret) -> Secret:
    """The passphrase, if it may lock something.

    Raises:
        KeyRefused: it is too short.
    """
    if len(passphrase.reveal().decode("utf-8", "replace")) < FEWEST_CHARACTERS:
        raise KeyRefused(
            f"the passphrase has fewer than {FEWEST_CHARACTERS} characters: take four or more random words"
        )
    return passphrase


def from_descriptor(number: int) -> Secret:
    """The first line of an open file descriptor.

    Raises:
        KeyRefused: it is not open for reading, or holds nothing.
    """
    try:
        with os.fdopen(os.dup(number), "rb") as stream:
            return _first_line(stream.readline(_LARGEST_BYTES), f"file descriptor {number}")
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is none of that number"
        raise KeyRefused(f"file descriptor {number} can't be read: {reason}") from None


def from_file(path: Path) -> Callable[[], Secret]:
    """The first line of a file that only its owner may read, read when it is needed."""
    return lambda: _first_line(read_private_file(path, "passphrase file"), str(path))


def nobody_to_ask() -> Secret:
    """For who can't ask anybody.

    Raises:
        WrongPassphrase: always.
    """
    raise WrongPassphrase(
        "this safe is locked by a passphrase, and nobody is there to type it: name where it is read from "
        "(--passphrase-fd, or passphrase-file in the node config), or lock the safe with a key file "
        "(`fedseal site rekey --key-file FILE`)"
    )


def _first_line(content: bytes, where: str) -> Secret:
    line = content.split(b"\n", 1)[0].rstrip(b"\r")
    if not line:
        raise KeyRefused(f"{where} holds no passphrase")
    return Secret(line)
