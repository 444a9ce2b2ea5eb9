"""Errors that a user can mend: the command line prints their message instead of a traceback."""


class SpecsError(Exception):
    """Something in the settings or the data; the message says what, where, and what to do."""
