"""README.md and docs/ say what is so today: their commands compose or parse, their keys and choices are there."""

import argparse
import dataclasses
import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from analysis.__main__ import parser as analysis_parser
from harness import arguments, hydra_app, sweep_files, sweepctl
from harness.compose import Composer
from harness.config import Config, RunOptions, check, flatten, read
from harness.sweeper import chosen, expand
from tests.configs import OPTIONS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "sweeps" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAMS = ("python -m", "sweepctl", "make")

FENCED = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that a page shows."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"

    def words(self) -> list[str]:
        """Its arguments, with something in the place of what the reader has to fill in."""
        plain = self.text.replace("<commit>", COMMIT)
        given = [word for word in shlex.split(plain, comments=True) if word != "..."]
        return [re.sub(r"=\.\.\.$", "=x", word.replace("=NAME", "=demo")) for word in given]


def shown() -> list[Command]:
    """Every command in a block of code, and those in running text that can be typed as they stand."""
    found = {}
    for page in PAGES:
        text = page.read_text()
        blocks = [line.strip() for block in FENCED.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        running = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", FENCED.sub("", text))]
        for line in [*blocks, *(span for span in running if not re.search(r"[|\[]", span))]:
            for part in line.partition("  #")[0].split(";  "):
                if part.startswith(PROGRAMS):
                    command = Command(page.name, part.strip())
                    found[command.text] = command
    return list(found.values())


def those(program: str) -> list[Command]:
    """The shown commands of one program that say more than its name."""
    return [one for one in shown() if one.text.startswith(f"{program} ")]


Compose = Callable[[list[str]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """The points of a command: of two pairs at most, and without the sweep files, which have tests of their own."""
    hydra_app.register()
    with hydra.initialize_config_dir(config_dir=str(hydra_app.root() / "conf"), **hydra_app.BASE):
        command = hydra.compose("config", return_hydra_config=True)
        composer = Composer(GlobalHydra.instance().config_loader(), command)

        def points(typed: list[str]) -> list[dict[str, Any]]:
            prepared = arguments.prepare(typed)
            assert prepared is not None
            words = [re.sub(r"^pair=glob\(.*\)$", "pair=max_min,mu_mu-2s", word) for word in prepared if word != "-m"]
            assert {word[8:] for word in words if word.startswith("+sweeps=")} <= set(sweep_files.files())
            conditions: dict[str, Any] = {"only": None, "exclude": None}
            for override in map(composer.parse, [word for word in words if word.startswith("hydra.")]):
                conditions[override.key_or_group.removeprefix("hydra.sweeper.")] = override.value()
            given = [word for word in words if not word.startswith(("hydra.", "+sweeps="))]
            if conditions["exclude"] and "pair=max_min,mu_mu-2s" not in given:
                given.append("pair=max_min,mu_mu-2s")
            (block,) = expand(composer.parse, None, given)
            composed = [composer.compose(lines) for lines in block.points]
            return list(itertools.compress(composed, chosen(composed, **conditions)))

        yield points


@pytest.mark.parametrize("command", those("python -m harness"), ids=str)
def test_a_shown_command_composes(compose: Compose, command: Command) -> None:
    for data in compose(command.words()[3:]):
        check(read(Config, {name: value for name, value in data.items() if name not in OPTIONS}))
        read(RunOptions, {name: value for name, value in data.items() if name in OPTIONS})


def options_of(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace | None:
    """The options of a command; None where only its name is said, which must be one."""
    if len(words) > 1:
        return parser.parse_args(words)
    with pytest.raises(SystemExit, match=r"^0$"):
        parser.parse_args([*words, "--help"])
    return None


@pytest.mark.parametrize("command", those("sweepctl"), ids=str)
def test_a_shown_command_on_a_store_can_be_typed(compose: Compose, command: Command) -> None:
    options = options_of(sweepctl.parser(), command.words()[1:])
    if options is not None and command.words()[1] == "prefetch":
        assert compose(options.overrides)


@pytest.mark.parametrize("command", those("python -m analysis"), ids=str)
def test_a_shown_command_of_the_analysis_can_be_typed(command: Command) -> None:
    options_of(analysis_parser(), command.words()[3:])


def test_every_target_of_make_that_is_shown_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for one in those("make") for word in one.words()[1:] if "=" not in word}
    assert named
    assert named <= targets


CONF = hydra_app.root() / "conf"
PLACES = {"ranker": "judge", "boundary.judge": "judge", "construction.pairs": "construction"}
"""Where the keys of another group stand, by place."""
FREE = ("reward.weights.", "regressions.tasks.")
"""What stands behind these is for the reader to name."""
OURS = ("hydra.sweeper.only", "hydra.sweeper.exclude", "hydra.sweeper.blocks", "hydra.sweep.dir", "hydra.mode")
PYTHON = ("published",)
"""Arguments of functions."""
KEY = re.compile(r"[+~]{0,2}[a-z_]+(?:[./@][a-z0-9_.]+)*")
DOTTED = re.compile(r"[a-z_]+(\.[a-z0-9_]+)+")
FILES = re.compile(r"\.(py|md|ya?ml|csv|json|jsonl|parquet|html|png|txt)$")


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Every dotted key that any choice of any group has, and the groups themselves."""
    found = {*OURS, *flatten(OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"), resolve=False)), "sweeps"}
    for file in CONF.glob("*/*.yaml"):
        data = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        for place in (file.parent.name, *(place for place, group in PLACES.items() if group == file.parent.name)):
            found |= {f"{place}.{key}" for key in flatten(data)}
    found |= {"pair.chosen", "pair.rejected", "pair"}
    return found | {key.rsplit(".", n)[0] for key in found for n in range(1, key.count(".") + 1)}


def mentioned() -> list[tuple[str, str, str]]:
    """Page, key and value, if any, of what stands in running text as `key=value`, or as a dotted key of a group."""
    found = []
    for page in PAGES:
        for span in re.findall(r"`([^`]+)`", FENCED.sub("", page.read_text())):
            words = span.split()
            if all(re.match(rf"{KEY.pattern}=", word) for word in words):
                found += [(page.name, *word.partition("=")[::2]) for word in words]
            elif DOTTED.fullmatch(span) and (CONF / span.partition(".")[0]).is_dir() and not FILES.search(span):
                found.append((page.name, span, ""))
    return found


def test_every_key_and_choice_in_running_text_is_there(keys: set[str]) -> None:
    wrong = []
    for page, typed, value in (one for one in mentioned() if one[1] not in PYTHON):
        key = typed.lstrip("+~")
        group, _, place = key.partition("@")
        is_there = key in keys or (typed.startswith("+") and key.startswith(tuple(f"{parent}." for parent in keys)))
        if not (place in PLACES if place else is_there or key.startswith(FREE)):
            wrong.append(f"{page}: there is no key {key}")
        choices = hydra_app.choices(group)
        named = [name for name in value.split(",") if re.fullmatch(r"[a-z][a-z0-9_]*", name)]
        wrong += [f"{page}: {group} has no choice {name}" for name in named if choices and name not in choices]
    assert len(mentioned()) > 200
    assert wrong == []
