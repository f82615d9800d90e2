"""The page in headless Chromium: at a phone's and a desktop's width, light and dark."""

import time

import pytest

from configs import base
from ns_jax import workdir as workdir_lib
from ns_jax.programs import report, select
from ns_jax.selection import table as table_lib
from tests.report import made

selenium = pytest.importorskip("selenium")

from tests.report import browser  # noqa: E402 (it imports selenium)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (browser.CHROMIUM and browser.DRIVER),
        reason="chromium and chromedriver are not installed: apt-get install chromium-driver",
    ),
]
WIDTHS = {"phone": 390, "desktop": 1280}


def page_of(workdir):
    report.run(base.get_config(), workdir)
    return workdir / report.PAGE


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("which", ["workdir", "running"])
def test_it_is_shown_whole(request, which, width, dark, tmp_path):
    """Of a run that ended and of one that goes on: with a loss that is not finite, an image that
    cannot be read, a class without candidates and one that is called like a script.
    """
    page = page_of(request.getfixturevalue(which))
    with browser.opened(page, width, dark, tmp_path) as driver:
        tiles, sprites, shown = browser.pictures(driver)
        assert tiles > 50 and sprites > 3 and shown
        whole, window = browser.widths(driver)
        assert window == width and whole <= window
        for details in driver.find_elements("css selector", "details"):
            driver.execute_script("arguments[0].open = true", details)
        assert browser.widths(driver)[0] <= width
        text = driver.find_element("css selector", "body").text
        assert made.EVIL in text and "not finite" in text and "007.png" in text
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 200) == dark
        assert browser.complaints(driver) == []


@pytest.mark.parametrize("which", ["labels only", "teacher only"])
def test_what_there_is_of_a_run_that_has_just_begun_is_shown(workdir, which, tmp_path):
    for name in ("eval.json", "predictions.parquet", "manifest.json"):
        for path in workdir.glob(f"iteration_*/{name}"):
            if which == "labels only" or path.parent.name != "iteration_0":
                path.unlink()
    with browser.opened(page_of(workdir), 390, False, tmp_path) as driver:
        assert browser.complaints(driver) == []
        assert browser.widths(driver)[0] <= 390 and browser.pictures(driver)[2]


def click(driver, index, times):
    for _ in range(times):
        driver.execute_script(
            "const t = document.querySelector(`.tile[data-index='${arguments[0]}'] > button`);"
            "t.scrollIntoView(); t.click()",
            index,
        )


def test_a_click_ends_in_another_selection(workdir, tmp_path):
    page, downloads = page_of(workdir), tmp_path / "downloads"
    downloads.mkdir()
    before = table_lib.Selection(workdir / "iteration_2" / "selection")
    content = workdir_lib.json.loads((workdir / report.NUMBERS).read_text())
    tiles = {
        t["index"]: t for c in content["pool"]["classes"] for g in c["groups"].values() for t in g
    }
    kept = [t for t in tiles.values() if t["copies"]]
    left_out = [t for t in tiles.values() if not t["copies"]]
    wrong, named, right = kept[0], left_out[0], left_out[1]
    with browser.opened(page, 1280, False, downloads) as driver:
        click(driver, right["index"], 1)
        click(driver, wrong["index"], 2)
        click(driver, named["index"], 3)
        bar = driver.find_element("css selector", "#corrections")
        assert bar.find_element("css selector", "output").text.startswith(
            "2 corrections, 1 without"
        )
        field = driver.find_element("css selector", f".tile[data-index='{named['index']}'] input")
        field.send_keys(made.EVIL)
        assert bar.find_element("css selector", "output").text == "3 corrections"
        click(driver, kept[1]["index"], 4)  # once round: nothing is said of it
        bar.find_element("css selector", "button").click()
        path = downloads / "corrections.csv"
        end = time.monotonic() + 20
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert browser.complaints(driver) == []
    config = made.settings(workdir)
    recorded = workdir_lib.json.loads((workdir / "config.json").read_text())
    config = workdir_lib.with_values(config, recorded)
    config.select.labels = str(workdir / "iteration_2" / "labels")
    config.select.corrections = str(path)
    select.run(config, tmp_path / "corrected")
    after = table_lib.Selection(tmp_path / "corrected" / "selection")
    assert wrong["index"] in before.index[:] and wrong["index"] not in after.index[:]
    rows = after.index[:] == named["index"]
    assert rows.any() and set(after.label[:][rows]) == {made.NAMES.index(made.EVIL)}
    assert set(after.confidence[:][rows]) == {1.0}
    rows = after.index[:] == right["index"]
    assert set(after.label[:][rows]) == {made.NAMES.index(right["label"])}
