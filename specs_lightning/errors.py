"""Errors that a user can mend: the command line prints their message instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class SpecsError(Exception):
    """Something in the settings or the data; the message says what, where, and what to do."""


class SettingsError(SpecsError, ValueError):
    """A value that a class refused."""


class DataError(SpecsError, ValueError):
    """A data set that cannot be used as a whole; the message says which file, why, and what to do."""


@contextmanager
def refused_settings() -> Iterator[None]:
    """What a constructor says of its arguments, without the pages that the parser wraps around it."""
    try:
        yield
    except ValueError as error:
        said: BaseException = error
        while (within := said.__cause__ or said.__context__) is not None and isinstance(within, ValueError | TypeError):
            said = within
        raise SettingsError(str(said)) from error


class RewardError(SpecsError, RuntimeError):
    """Too many completions could not be scored to go on. A reward that raises it ends the run."""
