"""Tiny randomly initialised reward models as local folders: the architectures of the published ones, on bytes."""

from pathlib import Path
from typing import Any

LLAMA3 = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim "
    "+ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""The turns of Llama 3's chat template."""

HEADERS = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|pad|>"]
OBJECTIVES = ("helpfulness", "correctness", "verbosity")


def byte_tokenizer(special: list[str], **options: Any) -> Any:
    """A tokenizer of bytes whose special tokens come first, in the order given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=special, **options)


def llama_config(vocabulary: int, **options: Any) -> Any:
    """A two-layer Llama, with weights large enough for mistakes to show."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=0,
        **options,
    )


def save_classifier(
    folder: Path, *, pad: str | None = "<|pad|>", labels: int = 1, template: str | None = LLAMA3
) -> Path:
    """A Llama with a scalar head, as Skywork's rewards are; `pad=None` names no pad token anywhere."""
    import torch
    from transformers import LlamaForSequenceClassification

    tokenizer = byte_tokenizer(HEADERS, eos_token="<|eot_id|>", pad_token=pad)
    tokenizer.chat_template = template
    torch.manual_seed(0)
    padding = tokenizer.pad_token_id if pad else None
    LlamaForSequenceClassification(
        llama_config(len(tokenizer), num_labels=labels, pad_token_id=padding)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_armorm(folder: Path) -> Path:
    """A Llama with three gated heads, under the published parameter names."""
    import torch

    from harness.engines.armorm import ArmoRM

    tokenizer = byte_tokenizer(HEADERS, eos_token="<|eot_id|>", pad_token="<|pad|>")
    tokenizer.chat_template = LLAMA3
    torch.manual_seed(0)
    gate = {"gating_temperature": 2.0, "gating_hidden_dim": 16, "gating_n_hidden": 2}
    model = ArmoRM(llama_config(len(tokenizer), num_objectives=len(OBJECTIVES), pad_token_id=3, **gate))
    model.reward_transform_matrix.data += 0.1 * torch.randn(len(OBJECTIVES), len(OBJECTIVES))
    model.gating.logit_scale.data.fill_(1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_pairrm(folder: Path) -> Path:
    """A DeBERTa that compares two responses, under the published parameter names."""
    import torch
    from transformers import DebertaV2Config

    from harness.engines.pairrm import PREFIXES, PairRM

    special = ["[PAD]", "[CLS]", "[SEP]", *PREFIXES]
    tokenizer = byte_tokenizer(special, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        initializer_range=0.5,
        pad_token_id=0,
    )
    names = dict(zip(("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id"), range(3, 6), strict=True))
    for name, value in {**names, "n_tasks": 1, "drop_out": 0.05}.items():
        setattr(config, name, value)
    PairRM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
