"""What a person sees while it runs: lines, bars, tables."""

import functools
import sys
import time
import unicodedata
from collections.abc import Iterable

import rich.console
import rich.progress
import rich.table
import rich.text

PLAIN_EVERY_SECONDS = 10  # between lines when there is no terminal

# Emoji off: "digits:train:" is a source, not a tramway.
console = rich.console.Console(
    stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty()
)


def visible(text: str) -> str:
    """The text with control characters spelled out, `\\x1b` for the one that terminals obey.

    Names of files and classes are other people's; line breaks and tabs stay.
    """
    return "".join(map(_visible, text))


def one_line(name: str) -> str:
    """As `visible`, line breaks too: of a name that stands in a line, and is not to make more."""
    return visible(name).replace("\n", "\\n")


def _visible(character: str) -> str:
    if character in "\n\t" or character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()


class Progress:
    """A bar with images/s and the time left on a terminal; plain lines now and then elsewhere."""

    def __init__(self, what: str, total_images: int, done_images: int = 0, shown: bool = True):
        self._what, self._total, self._done = visible(what), total_images, done_images
        self._started: float | None = None
        self._done_at_start = done_images
        self._last_line = time.monotonic()
        self._bar, self._shown = None, shown
        if shown and console.is_terminal:
            columns = ("{task.description}", "{task.percentage:>3.0f} %", "{task.fields[numbers]}")
            name, share, numbers = (
                rich.progress.TextColumn(column, markup=False) for column in columns
            )
            bar = rich.progress.BarColumn()
            self._bar = rich.progress.Progress(name, bar, share, numbers, console=console)
            self._task = self._bar.add_task(
                self._what, total=total_images, completed=done_images, numbers="compiling"
            )

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def leave_out(self, seconds: float) -> None:
        """Seconds that just went by and do not count for the speed."""
        if self._started is not None:
            self._started += seconds

    def images_per_second(self) -> float:
        """Since the first call of `advance`, which is when compilation is over."""
        if self._started is None:
            return 0.0
        return (self._done - self._done_at_start) / max(time.monotonic() - self._started, 1e-9)

    def reach(self, images: int) -> None:
        """So many in all, of which others may have done a part; fewer than before count as none."""
        self.advance(max(0, images - self._done))

    def advance(self, images: int, **numbers: float) -> None:
        self._done += images
        if self._started is None:
            self._started, self._done_at_start = time.monotonic(), self._done
        speed = self.images_per_second()
        parts = [f"{name} {value:.4g}" for name, value in numbers.items()]
        if speed:
            left = time.gmtime((self._total - self._done) / speed)
            parts += [f"{speed:,.0f} images/s", f"{time.strftime('%H:%M:%S', left)} left"]
        text = "  ".join(parts)
        if self._bar:
            self._bar.update(self._task, completed=self._done, numbers=text)
        elif self._shown and time.monotonic() - self._last_line > PLAIN_EVERY_SECONDS:
            self._last_line = time.monotonic()
            say(f"{self._what}: {self._done:,} of {self._total:,} images  {text}")


def mute() -> None:
    """Says nothing from here on: of many processes the first one speaks."""
    console.quiet = True


def say(text: str) -> None:
    """A line to the person at the terminal or in the log."""
    console.print(visible(text), markup=False)


@functools.cache
def say_once(text: str) -> None:
    """As `say`, of what a process meets again and again: each line once."""
    say(text)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table on standard output; what stands in it is text, whatever it looks like."""
    if console.quiet:
        return
    shown = rich.table.Table(title=_text(title), title_justify="left")
    for column in columns:
        shown.add_column(_text(column), justify="right")
    for row in rows:
        shown.add_row(*map(_text, row))
    width = None if sys.stdout.isatty() else 120
    rich.console.Console(width=width, emoji=False).print(shown)


def _text(cell: str) -> rich.text.Text:
    return rich.text.Text(visible(cell))
