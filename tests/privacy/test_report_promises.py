"""What a report promises and what it says is not covered: true of the run's unit, metrics and statistics, no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.privacy.report_builders import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


ABOUT_UNITS = {
    "record": (
        "learns about any one record at most",
        "clipped record by record and then noised",
        "any one record is bounded by (ε,&nbsp;δ); what they say about a whole site is not",
        "One person with several records</strong> is not hidden as a whole: the unit is one record",
    ),
    "group": (
        "group: all records in one site under one id",
        "learns about any one group (all records in one site under one id) at most",
        "clipped group by group and then noised",
        "(all records in one site under one id) is bounded by (ε,&nbsp;δ); what they say about a whole site is not",
        "is not hidden as a whole: the unit is all records in one site under one id",
    ),
    "client": (
        "client: a whole site",
        "learns about the site as a whole (whether it holds its data or none) at most",
        "clipped as a whole and noised by the site",
        "is bounded by (ε,&nbsp;δ): the site adds the noise itself",
        "how many rows a client holds it does not say",
        "That a site takes part</strong> is not hidden",
    ),
}


@pytest.mark.parametrize("unit", ABOUT_UNITS)
def test_a_report_says_of_each_unit_what_is_true_of_it_and_of_no_other(folder: Folder, unit: str) -> None:
    folder.run["plan"]["privacy"]["unit"] = unit
    page = folder.page()
    for words in ABOUT_UNITS[unit]:
        assert words in page
    others = {words for other, all_words in ABOUT_UNITS.items() if other != unit for words in all_words}
    for words in others - set(ABOUT_UNITS[unit]):
        assert words not in page
    assert ("eclared number of rows" in page) is (unit != "client")


def test_without_private_metrics_and_statistics_none_are_spoken_of(folder: Folder) -> None:
    page = folder.page()
    for words in ("tatistics", "noisy sums", "three noisy", "Before the first round"):
        assert words not in page
    assert "reads the updates and the models of this run learns about" in page


def test_statistics_are_one_noisy_vector_and_counted_with_the_first_round(folder: Folder) -> None:
    folder.run["plan"]["statistics"] = "private"
    folder.run["statistics"] = [0.5] * 26
    page = folder.page()
    for words in (
        "reads the updates, the statistics and the models of this run, all together, learns",
        "one noisy vector of 26 numbers: the sums over its training records that the task asks for. ε counts it",
        "What the statistics before the first round took counts with it",
        "each site's update and its noisy sums",
        "It can spoil the pooled sums, too",
    ):
        assert words in page


def test_private_metrics_are_three_noisy_sums_that_epsilon_counts(folder: Folder) -> None:
    folder.run["plan"]["metrics"] = "private"
    for line in folder.rounds:
        line["figures_source"] = "noisy sums from sites"
        line["figures"] = {"accuracy": 0.8, "loss": 1.0, "noise": 0.25}
    page = folder.page()
    for words in (
        "It ended with accuracy 0.8000 (from noisy sums, give or take 0.2500).",
        "reads the updates, the metrics and the models of this run, all together, learns",
        "three noisy sums over its held-out records (how many, how many right, their loss). ε counts them",
        "The figures come from noisy sums over held-out records, which ε counts",
    ):
        assert words in page
    assert "not covered by ε:</strong> they come from plain sums" not in page


def test_plain_metrics_are_no_part_of_the_promise(folder: Folder) -> None:
    folder.run["plan"]["metrics"] = "plain"
    for line in folder.rounds:
        line["figures_source"] = "plain sums from sites"
    page = folder.page()
    assert "The promise above is not for them." in page
    assert "reads the updates and the models of this run learns about" in page
    assert "exact sums over its held-out records. ε does not cover them" in page


def test_epsilon_is_what_the_ledgers_show_and_other_runs_are_in_them(folder: Folder) -> None:
    page = folder.page()
    for words in (
        "computed by the server from what the sites' ledgers show",
        "This page counts one run.",
        "<code>fedseal ledger show</code>",
        "the receipt of its ledger",
    ):
        assert words in page
    for untrue in ("lives in the memory", "lost its spending history", "starts at zero"):
        assert untrue not in page


def test_a_run_that_ended_before_its_first_round_does_not_say_that_nobody_refused(folder: Folder) -> None:
    folder.rounds = []
    folder.run["ended"] = "stopped before the first round: 1 sites released their statistics"
    folder.run["sites"] = [{"site": "north", "rounds": 0, "refusals": 1, "declared_rows": 0, "epsilon": 0.31}]
    page = folder.page()
    assert "Nobody refused" not in page
    assert "No round was finished" in page
    assert "The most that any site spent is ε&nbsp;=&nbsp;0.310" in page


def test_a_killed_run_lists_the_sites_that_released_statistics_only(folder: Folder) -> None:
    for name in ("ended", "finished", "totals", "sites"):
        del folder.run[name]
    for line in folder.rounds:
        line["epsilon"] = {**line["epsilon"], "east": 0.25}  # type: ignore[dict-item]
    assert "<bdi>east</bdi></th><td>0</td>" in folder.page()
