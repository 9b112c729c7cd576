"""The device of the fake."""

import os
from pathlib import Path


class _Platform:
    def is_cpu(self) -> bool:
        return not (Path(os.environ["FAKE_VLLM"]) / "cuda").exists()

    def is_sleep_mode_available(self) -> bool:
        return not self.is_cpu()

    def get_device_name(self) -> str:
        return "a fake GPU"


current_platform = _Platform()
