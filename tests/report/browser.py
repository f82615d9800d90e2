"""Headless Chromium, as a person's browser: no network, one window at a time."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from selenium import webdriver

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--disable-default-apps", "--disable-extensions"),
)


@contextlib.contextmanager
def opened(
    page: pathlib.Path, width: int, dark: bool, downloads: pathlib.Path
) -> Iterator[webdriver.Chrome]:
    """A page from the disk in a window that is `width` CSS pixels wide."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


PICTURES = """
const done = arguments[0];
const all = [...document.querySelectorAll('.picture:not(.broken)')].map((one) => {
  const uri = /url\\("(.*)"\\)/.exec(getComputedStyle(one).backgroundImage);
  return uri ? uri[1] : '';
});
const loads = [...new Set(all)].map((uri) => new Promise((resolve) => {
  const image = new Image();
  image.onload = () => resolve(image.naturalWidth > 0);
  image.onerror = () => resolve(false);
  image.src = uri;
}));
Promise.all(loads).then((found) => done([all.length, found.length, found.every(Boolean)]));
"""


def pictures(driver: webdriver.Chrome) -> tuple[int, int, bool]:
    """Tiles with a picture, sprites behind them, and whether all of these can be shown."""
    return tuple(driver.execute_async_script(PICTURES))


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the console says."""
    return [entry["message"] for entry in driver.get_log("browser")]


def widths(driver: webdriver.Chrome) -> tuple[int, int]:
    """Of the whole page and of the window: the first is larger where it scrolls sideways."""
    script = "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    return tuple(driver.execute_script(script))
