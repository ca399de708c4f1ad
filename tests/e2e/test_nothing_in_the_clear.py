"""DESIGN G4 with real processes: no record, unit, weight or key lies on the disk in the clear, whatever is killed when.

Every record and weight is marked. After a command, or `kill -9` in the middle of one, every byte below the test's
folder (runs, sites, home, temporary files, journals, drafts, output) is searched for the marks, and so are shared
memory and the machine's temporary folders. A command is searched before it is killed (files that it holds open), and
after (what it left).
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from disk_search import hits_below, hits_in_open_files, values_in_any_form
from marked_desk import Desk, keys_of
from safetensors.numpy import load_file

from federation.model_files import StoredModel, read_model
from privacy.entries import BudgetSet
from privacy.passphrases import nobody_to_ask
from privacy.safe import Safe

pytestmark = pytest.mark.e2e

IMPORT = ("--as", "heart", "--unit-column", "patient_id", "--label-column", "outcome", "--site")
BUDGET = BudgetSet(time="", account=None, epsilon=8.0, delta=1e-5, per_run=None, per_round=None, allow=["record"])
STANDING_STILL = ("--set", "training.learning_rate=1e-30")  # float32 weights stay as they are marked, noise and all


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(folder=tmp_path / "desk", seed=secrets.randbelow(2**40))


def safe_keys(folder: Path) -> dict[str, bytes]:
    return keys_of(Safe.unlock(folder, nobody_to_ask).vault.keyring)


def keys_by_safe(folder: Path) -> dict[str, bytes]:
    return {f"{folder.name}'s {label}": key for label, key in safe_keys(folder).items()}


def weights_of(model: StoredModel) -> list[float]:
    return torch.cat([tensor.reshape(-1) for tensor in model.tensors.values()]).tolist()


def drafts_in(folder: Path, kind: str) -> list[Path]:
    """Drafts of objects of that kind into which something was written."""
    return [path for path in folder.glob(f".{kind}.*.draft") if path.stat().st_size]


def test_after_a_whole_run_nothing_is_on_the_disk_in_the_clear(desk: Desk) -> None:
    table = desk.write_records("records.csv", 100)  # so many that some are held out, whatever the marks
    desk.write_app(hidden=8)
    desk.fedseal("site", "init", "north", "--key-file", desk.key)
    desk.fedseal("site", "import", table, *IMPORT, desk.site)
    desk.fedseal(*desk.simulation("--no-export", "--keep-sites"), "--rounds", "3")
    safes = [desk.site, desk.run / "vault", desk.run / "sites" / "site-0", desk.run / "sites" / "site-1"]
    needles = {label: needle for safe in safes for label, needle in keys_by_safe(safe).items()}
    kept = Safe.unlock(safes[2], nobody_to_ask).ledger().entries()
    assert [entry.kind for entry in kept] == ["open", "budget", "data", *["reserve", "settle"] * 3]
    for number in (2, 3):
        weights = weights_of(read_model(desk.run, nobody_to_ask, number))
        assert len(weights) == 8 * 8 + 2
        assert not set(weights) & set(desk.weights)
        needles |= values_in_any_form(f"weight of round {number}", weights)
    assert desk.found(needles) == []


def test_an_import_that_is_killed_as_it_reads_leaves_nothing_in_the_clear(desk: Desk) -> None:
    table = desk.write_records("large.csv", 200_000)
    desk.fedseal("site", "init", "north", "--key-file", desk.key)
    with desk.started("site", "import", table, *IMPORT, desk.site) as command:
        begun = desk.site / "objects" / "identity.fingerprint-key.0"
        command.stop_at(lambda: begun.exists() and command.holds_open(table), "records are read")
        assert command.found_open() == []
        command.kill()
    assert not (desk.site / "objects" / "data-set.heart.0").exists()
    assert desk.found(safe_keys(desk.site)) == []
    assert imported_again(desk) == []


def test_an_import_that_is_killed_as_it_seals_leaves_nothing_in_the_clear(desk: Desk) -> None:
    count = 20_000
    table = desk.source / "wide.npz"
    units = np.array([f"{desk.person}-{number}" for number in range(count)])
    x = np.tile(np.array(desk.cells, np.float32), (count, 256))
    np.savez(table, x=x, outcome=np.arange(count) % 2, patient_id=units)
    desk.fedseal("site", "init", "north", "--key-file", desk.key)
    objects = desk.site / "objects"
    with desk.started("site", "import", table, *IMPORT, desk.site) as command:
        command.stop_at(lambda: bool(drafts_in(objects, "rows")), "a draft of the records")
        assert command.found_open() == []
        command.kill()
    assert len(drafts_in(objects, "rows")) == 1
    assert not list(objects.glob("data-set.*"))
    assert desk.found(safe_keys(desk.site)) == []
    assert imported_again(desk) == []
    assert not drafts_in(objects, "rows")


def imported_again(desk: Desk) -> list[str]:
    """What is found once the name that a killed import had asked for holds a small table."""
    shown = desk.fedseal("site", "import", desk.write_records("small.csv", 10), *IMPORT, desk.site)
    assert "sealed 10 rows of 10 units as heart" in shown
    return desk.found(safe_keys(desk.site))


def test_training_that_is_killed_leaves_nothing_in_the_clear(desk: Desk) -> None:
    desk.write_records("records.csv", 100)
    desk.write_app(hidden=64)
    rounds = desk.run / "rounds.jsonl"
    with desk.started(*desk.simulation(), *STANDING_STILL, "--rounds", "1000") as command:
        command.stop_at(lambda: rounds.exists() and rounds.read_bytes().count(b"\n") >= 3, "the third round's end")
        assert command.found_open() == []
        command.kill()
    left = {path.name.split(".")[0] for path in desk.temporary.glob("fedseal-*/site-?/*")}
    assert {"rows", "data-set"} <= left  # what simulated sites trained from: sealed, and its keys are gone
    assert set(weights_of(read_model(desk.run, nobody_to_ask))) == set(desk.weights)
    assert desk.found(safe_keys(desk.run / "vault")) == []


def test_checkpointing_that_is_killed_leaves_nothing_in_the_clear_and_the_round_before(desk: Desk) -> None:
    desk.write_records("records.csv", 100)
    desk.write_app(hidden=300_000)
    objects = desk.run / "vault" / "objects"

    def second_round_is_sealed() -> bool:
        return (objects / "model.marked.1").exists() and bool(drafts_in(objects, "model"))

    with desk.started(*desk.simulation(), *STANDING_STILL, "--rounds", "1000") as command:
        command.stop_at(second_round_is_sealed, "a draft of a model")
        assert command.found_open() == []
        command.kill()
    assert len(drafts_in(objects, "model")) == 1
    assert desk.found(safe_keys(desk.run / "vault")) == []
    newest = max(int(path.suffix[1:]) for path in objects.glob("model.*"))
    exported = desk.source / "exported.safetensors"  # on purpose: not searched
    assert f"exported round {newest} of marked" in desk.fedseal("model", "export", desk.run, "--out", exported)
    tensors = load_file(exported)
    assert {value for tensor in tensors.values() for value in np.unique(tensor).tolist()} == set(desk.weights)
    assert desk.found(safe_keys(desk.run / "vault")) == []


def test_a_model_that_is_exported_is_found_and_nothing_else_is(desk: Desk) -> None:
    desk.write_records("records.csv", 100)
    desk.write_app(hidden=8)
    desk.fedseal(*desk.simulation("--export"), *STANDING_STILL, "--rounds", "1")
    found = desk.found()
    assert {hit.rpartition(": ")[0] for hit in found} == {
        str((desk.run.resolve() / "model.safetensors").relative_to(desk.folder))
    }
    assert all(": weight as float32 " in hit for hit in found)
    assert len(found) == 7


@pytest.mark.parametrize(
    "write",
    [
        lambda desk, path: desk.write_records("records.csv", 3).rename(path),
        lambda desk, path: np.array([desk.cells] * 2, np.float32).tofile(path),
        lambda desk, path: np.array([desk.cells] * 2, np.float64).tofile(path),
        lambda desk, path: np.array([desk.cells] * 2, np.float32).T.tofile(path),
        lambda desk, path: np.savez(path.with_suffix(".npz"), np.array(desk.cells), [desk.person]),
        lambda desk, path: torch.save({"weight": torch.tensor(desk.weights)}, path),
        lambda desk, path: path.write_text(repr(torch.tensor(desk.weights).tolist())),
        lambda desk, path: path.write_text(" ".join(map(str, np.array(desk.weights, np.float32)))),
        lambda desk, path: path.write_bytes(desk.key.read_bytes()),
        lambda desk, path: path.with_name(f"{desk.person}.txt").touch(),
        lambda _, path: path.write_bytes(BUDGET.to_bytes()),
    ],
    ids=["csv", "float32", "float64", "columns", "npz", "torch", "json", "printed", "key", "name", "ledger"],
)
def test_a_mark_in_any_form_is_found(desk: Desk, write: Callable[[Desk, Path], object]) -> None:
    assert desk.found() == []
    write(desk, desk.temporary / "leak")
    assert desk.found() != []


def test_the_table_that_is_imported_would_be_found(desk: Desk) -> None:
    desk.write_records("records.csv", 3)
    labels = {hit.rpartition(": ")[2] for hit in hits_below(desk.source, desk.needles())}
    assert {f"record as decimal {place}" for place in range(4)} | {"unit as utf-8"} <= labels


NAMELESS = """
import sys, tempfile
nameless = tempfile.TemporaryFile()
nameless.write(bytes.fromhex(sys.argv[1]))
nameless.flush()
print("written", flush=True)
sys.stdin.read()
"""


def test_a_mark_in_a_file_without_a_name_is_found_while_it_is_open(desk: Desk) -> None:
    command = [sys.executable, "-c", NAMELESS, np.array(desk.cells, np.float32).tobytes().hex()]
    environment = {**os.environ, "TMPDIR": str(desk.temporary)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        found = hits_in_open_files(process.pid, desk.needles())
        assert desk.found() == []
        process.communicate()
    assert {hit.rpartition(": ")[2] for hit in found} == {f"record as float32 {place}" for place in range(3)}
