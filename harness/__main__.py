"""`python -m harness key=value ...` runs one point; with `-m`, lists, globs or `+sweeps=NAME`, a sweep."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from harness import arguments, hydra_app
from harness.errors import ConfigError

hydra_app.register()


@hydra.main(config_path=str(hydra_app.root() / "conf"), config_name="config", **hydra_app.BASE)  # type: ignore[untyped-decorator]
def main(composed: DictConfig) -> None:
    """One point."""
    plan_dir = Path(HydraConfig.get().sweep.dir)
    hydra_app.run(lambda: [hydra_app.plain(composed)], plan_dir=plan_dir)


if __name__ == "__main__":
    try:
        prepared = arguments.prepare(sys.argv[1:])
    except ConfigError as error:
        hydra_app.end(str(error))
    if prepared is None:
        print(arguments.usage(), end="", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = prepared
    if (note := arguments.name_of_a_file(prepared)) is not None:
        print(f"note: {note}", file=sys.stderr)
    whole_story = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors itself, on many lines, and exits with 1
    try:
        main()
    except HydraException as error:
        if whole_story:
            raise
        hydra_app.end(hydra_app.refusal(error))
    except ValueError as error:
        if whole_story or (wrong := hydra_app.no_choice(error, sys.argv[1:])) is None:
            raise
        hydra_app.end(wrong)
    except BrokenPipeError:  # `--help | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
