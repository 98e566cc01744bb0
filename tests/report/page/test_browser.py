"""The page in a real browser: what a person sees, clicks and hears. Needs Chromium and ChromeDriver."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from subquad.record import Status
from subquad.report.render import render
from synthetic import ALL, LINEAR, NAIVE, SDPA, build_run
from synthetic_quality import recall

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with ChromeDriver installed"),
    pytest.mark.skipif(not importlib.util.find_spec("selenium"), reason="no selenium installed"),
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
LENGTHS = (256, 512, 1024, 2048, 4096)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two maskings, a failure, a hostile name and a recall."""
    evil = replace(LINEAR, name="linear_<b>&\"'", family="linear")
    run = build_run(
        (*ALL, evil),
        LENGTHS,
        causal=(False, True),
        phases=("forward", "forward_backward"),
        failures={("full_naive", 4096): (Status.OOM, "needs 99 GiB")},
    )
    run = replace(run, measurements=(*run.measurements, recall(LINEAR, {4: 1.0, 64: 0.5})))
    return render(run, tmp_path_factory.mktemp("page")).html.as_uri()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield found
    found.quit()


@pytest.fixture
def page(driver: Any, address: str) -> Iterator[Any]:
    """The page, opened anew; after the test nothing may have been logged or asked of a network."""
    sized(driver, 1200, 900)
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(address)
    yield driver
    assert driver.get_log("browser") == []
    events = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert [u for u in asked if not u.startswith(("file:", "data:"))] == []


def sized(driver: Any, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def one(driver: Any, css: str) -> Any:
    return driver.find_element("css selector", css)


def texts(driver: Any, css: str) -> list[str]:
    return [e.text for e in driver.find_elements("css selector", css)]


def pick(driver: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(one(driver, f'#explore [name="{name}"]')).select_by_value(value)


def table(driver: Any) -> dict[str, list[str]]:
    """The values of the chart, by variant."""
    script = """return [...document.querySelectorAll('#explore [data-at="body"] tr')].map(
        (row) => [...row.children].map((cell) => cell.textContent));"""
    return {line[0]: line[2:] for line in driver.execute_script(script)}


def test_the_answer_comes_before_anything_else(page: Any) -> None:
    assert texts(page, "main h2")[:2] == ["Which attention to use", "Look closer"]
    assert "All of it: float32, batch 1, head_dim 64" in one(page, "header .lead").text
    assert "full_sdpa" in one(page, "#which-attention-to-use table").text


def test_the_table_says_what_the_chart_shows(page: Any) -> None:
    found = table(page)
    assert len(found) == 8
    assert found["full_naive"][-1] == "oom"
    assert all(v.split()[1] in ("us", "ms", "s") for v in found["local_window"])
    assert len(page.find_elements("css selector", "#explore .chart g[data-variant]")) == 8


def test_controls_change_workload_measure_and_reference(page: Any) -> None:
    before = table(page)
    pick(page, "causal", "true")
    assert table(page) != before
    assert ", causal," in one(page, '#explore [data-at="caption"]').text
    pick(page, "measure", "speedup")
    assert "FASTER" in table(page)["local_window"][-1] + table(page)["local_window"][-2]
    assert table(page)["full_naive"][0] == "1.00x"
    pick(page, "reference", "full_sdpa")
    assert table(page)["full_sdpa"][0] == "1.00x"
    assert "SLOWER" in table(page)["full_naive"][0]


def test_the_address_keeps_what_was_chosen(page: Any) -> None:
    pick(page, "measure", "speedup")
    pick(page, "phase", "forward_backward")
    one(page, '[data-key="family linear"]').click()
    found, address = table(page), page.current_url
    assert "linear_elu" not in found
    page.get("about:blank")
    page.get(address)
    assert table(page) == found
    one(page, ".controls button").click()
    assert "#" not in page.current_url
    assert "linear_elu" in table(page)


def test_a_variant_is_hidden_and_shown_with_the_keyboard_and_keeps_the_focus(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    button = one(page, '[data-key="local_window"]')
    button.send_keys(Keys.ENTER)
    assert "local_window" not in table(page)
    focused = page.switch_to.active_element
    assert focused.get_attribute("data-key") == "local_window"
    assert focused.get_attribute("aria-pressed") == "false"
    focused.send_keys(Keys.SPACE)
    assert "local_window" in table(page)


def test_arrows_go_from_point_to_point_and_tell_value_and_interval(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    chart = one(page, "#explore .chart svg")
    told = one(page, '#explore [data-at="told"]')
    assert "Point at a curve" in told.text
    chart.send_keys(Keys.ARROW_RIGHT)
    first = told.text
    assert "at 256" in first
    assert "[" in first
    chart.send_keys(Keys.ARROW_RIGHT)
    assert "at 512" in told.text
    assert told.text.split(" at ")[0] == first.split(" at ")[0]
    chart.send_keys(Keys.ESCAPE)
    assert "Point at a curve" in told.text


def test_a_workload_of_one_length_is_a_list_with_the_best_on_top(page: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    failures = {("local_window", 1024): (Status.OOM, "no memory")}
    run = build_run(ALL, (1024,), heads=(1, 4), failures=failures)
    page.get(render(run, tmp_path).html.as_uri())
    script = """return [...document.querySelectorAll('#explore .chart g[data-variant]')].map((g) =>
        [g.dataset.variant, g.querySelector('path').getBoundingClientRect().x]);"""
    drawn = page.execute_script(script)
    assert len(drawn) == len(ALL) - 1
    assert [x for _, x in drawn] == sorted(x for _, x in drawn)
    chart = one(page, "#explore .chart svg")
    assert "at sequence length 1024" in chart.get_attribute("aria-label")
    chart.send_keys(Keys.ARROW_DOWN)
    chart.send_keys(Keys.ARROW_DOWN)
    assert one(page, '#explore [data-at="told"]').text.startswith(f"{drawn[1][0]} at 1024: ")
    pick(page, "heads", "4")
    pick(page, "measure", "speedup")
    drawn = page.execute_script(script)
    assert [x for _, x in drawn] == sorted((x for _, x in drawn), reverse=True)


def test_the_mouse_reads_a_point(page: Any) -> None:
    from selenium.webdriver import ActionChains

    point = one(page, '#explore g[data-variant="local_window"] path')
    page.execute_script("document.querySelector('#explore .chart').scrollIntoView()")
    ActionChains(page).move_to_element(point).perform()
    assert " at 256: " in one(page, '#explore [data-at="told"]').text


@pytest.mark.parametrize("width", [360, 1920])
def test_nothing_sticks_out_at_any_width(page: Any, width: int) -> None:
    sized(page, width, 900)
    page.refresh()
    wide = page.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
    assert one(page, "#explore .chart svg").size["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, scheme: str) -> None:
    axe = importlib.util.find_spec("axe_playwright_python")
    if axe is None or not axe.submodule_search_locations:
        pytest.skip("no axe: pip install --no-deps axe-playwright-python")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    source = Path(axe.submodule_search_locations[0], "axe.min.js").read_text(encoding="utf-8")
    page.execute_script(source)
    found = page.execute_async_script("axe.run(document).then(arguments[0])")["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    told = [f"{v['id']}: {v['nodes'][0]['html'][:200]} ({len(v['nodes'])} times)" for v in serious]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert told == []


def test_without_scripts_the_answer_the_figures_and_the_tables_are_there(
    page: Any, address: str
) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(address)
        assert not one(page, "#explore").is_displayed()
        assert one(page, "#which-attention-to-use table").is_displayed()
        shown = page.find_elements("css selector", "#time-of-one-call-by-sequence-length img")
        assert [i.is_displayed() for i in shown] == [True]
        assert shown[0].get_attribute("alt") == "Time of one call by sequence length"
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_page_without_a_time_has_no_chart_and_no_error(page: Any, tmp_path: Path) -> None:
    failures = {(v.name, 256): (Status.OOM, "no memory") for v in (NAIVE, SDPA)}
    failed = build_run((NAIVE, SDPA), (256,), failures=failures)
    page.get(render(failed, tmp_path).html.as_uri())
    assert not one(page, "#explore").is_displayed()
    assert "no memory" in one(page, "#rows-that-are-not-ok").get_attribute("textContent")
