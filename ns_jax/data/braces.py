"""`{00000..00099}` and `{a,b}` in a pattern, as shells expand them."""

import re
from collections.abc import Sequence

from ns_jax.errors import InputError

MOST = 1_000_000  # names that one pattern may stand for
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")


def expand(pattern: str) -> list[str]:
    """The names that a pattern stands for, in its order; braces may hold others.

    `{a}` and braces that do not pair are parts of a name. Raises InputError for too many names.
    """
    for start in (place for place, character in enumerate(pattern) if character == "{"):
        end = _closing(pattern, start)
        items = _items(pattern[start + 1 : end]) if end else ()
        if not items:
            continue
        inside = [name for item in items for name in expand(item)]
        after = expand(pattern[end + 1 :])
        if len(inside) * len(after) > MOST:
            raise InputError(f"{pattern} stands for more than {MOST:,} names; is a number wrong?")
        return [pattern[:start] + name + tail for name in inside for tail in after]
    return [pattern]


def _closing(pattern: str, start: int) -> int:
    """Where the brace closes that opens at `start`; 0 if it does not."""
    depth = 0
    for place in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if depth == 0:
            return place
    return 0


def _items(inside: str) -> Sequence[str]:
    """What stands between braces: numbers or letters in a row, or names; nothing if it is text."""
    if numbers := _NUMBERS.fullmatch(inside):
        return _numbers(numbers)
    if letters := _LETTERS.fullmatch(inside):
        first, last = (ord(letter) for letter in letters.groups() if letter)
        return [chr(code) for code in _row(first, last, 1)]
    parts, depth = [""], 0
    for character in inside:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts if len(parts) > 1 else ()


def _numbers(match: re.Match) -> list[str]:
    first, last = match[1], match[2]
    row = _row(int(first), int(last), int(match[3] or 1) or 1)
    if len(row) > MOST:
        raise InputError(f"{{{match[0]}}} stands for {len(row):,} names; is a number wrong?")
    padded = any(re.match(r"-?0\d", end) for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [f"{number:0{width}d}" for number in row]


def _row(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
