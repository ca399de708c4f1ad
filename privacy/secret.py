"""A secret value that no repr, log, traceback, comparison or pickle gives away."""

from __future__ import annotations

import hmac
import os
from typing import NoReturn


class Secret:
    """Bytes that only `reveal` shows."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    @staticmethod
    def random() -> Secret:
        """32 bytes from the operating system: a key."""
        return Secret(os.urandom(32))

    def reveal(self) -> bytes:
        """The bytes, for the call that needs them."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        raise TypeError("a secret is no key of a dictionary")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled")
