"""The thin shim by which Hydra finds our sweeper and the sweep files; executed at the start of any Hydra program."""

from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper


class PrefsweepSweeper(Sweeper):
    """Hands a command's points to `harness.sweeper`, which is imported only when it is used."""

    def __init__(self, **options: Any) -> None:
        from harness.sweeper import PlanningSweeper

        self._sweeper = PlanningSweeper(**options)

    def setup(self, **given: Any) -> None:
        """See Hydra's Sweeper."""
        self._sweeper.setup(**given)

    def sweep(self, arguments: list[str]) -> Any:
        """See Hydra's Sweeper."""
        return self._sweeper.sweep(arguments)


class SweepsSource(FileConfigSource):
    """A folder of which only `sweeps/` is seen.

    A plain folder on the search path makes every folder in it a config group: a store in the working folder would
    turn `store=...` into the choice of a group.
    """

    @staticmethod
    def scheme() -> str:
        """Prefix of such folders on the search path."""
        return "prefsweep"

    def available(self) -> bool:
        """Whether there is such a folder at all."""
        return super().is_group("sweeps")

    def is_group(self, config_path: str) -> bool:
        """See Hydra's ConfigSource."""
        return config_path.split("/", maxsplit=1)[0] in ("", "sweeps") and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """See Hydra's ConfigSource."""
        return config_path.split("/", maxsplit=1)[0] == "sweeps" and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """See Hydra's ConfigSource."""
        found: list[str] = super().list(config_path, results_filter)
        return found if config_path else [name for name in found if name == "sweeps"]


class PrefsweepSearchPath(SearchPathPlugin):
    """Makes `sweeps/NAME.yaml`, ours and those of the working folder, choices of the group `sweeps`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders that hold `sweeps/`."""
        from pathlib import Path

        from harness.hydra_app import root

        if not any(element.path.removeprefix("file://") == str(root() / "conf") for element in search_path.get_path()):
            return  # some other Hydra program in the same environment
        for folder in dict.fromkeys((root(), Path.cwd())):
            if (folder / "sweeps").is_dir():
                search_path.append("prefsweep", f"prefsweep://{folder}")


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="prefsweep",
    node={
        "_target_": "hydra_plugins.prefsweep.PrefsweepSweeper",
        "_recursive_": False,  # blocks and conditions are data: nothing in them is instantiated
        "blocks": None,
        "only": None,
        "exclude": None,
    },
    provider="prefsweep",
)
