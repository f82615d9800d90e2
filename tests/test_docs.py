"""The docs name what exists (paths, links, headings, keys), in lines short enough to diff."""

import re

import pytest

from configs import base
from ns_jax import config as config_lib
from tests.conftest import ROOT

PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LONGEST = 140
KEYS = dict(config_lib.leaves(base.get_config().to_dict())) | {"some.key": None}
LINK = re.compile(r"\]\(([^)\s]+)\)")
FLAG = re.compile(r"--config\.(?!selftrain\.overrides)([\w.]+)")
PATH = re.compile(r"\b(?:ns_jax|configs|benchmarks|tests|launch)/[\w/]+\.(?:py|sh|yaml)\b")


def anchors(text: str) -> set[str]:
    """What links to the headings end in, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short_and_what_is_named_exists(page):
    text = page.read_text()
    problems = [
        f"line {number} has {len(line)} characters"
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LONGEST
    ]
    problems += [f"no {path}" for path in PATH.findall(text) if not (ROOT / path).exists()]
    problems += [f"no key {key}" for key in FLAG.findall(text) if key not in KEYS]
    for link in LINK.findall(text):
        if re.match(r"\w+:", link):
            continue  # elsewhere
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            problems.append(f"no {link}")
        elif anchor and anchor not in anchors(target.read_text()):
            problems.append(f"no heading for {link}")
    assert not problems, "\n".join(problems)
