"""The Hydra side: where configurations lie, the generated groups, and how errors end the command."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from harness.errors import ConfigError, PrefsweepError
from harness.positions import PAIRS
from harness.progress import safe

BASE: Mapping[str, str] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Which defaults of Hydra's hold: 1.3 has to be told, and 1.4 warns where it is."""


def root() -> Path:
    """Folder that holds conf/ and sweeps/: inside the package when installed from a wheel, else the checkout."""
    package = Path(__file__).resolve().parent
    return package / "_data" if (package / "_data").is_dir() else package.parent


def register() -> None:
    """Put the 21 pairs into the config store, as the choices of the group `pair`."""
    store = ConfigStore.instance()
    for chosen, rejected in PAIRS:
        store.store(group="pair", name=f"{chosen}_{rejected}", node={"chosen": chosen, "rejected": rejected})


def plain(composed: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain data, without Hydra's own part.

    Raises:
        ConfigError: a value that the user must give is missing, or an interpolation leads nowhere.
    """
    ours = OmegaConf.masked_copy(composed, [str(name) for name in composed if name != "hydra"])
    try:
        data = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: must be given ({error.full_key}=...)") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    return {str(name): value for name, value in data.items()}  # type: ignore[union-attr]


def wrong_choice(error: HydraException) -> tuple[str, str] | None:
    """The group, and what to say, where an error is about a choice that a group does not have."""
    if not isinstance(error, MissingConfigException) or not error.options:
        return None
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    return group, f"there is no {choice!r}; choose one of {', '.join(error.options)}"


def unknown_key(error: HydraException) -> tuple[str, str] | None:
    """The key that an override names and no group has, and what to say: the keys that stand where it was looked for."""
    cause = error.__cause__ or error.__context__
    if not str(error).startswith("Could not override") or not isinstance(cause, OmegaConfBaseException):
        return None
    beside = cause.parent_node if isinstance(cause.parent_node, DictConfig) else {}
    valid = ", ".join(sorted(str(name) for name in beside if name != "hydra"))
    return str(cause.full_key), f"unknown key; valid keys are {valid}" if valid else "unknown key"


def no_choice(error: ValueError, arguments: Sequence[str]) -> str | None:
    """What to say where an argument sets a group to what is no name, as `reward=null` does; Hydra names no group."""
    if not str(error).startswith("Config group override"):
        return None
    for key, equals, value in (argument.partition("=") for argument in arguments):
        group = key.partition("@")[0]
        choices = sorted(path.stem for path in (root() / "conf" / group).glob("*.yaml")) if group and equals else []
        if choices and value not in choices and re.fullmatch(r"null|true|false|[-+.\d].*", value, re.IGNORECASE):
            return f"{key}: {value!r} is not valid; choose one of {', '.join(choices)}"
    return one_line(error)


def one_line(error: Exception) -> str:
    """Hydra's message without its line breaks, its pointer to documentation, and advice that would not help here."""
    text = str(error).partition("\nSee http")[0].partition("\nTo append to your config")[0]
    return " ".join(text.split())


def refuse(error: HydraException) -> None:
    """End the process as for any mistake of a user."""
    wrong = wrong_choice(error) or unknown_key(error)
    end(": ".join(wrong) if wrong else one_line(error))


def end(message: str) -> NoReturn:
    """End the process with one line of what is wrong."""
    print(f"error: {safe(message)}", file=sys.stderr)
    sys.exit(2)


def run(points: Callable[[], Sequence[dict[str, Any]]], *, plan_dir: Path) -> None:
    """Run composed points and end the process with an honest exit code; a user's error is one line on stderr.

    Args:
        points: gives the points as plain data; its errors are reported like those of the run.
        plan_dir: where a dry run writes its plan.
    """
    from harness import app

    try:
        code = app.run(points(), plan_dir=plan_dir)
    except PrefsweepError as error:
        print(f"error: {safe(str(error))}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = 130
    if code:
        sys.exit(code)
