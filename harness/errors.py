"""Errors that a user can act on: each message names what was expected and what to do."""

import difflib
from collections.abc import Iterable


class PrefsweepError(Exception):
    """Base of every error that prefsweep raises on purpose."""


class ConfigError(PrefsweepError):
    """A setting, or something that a setting needs, is missing or not valid."""


def alike(name: str, choices: Iterable[str]) -> str:
    """The end of a message about a name that there is not: the one that may be meant, much like it or short for it."""
    valid, typed = list(choices), name.casefold()
    short = [one for one in valid if typed == "".join(word[:1] for word in one.split("_"))]
    close = short or difflib.get_close_matches(typed, valid, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""
