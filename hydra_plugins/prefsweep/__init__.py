"""The thin shim by which Hydra finds our sweeper and the sweep files; executed at the start of any Hydra program."""

from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper


class PrefsweepSweeper(Sweeper):
    """Hands a command's points to `harness.sweeper`, which is imported only when it is used."""

    def __init__(self, blocks: Any = None) -> None:
        from harness.sweeper import PlanningSweeper

        self._sweeper = PlanningSweeper(blocks)

    def setup(self, **given: Any) -> None:
        """See Hydra's Sweeper."""
        self._sweeper.setup(**given)

    def sweep(self, arguments: list[str]) -> Any:
        """See Hydra's Sweeper."""
        return self._sweeper.sweep(arguments)


class PrefsweepSearchPath(SearchPathPlugin):
    """Makes `sweeps/NAME.yaml`, ours and those of the working folder, choices of the group `sweeps`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders that hold `sweeps/`."""
        from pathlib import Path

        from harness.hydra_app import root

        if not any(element.path.removeprefix("file://") == str(root() / "conf") for element in search_path.get_path()):
            return  # some other Hydra program in the same environment
        search_path.append("prefsweep", f"file://{root()}")
        search_path.append("prefsweep", f"file://{Path.cwd()}")


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="prefsweep",
    node={"_target_": "hydra_plugins.prefsweep.PrefsweepSweeper", "blocks": None},
    provider="prefsweep",
)
