"""What is wrong with the arguments of `python -m harness` as they are typed, found before Hydra reads them."""

import dataclasses
import difflib
import shlex
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from harness import hydra_app, sweep_files
from harness.config import RunOptions
from harness.errors import ConfigError

USAGE = """\
usage: python -m harness [-m] [+sweeps=NAME] [key=value ...]

Nothing is run without an argument. For example:
  python -m harness -m +sweeps=demo dry_run=true     show what a sweep file would do, and do nothing
  python -m harness -m +sweeps=demo                  run it, or go on with it
  python -m harness pair=max_min n=8                 one cell; all other settings as conf/config.yaml has them
  python -m harness -m pair=max_min,mu_min n=8,16    every combination of these
  python -m harness --cfg job                        every key and its value; --help lists each group's choices

Sweep files: {sweeps}
Finished and running work: sweepctl --help. Reports, figures and findings: python -m analysis --help.
"""

_MULTIRUN = ("-m", "--multirun")
_OPTIONS = {field.name for field in dataclasses.fields(RunOptions)}


def usage() -> str:
    """What can be typed."""
    return USAGE.format(sweeps=", ".join(sweep_files.files()))


def prepare(arguments: Sequence[str]) -> list[str] | None:
    """The arguments as Hydra needs them; None where they ask for nothing.

    A sweep's file needs no `-m`, and flags may stand anywhere.

    Raises:
        ConfigError: an argument that cannot mean anything, or means something else than it says.
    """
    flags, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if flags.help or flags.hydra_help or flags.shell_completion or flags.experimental_rerun:
        return list(arguments)
    if unknown and "=" not in arguments[0] and not arguments[0].startswith("-"):
        raise ConfigError(_no_setting(arguments[0], arguments))
    if unknown:
        raise ConfigError(_unknown_flag(unknown[0]))
    if not flags.overrides:
        return list(arguments) if flags.cfg or flags.info or flags.config_name else None
    given = [_parse(line, flags.overrides) for line in flags.overrides]
    sweeps = _check_sweep_files(given)
    many = flags.multirun or sweeps or any(_says(one, "hydra.mode", "MULTIRUN") for one in given)
    for override in given:
        _check_choice(override)
        if override.is_sweep_override() and not many:
            raise ConfigError(_without_flag(override))
    if not sweeps:
        _check_sweep_name(given)
    shown = flags.cfg or flags.info
    if shown and many:
        raise ConfigError("--cfg and --info show one point; leave out -m, +sweeps=... and several values")
    left = _without(arguments, flags.overrides)
    # The value of --info may be left out: nothing that is a setting may follow it.
    return [*flags.overrides, *left] if flags.info else [*(["-m"] if many else []), *left, *flags.overrides]


def _without(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The flags but `-m`, with their values."""
    left = [argument for argument in arguments if argument not in _MULTIRUN]
    for override in overrides:
        left.remove(override)
    return left


def name_of_a_file(arguments: Sequence[str]) -> str | None:
    """What to say where points are recorded under the name of a sweep file that is not run."""
    keys = dict(argument.partition("=")[::2] for argument in arguments)
    name = keys.get("sweep")
    if name not in sweep_files.files() or "+sweeps" in keys:
        return None
    return (
        f"sweep={name} is the name under which these points are recorded; those of sweeps/{name}.yaml: +sweeps={name}"
    )


def _without_flag(override: Override) -> str:
    """What to say of several values in a command that runs one point."""
    key, value = _key(override), override.get_value_string()
    said = (
        f"{key}: {value!r} is several values, which need -m: python -m harness -m {shlex.quote(f'{key}={value}')} ..."
    )
    if hydra_app.choices(override.key_or_group) or not override.is_choice_sweep() or "(" in value:
        return said
    return f"{said}; a value that is itself a list has brackets: {shlex.quote(f'{key}=[{value}]')}"


def _unknown_flag(flag: str) -> str:
    name, _, value = flag.lstrip("-").partition("=")
    key = name.replace("-", "_")
    likely = f"+sweeps={value or 'NAME'}" if key in ("sweep", "sweeps") else f"{key}={value or 'VALUE'}"
    return f"{flag}: unknown flag; settings are typed without dashes, as {likely}, and a sweep is begun with -m"


def _parse(line: str, lines: Sequence[str]) -> Override:
    """One argument as Hydra reads it."""
    if not line.startswith("~") and ("=" not in line or line.startswith("=")):
        raise ConfigError(_no_setting(line, lines))
    try:
        (override,) = OverridesParser.create().parse_overrides([line])
    except HydraException as error:
        raise ConfigError(hydra_app.unreadable(line, error)) from None
    return override


def _no_setting(line: str, lines: Sequence[str]) -> str:
    """What to say of an argument that is no `key=value`."""
    place = lines.index(line)
    before, after = lines[max(place - 1, 0) : place], lines[place + 1 : place + 2]
    if "=" in line or any(one.endswith(("=", ",")) for one in before) or any(one.startswith("=") for one in after):
        return f"{line}: expected key=value without spaces around '=' and ',', such as n=16 or, with -m, n=16,32"
    name = line.lstrip("+").removeprefix("sweeps/")
    if name in sweep_files.files():
        return f"{line}: expected key=value; the sweep file {name} is run by: python -m harness -m +sweeps={name}"
    return (
        f"{line}: expected key=value (a setting, such as {line}=...) or +sweeps=NAME (one of "
        f"{', '.join(sweep_files.files())}); there are also sweepctl and python -m analysis"
    )


def _key(override: Override) -> str:
    return str(override.get_key_element()).lstrip("+~")


def _says(override: Override, key: str, value: str) -> bool:
    return override.key_or_group == key and str(override.value()).upper() == value


def _check_sweep_files(given: Sequence[Override]) -> bool:
    """Whether there is a sweep file among them.

    Raises:
        ConfigError: there are several, or one is asked for in another way than by `+sweeps=NAME`.
    """
    found = []
    for override in given:
        typed = str(override.get_key_element())
        key, value = typed.lstrip("+~"), str(override.value())
        if typed == "+sweeps":
            found.append(override)
        elif key == "sweeps" or (key == "sweep" and typed != key) or _looks_like_sweeps(key):
            files = sweep_files.files()
            raise ConfigError(
                f"{typed}: a sweep file is chosen by +sweeps={value if value in files else 'NAME'}; there are "
                f"{', '.join(files)}{'; sweep=NAME only names what is recorded' if key == 'sweep' else ''}"
            )
    if len(found) > 1 or any(isinstance(one.value(), list) for one in found):
        raise ConfigError("sweeps: one sweep file per command; a file's blocks hold for all of a command's points")
    for one in found:
        sweep_files.check(str(one.value()))
    return bool(found)


def _looks_like_sweeps(key: str) -> bool:
    return key != "sweep" and bool(difflib.get_close_matches(key, ["sweeps"], cutoff=0.75))


def _check_choice(override: Override) -> None:
    """Refuse several choices at once, of which Hydra merges all and the last wins."""
    group = override.key_or_group
    if hydra_app.choices(group) and isinstance(value := override.value(), list):
        listed = ",".join(map(str, value))
        raise ConfigError(
            f"{_key(override)}: expected one choice, got a list; -m {_key(override)}={listed} sweeps them"
        )


def _check_sweep_name(given: Sequence[Override]) -> None:
    """Refuse `sweep=NAME` with a sweep file's name where nothing else says what to run."""
    named = [one for one in given if one.key_or_group == "sweep" and str(one.value()) in sweep_files.files()]
    if named and all(one.key_or_group.partition(".")[0] in _OPTIONS for one in given):
        name = named[0].value()
        raise ConfigError(
            f"sweep: {name!r} only names what is recorded, and nothing says what to run; the sweep file is run by "
            f"+sweeps={name}"
        )
