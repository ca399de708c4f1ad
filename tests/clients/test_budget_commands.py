"""How an engineer states a budget and an anchor: by options, or by a policy file."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.safe import Safe
from tests.command_builders import done, fedseal_says, refused
from tests.privacy.vault_builders import key_file, nobody


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def north(here: Path) -> Safe:
    return Safe.create(here / "north", "north", key_file(here / "keys/north.key"), nobody)


POLICY = """
[budget]
epsilon = 6
delta = 1e-5
per_run = 3.0
allow = ["record", "plain-metrics"]
"""


def test_a_budget_is_read_from_a_policy_file(north: Safe, here: Path) -> None:
    (here / "policy.toml").write_text(POLICY)
    said = done("ledger", "budget", "set", "--policy", "policy.toml")
    assert "epsilon 6 at delta 1e-05 for ever, 3 a run; allowed: record, plain-metrics" in " ".join(said.split())
    budget = north.ledger().books().budgets[None]
    assert (budget.epsilon, budget.per_run, budget.per_round) == (6.0, 3.0, None)
    assert budget.allow == ["record", "plain-metrics"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[budget]\nepsilon = 6\n", "budget: delta"),
        ("[budget]\nepsilon = -6\ndelta = 1e-5\n", "budget: epsilon"),
        ("[budget]\nepsilon = 6\ndelta = 1e-5\nper_week = 1\n", "budget: per_week"),
        ("budget = 3\n", "no table [budget]"),
        ("[budgets]\nepsilon = 6\n", "no table [budget]"),
        ("[budget\n", "is no TOML"),
        (None, "can't be read"),
    ],
)
def test_a_policy_file_that_states_no_budget_changes_nothing(
    north: Safe, here: Path, text: str | None, told: str
) -> None:
    if text is not None:
        (here / "policy.toml").write_text(text)
    before = north.ledger().entries()
    assert told in refused("ledger", "budget", "set", "--policy", "policy.toml")
    assert Safe.unlock(north.folder, nobody).ledger().entries() == before


def test_a_budget_is_stated_in_one_place_and_whole(north: Safe, here: Path) -> None:
    (here / "policy.toml").write_text(POLICY)
    for wrong in (["--policy", "policy.toml", "--epsilon", "1"], ["--epsilon", "1"], []):
        said = fedseal_says("ledger", "budget", "set", *wrong)
        assert (said.status, said.out) == (2, "")


def test_a_new_site_shows_the_server_nothing_unless_it_is_told_to(here: Path) -> None:
    done("site", "init", "south", "--key-file", "keys/south.key")
    said = done("site", "init", "west", "--key-file", "keys/west.key", "--allow", "record", "--allow", "plain-updates")
    assert "allowed: record, plain-updates" in said
    allowed = [Safe.unlock(here / name, nobody).ledger().books().budgets[None].allow for name in ("south", "west")]
    assert allowed == [["record", "group", "client"], ["record", "plain-updates"]]


def test_a_site_that_allows_what_nobody_knows_is_not_made(here: Path) -> None:
    said = refused("site", "init", "south", "--key-file", "keys/south.key", "--allow", "plain-update")
    assert said.startswith("budget: allow")
    assert not (here / "south").exists()


def test_what_the_server_may_read_is_allowed_by_option_and_by_policy_alike(north: Safe, here: Path) -> None:
    words = ("record", "plain-updates", "server-release")
    done("ledger", "budget", "set", "--epsilon", "6", "--delta", "1e-5", *(f"--allow={word}" for word in words))
    (here / "policy.toml").write_text(f"[budget]\nepsilon = 6\ndelta = 1e-5\nallow = {list(words)}\n")
    done("ledger", "budget", "set", "--policy", "policy.toml")
    assert "allowed: record, plain-updates, server-release" in done("ledger", "budget", "show")
    typed, written = north.ledger().entries()[-2:]
    assert typed.model_copy(update={"time": written.time}) == written


def test_a_site_can_be_made_with_an_anchor(here: Path) -> None:
    done("site", "init", "south", "--key-file", "keys/south.key", "--anchor", "elsewhere/south.anchor")
    safe = Safe.unlock(here / "south", nobody)
    assert (here / "elsewhere/south.anchor").read_text() == safe.ledger().checkpoint()
    (here / "elsewhere/south.anchor").unlink()
    assert "the anchor" in refused("ledger", "verify", "--site", "south")
