"""`fedseal site` as an engineer meets it: what it says, what it refuses, in one line, and never a passphrase."""

from __future__ import annotations

import io
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import fedseal
from clients.budgets import read_budget
from clients.data import DataSet, facts_label, rows_label
from clients.sealing import seal_rows
from federation.checkpoints import Checkpoint, keep
from federation.safe_options import site_folder
from privacy import files
from privacy.budget import WHOLE_SITE
from privacy.errors import FedSealError, WrongKeyFile, WrongPassphrase
from privacy.passphrases import nobody_to_ask
from privacy.safe import Safe
from privacy.secret import Secret
from privacy.vault import Label
from tests.clients.data_builders import (
    again,
    besides_ledger,
    names,
    objects,
    on_disk,
    patients,
    pipe,
    records_a_shard,
    same,
    sealed,
    source,
)
from tests.privacy.vault_builders import in_child, key_file, nobody, object_file, safe_in

PASSPHRASE, ANOTHER = "four random words here", "other words, more of them"


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left: its exit status, and its two outputs with the lines of a terminal joined again."""

    status: int
    out: str
    err: str


def site(*arguments: str | Path, typed: str = "", columns: int = 200) -> Said:
    """Runs `fedseal site` in this process, as its `main` does; `typed` comes on the standard input."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["fedseal", "site", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.StringIO(typed))
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as left:
            fedseal.main()
    said = Said(int(left.value.code or 0), out.getvalue(), err.getvalue())
    for secret in (PASSPHRASE, ANOTHER):
        assert secret not in said.out + said.err
    return said


def done(*arguments: str | Path, typed: str = "") -> str:
    """What a command says that succeeds."""
    said = site(*arguments, typed=typed)
    assert (said.status, said.err) == (0, "")
    return said.out


def refused(*arguments: str | Path, typed: str = "") -> str:
    """What a command says that refuses: one line, exit status 1."""
    said = site(*arguments, typed=typed)
    assert said.status == 1
    assert "Traceback" not in said.out + said.err
    assert said.err.startswith("fedseal: ")
    assert said.err.count("\n") == 1
    return said.err


@contextmanager
def descriptor(text: str) -> Iterator[str]:
    """The number of a file descriptor from which this can be read once."""
    with pipe(text.encode()) as number:
        yield str(number)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def north(here: Path, monkeypatch: pytest.MonkeyPatch) -> Safe:
    """A site `north` in the current folder, locked by a key file, with a data set of three shards."""
    records_a_shard(monkeypatch, 3, 32)
    made = safe_in(here / "north", "north")
    sealed(made, patients(7), units=names(7))
    return made


def key_of(safe: Safe) -> Path:
    return safe.folder.parent / "keys/old.key"


# init


def test_init_with_a_key_file_makes_both_and_says_what_comes_next(here: Path) -> None:
    said = done("init", "north", "--key-file", here / "usb/k")
    assert "made site north in north" in said
    assert "fedseal site import TABLE --as NAME" in said
    safe = Safe.unlock(here / "north", nobody)
    assert safe.public_identity().fingerprint in said
    assert stat.S_IMODE((here / "usb/k").stat().st_mode) == 0o600
    assert stat.S_IMODE((here / "north").stat().st_mode) == 0o700


def test_init_sets_a_budget_and_says_it(here: Path) -> None:
    assert "its budget: epsilon 10 at delta 1e-05 for ever" in done("init", "north", "--key-file", "k")
    budget = Safe.unlock(here / "north", nobody).ledger().books().budget(WHOLE_SITE)
    assert budget is not None
    assert (budget.epsilon, budget.delta, budget.allow) == (10.0, 1e-5, ["record", "group", "client"])
    said = done("init", "south", "--key-file", "k", "--epsilon", "2.5", "--delta", "1e-6")
    assert "its budget: epsilon 2.5 at delta 1e-06 for ever" in said


@pytest.mark.parametrize("budget", [("--epsilon", "0"), ("--delta", "0"), ("--delta", "1"), ("--epsilon", "inf")])
def test_init_refuses_what_can_be_no_budget_and_makes_nothing(here: Path, budget: tuple[str, str]) -> None:
    assert f"budget: {budget[0][2:]}: " in refused("init", "north", "--key-file", "k", *budget)
    assert not (here / "north").exists()


def test_init_takes_a_key_file_that_is_there_and_leaves_it_as_it_is(here: Path) -> None:
    key = key_file(here / "usb/k").path
    held = key.read_bytes()
    done("init", "north", "--key-file", key)
    assert key.read_bytes() == held
    assert Safe.unlock(here / "north", nobody).name == "north"


def test_a_key_file_is_remembered_by_its_whole_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done("init", "north", "--key-file", "k")
    monkeypatch.chdir("/")
    assert Safe.unlock(here / "north", nobody).name == "north"


def test_a_sites_name_is_its_folders_unless_it_is_given(here: Path) -> None:
    for folder, options, name in (("a/North", [], "north"), ("b", ["--name", "south"], "south")):
        done("init", folder, "--key-file", "k", *options)
        assert Safe.unlock(here / folder, nobody).name == name


def test_init_refuses_a_folder_that_holds_something(here: Path) -> None:
    (here / "north").mkdir()
    (here / "north/thesis.txt").write_text("precious")
    assert "not empty: name a new folder" in refused("init", "north", "--key-file", "k")
    assert on_disk(here / "north") == {"thesis.txt": b"precious"}


@pytest.mark.parametrize("where", [".", "../south", "../here"])
def test_a_site_can_be_made_in_an_empty_folder_that_is_there_and_in_the_current_one(here: Path, where: str) -> None:
    (here.parent / "south").mkdir()
    done("init", where, "--key-file", here.parent / "k")
    assert Safe.unlock(here / where, nobody).name == ("south" if where == "../south" else "here")
    assert not [path for path in (here / where).iterdir() if path.name.startswith(".")]


def test_init_never_makes_a_site_over_a_site(north: Safe, here: Path) -> None:
    before = on_disk(north.folder)
    assert "not empty" in refused("init", "north", "--key-file", "k")
    assert on_disk(north.folder) == before


@pytest.mark.parametrize("inside", ["north/k", "north/objects/k", "south/../north/k"])
def test_a_key_inside_of_the_site_that_it_locks_is_refused(here: Path, inside: str) -> None:
    assert "keep it on another volume" in refused("init", "north", "--key-file", inside)
    assert list(here.iterdir()) == []


def test_a_file_that_is_no_key_file_is_refused_and_left_alone(here: Path) -> None:
    (here / "letter").write_text("dear reader")
    (here / "letter").chmod(0o600)
    assert "is no key file of FedSeal" in refused("init", "north", "--key-file", "letter")
    assert (here / "letter").read_text() == "dear reader"
    assert not (here / "north").exists()


def test_a_key_file_that_others_may_read_is_refused(here: Path) -> None:
    key_file(here / "k").path.chmod(0o640)
    assert "can be read by others" in refused("init", "north", "--key-file", "k")
    assert not (here / "north").exists()


def test_two_locks_at_once_are_refused(here: Path) -> None:
    assert "not both" in refused("init", "north", "--key-file", "k", "--keys", "t.toml")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "no toml", "[keys]\nstore = 'magic'\n", "[keys]\nstore = 'transit'\n", "[key]\nstore='passphrase'\n"]
)
def test_a_keys_file_that_describes_no_key_store_is_refused(here: Path, text: str) -> None:
    (here / "keys.toml").write_text(text)
    assert "describes no key store" in refused("init", "north", "--keys", "keys.toml")
    assert "describes no key store" in refused("init", "north", "--keys", "nowhere.toml")
    assert not (here / "north").exists()


def test_a_keys_file_may_name_a_key_file_and_its_path_is_remembered_whole(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file(here / "usb/k")
    (here / "keys.toml").write_text('[keys]\nstore = "key-file"\npath = "usb/k"\n')
    done("init", "north", "--keys", "keys.toml")
    monkeypatch.chdir("/")
    assert Safe.unlock(here / "north", nobody).name == "north"


def test_a_passphrase_on_a_descriptor_locks_and_unlocks_a_site(here: Path) -> None:
    with descriptor(f"{PASSPHRASE}\n") as number:
        done("init", "north", "--passphrase-fd", number)
    with descriptor(f"{PASSPHRASE}\r\nand more lines\n") as number:
        assert "no data set yet" in done("data", "--passphrase-fd", number)
    with descriptor(ANOTHER) as number:
        assert "the passphrase is wrong" in refused("data", "--passphrase-fd", number)
    assert not any(PASSPHRASE.encode() in held for held in on_disk(here).values())


@pytest.mark.parametrize("text", ["eleven char", "\u00e9" * 11, "short\nlong enough on another line"])
def test_a_passphrase_that_is_too_short_is_refused_and_makes_nothing(here: Path, text: str) -> None:
    with descriptor(text) as number:
        said = refused("init", "north", "--passphrase-fd", number)
    assert "fewer than 12 characters" in said
    assert text.splitlines()[0] not in said
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("text", ["", "\n", "\r\n"])
def test_a_descriptor_that_holds_no_passphrase_is_refused(here: Path, text: str) -> None:
    with descriptor(text) as number:
        assert "holds no passphrase" in refused("init", "north", "--passphrase-fd", number)
    for number in ("987", "99999999999"):
        assert "can't be read" in refused("init", "north", "--passphrase-fd", number)


def test_where_nobody_can_be_asked_a_passphrase_is_not_waited_for(here: Path) -> None:
    assert "nobody is there to type it" in refused("init", "north", typed=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    assert list(here.iterdir()) == []


def at_a_terminal(folder: Path, arguments: list[str], typed: list[str]) -> tuple[int, str]:
    """Runs the real command at a terminal of its own; answers each question that ends in a colon."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "fedseal", *arguments])
    shown, answers = "", iter(typed)
    while True:
        try:
            shown += os.read(terminal, 4096).decode()
        except OSError:  # the terminal was closed by the child's end
            break
        if shown.endswith(": ") and (answer := next(answers, None)) is not None:
            os.write(terminal, f"{answer}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    return status, shown


def test_a_terminal_asks_twice_and_shows_nothing_of_what_is_typed(here: Path) -> None:
    status, shown = at_a_terminal(here, ["site", "init", "north"], [PASSPHRASE, PASSPHRASE])
    assert (status, shown.count("New passphrase")) == (0, 2)
    assert PASSPHRASE not in shown
    assert Safe.unlock(here / "north", lambda: Secret(PASSPHRASE.encode())).name == "north"


def test_two_passphrases_that_differ_make_nothing(here: Path) -> None:
    status, shown = at_a_terminal(here, ["site", "init", "north"], [PASSPHRASE, ANOTHER])
    assert status == 1
    assert "the two passphrases differ" in shown
    assert PASSPHRASE not in shown
    assert list(here.iterdir()) == []


def test_the_command_itself_reads_a_descriptor_and_exits_with_its_status(here: Path) -> None:
    (here / "secret").write_text(PASSPHRASE)
    command = f"'{sys.executable}' -m fedseal site init north --passphrase-fd 3 3<secret"
    for status in (0, 1):
        ran = subprocess.run(command, shell=True, cwd=here, capture_output=True, text=True, timeout=60)
        assert ran.returncode == status, ran.stderr
        assert PASSPHRASE not in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr


# Which site is meant


def test_a_site_is_found_by_name_as_this_folder_or_as_the_only_one_below(
    north: Safe, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = done("data", "--site", north.folder)
    assert "heart" in expected
    assert done("data") == expected
    (here / "other").mkdir()
    (here / "file").write_text("")
    assert done("data") == expected
    monkeypatch.chdir(north.folder)
    assert done("data") == expected


def test_several_sites_in_a_folder_are_named_and_none_is_guessed(north: Safe, here: Path) -> None:
    safe_in(here / "south", "south")
    before = on_disk(here)
    for arguments in (["data"], ["verify"], ["shred", "heart", "--yes"], ["rekey", "--key-file", "k"], ["backup", "b"]):
        assert "several sites are here (north, south): say which with --site DIR" in refused(*arguments)
    assert on_disk(here) == before
    assert "heart" in done("data", "--site", "north")


def test_a_folder_that_may_not_be_entered_hides_no_site_beside_it(north: Safe, here: Path) -> None:
    (here / "lost+found").mkdir(mode=0)
    assert Path("north") == site_folder_as_nobody(here)


def site_folder_as_nobody(folder: Path) -> Path | None:
    """The site that is found in the folder by a user who owns nothing."""
    for path in (folder, folder / "north"):
        path.chmod(0o755)

    def look() -> None:
        os.chdir(folder)
        if os.getuid() == 0:
            os.setuid(65534)
        os._exit(7 if site_folder(None) == Path("north") else 8)

    return Path("north") if in_child(look) == 7 else None


def test_a_folder_without_a_site_says_how_to_make_one(here: Path) -> None:
    assert "make one with `fedseal site init DIR`" in refused("data")
    (here / "folder").mkdir()
    for named in ("folder", "nowhere"):
        assert f"{named} is no site: `fedseal site init {named}` makes one" in refused("data", "--site", named)


# data


def test_data_lists_what_an_engineer_asks_for(north: Safe) -> None:
    facts = sealed(north, patients(1234), "lung").facts
    heart = DataSet.open(north.vault, "heart").facts
    shown = done("data")
    assert re.search(r"^heart  7 rows of 4 units, [0-9.]+ (bytes|kB) sealed$", shown, re.MULTILINE)
    assert re.search(r"^lung  1,234 rows, [0-9.]+ kB sealed$", shown, re.MULTILINE)
    assert shown.count("    1 columns: x; label: y\n") == 2
    for fingerprint in (heart.fingerprint, facts.fingerprint):
        assert f"    imported 2026-01-02 03:04 UTC, fingerprint {fingerprint[:16]}\n" in shown


def test_data_shows_what_can_be_typed_again_whole_on_a_terminal_of_eighty_columns(north: Safe) -> None:
    facts = sealed(north, patients(3), "heart-failure-2025").facts
    shown = site("data", columns=80).out
    assert "heart-failure-2025" in shown
    assert facts.fingerprint[:16] in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("label", ["pressure [mmHg]", "risk [/24h]", "[bold]"])
def test_data_shows_a_label_with_brackets_as_it_is(north: Safe, label: str) -> None:
    with north.changing() as vault:
        seal_rows(vault, replace(source("lung"), label=label), [(patients(3), None)])
    assert label in done("data")


def test_data_says_where_there_is_none_yet(here: Path) -> None:
    safe_in(here / "north", "north")
    assert "no data set yet: `fedseal site import TABLE --as NAME` makes one" in done("data")


@pytest.mark.parametrize("damage", ["no facts", "killed while shredding", "a missing shard"])
def test_a_data_set_that_does_not_open_is_told_among_the_others_and_can_be_shredded(north: Safe, damage: str) -> None:
    sealed(north, patients(2), "lung")
    match damage:
        case "no facts":
            object_file(north.vault, facts_label("heart")).write_bytes(b"")
        case "a missing shard":
            object_file(north.vault, rows_label("heart", 0)).unlink()
        case _:
            assert in_child(lambda: dying_while_shredding(again(north))) == 1
    shown = done("data")
    assert all(name in shown for name in ("heart", "lung"))
    assert ("heart does not open" in shown) == (damage != "a missing shard")
    done("shred", "heart", "--yes")
    assert objects(again(north).vault) == []
    sealed(again(north), patients(3))
    assert same(DataSet.open(again(north).vault, "heart").read(), patients(3))
    assert same(DataSet.open(again(north).vault, "lung").read(), patients(2))


def dying_while_shredding(safe: Safe) -> None:
    """The keys are gone, the files are not."""
    with safe.changing() as vault:
        vault.keyring.retire(vault.keyring.living("data/heart"))
        raise KeyboardInterrupt


def test_shredding_takes_away_what_a_killed_import_left(north: Safe) -> None:
    sealed(north, patients(2), "lung")
    with north.changing() as vault:
        vault.delete(facts_label("heart"))
    done("shred", "lung", "--yes")
    assert objects(again(north).vault) == []


# rekey


def test_rekeying_with_a_key_file_closes_the_old_one_out(north: Safe, here: Path) -> None:
    old = key_of(north).read_bytes()
    ring = (north.folder / "keyring-1").read_bytes()
    assert "has a new lock; the old one opens it no more" in done("rekey", "--key-file", "new.key")
    assert same(DataSet.open(again(north).vault, "heart").read(), patients(7))
    assert not (north.folder / "keyring-1").exists()
    assert all(ring not in held for held in on_disk(north.folder).values())
    (here / "new.key").write_bytes(old)
    with pytest.raises(WrongKeyFile):
        again(north)


def test_rekeying_from_a_key_file_to_a_passphrase_and_to_another_and_back(north: Safe, here: Path) -> None:
    with descriptor(PASSPHRASE) as new:
        done("rekey", "--new-passphrase-fd", new)
    with pytest.raises(WrongPassphrase):
        Safe.unlock(north.folder, nobody_to_ask)
    with descriptor(PASSPHRASE) as old, descriptor(ANOTHER) as new:
        done("rekey", "--passphrase-fd", old, "--new-passphrase-fd", new)
    with pytest.raises(WrongPassphrase):
        Safe.unlock(north.folder, lambda: Secret(PASSPHRASE.encode()))
    with descriptor(ANOTHER) as old:
        done("rekey", "--passphrase-fd", old, "--key-file", "new.key")
    assert same(DataSet.open(again(north).vault, "heart").read(), patients(7))
    assert [name for name in on_disk(north.folder) if "keyring" in name] == ["keyring-4"]


@pytest.mark.parametrize("fault", ["no key file", "a short passphrase", "no passphrase", "a key inside"])
def test_a_refused_rekeying_leaves_the_old_lock(north: Safe, here: Path, fault: str) -> None:
    before = on_disk(north.folder)
    match fault:
        case "no key file":
            (here / "letter").write_text("dear reader")
            (here / "letter").chmod(0o600)
            refused("rekey", "--key-file", "letter")
        case "a short passphrase":
            with descriptor("too short") as new:
                assert "fewer than 12" in refused("rekey", "--new-passphrase-fd", new)
        case "no passphrase":
            assert "nobody is there to type it" in refused("rekey")
        case _:
            assert "lies inside" in refused("rekey", "--key-file", "north/inside.key")
    assert on_disk(north.folder) == before
    assert same(DataSet.open(again(north).vault, "heart").read(), patients(7))


def test_rekeying_the_objects_makes_a_stolen_keyring_useless_for_what_is_there_now(north: Safe, here: Path) -> None:
    stolen = (north.folder / "keyring-1").read_bytes()
    old = again(north).vault
    before = on_disk(north.folder / "objects")
    said = done("rekey", "--key-file", "new.key", "--objects")
    assert f"sealed {len(before)} objects anew; the old keys are gone" in said
    after = on_disk(north.folder / "objects")
    assert after.keys() == before.keys()
    assert all(after[name] != held for name, held in before.items())
    assert same(DataSet.open(again(north).vault, "heart").read(), patients(7))
    (north.folder / "keyring-1").write_bytes(stolen)
    for label in old.list():
        with pytest.raises(FedSealError):
            old.open(label)


def test_what_changes_a_busy_site_is_refused(north: Safe) -> None:
    before = on_disk(north.folder)
    with files.locked(north.folder):
        for arguments in (["rekey", "--key-file", "k"], ["shred", "heart", "--yes"], ["backup", "b.tar"]):
            assert "is being changed by another process" in refused(*arguments)
        done("data")
        done("verify")
    assert on_disk(north.folder) == before


# shred


def test_shredding_asks_and_leaves_the_data_set_when_told_no(north: Safe) -> None:
    for typed in ("n\n", "\n"):
        said = site("shred", "heart", typed=typed)
        assert said.status == 1
        assert "Make the 7 rows of 'heart' unreadable for ever?" in said.out
        assert "nothing was shredded" in said.err
    unanswered = site("shred", "heart")
    assert unanswered.status == 1
    assert "Traceback" not in unanswered.err
    assert same(DataSet.open(again(north).vault, "heart").read(), patients(7))


@pytest.mark.parametrize(("options", "typed"), [([], "y\n"), (["--yes"], "")])
def test_shredding_makes_a_data_set_unreadable_and_leaves_the_others(
    north: Safe, options: list[str], typed: str
) -> None:
    sealed(north, patients(2), "heart-2")
    stolen = on_disk(north.folder / "objects")
    assert "destroy backups that hold them" in done("shred", "heart", *options, typed=typed)
    assert objects(again(north).vault) == []
    assert "heart-2" in done("data")
    for name, held in stolen.items():
        (north.folder / "objects" / name).write_bytes(held)
    thief = again(north).vault
    for label in thief.list():
        if label.name == "heart":
            with pytest.raises(FedSealError):
                thief.open(label)
    assert same(DataSet.open(thief, "heart-2").read(), patients(2))


def test_a_shredded_name_can_be_imported_again(north: Safe) -> None:
    done("shred", "heart", "--yes")
    assert same(sealed(again(north), patients(3)).read(), patients(3))


@pytest.mark.parametrize("name", ["lung", "Heart", "../north", "identity", ""])
def test_shredding_what_is_not_there_is_refused_and_says_what_is(north: Safe, name: str) -> None:
    before = on_disk(north.folder)
    assert "there is: heart" in refused("shred", name, "--yes")
    assert on_disk(north.folder) == before


# verify


def test_verify_says_that_all_is_well(north: Safe) -> None:
    with north.changing() as vault:
        keep(vault, "hearts-17", 1, Checkpoint(model={}, state={}, notes={}))
    assert "good  all 8 sealed objects of north open and are whole" in done("verify")


@pytest.mark.parametrize("damage", ["a flipped byte", "a missing shard", "swapped shards"])
def test_verify_names_what_does_not_open_and_exits_with_one(north: Safe, damage: str) -> None:
    first, second = (object_file(north.vault, rows_label("heart", number)) for number in (0, 1))
    held = first.read_bytes()
    match damage:
        case "a flipped byte":
            first.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        case "a missing shard":
            first.unlink()
        case _:
            first.write_bytes(second.read_bytes())
            second.write_bytes(held)
    said = site("verify")
    bad = ["rows/heart/0", "rows/heart/1"] if damage == "swapped shards" else ["rows/heart/0"]
    assert said.status == 1
    assert re.findall(r"^bad +(\S+):", said.out, re.MULTILINE) == bad
    assert f"{len(bad)} of 7 sealed objects do not open: restore a backup" in said.err
    assert "Traceback" not in said.err


def test_verify_finds_an_identity_that_was_exchanged_damaged_or_lost(north: Safe, here: Path) -> None:
    public = north.folder / "identity.json"
    public.write_bytes((safe_in(here / "other/north", "north").folder / "identity.json").read_bytes())
    assert "is not the identity that is sealed in the safe" in refused("verify")
    public.write_text("{}")
    assert "no public identity" in refused("verify")
    public.unlink()
    assert "can't be read" in refused("verify")


def test_verify_finds_a_damaged_private_identity(north: Safe) -> None:
    object_file(north.vault, Label("identity", "own")).write_bytes(b"FEDSEAL\x01\0\0\0\x01")
    said = site("verify")
    assert said.status == 1
    assert "identity/own/0" in said.out + said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("change", ["cut", "emptied", "missing", "of another site"])
def test_a_damaged_keyring_is_told_and_nothing_opens(north: Safe, here: Path, change: str) -> None:
    path = north.folder / "keyring-1"
    match change:
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "emptied":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case _:
            path.write_bytes((safe_in(here / "other/south", "south").folder / "keyring-1").read_bytes())
    for command in (["verify"], ["data"], ["shred", "heart", "--yes"]):
        refused(*command)


# backup and restore


def test_a_backup_restores_into_a_new_folder(north: Safe, here: Path) -> None:
    assert "sealed as it is" in done("backup", "usb/north.tar", "--site", "north")
    assert "restored site north into again: every object opens" in done("restore", "usb/north.tar", "again")
    assert besides_ledger(here / "again") == besides_ledger(north.folder)
    assert Safe.unlock(here / "again", nobody).ledger().entries() == north.ledger().entries()
    assert "all 7 sealed objects" in done("verify", "--site", "again")


def test_a_restored_site_whose_ledger_is_behind_its_anchor_says_so(north: Safe, here: Path) -> None:
    north.anchor_at(here / "usb/anchor")
    done("backup", "north.tar", "--site", "north")
    assert "anchor" not in done("restore", "north.tar", "level")
    north.ledger().set_budget(read_budget({"epsilon": 1.0, "delta": 1e-5}))
    assert "its ledger is older than its anchor" in done("restore", "north.tar", "older")


def test_backups_and_restores_that_would_overwrite_something_are_refused(north: Safe, here: Path) -> None:
    done("backup", "north.tar")
    before = on_disk(here)
    assert "is there already" in refused("backup", "north.tar")
    assert "inside of what is backed up" in refused("backup", "north/north.tar")
    assert "is there already" in refused("restore", "north.tar", "north")
    assert "can't be read" in refused("restore", "nowhere.tar", "again")
    (here / "letter").write_text("dear reader")
    assert "is no backup of a safe" in refused("restore", "letter", "again")
    (here / "letter").unlink()
    assert on_disk(here) == before


# All commands


@pytest.mark.parametrize("command", ["init", "import", "data", "rekey", "shred", "verify", "backup", "restore"])
def test_every_command_has_help_and_takes_no_passphrase_as_an_argument(command: str) -> None:
    shown = done(command, "--help")
    assert "Usage" in shown
    assert set(re.findall(r"--[a-z-]*passphrase[a-z-]*", shown)) <= {"--passphrase-fd", "--new-passphrase-fd"}


@pytest.mark.parametrize(
    "arguments", [["init"], ["shred"], ["data", "--nonsense"], ["data", "--passphrase-fd", "three"], ["restore", "x"]]
)
def test_wrong_usage_exits_with_two(here: Path, arguments: list[str]) -> None:
    assert site(*arguments).status == 2


def test_a_passphrase_in_the_environment_is_not_looked_at(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEDSEAL_PASSPHRASE", "PASSPHRASE", "FEDSEAL_SITE_INIT_PASSPHRASE_FD"):
        monkeypatch.setenv(name, "0")
    assert "nobody is there to type it" in refused("init", "north")


def test_a_site_that_a_passphrase_locks_needs_it_for_everything_but_a_backup(here: Path) -> None:
    with descriptor(PASSPHRASE) as number:
        done("init", "north", "--passphrase-fd", number)
    for command in (["data"], ["verify"], ["shred", "heart"], ["rekey", "--key-file", "k"]):
        assert "nobody is there to type it" in refused(*command)
    done("backup", "north.tar")
    assert "nobody is there to type it" in refused("restore", "north.tar", "again")
    assert not (here / "again").exists()
