"""The documentation as a site: built strictly, whole, and without a word from elsewhere."""

import html.parser
import os
import pathlib
import re
import subprocess
import sys

import pytest

from configs import base
from ns_jax import config as config_lib
from tests.conftest import ROOT

MOST_LINES_OF_THE_README = 120
# What a page loads; a link that a reader follows is another matter.
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Loads(html.parser.HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        address = dict(attributes).get(LOADS.get(tag, ""))
        if address and dict(attributes).get("rel") not in ("canonical", "next", "prev"):
            self.found.append(address)


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", page))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[pathlib.Path, str]:
    """Every page of the site, as `make docs` builds it."""
    directory = tmp_path_factory.mktemp("site")
    command = [pathlib.Path(sys.executable).parent / "mkdocs", "build", "--strict", "--site-dir"]
    done = subprocess.run(
        [*command, directory],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.relative_to(directory): path.read_text() for path in directory.rglob("*.html")}


@pytest.mark.large
def test_every_key_is_on_its_page_with_its_default_and_its_meaning(site):
    page = site[pathlib.Path("config.html")]
    rows = re.findall(r"<tr>\s*<td><code>(.*?)</code></td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>", page)
    shown = {key: (text_of(default), text_of(meaning)) for key, default, meaning in rows}
    expected = {
        key: f'"{value}"' if isinstance(value, str) else str(value)
        for key, value in config_lib.leaves(base.get_config().to_dict())
    }
    overrides = {"selftrain.overrides"}  # a tree of them: a key without a value
    assert shown.keys() == expected.keys() | overrides
    assert {key: shown[key][0] for key in expected} == expected
    assert not [key for key, (_, meaning) in shown.items() if len(meaning.split()) < 2]
    assert "0 to 1" in shown["select.threshold"][1]
    assert '"copies"' in shown["select.balance"][1]


@pytest.mark.large
def test_no_page_loads_anything_from_elsewhere(site):
    assert len(site) > 20
    for path, page in site.items():
        found = Loads()
        found.feed(page)
        assert found.found, path
        assert not [one for one in found.found if re.match(r"(\w+:)?//", one)], path


@pytest.mark.large
def test_docstrings_of_the_api_are_shown(site):
    page = text_of(site[pathlib.Path("api.html")])
    for words in ("A classifier from a workdir", "most probable classes, best first", "InputError"):
        assert words in page, words


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < MOST_LINES_OF_THE_README


def test_pictures_of_the_docs_are_small():
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures
    for path in pictures:
        assert path.stat().st_size < 200_000, path
