"""Whole runs that begin in the middle, with what another run has made."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.load import load_overlap, load_results, load_verdicts
from analysis.report import write_report
from analysis.schema import plain
from harness import app, imports, record
from harness.engines import models
from harness.packages import model_files
from harness.progress import Reporter
from harness.store import Store
from tests.artifacts import Row
from tests.configs import composed
from tests.imports.rows import bring, write

PROMPTS = [f"question {i}" for i in range(6)]
HELD_OUT = [f"instruction {i}" for i in range(4)]
SETTINGS = [
    "policy=local",
    "reward=shorter",
    "reward.weights.words=-0.001",
    "+reward.weights.tokens=-1.0",
    "judge=shorter",
    "prompts=file",
    "evaluate.limit=null",
    "sampler.max_new_tokens=12",
    "sampler.max_prompt_tokens=600",
    "sampler.sample_block=4",
    "evaluate.max_prompt_tokens=600",
    "evaluate.max_new_tokens=6",
    "construction=max_min",
    "n=8",
    "train=lora",
    "train.epochs=1",
    "train.global_batch=2",
    "train.micro_batch=2",
    "cluster.threads=1",
]


def run(store: Path, points: Sequence[Sequence[str]], sweep: str) -> str:
    output = io.StringIO()
    plans = [composed(*overrides, f"store={store}", f"sweep={sweep}") for overrides in points]
    assert app.run(plans, Reporter(Console(file=output, width=300))) == 0, output.getvalue()
    return output.getvalue()


@pytest.fixture(scope="module")
def native(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A store in which a cell was sampled, trained and judged, and the settings it was made with."""
    folder = tmp_path_factory.mktemp("native")
    prompts = write(folder / "prompts.jsonl", [{"prompt": text} for text in PROMPTS])
    held_out = write(folder / "held_out.jsonl", [{"prompt": text} for text in HELD_OUT])
    paths = [f"policy.id={tiny_policy}", f"prompts.path={prompts}", f"evaluate.path={held_out}"]
    run(folder / "store", [[*SETTINGS, *paths]], "native")
    return folder, [*SETTINGS, *paths]


def rows_of(store: Path, stage: str, table: str) -> list[Row]:
    frames = [pd.read_parquet(path) for path in sorted(store.glob(f"{stage}/*/{table}*/*.parquet"))]
    rows: list[Row] = pd.concat(frames, ignore_index=True).to_dict("records")  # type: ignore[assignment]
    return rows


def brought_from(native: Path, folder: Path) -> Store:
    """A new store with the pool, rewards, trained adapters and answers of another as imports."""
    source, store = native / "store", Store(folder / "store").prepare()
    pool = [
        {
            "prompt_id": r["prompt_id"],
            "sample_index": r["sample_index"],
            "response": r["text"],
            "token_ids": [int(i) for i in r["token_ids"]],
            "finish_reason": r["finish_reason"],
        }
        for r in rows_of(source, "sample", "responses")
    ]
    bring(store, "responses", write(folder / "pool.parquet", pool), "pool")
    rewards = [
        {name: r[name] for name in ("prompt_id", "sample_index", "reward", "attribute_words")}
        for r in rows_of(source, "score", "rewards")
    ]
    bring(store, "rewards", write(folder / "rewards.jsonl", rewards), "scores")
    (trained,) = source.glob("train/*/weights")
    bring(store, "model", trained, "adapters")
    (judged,) = source.glob("respond/*max_min*")
    answers = pd.read_parquet(judged / "answers").to_dict("records")
    outputs = [{"instruction": a["instruction"], "output": a["text"], "generator": "m"} for a in answers]
    bring(store, "answers", write(folder / "answers.json", outputs), "outputs")
    return store


POOL = ["sampler=imported", "sampler.imported=pool"]
USES = {
    "pool": [*POOL, "sampler.sample_block=3"],
    "rewards": [*POOL, "reward=imported", "reward.imported=scores"],
    "model": ["train=imported", "train.imported=adapters"],
    "answers": ["evaluate.answers=outputs"],
}
"""How a command uses each kind of import."""


def with_imports(settings: Sequence[str], use: str) -> list[str]:
    """The settings of a native run, without those that an import replaces."""
    replaced = {"pool": ["sampler"], "rewards": ["sampler", "reward"], "model": ["train"], "answers": []}[use]
    left = [s for s in settings if s.lstrip("+").partition("=")[0].partition(".")[0] not in replaced]
    return [*left, *USES[use]]


def test_whatever_is_imported_gives_the_result_that_it_gave_elsewhere(
    native: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    run(store.root, [with_imports(settings, use) for use in USES], "mixed")
    before = load_results(folder / "store", "native").iloc[0]
    results = load_results(store.root, "mixed")
    results.index = pd.Index([_use(row) for _, row in results.iterrows()])
    results = results.loc[list(USES)]
    assert results["status"].tolist() == ["done"] * 4
    assert before["rows"] > 0
    assert results["win_rate"].tolist() == pytest.approx([before["win_rate"]] * 4)
    assert results["rows"].tolist()[:2] == [before["rows"]] * 2
    assert results["rows"].isna().tolist() == [False, False, True, True]
    assert results["kl"].tolist()[:3] == pytest.approx([before["kl"]] * 3, rel=1e-3)
    assert results["reward_label"].fillna("").tolist()[1:] == ["imported rewards scores", "", ""]
    assert results["decoding"].tolist() == [*["greedy, 6 tokens"] * 3, "as imported"]
    assert results["trained_id"].nunique() == 3  # the rows of the two pools are equal, and trained on once
    assert " 0 nodes computed" in run(store.root, [with_imports(settings, use) for use in USES], "mixed")
    assert load_overlap(store.root, "mixed").shape == (2, 2)


def _use(row: "pd.Series[Any]") -> str:
    settings = {"evaluate.answers": "answers", "train.imported": "model", "reward.imported": "rewards"}
    return next((use for setting, use in settings.items() if plain(row[setting])), "pool")


def test_a_report_shows_what_was_imported_beside_what_was_trained(
    native: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    run(store.root, [with_imports(settings, use) for use in ("pool", "model", "answers")], "mixed")
    run(store.root, [with_imports(settings, "answers")], "alone")
    for sweep in ("mixed", "alone"):
        results, verdicts = load_results(store.root, sweep), load_verdicts(store.root, sweep)
        console = Console(file=io.StringIO(), width=300)
        write_report(results, verdicts, tmp_path / sweep, console=console)
        page = (tmp_path / sweep / "report.md").read_text()
        assert "imported answers outputs" in page
        assert ("imported model adapters" in page) == (sweep == "mixed")
    headers = [line for line in (tmp_path / "mixed" / "report.md").read_text().splitlines() if "| construction" in line]
    assert headers
    # What an imported cell makes no use of is no difference to be shown.
    assert not any(name in header for header in headers for name in ("sampler", "train."))


def test_a_sweep_of_imports_is_recorded_and_released_like_any_other(
    native: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    points = [[*with_imports(settings, use), "keep_weights=none"] for use in ("pool", "model", "answers")]
    said = run(store.root, points, "mixed")
    assert said.count("released the weights of") == 1  # of the trained cell; what was imported stays
    assert imports.find(store, "model", "adapters", "train.imported").model_path.is_dir()
    sweep = record.read(store, "mixed")
    assert sorted(tuple(p["nodes"]) for p in sweep.points.values()) == [
        ("imported", "judge", "respond"),
        ("imported", "judge", "respond"),
        ("judge", "pairs", "respond", "train"),
    ]


def test_a_dry_run_knows_that_nothing_is_generated(native: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    output = io.StringIO()
    points = [composed(*with_imports(settings, use), f"store={store.root}", "dry_run=true") for use in USES]
    assert app.run(points, Reporter(Console(file=output, width=300)), tmp_path) == 0
    outline = json.loads((tmp_path / "plan.json").read_text())
    assert outline["done"]["imported"] == outline["nodes"]["imported"] == 4
    answers = 3  # of two trained cells that may turn out one, the imported model, and the untrained policy
    assert outline["estimates"]["tokens_at_most"] == (answers + 1) * len(HELD_OUT) * 6


def test_answers_to_some_instructions_are_judged_on_those(native: tuple[Path, list[str]], tmp_path: Path) -> None:
    _, settings = native
    store = Store(tmp_path / "store").prepare()
    bring(store, "answers", write(tmp_path / "a.jsonl", [{"prompt": HELD_OUT[1], "answer": "a"}]), "outputs")
    run(store.root, [with_imports(settings, "answers")], "some")
    results = load_results(store.root, "some").iloc[0]
    assert results["instructions"] == 1
    (path,) = store.root.glob("respond/answers-*/manifest.json")
    assert json.loads(path.read_text())["rows"] == {"taken": 4, "kept": 1, "dropped": {"not_imported": 3}}


def test_a_full_model_is_loaded_by_itself(native: tuple[Path, list[str]], tiny_policy: Path, tmp_path: Path) -> None:
    _, settings = native
    store = Store(tmp_path / "store").prepare()
    bring(store, "model", tiny_policy, "adapters")
    run(store.root, [with_imports(settings, "model")], "full")
    results = load_results(store.root, "full").iloc[0]
    assert results["share_changed"] == 0  # it is the policy itself
    assert results["kl"] == pytest.approx(0, abs=1e-6)


def test_a_model_of_another_vocabulary_has_no_divergence(
    native: tuple[Path, list[str]], tiny_policy: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, settings = native
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    tokenizer.add_tokens(["<pad>"], special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "wider")
    tokenizer.save_pretrained(tmp_path / "wider")
    store = Store(tmp_path / "store").prepare()
    bring(store, "model", tmp_path / "wider", "adapters")
    run(store.root, [with_imports(settings, "model")], "wider")
    results = load_results(store.root, "wider").iloc[0]
    assert results["status"] == "done"
    assert np.isnan(results["kl"])


def test_an_imported_model_runs_no_code_though_the_policy_may(
    native: tuple[Path, list[str]], tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that stands in the store with code."""
    _, settings = native
    folder, ran = tmp_path / "evil", tmp_path / "ran"
    shutil.copytree(tiny_policy, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom transformers import LlamaConfig as Config\n"
    )
    monkeypatch.setattr(imports, "_check_no_code", lambda config: None)
    monkeypatch.setattr(imports, "_kept", model_files)
    store = Store(tmp_path / "store").prepare()
    assert (bring(store, "model", folder, "adapters").model_path / "evil.py").exists()
    run(store.root, [[*with_imports(settings, "model"), "policy.trust_remote_code=true"]], "evil")
    assert load_results(store.root, "evil").iloc[0]["status"] == "done"
    assert not ran.exists()


def test_imported_adapters_are_loaded_over_a_policy_whose_code_is_trusted(
    native: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    trusted = []
    before = models.load

    def load(path: Path, dtype: str, trust_remote_code: bool, base: Path | None = None) -> Any:
        trusted.append(trust_remote_code)
        return before(path, dtype, trust_remote_code, base)

    monkeypatch.setattr(models, "load", load)
    run(store.root, [[*with_imports(settings, "model"), "policy.trust_remote_code=true"]], "trusted")
    assert load_results(store.root, "trusted").iloc[0]["status"] == "done"
    assert set(trusted) == {True}
