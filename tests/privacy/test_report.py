"""The report says what happened, in red where nobody was protected, and survives what hostile sites call themselves."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from privacy.errors import DataInvalid
from privacy.report import SITES_SHOWN, write_report
from tests.privacy.report_builders import Folder

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> $\\frac{1}$ _x 医院 \u202e"


def plots(page: str) -> list[str]:
    return re.findall(r'<svg class="plot".*?</svg>', page, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_report_names_the_promise_and_why_the_run_ended(folder: Folder) -> None:
    page = folder.page()
    for words in (
        "two-hospitals",
        "all planned rounds are done",
        "Promised: ε ≤ 3 at δ = 1e-05 per site, for the whole run",
        "add-or-remove-one",
        "dp-accounting 0.6.0 PLD",
        "ab" * 32,
        "2 MB",
        "80.0 %",
    ):
        assert words in page
    assert "banner red" not in page
    assert "Noise came from a seed" not in page
    assert len(plots(page)) == 3


def test_epsilon_is_rounded_up(folder: Folder) -> None:
    assert "1.201" in folder.page()


def test_training_without_privacy_is_red(folder: Folder) -> None:
    folder.run["plan"]["privacy"]["unit"] = "none"
    folder.run["accountant"] = None
    for site in folder.run["sites"]:
        site["epsilon"] = None
    for line in folder.rounds:
        line["epsilon"] = {}
    page = folder.page()
    assert "banner red" in page
    assert "Trained WITHOUT privacy" in page
    assert "ε ≤" not in page
    assert len(plots(page)) == 1


def test_site_beyond_its_budget_is_red(folder: Folder) -> None:
    folder.run["sites"][0]["epsilon"] = 3.1
    page = folder.page()
    assert "banner red" in page
    assert "Budget passed at 1 site<" in page


def test_epsilon_that_json_could_not_hold_is_infinite(folder: Folder) -> None:
    folder.run["sites"][0]["epsilon"] = None
    page = folder.page()
    assert "∞" in page
    assert "Budget passed at 1 site<" in page


@pytest.mark.parametrize("where", ["a round", "run.json"])
def test_seeded_noise_is_said(folder: Folder, where: str) -> None:
    if where == "a round":
        folder.rounds[1]["seeded"] = True
    else:
        folder.run["seeds"]["simulation"] = 0
    page = folder.page()
    assert "this run protects nobody's records, it rehearses a deployment" in page
    assert "Promised" not in page


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("plain sums from sites", "Figures are not covered by ε"),
        ("simulation only", "Only a simulator can see them"),
    ],
)
def test_source_of_figures_is_said(folder: Folder, source: str, words: str) -> None:
    assert words not in folder.page()
    for line in folder.rounds:
        line["figures_source"] = source
    assert words in folder.page()


def test_hostile_names_and_reasons_are_text(folder: Folder) -> None:
    folder.run["sites"][0]["site"] = HOSTILE
    folder.run["machine"]["processor"] = HOSTILE
    for line in folder.rounds:
        line["answered"] = [HOSTILE]
        line["epsilon"] = {HOSTILE: 1.0, "_south": 2.0}
        line["figures"] = {HOSTILE: 0.5}
        line["refused"] = [{"site": HOSTILE, "error": HOSTILE, "reason": HOSTILE}]
    folder.run["ended"] = HOSTILE
    page = folder.page()
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.seen
    assert "img" not in tags.seen
    assert not any(attribute.startswith("on") for attribute in tags.attributes)
    assert "&lt;script&gt;alert(1)" in page
    assert all("alert(1)" not in re.sub(r'aria-label="[^"]*"', "", plot) for plot in plots(page))


def test_long_reason_is_cut(folder: Folder) -> None:
    folder.rounds[0]["refused"] = [{"site": "south", "error": "OrderRefused", "reason": "x" * 2000}]
    assert "x" * 301 not in folder.page()


def test_refusals_that_differ_in_numbers_are_counted_together(folder: Folder) -> None:
    for line in folder.rounds:
        line["refused"] = [
            {"site": site, "error": "BudgetExhausted", "reason": f"{line['round']}.25 is spent of 3"}
            for site in ("north", "south")
        ]
    page = folder.page()
    assert "6 refusals" in page
    assert page.count("is spent of 3") == 1


def test_no_epsilon_and_no_figures_still_make_a_report(folder: Folder) -> None:
    for line in folder.rounds:
        line["epsilon"], line["figures"], line["answered"] = {}, {}, []
    for site in folder.run["sites"]:
        site["epsilon"], site["rounds"] = None, 0
    page = folder.page()
    assert plots(page) == []
    assert "There are no figures to draw" in page
    assert "There is no plot of ε" in page


def test_figure_that_is_not_finite_is_left_out(folder: Folder) -> None:
    folder.rounds[1]["figures"] = {"accuracy": None}
    folder.rounds[2]["epsilon"] = {"north": None}
    page = folder.page()
    assert "—" in page
    assert "∞" in page


def test_first_round_alone_makes_a_report(folder: Folder) -> None:
    folder.rounds = folder.rounds[:1]
    assert len(plots(folder.page())) == 3


def test_many_sites_are_cut_to_the_largest_epsilon(folder: Folder) -> None:
    names = [f"site-{index:04d}" for index in range(3 * SITES_SHOWN)]
    folder.run["sites"] = [
        {"site": name, "rounds": 1, "refusals": 0, "declared_rows": 5, "epsilon": 0.001 * index}
        for index, name in enumerate(names)
    ]
    for line in folder.rounds:
        line["answered"], line["epsilon"] = names, {name: 0.001 * index for index, name in enumerate(names)}
    page = folder.page()
    assert "site-0299" in page
    assert "site-0199" not in page
    assert f"{2 * SITES_SHOWN} more sites" in page
    assert "smallest to largest" in page


def test_twenty_sites_that_differ_have_a_line_each(folder: Folder) -> None:
    for line in folder.rounds:
        line["epsilon"] = {f"site-{index:02d}": 0.1 * (index + line["round"]) for index in range(20)}
    legend = re.findall(r"<bdi>(site-\d+)</bdi></li>", folder.page())
    assert legend == [f"site-{index:02d}" for index in range(20)]


def test_run_that_was_killed_has_a_report(folder: Folder) -> None:
    for name in ("ended", "finished", "totals", "sites"):
        del folder.run[name]
    folder.write()
    with (folder.path / "rounds.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"round": 4, "coh')
    page = write_report(folder.path).read_text(encoding="utf-8")
    assert "it was stopped or killed" in page
    assert "north" in page


def test_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"run\.json: can't be read .* name a folder that a run has written"):
        write_report(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run": 1}'])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataInvalid, match=r"run\.json: does not hold a run"):
        write_report(tmp_path)


def test_broken_round_is_refused(folder: Folder) -> None:
    folder.rounds[1] = {"round": 2}
    with pytest.raises(DataInvalid, match=r"rounds\.jsonl: a line does not hold a round"):
        folder.page()


def test_page_asks_nothing_of_the_network(folder: Folder) -> None:
    page = folder.page()
    assert not re.search(r"https?:|src\s*=|url\((?!#)|@import|<script|<iframe|<object", page)
    tags = Tags()
    tags.feed(page)
    assert set(tags.links) <= {"data:,"} | {link for link in tags.links if link.startswith("#")}


def test_page_reads_in_order(folder: Folder) -> None:
    page = folder.page()
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert '<html lang="en">' in page
    assert page.count("<caption>") == page.count("<table>")
    assert page.count("<th ") == page.count("<th scope=")


def test_plots_share_no_ids_and_are_drawn(folder: Folder) -> None:
    page = folder.page()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for plot in plots(page):
        root = ElementTree.fromstring(plot)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert len(list(root.iter("path"))) > 5
        used = re.findall(r'(?:url\(#|href="#)([^)"]+)', plot)
        assert used
        assert set(used) <= set(ids)
        assert "#0a0b" not in plot


def test_reports_written_at_once_are_the_same(folder: Folder) -> None:
    folder.write()
    alone = write_report(folder.path).read_text(encoding="utf-8")
    copies = []
    for index in range(4):
        inner = folder.path / str(index)
        inner.mkdir()
        for name in ("run.json", "rounds.jsonl"):
            (inner / name).write_bytes((folder.path / name).read_bytes())
        copies.append(inner)
    with ThreadPoolExecutor(4) as pool:
        pages = [path.read_text(encoding="utf-8") for path in pool.map(write_report, copies)]
    assert pages == [alone] * 4


class Tags(HTMLParser):
    """Every tag, attribute name and link of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}
