"""Which prompts and samples one node of a pool is about; the names of the fields are part of its key."""

from dataclasses import dataclass

from harness.prompts import block_of


@dataclass(frozen=True, kw_only=True)
class PromptBlock:
    """The prompts whose hash falls into one of several blocks."""

    blocks: int
    """Of how many."""
    block: int
    """Number of the block."""
    prompts: str
    """Hash of the ids of the block's prompts."""

    def holds(self, prompt_id: str) -> bool:
        """Whether a prompt falls into this block."""
        return block_of(prompt_id, self.blocks) == self.block


@dataclass(frozen=True, kw_only=True)
class SampleBlock(PromptBlock):
    """Some samples to each of these prompts."""

    sample_block: int
    """Number of the sample block."""
    samples: int
    """Samples per prompt in a block: this one holds sample_block * samples onwards."""
