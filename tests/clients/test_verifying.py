"""What is damaged, missing or swapped in a safe is found, and told by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clients.data import facts_label, rows_label
from clients.verifying import checked, refuse_damaged
from privacy.errors import IdentityRefused, ObjectDamaged
from privacy.safe import Safe
from privacy.vault import Label
from tests.clients.data_builders import again, patients, records_a_shard, sealed
from tests.privacy.vault_builders import content, flipped, object_file, safe_in, writable

IDENTITY, MODEL = Label("identity", "own"), Label("model", "hearts-17", 3)
KEY = Label("identity", "fingerprint-key")


@pytest.fixture
def safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Safe:
    """A site with two data sets of three shards, a model, and its identity."""
    records_a_shard(monkeypatch, 3, 16)
    made = safe_in(tmp_path / "north", "north")
    for name in ("heart", "lung"):
        sealed(made, patients(7), name)
    with made.changing() as vault:
        vault.seal(MODEL, [b"weights"])
    return made


SHARDS = [rows_label(name, number) for name in ("heart", "lung") for number in range(3)]
NAMED = sorted([*SHARDS, facts_label("heart"), facts_label("lung"), MODEL, IDENTITY, KEY])


def register(safe: Safe) -> Label:
    """The register of both data sets, which hold the same records: it is named by their fingerprint."""
    (found,) = safe.vault.list("register")
    return found


def problems(safe: Safe) -> dict[str, str]:
    """What is wrong, by name; every object is looked at once, in order."""
    found = list(checked(again(safe).vault))
    assert [each.label for each in found] == sorted([*NAMED, register(safe)])
    return {str(each.label): each.problem for each in found if each.problem}


def test_a_safe_in_order_has_no_problem(safe: Safe) -> None:
    assert problems(safe) == {}
    refuse_damaged(safe)


def test_a_safe_is_checked_in_order_after_rekeying_and_resealing(safe: Safe) -> None:
    list(safe.reseal())
    assert problems(safe) == {}


@pytest.mark.parametrize("named", [*NAMED, None], ids=lambda label: str(label or "register"))
def test_one_flipped_byte_is_found_in_whatever_object_it_is(safe: Safe, named: Label | None) -> None:
    label = named or register(safe)
    path = object_file(safe.vault, label)
    for position in (0, 12, 40, path.stat().st_size - 1):
        with writable(path) as handle, flipped(handle, position):
            found = problems(safe)
        assert list(found) == [str(label)]
        assert "does not open" in found[str(label)]
    assert problems(safe) == {}


@pytest.mark.parametrize("number", range(3))
def test_a_missing_shard_is_found(safe: Safe, number: int) -> None:
    object_file(safe.vault, rows_label("heart", number)).unlink()
    assert problems(safe) == {f"rows/heart/{number}": "it is missing"}
    with pytest.raises(ObjectDamaged, match=f"1 sealed objects do not open: rows/heart/{number}: it is missing"):
        refuse_damaged(safe)


@pytest.mark.parametrize(
    "other", [rows_label("heart", 1), rows_label("lung", 0), facts_label("heart"), IDENTITY], ids=str
)
def test_swapped_files_are_both_found(safe: Safe, other: Label) -> None:
    first, second = object_file(safe.vault, rows_label("heart", 0)), object_file(safe.vault, other)
    held = first.read_bytes(), second.read_bytes()
    first.write_bytes(held[1])
    second.write_bytes(held[0])
    assert sorted(problems(safe)) == sorted(["rows/heart/0", str(other)])


def test_every_problem_is_told_and_not_only_the_first(safe: Safe) -> None:
    object_file(safe.vault, rows_label("heart", 2)).unlink()
    object_file(safe.vault, MODEL).write_bytes(b"")
    object_file(safe.vault, rows_label("lung", 1)).write_bytes(b"FEDSEAL\x01")
    assert list(problems(safe)) == ["model/hearts-17/3", "rows/heart/2", "rows/lung/1"]
    with pytest.raises(ObjectDamaged, match="3 sealed objects"):
        refuse_damaged(safe)


@pytest.mark.parametrize(
    "change",
    [
        lambda held: held[:-1],
        lambda held: held[: len(held) // 2],
        lambda held: held[:11],
        lambda _: b"",
        lambda held: held + b"\0",
        lambda held: b"FEDSEAL\x02" + held[8:],
        lambda held: held[:8] + b"\0\0\0\x63" + held[12:],
    ],
    ids=["cut by one", "halved", "cut in its head", "empty", "longer", "of another format", "of an unknown key"],
)
def test_an_object_that_is_no_whole_object_is_found(safe: Safe, change: Callable[[bytes], bytes]) -> None:
    path = object_file(safe.vault, rows_label("heart", 1))
    path.write_bytes(change(path.read_bytes()))
    assert list(problems(safe)) == ["rows/heart/1"]


def test_no_problem_tells_what_an_object_holds(safe: Safe) -> None:
    path = object_file(safe.vault, MODEL)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    (text,) = problems(safe).values()
    assert "weights" not in text


def test_a_byte_in_the_midst_of_a_long_object_is_found(safe: Safe) -> None:
    with safe.changing() as vault:
        vault.seal(MODEL, [content(100_000)])
    with writable(object_file(safe.vault, MODEL)) as handle, flipped(handle, 50_000):
        assert list(problems(safe)) == ["model/hearts-17/3"]
    assert problems(safe) == {}


def test_a_folder_in_the_place_of_an_object_is_found(safe: Safe) -> None:
    path = object_file(safe.vault, rows_label("heart", 0))
    path.unlink()
    path.mkdir()
    assert list(problems(safe)) == ["rows/heart/0"]


def test_another_identity_in_the_open_is_found(safe: Safe, tmp_path: Path) -> None:
    other = safe_in(tmp_path / "other/north", "north").folder / "identity.json"
    (safe.folder / "identity.json").write_bytes(other.read_bytes())
    with pytest.raises(IdentityRefused, match="is not the identity that is sealed in the safe"):
        refuse_damaged(safe)


def test_shards_without_facts_are_no_damage(safe: Safe) -> None:
    with safe.changing() as vault:
        vault.seal(rows_label("liver", 0), [b"left by a killed import"])
    assert all(not each.problem for each in checked(again(safe).vault))
