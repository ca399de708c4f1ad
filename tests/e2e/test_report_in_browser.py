"""The report as a browser shows it: no error in the console, no request, three plots that are drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from privacy.report import write_report

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason=f"needs a browser: {CHROMIUM} and {DRIVER} are not both here",
    ),
]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(str(DRIVER)), options=options)
    yield driver
    driver.quit()


def a_round(number: int, sites: list[str]) -> dict[str, object]:
    return {
        "round": number,
        "cohort": len(sites),
        "answered": sites,
        "refused": [{"site": "<b>site</b>", "error": "LateReport", "reason": "made for round 0"}],
        "figures": {"accuracy": 1 - 0.4 / number, "auroc": 1 - 0.3 / number},
        "figures_source": "simulation only",
        "epsilon": {site: 0.1 * number + 0.001 * index for index, site in enumerate(sites)},
        "seconds": {"train": 0.25},
        "bytes_down": 1000,
        "bytes_up": 1000,
        "seeded": True,
    }


def report(folder: Path, sites: int) -> Path:
    names = [f"hospital-{index}" for index in range(sites)]
    rounds = [a_round(number, names) for number in range(1, 11)]
    run = {
        "run": "1",
        "started": "2026-01-02T03:04:05+00:00",
        "plan": {
            "task": "task:task",
            "name": "in-a-browser",
            "rounds": 10,
            "metrics": "none",
            "privacy": {"unit": "record", "epsilon": 2.0, "delta": 1e-5},
            "cohort": {"quorum": 2},
        },
        "plan_hash": "0" * 64,
        "sites_online": sites,
        "versions": {},
        "machine": {},
        "seeds": {"plan": 0, "simulation": 0},
        "accountant": "dp-accounting",
        "ended": "all planned rounds are done",
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds), encoding="utf-8")
    return write_report(folder)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("sites", [3, 150])
def test_three_plots_are_drawn_without_an_error(
    browser: webdriver.Chrome, tmp_path: Path, sites: int, mode: str
) -> None:
    path = report(tmp_path, sites)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": mode}]}
    )
    browser.get(path.as_uri())
    browser.save_screenshot(str(tmp_path / f"report-{sites}-{mode}.png"))

    assert browser.get_log("browser") == []
    assert requests(browser, path.as_uri()) == {path.as_uri()}
    figures = browser.find_elements(By.CSS_SELECTOR, "svg[role=img]")
    assert [figure.get_attribute("id") for figure in figures] == ["plot-figures", "plot-epsilon", "plot-trade-off"]
    ink = browser.execute_script("return getComputedStyle(document.body).color")
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (brightness(ink) > brightness(paper)) == (mode == "dark")
    for figure in figures:
        assert figure.is_displayed()
        assert figure.size["width"] > 100
        assert figure.size["height"] > 100
        assert len(figure.find_elements(By.CSS_SELECTOR, "path")) > 5
        assert min(drawn_box(browser, figure)) > 100
        assert seen_colours(browser, figure) >= 2
        figure.screenshot(str(tmp_path / f"{figure.get_attribute('id')}-{sites}-{mode}.png"))


@pytest.mark.parametrize("width", [360, 1280])
def test_page_never_scrolls_sideways(browser: webdriver.Chrome, tmp_path: Path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        browser.get(report(tmp_path, 30).as_uri())
        browser.save_screenshot(str(tmp_path / f"report-{width}.png"))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def requests(browser: webdriver.Chrome, page: str) -> set[str]:
    """What the page asked for; the browser's own start page may still be loading things of its own."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {request["request"]["url"] for request in sent if request["documentURL"] == page}


def brightness(colour: str) -> int:
    return sum(int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])


def drawn_box(browser: webdriver.Chrome, figure: object) -> tuple[float, float]:
    """Size of the largest path that a plot draws, on the screen."""
    width, height = browser.execute_script(
        "const boxes = [...arguments[0].querySelectorAll('path')].map(path => path.getBoundingClientRect());"
        "return [Math.max(...boxes.map(box => box.width)), Math.max(...boxes.map(box => box.height))];",
        figure,
    )
    return width, height


def seen_colours(browser: webdriver.Chrome, figure: object) -> int:
    """How many stroke colours the page gives to a plot's paths: variables that are not defined give none."""
    return int(
        browser.execute_script(
            "return new Set([...arguments[0].querySelectorAll('path')].map(path => getComputedStyle(path).stroke)"
            ".filter(stroke => stroke !== 'none')).size",
            figure,
        )
    )
