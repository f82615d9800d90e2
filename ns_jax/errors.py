"""Errors that the user can mend, and files that are not whole.

These end a program with one line and status 2, on which a launcher gives up. Any other error is a
bug or the machine's and ends with status 1, on which launchers try again, with its traceback (but
for a full disk).
"""

import contextlib
import errno
from collections.abc import Iterator

# OSErrors of a path that was given wrong; all others are the machine's and may pass.
WRONG_PATH = (
    *(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError),
    PermissionError,
)


class InputError(ValueError):
    """A flag, a config key or a file that cannot be worked with; the message says what to do."""


class DamagedError(InputError):
    """A file of ours that is cut off, altered or not what its name says."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or a directory that the user named, or that an earlier step should have made."""


class MissingPackageError(InputError, ImportError):
    """A package that an optional feature needs; the message has the command that installs it."""


class RefusedError(InputError, PermissionError):
    """A bucket that does not know these credentials, or does not let them do this."""


class UnansweredError(OSError):
    """A bucket that does not answer, or not properly, however often it is asked: it may pass."""


class DivergedError(InputError, FloatingPointError):
    """A training whose loss or gradient is not finite any more."""


@contextlib.contextmanager
def paths_of_the_user() -> Iterator[None]:
    """In here an OSError of a path that was given wrong is an InputError with the same text."""
    try:
        yield
    except OSError as error:
        wrong = isinstance(error, WRONG_PATH) or error.errno in (errno.ELOOP, errno.ENAMETOOLONG)
        if isinstance(error, InputError) or not wrong:
            raise
        raise InputError(str(error)) from error
