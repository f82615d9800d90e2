"""MkDocs' hook that puts every config key into config.md, as `configs/base.py` has it just now.

What a key means is its comment there: behind it, above it, or that above the keys just before it.
What it may be is in `ns_jax/config/ranges.py`. A list of keys that is written nowhere cannot age.
"""

import ast
import html
import json
import pathlib
import re
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
BASE = ROOT / "configs" / "base.py"
PLACE = "<!-- every key -->"


def on_page_markdown(markdown: str, page, config, files) -> str:
    """MkDocs calls it with the text of each page."""
    return markdown.replace(PLACE, "\n".join(_lines(files)))


def comments() -> dict[str, str]:
    """What `configs/base.py` says of each key and of each section, in its order."""
    text = BASE.read_text()
    lines, sections, found, shared = text.splitlines(), {"config": ""}, {}, ""
    last = 0  # the line of the key before
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        target = node.targets[0]
        path = f"{sections[target.value.id]}.{target.attr}".lstrip(".")
        if len(node.targets) == 2:
            sections[node.targets[1].id] = path
        behind = lines[node.end_lineno - 1].partition("  # ")[2]
        above = " ".join(_above(lines, node.lineno - 1))
        if above or node.lineno != last + 1 or behind:
            shared = above
        last = node.end_lineno
        found[path] = f"{shared if above or not behind else ''} {behind}".strip()
    return found


def _above(lines: list[str], number: int) -> list[str]:
    first = number
    while lines[first - 1].strip().startswith("# "):
        first -= 1
    return [line.strip().removeprefix("# ") for line in lines[first:number]]


def _lines(files) -> Iterator[str]:
    sys.path.insert(0, str(ROOT))  # mkdocs is a program of its own
    from configs import base
    from ns_jax import config as config_lib
    from ns_jax.config import ranges

    values = dict(config_lib.leaves(base.get_config().to_dict()))
    section = ""
    for path, comment in comments().items():
        text = _links(comment, files)
        if path not in values:
            if "." in path:  # a tree of its own, without keys
                yield f"| `{path}` | | {text} |"
                continue
            section = path
            yield "\n\n".join(filter(None, (f"\n## {path}", text, HEAD)))
            continue
        if not section:  # the keys of no section
            section = path
            yield f"\n{HEAD}"
        if path in ranges.CHOICES:
            allowed = ", ".join(map(_value, ranges.CHOICES[path]))
        else:
            allowed = str(ranges.RANGES.get(path, ""))
        yield f"| `{path}` | {_value(values[path])} | {text}{_of(allowed)} |"


HEAD = "| key | default | |\n|---|---|---|"


def _of(allowed: str) -> str:
    return f"<br>*{allowed}*" if allowed else ""


def _value(value: object) -> str:
    shown = json.dumps(value) if isinstance(value, str) else str(value)
    return f"`{shown}`"


def _links(comment: str, files) -> str:
    """The comment as Markdown; pages that it names as links."""
    text = html.escape(comment, quote=False).replace("|", "\\|").replace("*", "\\*")
    pages = {file.src_uri for file in files}
    return re.sub(r"docs/(\w+\.md)", lambda m: f"[{m[1]}]({m[1]})" if m[1] in pages else m[0], text)
