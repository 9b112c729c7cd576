"""Real fine-tuning of tiny base models: as the stock trainer, without leaks between conversations, stopping in time."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, MistralConfig, PhiConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

from harness import chat, tables
from harness.engines import finetuning, generation, models, runs
from harness.engines.generation import Decoding, Request
from harness.engines.runs import TrainingError
from harness.progress import Reporter
from harness.ranks import launch
from harness.sft import template_text
from harness.stages.sft import NO_TOKEN, REFUSED, Spec, _row
from harness.world import World
from tests.test_sft import TALK, said, user
from tests.tiny import save_tiny_policy

SPEC = Spec(
    chat_template=template_text("zephyr"),
    loss_on="assistant",
    packing=True,
    seed=0,
    learning_rate=1e-2,
    schedule="constant",
    warmup_ratio=0.0,
    weight_decay=0.0,
    max_grad_norm=1.0,
    epochs=2.0,
    max_steps=None,
    global_batch=2,
    micro_batch=1,
    max_length=64,
    autocast="none",
    gradient_checkpointing=False,
    save_dtype="float32",
    trust_remote_code=False,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without a chat template."""
    return save_tiny_policy(tmp_path_factory.mktemp("base") / "model", template=None)


def conversations(count: int) -> list[list[dict[str, str]]]:
    return [[user("?" * (1 + i % 7)), said("no" if i % 3 else "yes, " * (1 + i % 4))] for i in range(count)]


def rows_of(base: Path, given: Sequence[Any], spec: Spec = SPEC) -> Any:
    tokenizer, end = finetuning.prepared_tokenizer(base, spec)
    sums: Any = Counter()
    found = [_row(tokenizer, messages, end, spec, sums) for messages in given]
    return tables.build(tables.TURN_TOKENS, [row for row in found if not isinstance(row, str)])


def train(base: Path, rows: Any, spec: Spec, work: Path, save_steps: int = 0) -> list[dict[str, Any]]:
    return finetuning.train(base, rows, spec, work, save_steps=save_steps, reporter=Reporter(), label="sft")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(next((folder / "weights").glob("*.safetensors")))
    return tensors


STOCK_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""Zephyr's, with the marks by which the stock trainer tells what the assistant writes."""


@pytest.mark.parametrize(("packing", "loss_on"), [(True, "assistant"), (False, "all")])
def test_losses_are_those_of_the_stock_trainer_on_messages(
    base: Path, tmp_path: Path, packing: bool, loss_on: str
) -> None:
    given = [*conversations(13), TALK]
    spec = dataclasses.replace(SPEC, packing=packing, loss_on=loss_on, micro_batch=2, epochs=5.0, learning_rate=1e-3)
    ours = train(base, rows_of(base, given, spec), spec, tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = STOCK_TEMPLATE
    stock = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(tmp_path / "stock"),
            use_cpu=True,
            bf16=False,
            **{runs.CHECKPOINTING: False},
            assistant_only_loss=loss_on == "assistant",
            packing=packing,
            max_length=64,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            num_train_epochs=5,
            per_device_train_batch_size=2,
            seed=0,
            data_seed=0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"messages": messages} for messages in given]),
        processing_class=tokenizer,
    )
    stock.train()
    theirs = [entry["loss"] for entry in stock.state.log_history if "loss" in entry]
    assert len(theirs) >= 20
    assert [row["loss"] for row in ours] == pytest.approx(theirs, rel=1e-4)
    assert ours[-1]["loss"] < ours[0]["loss"]


TINY: dict[str, Any] = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "initializer_range": 0.5}


@pytest.mark.parametrize(
    "config",
    [
        PhiConfig(**TINY, **HEADS, partial_rotary_factor=0.5),
        GPTNeoXConfig(**TINY, **HEADS, rotary_pct=0.25),
        MistralConfig(**TINY, **HEADS, num_key_value_heads=2, sliding_window=None),
    ],
    ids=lambda config: config.model_type,
)
def test_packed_conversations_do_not_see_each_other(config: Any) -> None:
    """Of the architectures of the published base models; Llama's is trained in the other tests."""
    torch.manual_seed(0)
    finetuning.check_packing(AutoModelForCausalLM.from_config(config), 0)


def test_a_model_in_which_they_would_is_refused(base: Path) -> None:
    model, tokenizer = finetuning.prepare(base, SPEC)
    forward = model.forward

    def leaking(position_ids: Any = None, **given: Any) -> Any:
        return forward(**given)

    model.forward = leaking
    with pytest.raises(TrainingError, match=r"^sft\.packing: in a LlamaForCausalLM a conversation sees the one before"):
        finetuning.check_packing(model, tokenizer.pad_token_id)


def test_what_is_cut_or_cannot_be_learnt_is_counted(base: Path) -> None:
    tokenizer, end = finetuning.prepared_tokenizer(base, SPEC)
    sums: Any = Counter()
    long = _row(tokenizer, [user("a"), said("b" * 100)], end, SPEC, sums)
    assert isinstance(long, dict)
    assert len(long["input_ids"]) == 64
    assert sums["truncated"] == 1
    assert sums["learnt_tokens"] == sum(label != -100 for label in long["labels"])
    assert _row(tokenizer, [user("a" * 100), said("b")], end, SPEC, sums) == NO_TOKEN
    everything = dataclasses.replace(SPEC, loss_on="all")
    whole = _row(tokenizer, [user("a" * 100), said("b")], end, everything, sums)
    assert isinstance(whole, dict)
    assert whole["labels"] == whole["input_ids"]
    assert sums["truncated"] == 2
    tokenizer.chat_template = "{{ raise_exception('no system') }}"
    assert _row(tokenizer, TALK, end, SPEC, sums) == REFUSED


class _Killed(BaseException):
    pass


class _KillAt(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise _Killed


def test_killed_and_gone_on_with_it_equals_undisturbed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(base, conversations(24))
    undisturbed = train(base, rows, SPEC, tmp_path / "a", save_steps=2)
    assert len(undisturbed) > 6

    def killing(*given: Any, callbacks: Any, **fields: Any) -> Any:
        return SFTTrainer(*given, callbacks=[*callbacks, _KillAt(5)], **fields)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "SFTTrainer", killing)
        with pytest.raises(_Killed):
            train(base, rows, SPEC, tmp_path / "b", save_steps=2)
    assert (tmp_path / "b" / "checkpoints" / "checkpoint-4" / "whole").exists()
    resumed = train(base, rows, SPEC, tmp_path / "b", save_steps=2)
    assert resumed == undisturbed
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "b" / "checkpoints").exists()


def test_a_base_model_learns_to_answer_and_to_stop(base: Path, tmp_path: Path) -> None:
    """With a template that adds tokens to the vocabulary; what is saved is a policy like any other."""
    bare = save_tiny_policy(tmp_path / "bare", template=None)
    tokenizer = AutoTokenizer.from_pretrained(bare)
    spec = dataclasses.replace(SPEC, chat_template=template_text("chatml"), epochs=None, max_steps=60)
    given = [[user("Hi"), said("yes")]] * 8
    history = train(bare, rows_of(bare, given, spec), spec, tmp_path / "work")
    assert history[-1]["loss"] < 0.2 < history[0]["loss"]
    folder = tmp_path / "work" / "weights"
    measures = models.inspect(folder, False, "tiny")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in measures["stop_tokens"]
    model, trained, stops = models.load(folder, "float32", False)
    prompt = chat.encode_prompt(trained, [user("Hi")])
    greedy = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=20)
    (answer,) = generation.generate(model, stops, [Request("one", prompt, (0,))], 1, greedy)
    assert chat.decode_response(trained, answer.token_ids) == "yes"
    assert answer.finish_reason == "stop"


def test_tokens_that_a_template_adds_get_rows_of_their_own(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {t: i for i, t in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(kinds.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {**TINY, "vocab_size": len(vocabulary)}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, eos_token_id=0)).save_pretrained(tmp_path)
    spec = dataclasses.replace(SPEC, chat_template=template_text("chatml"))
    model, tokenizer = finetuning.prepare(tmp_path, spec)
    again, _ = finetuning.prepare(tmp_path, spec)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == len(vocabulary) + 2
    assert torch.equal(model.get_input_embeddings().weight, again.get_input_embeddings().weight)
    assert model.generation_config.eos_token_id == [0, tokenizer.eos_token_id]


def test_two_processes_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP; an odd number of packed sequences leaves one process without any in the last step of a pass."""
    monkeypatch.setattr(launch, "_POLL", 0.02)
    policy = save_tiny_policy(tmp_path / "policy", template=None, tied=True)
    rows = rows_of(policy, [[user("a"), said("b" * (5 + i))] for i in range(7)])
    spec = dataclasses.replace(SPEC, packing=False, learning_rate=1e-3)
    one = train(policy, rows, spec, tmp_path / "one")
    (tmp_path / "two").mkdir()
    two = launch.train(
        policy,
        rows,
        spec,
        tmp_path / "two",
        World(processes=2),
        save_steps=0,
        reporter=Reporter(),
        label="sft",
        stage="sft",
    )
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-4)
    assert [row["grad_norm"] for row in two] == pytest.approx([row["grad_norm"] for row in one], rel=1e-3)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)
