"""Rows without padding: the same log-probabilities and gradients, whatever stands beside a row."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from harness.engines import packing

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FEWER_KEYS = {"num_key_value_heads": 2}
LENGTHS = (11, 4, 7, 1)
FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1", "label_mask")


def _model(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    keys = {} if kind in {"phi", "gpt_neox"} else FEWER_KEYS
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **keys, **settings}))
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model.eval()


def _rows() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(3, SMALL["vocab_size"], (len(LENGTHS), max(LENGTHS)), generator=random)
    mask = (torch.arange(ids.shape[1])[None] < torch.tensor(LENGTHS)[:, None]).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100  # a prompt
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _packed(model: Any, rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    packed = packing.pack(rows["input_ids"], rows["attention_mask"], rows["labels"])
    assert packed.inputs["input_ids"].shape == (1, sum(LENGTHS))
    given = model(**packed.inputs, use_cache=False, fused_lm_head=True)
    return {name: packed.unpack(given[name]) for name in FIELDS}


@pytest.mark.parametrize("kind", sorted(packing.TYPES))
def test_a_packed_row_is_the_row_alone(kind: str) -> None:
    model, rows = _model(kind), _rows()
    padded = model(**rows, use_cache=False, fused_lm_head=True)
    padded["log_probs"].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert packing.use(model, max_length=64, half=False)
    given = _packed(model, rows)
    given["log_probs"].square().sum().backward()
    said = padded["label_mask"]
    assert torch.equal(given["label_mask"], said)
    for name in ("log_probs", "entropy", "mean_logits"):
        torch.testing.assert_close(given[name][said], padded[name][said], atol=1e-5, rtol=1e-5)
    assert torch.equal(given["is_top1"][said], padded["is_top1"][said])
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


def test_a_row_does_not_see_the_one_before_it() -> None:
    model, rows = _model("llama"), _rows()
    assert packing.use(model, max_length=64, half=False)
    before = _packed(model, rows)["log_probs"]
    rows["input_ids"][0] = rows["input_ids"][0].flip(0)
    after = _packed(model, rows)["log_probs"]
    assert torch.equal(before[1:], after[1:])
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gemma2", {"head_dim": 8}),  # caps its logits
        ("mixtral", {"num_local_experts": 2}),  # balances its experts over all tokens
        ("mistral", {"sliding_window": 8}),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True}),
        ("llama", {"attention_dropout": 0.1}),
        ("llama", {"attn_implementation": "eager"}),
    ],
)
def test_other_models_keep_their_padding(kind: str, settings: dict[str, Any]) -> None:
    model = _model(kind, **settings)
    before = model.config._attn_implementation
    assert not packing.use(model, max_length=64, half=False)
    assert model.config._attn_implementation == before


def test_code_of_a_hub_under_a_known_name_keeps_its_padding() -> None:
    model = _model("llama")
    model.__class__ = type("LlamaForCausalLM", (type(model),), {"__module__": "transformers_modules.some.model"})
    assert not packing.use(model, max_length=64, half=False)


@pytest.mark.parametrize(("kind", "settings"), [("mistral", {"sliding_window": 64}), ("qwen2", {"sliding_window": 8})])
def test_a_window_that_no_row_is_longer_than_is_none(kind: str, settings: dict[str, Any]) -> None:
    """Qwen's configurations name a window that they do not use."""
    assert packing.use(_model(kind, **settings), max_length=64, half=False)


def test_a_packed_model_is_saved_as_it_came(tmp_path: Any) -> None:
    model = _model("llama")
    model.save_pretrained(tmp_path / "before")
    assert packing.use(model, max_length=64, half=False)
    model.save_pretrained(tmp_path / "after")
    name = "config.json"
    assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


@pytest.mark.parametrize(
    ("half", "heads", "capability", "packed"),
    [(True, 4, (9, 0), True), (False, 4, (9, 0), False), (True, 4, (7, 5), False), (True, 8, (9, 0), False)],
    ids=["kernel", "float32", "old", "small heads"],
)
def test_on_a_gpu_rows_are_packed_only_where_there_is_a_kernel(
    monkeypatch: pytest.MonkeyPatch, half: bool, heads: int, capability: tuple[int, int], packed: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert packing.use(_model("llama", num_attention_heads=heads), max_length=64, half=half) == packed
