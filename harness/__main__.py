"""`python -m harness key=value ...` runs one point; with `-m`, lists, globs or `+sweeps=NAME`, a sweep."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from harness import hydra_app

hydra_app.register()


@hydra.main(config_path=str(hydra_app.root() / "conf"), config_name="config", **hydra_app.BASE)  # type: ignore[untyped-decorator]
def main(composed: DictConfig) -> None:
    """One point."""
    plan_dir = Path(HydraConfig.get().sweep.dir)
    hydra_app.run(lambda: [hydra_app.plain(composed)], plan_dir=plan_dir)


if __name__ == "__main__":
    if any(argument.startswith("+sweeps=") for argument in sys.argv) and not {"-m", "--multirun"} & set(sys.argv):
        # Hydra 1.4 decides between a run and a sweep before it reads the sweep's file.
        sys.argv.insert(1, "-m")
    whole_story = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors itself, on many lines, and exits with 1
    try:
        main()
    except HydraException as error:
        if whole_story:
            raise
        hydra_app.refuse(error)
    except ValueError as error:
        if whole_story or (wrong := hydra_app.no_choice(error, sys.argv[1:])) is None:
            raise
        hydra_app.end(wrong)
