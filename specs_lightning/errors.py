"""Errors that a user can mend: the command line prints their message instead of a traceback."""

import math
from collections.abc import Iterator
from contextlib import contextmanager


class SpecsError(Exception):
    """Something in the settings or the data; the message says what, where, and what to do."""


class SettingsError(SpecsError, ValueError):
    """A value that a class refused."""


class DataError(SpecsError, ValueError):
    """A data set that cannot be used as a whole; the message says which file, why, and what to do."""


def check_positive(**settings: float | None) -> None:
    """`ValueError` that names the first of these settings that is given and is no positive number; NaN is none."""
    for name, value in settings.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, not {value}")


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


@contextmanager
def finished_or_failed() -> Iterator[None]:
    """An exit that is called for within, by a callback or a reward, is no end of what is done there.

    Raises:
        SpecsError: its status would be that of success.
    """
    try:
        yield
    except SystemExit as error:
        if type(error) is not SystemExit or error.code not in (None, 0):  # Lightning's for SIGTERM is one, too
            raise
        raise SpecsError(
            "something called sys.exit() before it was done, so it is not finished: SPECS_TRACEBACK=1 shows what. To "
            "end a training early, set trainer.should_stop"
        ) from error


class RewardError(SpecsError, RuntimeError):
    """Too many completions could not be scored to go on. A reward that raises it ends the run."""
