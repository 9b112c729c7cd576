"""The one place where messages become token ids, and token ids become text."""

from collections.abc import Sequence
from typing import Any

from harness.errors import ConfigError


def encode_prompt(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the response starts, through the policy's own chat template."""
    ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(i) for i in ids]


def decode_response(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Text of a response without special tokens."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))


def encode_response(tokenizer: Any, text: str, end: int | None) -> list[int]:
    """Token ids of a response that was brought along as text.

    What looks like a special token in the text is text: a response cannot end its own turn.

    Args:
        end: the stop token of a response that ended by itself, of `response_end`; None for one that was cut.
    """
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*map(int, ids), *([] if end is None else [end])]


def response_end(tokenizer: Any, stops: Sequence[int]) -> int:
    """The one of the stop tokens that a finished response is given: the chat template's own where it writes one."""
    end = end_of_turn(tokenizer)
    return end if end is not None and end in stops else stops[0]


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the chat template writes after an assistant's message; None where it writes none."""
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tokenizer.apply_chat_template(turn, tokenize=True, return_dict=False)
    special = [i for i in ids if i in tokenizer.all_special_ids]
    return int(special[-1]) if special else None


def stop_tokens(tokenizer: Any, generation_config: Any) -> list[int]:
    """Every token id that ends a response: those of the generation config and the tokenizer's end of sequence."""
    configured = generation_config.eos_token_id
    ids = set(configured if isinstance(configured, list) else [configured])
    ids.add(tokenizer.eos_token_id)
    return sorted(int(i) for i in ids if i is not None)


def check_tokenizer(tokenizer: Any, stops: Sequence[int], name: str) -> None:
    """Refuse a tokenizer that cannot carry a conversation: no chat template, no stop token, or a doubled BOS.

    Raises:
        ConfigError: names the policy and what is missing.
    """
    if not tokenizer.chat_template:
        raise ConfigError(f"policy {name}: the tokenizer has no chat template; an instruction-tuned model is expected")
    if not stops:
        raise ConfigError(f"policy {name}: neither tokenizer nor generation config names an end-of-sequence token")
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "Hello"}])
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        raise ConfigError(f"policy {name}: the chat template yields the beginning-of-sequence token twice")
