"""Honest safes and vaults to attack, an adversary who changes one byte, and processes that die where they are told."""

from __future__ import annotations

import base64
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from privacy import files
from privacy.errors import WrongKeyFile
from privacy.key_stores import Argon2Cost, KeyFileStore
from privacy.keys import KeyRing
from privacy.safe import Safe
from privacy.sealing import SealBroken, seal, unseal
from privacy.secret import Secret
from privacy.unlocking import KeyFileSettings
from privacy.vault import Label, Vault

CHEAP = Argon2Cost(memory_kib=32, iterations=1, lanes=1)  # for tests only: microseconds instead of a quarter second
SIZES = [0, 1, 16383, 16384, 16385, 50000]  # none, one, a chunk and its neighbours, several chunks
ROWS = Label("rows", "heart", 3)
HEAD_BYTES = 12  # magic and format byte, epoch
KILLED = 86


class MemoryStore:
    """A key store whose key lives in this object: as honest as a key file, and as fast as memory."""

    def __init__(self) -> None:
        self._key = Secret.random()

    def wrap(self, key: Secret, context: bytes) -> bytes:
        return seal(self._key, context, key.reveal())

    def unwrap(self, blob: bytes, context: bytes) -> Secret:
        try:
            return Secret(unseal(self._key, context, blob))
        except SealBroken:
            raise WrongKeyFile("another memory") from None


def content(size: int, first: int = 0) -> bytes:
    """Bytes that tell where they belong: 0, 1, ... 250, 0, 1 ..."""
    return bytes((first + position) % 251 for position in range(size))


def vault_in(folder: Path, owner: str = "own") -> Vault:
    """A vault whose keys die with the test; not durable, so that a test may seal thousands of objects."""
    return Vault(folder, KeyRing.throw_away(owner), files.writing)


def nobody() -> NoReturn:
    """For safes that no passphrase locks."""
    raise AssertionError("no passphrase is needed here")


def key_file(path: Path) -> KeyFileSettings:
    """The settings of a key file, which is made where it is not there."""
    if not path.exists():
        KeyFileStore.create(path)
    return KeyFileSettings(path=path)


def safe_in(folder: Path, name: str = "own") -> Safe:
    """A new safe, locked by the key file `keys/old.key` beside it."""
    return Safe.create(folder, name, key_file(folder.parent / "keys/old.key"), nobody)


def unlocked(folder: Path) -> Safe:
    """The safe of a folder that a key file locks."""
    return Safe.unlock(folder, nobody)


def fill(safe: Safe) -> dict[Label, bytes]:
    """Seals objects of every kind and of several sizes; returns what they hold."""
    held = {
        Label("data-set", "heart"): b"facts",
        Label("rows", "heart", 0): content(20000),
        Label("rows", "heart", 1): b"",
        Label("rows", "lung", 0): content(300, 7),
        Label("model", "round", 17): content(16384),
    }
    with safe.changing() as vault:
        for label, plain in held.items():
            vault.seal(label, [plain])
    return held


def opened(vault: Vault) -> dict[Label, bytes]:
    """What every object but the identity holds."""
    return {label: bytes(vault.open(label)) for label in vault.list() if label.kind != "identity"}


def object_file(vault: Vault, label: Label) -> Path:
    return vault.folder / f"{label.kind}.{label.name}.{label.version}"


def drafts(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".*.draft"))


@contextmanager
def writable(path: Path) -> Iterator[int]:
    """The file, for an adversary who writes into it."""
    handle = os.open(path, os.O_RDWR)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def flipped(handle: int, position: int, mask: int = 1) -> Iterator[None]:
    """One byte of a file changed, for as long as the block lasts."""
    byte = os.pread(handle, 1, position)
    os.pwrite(handle, bytes([byte[0] ^ mask]), position)
    try:
        yield
    finally:
        os.pwrite(handle, byte, position)


def mutated(value: bytes, rng: random.Random) -> bytes:
    """The value with one to four wounds, or bytes that never were a value."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(2 * len(value) + 2))
    wounded = bytearray(value)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(wounded) + 1)
        end = min(len(wounded), start + rng.choice([1, 1, 2, 8, 40]))
        match rng.randrange(6):
            case 0 if wounded:
                wounded[start % len(wounded)] ^= 1 << rng.randrange(8)
            case 1:
                wounded[start:end] = rng.randbytes(end - start)
            case 2:
                del wounded[start:end]
            case 3:
                wounded[start:start] = rng.randbytes(rng.randint(1, 20))
            case 4:
                wounded[start:start] = wounded[rng.randrange(len(wounded) + 1) :][:20]
            case _:
                del wounded[start:]
    return bytes(wounded)


def spellings(secret: bytes) -> list[str]:
    """Every way in which a careless line of code would write key bytes into a text."""
    plain = [secret.hex(), repr(secret)[2:-1], repr(bytearray(secret)), str(list(secret)), secret.decode("latin-1")]
    coded = [base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode()]
    return [*plain, secret.hex().upper(), *[text.rstrip("=") for text in coded]]


def in_child(act: Callable[[], Any]) -> int:
    """Runs the act in a child process and returns its exit status: 0 done, negative: killed by that signal."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            act()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_before_act(number: int, work: Callable[[], Any]) -> bool:
    """Does the work in a child that dies before its act `number` on the disk; False: it had fewer and is done."""

    def dying() -> None:
        acts = iter(range(number))

        def mortal(act: Callable[..., Any]) -> Callable[..., Any]:
            def done_or_dead(*args: Any, **options: Any) -> Any:
                if next(acts, None) is None:
                    os._exit(KILLED)
                return act(*args, **options)

            return done_or_dead

        for name in ("write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir"):
            setattr(os, name, mortal(getattr(os, name)))
        work()

    status = in_child(dying)
    assert status in (0, KILLED), f"the child failed by itself: {status}"
    return status == KILLED


def every_death(work: Callable[[int], Callable[[], Any]], limit: int = 200) -> Iterator[int]:
    """Each act before which `work(number)()` was killed, in order; ends when the work is done before it dies."""
    for number in range(limit):
        if not killed_before_act(number, work(number)):
            assert number > 3, "the work must have acts to be killed between"
            return
        yield number
    raise AssertionError(f"the work is not done after {limit} acts")


class Hostage:
    """A child process that does work, reports each step on a pipe, and is killed by `kill -9`."""

    def __init__(self, work: Callable[[Callable[[], None]], Any]) -> None:
        """work: is given the function that reports a step, and never returns"""
        reader, writer = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            with suppress(BaseException):
                os.close(reader)
                work(lambda: os.write(writer, b".") and None)
            os._exit(1)
        os.close(writer)
        self._reader = reader

    def wait_for(self, steps: int) -> None:
        for _ in range(steps):
            assert os.read(self._reader, 1) == b".", "the child died by itself"

    def kill(self) -> int:
        """Kills it, and returns how many more steps it had reported."""
        os.kill(self._child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1]) == -signal.SIGKILL
        more = 0
        while os.read(self._reader, 1):
            more += 1
        os.close(self._reader)
        return more
