"""The Hydra side: where configurations lie, the generated groups, and how errors end the command."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from harness.errors import ConfigError, PrefsweepError, alike
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


@cache
def choices(group: str) -> Mapping[str, frozenset[str]]:
    """The choices of one of our groups, each with the keys that its file has; empty for what is no group."""
    if group == "pair":
        return {f"{chosen}_{rejected}": frozenset(("chosen", "rejected")) for chosen, rejected in PAIRS}
    files = sorted((root() / "conf" / group).glob("*.yaml")) if re.fullmatch(r"\w+", group) else []
    return {path.stem: frozenset(map(str, OmegaConf.load(path))) for path in files}


def wrong_choice(error: HydraException) -> tuple[str, str] | None:
    """The group, and what to say, where an error is about a choice that a group does not have."""
    if not isinstance(error, MissingConfigException) or not error.options:
        return None
    path = error.missing_cfg_file or ""
    # What was typed may have a slash in it, as a path or the name of a model on a hub has.
    group, _, choice = path.rpartition("/") if path.startswith("hydra/") else path.partition("/")
    said = f"there is no {choice!r}; choose one of {', '.join(error.options)}"
    typed = choice.rpartition("/")[2].removesuffix(".yaml")
    return group, said + alike(typed, error.options) + _BESIDE.get(group, "")


_BESIDE = {
    "hydra/launcher": "; work runs side by side with cluster=local, and in jobs with cluster=slurm",
    "judge": "; a model behind an API is judge=openai judge.model=NAME",
    "pair": "; any other two positions: pair.chosen=mu+1.5s pair.rejected=q0.1",
    "policy": "; a folder is policy=local policy.id=FOLDER, a model of a hub policy=hub policy.id=ORG/NAME "
    "policy.revision=COMMIT",
    "prompts": "; a file is prompts=file prompts.path=FILE",
    "candidates": "; a file is candidates=file candidates.path=FILE",
    "reward": "; a reward model is reward=sequence_classification reward.model.id=FOLDER (docs/rewards.md)",
}
"""What a group takes beside its choices, by group."""


def unknown_key(error: HydraException) -> tuple[str, str] | None:
    """The key that an override names and no group has, and what to say: the keys that stand where it was looked for."""
    cause = error.__cause__ or error.__context__
    if not str(error).startswith("Could not override") or not isinstance(cause, OmegaConfBaseException):
        return None
    beside = cause.parent_node if isinstance(cause.parent_node, DictConfig) else {}
    valid = sorted(str(name) for name in beside if name != "hydra" and not str(name).startswith("_"))
    key = str(cause.full_key)
    said = f"unknown key; valid keys are {', '.join(valid)}" if valid else "unknown key"
    return key, said + (_homes(key) or alike(key.rpartition(".")[2], valid))


def doubled(error: HydraException) -> tuple[str, str] | None:
    """The key that an override adds and that is there already, and what to say."""
    found = re.match(r"Could not append to config\. An item is already at '(.+?)'", str(error))
    return (found[1], "the key is there already; it is set without '+'") if found else None


def wrong_key(error: HydraException) -> tuple[str, str] | None:
    """The key or group that an error is about, and what to say of it; None where it is about none."""
    return wrong_choice(error) or unknown_key(error) or doubled(error)


def _homes(key: str) -> str:
    """Where a key is one that stands there for nobody: at other choices of its group, or in a group."""
    group, _, name = key.partition(".")
    if name:
        having = [choice for choice, keys in choices(group).items() if name in keys]
        return f"; {name} is a key of {group}={', '.join(having)}" if having else ""
    groups = [path.name for path in sorted((root() / "conf").iterdir()) if path.is_dir()]
    inside = [f"{one}.{key}" for one in groups if any(key in keys for keys in choices(one).values())]
    return f"; did you mean {' or '.join(inside)}?" if inside else ""


def no_choice(error: ValueError, arguments: Sequence[str]) -> str | None:
    """What to say where Hydra names no argument: a group is set to what is no name, as by `reward=null`, or a flag."""
    if str(error).startswith(("The --", "Only one of --")):
        return one_line(error)
    if not str(error).startswith("Config group override"):
        return None
    for key, equals, value in (argument.partition("=") for argument in arguments):
        valid = choices(key.partition("@")[0]) if equals else {}
        if valid and value not in valid and re.fullmatch(r"null|true|false|[-+.\d].*", value, re.IGNORECASE):
            return f"{key}: {value!r} is not valid; choose one of {', '.join(valid)}"
    return one_line(error)


def unreadable(line: str, error: HydraException) -> str:
    """What to say of an argument that Hydra's grammar cannot read; its parser names what it expects of no user."""
    key, equals, value = line.partition("=")
    if not equals:
        return f"{line}: {one_line(error)}"
    if value.endswith(","):
        return f"{key}: {value!r} ends with a comma; values stand without spaces between them, as {line}..."
    return (
        f"{key}: cannot read {value!r}; brackets and quotes must be closed, and text with any of =~,;()[]{{}} or "
        f"quotes is quoted twice: '{key}=\"...\"'"
    )


def one_line(error: Exception) -> str:
    """Hydra's message without its line breaks, its pointer to documentation, and advice that would not help here."""
    text = str(error)
    for beginning in ("See http", "To append to your ", "Config search path"):
        text = text.partition(f"\n{beginning}")[0]
    return " ".join(text.split())


def refusal(error: HydraException) -> str:
    """What to say of any error of Hydra's."""
    wrong = wrong_key(error)
    return ": ".join(wrong) if wrong else one_line(error)


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
