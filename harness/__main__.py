"""`python -m harness key=value ...` runs one point; with `-m`, lists, globs or `+sweeps=NAME`, a sweep."""

import hydra
from omegaconf import DictConfig

from harness import hydra_app

hydra_app.register()


@hydra.main(version_base="1.3", config_path=str(hydra_app.root() / "conf"), config_name="config")  # type: ignore[untyped-decorator]
def main(composed: DictConfig) -> None:
    """One point."""
    hydra_app.run(lambda: [composed])


if __name__ == "__main__":
    main()
