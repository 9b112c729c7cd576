"""Errors that a user can act on: each message names what was expected and what to do."""


class PrefsweepError(Exception):
    """Base of every error that prefsweep raises on purpose."""


class ConfigError(PrefsweepError):
    """A setting, or something that a setting needs, is missing or not valid."""
