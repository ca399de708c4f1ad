"""`fedseal ledger` as an engineer and an auditor meet it: figures, refusals, exit statuses, and no key in sight."""

from __future__ import annotations

import gc
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.accountant import epsilon
from privacy.safe import Safe
from tests.command_builders import done, fedseal_says, refused
from tests.privacy.ledger_builders import (
    DELTA,
    HEART,
    LUNG,
    NOISE,
    asked,
    budget,
    data,
    ledger_at,
    releases,
    spend,
    tampered,
)
from tests.privacy.vault_builders import safe_in


@pytest.fixture
def north(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Safe:
    """A site `north` in the current folder that has spent on two overlapping data sets in two runs."""
    monkeypatch.chdir(tmp_path)
    safe = safe_in(tmp_path / "north", "north")
    with ledger_at(safe).ledger() as ledger:
        ledger.set_budget(budget(3.0, allow=["record", "plain-metrics"]))
        ledger.register(data(HEART, "heart"), ())
        ledger.register(data(LUNG, "lung", HEART), [HEART])
        for number in (1, 2):
            ledger.settle(ledger.reserve(asked(number, "run-one", HEART)), bytes(32))
        ledger.reserve(asked(1, "run-two", LUNG))
        ledger.reserve(asked(1, "run-two", HEART, None, purpose="metrics"))
    return safe


def figure(count: int) -> str:
    return f"{epsilon([NOISE] * count, DELTA):.4f}"


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def lines(said: str, word: str) -> list[list[str]]:
    return [cells(line) for line in said.splitlines() if word in line]


def test_show_lists_each_release_with_epsilon_after_it(north: Safe) -> None:
    said = done("ledger", "show")
    assert "Ledger of north" in said
    assert [line[1:4] for line in lines(said, "run-")] == [
        *[["run-one", "1", "heart"], ["run-one", "2", "heart"], ["run-two", "1", "lung"], ["run-two", "1", "heart"]]
    ]
    assert [line[-1] for line in lines(said, "run-")] == [figure(1), figure(2), figure(3), figure(3)]
    assert len(lines(said, "not settled")) == 2
    assert lines(said, "NOT PROTECTED")[0][4] == "metrics, NOT PROTECTED; not settled"
    assert len(lines(done("ledger", "show", "--last", "1"), "run-")) == 1


def test_show_by_run_and_by_data_set(north: Safe) -> None:
    by_run = lines(done("ledger", "show", "--by", "run"), "run-")
    assert [(line[1], line[2], line[3], line[-1]) for line in by_run] == [
        ("run-one", "heart", "2", figure(2)),
        ("run-two", "lung", "1", figure(1)),
    ]
    by_data = lines(done("ledger", "show", "--by", "dataset"), f"of {3.0:g}")
    left = f"{3.0 - epsilon([NOISE] * 3, DELTA):.4f} of 3"
    assert [(line[0], line[2], line[-2], line[-1]) for line in by_data] == [
        ("heart", "lung", figure(3), left),
        ("lung", "heart", figure(3), left),
    ]


def test_a_site_that_released_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    safe_in(tmp_path / "north", "north")
    assert "nothing was released yet" in done("ledger", "show")
    assert "no budget is set: nothing may be spent" in done("ledger", "budget", "show")
    assert "all 1 entries of north's ledger hold; 0 releases" in done("ledger", "verify")


def test_verify_prints_the_signed_checkpoint_and_warns_where_no_anchor_lives(north: Safe, tmp_path: Path) -> None:
    said = done("ledger", "verify")
    assert "all 10 entries of north's ledger hold; 4 releases" in said
    assert "no anchor: an older copy of the whole safe is noticed by the server only" in said
    assert north.ledger().checkpoint() in said
    done("ledger", "anchor", tmp_path / "volume/anchor")
    said = done("ledger", "verify")
    assert "no anchor" not in said
    assert f"it has grown from the checkpoint in {tmp_path / 'volume/anchor'}" in said


TAMPERINGS: dict[str, tuple[str, str]] = {
    "UPDATE entry SET sealed = CAST(substr(sealed, 1, 60) || x'00' AS BLOB) WHERE i = 4": (
        "entry 4 was changed",
        "LedgerCorrupt",
    ),
    "DELETE FROM entry WHERE i = 4": ("entry 4 is missing", "LedgerCorrupt"),
    "DELETE FROM entry WHERE i = 9": ("do not agree with its own head", "LedgerCorrupt"),
    "DELETE FROM head": ("do not agree with its own head", "LedgerCorrupt"),
    "DROP TABLE entry": ("damaged, or no ledger", "LedgerCorrupt"),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_verify_of_a_tampered_ledger_exits_with_one_and_names_what(north: Safe, tampering: str) -> None:
    tampered(north.folder / "ledger.db", tampering)
    for command in (["verify"], ["show"], ["budget", "show"], ["plot"]):
        assert TAMPERINGS[tampering][0] in refused("ledger", *command)


def test_verify_of_an_older_copy_is_refused_where_an_anchor_lives(north: Safe, tmp_path: Path) -> None:
    shutil.copyfile(north.folder / "ledger.db", tmp_path / "older")
    done("ledger", "anchor", tmp_path / "anchor")
    with ledger_at(north, tmp_path / "anchor").ledger() as ledger:
        spend(ledger, range(5, 6), "run-three")
    gc.collect()  # the commands' connections, which end with their process
    ledger_at(north).put_back(tmp_path / "older")
    said = refused("ledger", "verify")
    assert "knows 12 entries of this ledger, here are 10: it is an older copy" in said
    (tmp_path / "anchor").unlink()
    assert "mount its volume" in refused("ledger", "verify")


def test_an_anchor_inside_of_the_site_is_refused(north: Safe) -> None:
    assert "keep the anchor on another volume" in refused("ledger", "anchor", north.folder / "anchor")
    assert north.anchor() is None


def test_a_budget_is_set_shown_and_outlives_the_command(north: Safe) -> None:
    said = done("ledger", "budget", "set", "--data", "lung", "--epsilon", "2", "--delta", "1e-6", "--per-run", "1")
    assert said == "lung: epsilon 2 at delta 1e-06 for ever, 1 a run; allowed: record, group, client\n"
    done("ledger", "budget", "set", "--epsilon", "4", "--delta", "1e-5", "--per-round", "0.5", "--allow", "record")
    assert done("ledger", "budget", "show").splitlines() == [
        "every data set without one of its own: epsilon 4 at delta 1e-05 for ever, 0.5 a release; allowed: record",
        "lung: epsilon 2 at delta 1e-06 for ever, 1 a run; allowed: record, group, client",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ("0", "1e-5"),
        ("-1", "1e-5"),
        ("nan", "1e-5"),
        ("inf", "1e-5"),
        ("1e400", "1e-5"),
        ("1", "0"),
        ("1", "1"),
        ("1", "nan"),
    ],
)
def test_what_can_be_no_budget_is_refused_and_nothing_is_noted(north: Safe, wrong: tuple[str, str]) -> None:
    before = north.ledger().entries()
    assert refused("ledger", "budget", "set", "--epsilon", wrong[0], "--delta", wrong[1]).startswith("budget: ")
    assert north.ledger().entries() == before


def test_unknown_allowances_data_sets_and_runs_are_refused_and_say_what_is_known(north: Safe, tmp_path: Path) -> None:
    bounds = ("--epsilon", "1", "--delta", "1e-5")
    assert "budget: allow" in refused("ledger", "budget", "set", *bounds, "--allow", "everything")
    assert "the ledger knows: heart, lung" in refused("ledger", "budget", "set", *bounds, "--data", "liver")
    said = refused("ledger", "export", "--for-auditor", tmp_path / "bundle", "--run", "run-nine")
    assert "knows no run run-nine; it knows: run-one, run-two" in said
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_plot_is_written_as_its_name_says(north: Safe, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"spent{suffix}"
    assert "drew 4 releases of heart" in done("ledger", "plot", "--data", "heart", "--out", picture)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n") if suffix == ".png" else b"<svg" in content
    assert len(content) > 5000


def test_a_plot_that_can_not_be_drawn_is_refused(north: Safe, tmp_path: Path) -> None:
    for name in ("spent.pdf", "spent", "spent.PNG", ".svg"):
        assert "ends in .png or .svg" in refused("ledger", "plot", "--data", "heart", "--out", tmp_path / name)
        assert not (tmp_path / name).exists()
    assert "which data set?" in refused("ledger", "plot", "--data", "liver")
    assert "which data set?" in refused("ledger", "plot")


def test_a_plot_shows_from_where_on_no_epsilon_holds(north: Safe, tmp_path: Path) -> None:
    with ledger_at(north).ledger() as ledger:
        ledger.set_budget(budget(3.0))
        ledger.reserve(asked(9, "run-three", HEART, None))
    done("ledger", "plot", "--data", "heart", "--out", tmp_path / "spent.svg")
    assert "from here on no epsilon holds" in re.sub(r"<!-- | -->", "", (tmp_path / "spent.svg").read_text())
    assert lines(done("ledger", "show"), "run-three")[0][-1] == "inf"


def test_what_if_says_how_many_rounds_are_covered_and_what_stops_the_next(north: Safe, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    plan = 'rounds = 6\nprivacy.epsilon = 50.0\nprivacy.noise_multiplier = 2.0\ntask = "simulations.scenarios.x:task"\n'
    (app / "pyproject.toml").write_text(f"[tool.flwr.app.config]\n{plan}")
    before = north.ledger().entries()
    said = done("ledger", "what-if", "--plan", app, "--data", "heart")
    assert re.match(r"\d of 6 rounds of .* are covered\nbudget of data set 'heart', for ever: epsilon 3 ", said)
    assert north.ledger().entries() == before
    (app / "pyproject.toml").write_text('[tool.flwr.app.config]\nprivacy.unit = "none"\n')
    assert "does not allow 'none'" in refused("ledger", "what-if", "--plan", app, "--data", "heart")


def test_a_bundle_is_verified_by_somebody_without_a_key(
    north: Safe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = done("ledger", "export", "--for-auditor", tmp_path / "audit/bundle.json", "--run", "run-one")
    fingerprint = north.public_identity().fingerprint
    assert (
        said == f"revealed 8 of 10 entries in {tmp_path}/audit/bundle.json\nits signer's fingerprint: {fingerprint}\n"
    )
    shutil.rmtree(tmp_path / "keys")
    shutil.rmtree(tmp_path / "north")
    monkeypatch.chdir(tmp_path / "audit")
    said = done("ledger", "verify", "--bundle", "bundle.json")
    assert "8 of 10 entries, each in the signed checkpoint" in said
    assert fingerprint in said
    assert f"heart: 2 releases revealed, epsilon {figure(2)} of 3 at delta 1e-05" in said


HALF = "\\ud800"  # half a character, as JSON may spell it
TAMPERED_BUNDLES: list[Callable[[str], str]] = [
    lambda text: text.replace("north", "south"),
    lambda text: text.replace("}", "} ", 1),
    lambda text: text[:-20],
    lambda text: text.replace('"signature": "', '"signature": "00'),
    lambda text: re.sub('"signature": "[^"]*"', '"signature": 5', text),
    lambda text: re.sub('"signature": "[^"]*"', f'"signature": "\\{HALF}"', text),
    lambda text: text.replace("format", f'{HALF}": 1, \\"format').replace(f'{HALF}"', f'{HALF}\\"'),
    lambda text: text.replace('{"bundle": "', f'{{"bundle": "{HALF}'),
    lambda text: text[:0],
    lambda text: text[:1] * 100_000,
    lambda text: '{"bundle": 5, "signature": "00"}' + text[:0],
    lambda text: '{"bundle": "5", "signature": "00"}' + text[:0],
    lambda text: "[]" + text[:0],
]


@pytest.mark.parametrize("change", range(len(TAMPERED_BUNDLES)))
def test_a_tampered_bundle_is_refused(north: Safe, tmp_path: Path, change: int) -> None:
    done("ledger", "export", "--for-auditor", tmp_path / "bundle")
    text = (tmp_path / "bundle").read_text()
    wounded = TAMPERED_BUNDLES[change](text)
    assert wounded != text
    (tmp_path / "bundle").write_text(wounded)
    assert refused("ledger", "verify", "--bundle", "bundle")
    assert "can't be read" in refused("ledger", "verify", "--bundle", "nowhere")


def test_wrong_usage_exits_with_two(north: Safe) -> None:
    for wrong in (
        ["nothing"],
        ["show", "--by", "month"],
        ["budget", "set"],
        ["export"],
        ["anchor"],
        ["show", "--last", "0"],
    ):
        assert fedseal_says("ledger", *wrong).status == 2
    assert fedseal_says("ledger", "--help").status == 0


def test_no_command_shows_a_key_or_a_fingerprint_key(north: Safe) -> None:
    shown = "".join(done("ledger", *command) for command in (["show"], ["verify"], ["budget", "show"]))
    for number in north.vault.keyring.living("ledger"):
        assert north.vault.keyring.key(number).reveal().hex() not in shown
    assert HEART not in shown
    assert len(releases(north.ledger().entries())) == 4
