"""Adapters of the fake."""

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """A name, a number and a folder."""

    lora_name: str
    lora_int_id: int
    lora_path: str
