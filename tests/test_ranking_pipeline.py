"""Rankings by real judges: the whole way by the command line, reward models, and a server that is paid."""

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.__main__ import report
from analysis.frames import load_spreads
from analysis.load import load_results
from analysis.rankings import load_rankings, ranking_warnings
from harness import app, record, sweepctl
from harness.judges.engines import plan_judge
from harness.judges.models import PairwiseSpec, RewardSpec
from harness.progress import Reporter
from harness.stages.rank import Spec, run
from harness.store import Store
from tests.analysis.exported import check_export
from tests.artifacts import Shelf, adds_up, manifest, written
from tests.configs import composed
from tests.judges import server
from tests.judges.conftest import configured
from tests.judges.conftest import judge as judge  # noqa: PLC0414 (a fixture)
from tests.tiny_rewards import save_classifier, save_pairrm

SMALL = [
    "reward=shorter",
    "prompts.limit=6",
    "n=8",
    "sampler.max_new_tokens=12",
    "sampler.max_prompt_tokens=600",
    "evaluate.max_prompt_tokens=600",
    "evaluate.limit=4",
    "evaluate.max_new_tokens=4",
    "train=lora",
    "train.epochs=1",
    "cluster.threads=1",
    "construction=ranking",
    "sweep=ranked",
]


def harness(store: Path, policy: Path, *overrides: str) -> str:
    command = [sys.executable, "-m", "harness", "-m", "policy=local", f"policy.id={policy}", f"store={store}"]
    ended = subprocess.run(
        [*command, *SMALL, *overrides], cwd=store.parent, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def _ranker(point: Mapping[str, Any]) -> Any:
    return point["config"]["ranker.name"]


def test_a_ranking_trains_and_is_reported(tiny_policy: Path, tmp_path: Path) -> None:
    """The embedded judge ranks, and a judge that prefers the shorter one has the shorter response chosen."""
    store = tmp_path / "store"
    said = harness(store, tiny_policy, "pair=max_min", "judge@ranker=embedded,shorter")
    assert "rank embedded-merge_sort-n8-b0" in said
    results = load_results(store).set_index("ranker.name")
    assert results["status"].tolist() == ["done", "done"]
    shorter = results.loc["shorter"]
    keys = {
        str(p["nodes"]["pairs"]) for p in record.read(Store(store), "ranked").points.values() if _ranker(p) == "shorter"
    }
    (pairs,) = (found for key in keys if (found := Store(store).find("pairs", key)) is not None)
    texts = pairs.table("pairs", ["chosen_text", "rejected_text"]).to_pylist()
    assert texts
    assert all(len(row["chosen_text"].split()) < len(row["rejected_text"].split()) for row in texts)
    assert "merge_sort by shorter-answer judge" in shorter["reward_label"]
    assert "the judge that ranked the training data" in str(results.loc["embedded", "judge_label"])
    assert "the judge that ranked" not in str(shorter["judge_label"])
    assert set(load_spreads(store)["reward.name"]) == {"embedded", "shorter"}  # who has ranked, not the reward
    rankings = load_rankings(store).set_index("ranking")
    assert len(rankings) == 2
    row = rankings.loc[next(name for name in rankings.index if "shorter" in name)]
    assert row["prompts"] == 6
    assert 0 < row["comparisons"] <= row["comparisons_at_most"] == 6 * 17
    assert row["kendall"] == pytest.approx(1.0)  # the reward counts words, too
    assert row["order_disagreement"] == 0
    assert row["order_disagreement_high"] > 0
    assert row["cyclic_triples_note"].startswith("not known")
    assert len(check_export(store, tmp_path / "export")["analysis.rankings.load_rankings"]) == 2
    report(store, None, tmp_path / "report")
    assert "## Rankings" in (tmp_path / "report" / "report.md").read_text()
    folder = tmp_path / "rows"
    assert sweepctl.main(["export", "--store", str(store), "--sweep", "ranked", "--to", str(folder)]) == 0
    described = [json.loads(path.read_text())["reward"] for path in folder.rglob("export.json")]
    assert sorted(text.split(" by ")[0] for text in described) == ["merge_sort", "merge_sort"]


@pytest.mark.parametrize("kind", ["classifier", "pairrm"])
def test_reward_models_rank(tmp_path: Path, kind: str) -> None:
    shelf = Shelf(tmp_path)
    folder = tmp_path / kind
    (save_classifier if kind == "classifier" else save_pairrm)(folder)
    spec: Any = PairwiseSpec(dtype="float32", max_tokens=200, max_prompt_tokens=50, batch_tokens=1000)
    if kind == "classifier":
        spec = RewardSpec(
            scorer="sequence_classification",
            dtype="float32",
            trust_remote_code=False,
            max_tokens=100,
            batch_tokens=300,
            scale=2.0,
        )
    key = "0" * 15 + "1"
    with shelf.store.claim(key) as work:
        (work / "model.json").write_text(json.dumps({"path": str(folder)}))
        model = shelf.store.publish(work, manifest("model", key, spec={"id": "", "revision": "0" * 16}), "model")
    texts = {("a", index): f"answer {'x' * index} {index * 7919 % 101}" for index in range(6)}
    inputs = {"responses": shelf.responses(texts), "prompts": shelf.prompts({"a": "Name a fruit."})}
    kendalls = []
    for method in ("merge_sort", "round_robin"):
        context = shelf.context(method, **inputs, reward_model=model)
        context = replace(context, params={"selected_the_data": False, "max_failed_share": 0.0})
        outcome = run(context, Spec(method=method, n=6, judge=spec))
        assert adds_up(outcome.rows, 1, 1)
        kendalls.append({r["sample_index"]: r["reward"] for r in written(context, "rewards")})
    if kind == "classifier":  # by a score, so that nothing goes in circles
        assert kendalls[0] == pytest.approx(kendalls[1])
        assert outcome.measures["cyclic_triples"] == 0
    assert outcome.measures["known_before"] > 0


def test_a_server_is_paid_for_every_question_once(tmp_path: Path, judge: server.Judge) -> None:
    shelf = Shelf(tmp_path)
    texts = {(f"p{prompt}", index): f"answer {prompt} {index}" for prompt in range(4) for index in range(6)}
    inputs = {
        "responses": shelf.responses(texts),
        "prompts": shelf.prompts({f"p{i}": f"question {i}" for i in range(4)}),
    }
    planned = plan_judge(configured(judge.url, max_failed_share=0.5))
    judge.faults = lambda number, tries: "no_logprobs" if number == 5 else None
    outcomes = []
    for method, n in (("merge_sort", 4), ("merge_sort", 6), ("round_robin", 6)):
        context = replace(shelf.context(f"{method}{n}", **inputs), params=planned.params)
        outcomes.append(run(context, Spec(method=method, n=n, judge=planned.spec)))  # type: ignore[arg-type]
    first, _, last = (outcome.measures for outcome in outcomes)
    assert first["failures"] == {"no_logprobs": 1}
    assert first["judge"]["judgements_asked"] == 2 * first["comparisons"]
    assert last["comparisons"] == 4 * 15
    assert last["cyclic_triples"] <= last["decided_triples"]
    # What failed for one node is asked again by the next, and nothing else is.
    assert sum(judge.paid.values()) == 2 * 4 * 15 + 1
    assert server.KEY not in "".join(path.read_text() for path in (tmp_path / "store").rglob("*.jsonl"))


def test_a_judge_that_always_says_the_same_is_seen_in_the_run_the_status_and_the_report(
    tmp_path: Path, tiny_policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    monkeypatch.setattr(server, "strength", lambda messages: 0.9)
    with server.serving(server.Judge(key=None)) as constant:
        asked = ["judge@ranker=openai", f"ranker.base_url={constant.url}", f"ranker.model={server.MODEL}"]
        asked += ["ranker.api_key_env=null", "pair=max_min", "sampler.prompt_blocks=1"]
        console = Console(file=io.StringIO(), width=1000)
        given = composed("policy=local", f"policy.id={tiny_policy}", f"store={store}", *SMALL, *asked)
        assert app.run([given], Reporter(console)) == 0
    said = console.file.getvalue()  # type: ignore[attr-defined]
    warned = "(order disagreement 100 %): it always gives the same answer"
    assert "rows (dropped: all_ties 6); WARNING: the ranker decided none" in said
    assert warned in said
    assert "1 points empty" in said
    assert sweepctl.main(["status", "ranked", "--store", str(store)]) == 0
    assert warned in capsys.readouterr().out.replace("\n", " ")
    rankings = load_rankings(store)
    assert rankings.loc[0, "order_disagreement"] == 1.0
    assert [warned in text for text in ranking_warnings(rankings)] == [True]
    assert load_results(store)["status"].tolist() == ["empty"]
