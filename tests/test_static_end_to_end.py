"""Static candidates the whole way on a tiny policy: shares of them, published layouts, the boundary, the report."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from analysis.__main__ import report
from analysis.candidate_sets import (
    candidate_sets_section,
    load_boundary_measurements,
    load_candidate_sets,
    load_set_differences,
)
from analysis.frames import load_picks, load_spreads
from analysis.kept_measures import NAME
from analysis.load import load_results
from analysis.rounds import load_on_share
from harness import app, candidates
from harness.progress import Reporter
from harness.stages.pairs import MixedSpec, is_static_row
from harness.store import Artifact, Store
from tests.analysis.exported import check_export
from tests.configs import composed, point
from tests.test_candidates import completion

SMALL = (
    "policy=local",
    "reward=shorter",
    "judge=shorter",
    "prompts.limit=8",
    "evaluate.limit=4",
    "sampler.max_new_tokens=12",
    "sampler.max_prompt_tokens=600",
    "evaluate.max_prompt_tokens=600",
    "evaluate.max_new_tokens=4",
    "train=lora",
    "train.max_steps=1",
    "n=8",
    "cluster.threads=1",
    "sweep=static",
)
AUTO = "sweep=auto"
SHARES = (0.0, 0.5, 1.0)


def command(store: Path, policy: Path, points: Sequence[Sequence[str]]) -> str:
    """Run a command in this process; what it said."""
    output = io.StringIO()
    base = (*SMALL, f"store={store}", f"policy.id={policy}")
    assert app.run([composed(*base, *own) for own in points], Reporter(Console(file=output, width=300))) == 0
    return output.getvalue()


def rows_of(store: Path, share: float) -> tuple[Artifact, pd.DataFrame]:
    results = load_results(store)
    (result,) = results.loc[results["construction.static_share"] == share, "result"]
    opened = Store(store)
    sweep = json.loads((store / "sweeps" / "static.json").read_text())
    artifact = opened.find("pairs", sweep["points"][result]["nodes"]["pairs"])
    assert artifact is not None
    return artifact, artifact.table("pairs").to_pandas()


@pytest.fixture(scope="module")
def shares(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with cells of three shares, and what the command said."""
    store = tmp_path_factory.mktemp("shares") / "store"
    boundary = ("boundary=measured", "judge@boundary.judge=shorter", "construction=max_min")
    return store, command(store, tiny_policy, [(*boundary, f"construction.static_share={share}") for share in SHARES])


def test_rows_come_from_where_the_share_says(shares: tuple[Path, str]) -> None:
    store, _ = shares
    texts = {c.text for *_, given in candidates.read(point().candidates) for c in given}
    frames = {share: rows_of(store, share)[1] for share in SHARES}
    from_data = {share: frame["chosen_text"].isin(texts) for share, frame in frames.items()}
    assert not from_data[0.0].any()
    assert len(frames[1.0]) == 8
    assert from_data[1.0].all()
    assert frames[1.0]["rejected_text"].isin(texts).all()
    mixed, frame = rows_of(store, 0.5)
    spec = MixedSpec(**mixed.manifest.spec)
    static = [is_static_row(spec, i) for i in frame["prompt_id"]]
    assert from_data[0.5].tolist() == static
    assert mixed.manifest.measures["static_rows"] == sum(static)
    assert mixed.manifest.measures["static_rows"] + mixed.manifest.measures["on_policy_rows"] == len(frame)
    by_source = {True: frames[1.0], False: frames[0.0]}
    for row, is_static in zip(frame.to_dict("records"), static, strict=True):
        (same,) = by_source[is_static].query("prompt_id == @row['prompt_id']").to_dict("records")
        assert (row["chosen_text"], row["ref_chosen_logp"]) == (same["chosen_text"], same["ref_chosen_logp"])


def test_the_frames_of_pools_tell_static_candidates_from_samples(shares: tuple[Path, str]) -> None:
    """All static candidates of a prompt are selected from, so that there is no n."""
    store, _ = shares
    picks, spreads = load_picks(store), load_spreads(store)
    for frame in (picks, spreads):
        assert sorted(frame.drop_duplicates("pool")["n"].fillna(0)) == [0, 8]
    static = picks["n"].isna()
    assert picks.loc[static, "z_expected"].isna().all()
    assert picks.loc[~static, "z_expected"].notna().all()
    assert spreads.loc[spreads["n"].isna() & spreads["dropped"].isna(), "skewness"].notna().all()


def test_the_frames_of_a_round_are_of_the_pool_that_the_boundary_has_chosen(
    shares: tuple[Path, str], tiny_policy: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(shares[0], tmp_path / "store")
    command(store, tiny_policy, [("judge@boundary.judge=shorter", "construction=max_min", "rounds.path=[auto]", AUTO)])
    chosen = load_picks(store, "auto")
    assert chosen["pool"].nunique() == 1
    assert set(chosen["n"]) == {8}  # the policy is in the fine-tuning stage
    assert set(load_spreads(store, "auto")["pool"]) == set(chosen["pool"])
    (share,) = load_on_share(store, "auto").to_dict("records")
    assert (share["round"], share["path"], share["stage"], share["data"]) == (1, "auto", "fine_tuning", "on_policy")
    assert 0.5 < share["low"] <= share["on_share"] <= share["high"] <= 1
    assert (share["policy.name"], share["prompts"]) == ("local", 8)
    assert len(check_export(store, tmp_path / "export", "auto")["analysis.rounds.load_on_share"]) == 1


def test_an_export_has_sets_and_boundaries_too(shares: tuple[Path, str], tmp_path: Path) -> None:
    loaded = check_export(shares[0], tmp_path / "export")
    for name in ("boundary_measurements", "candidate_sets", "set_differences"):
        assert len(loaded[f"analysis.candidate_sets.load_{name}"])


def test_the_boundary_says_who_wins(shares: tuple[Path, str]) -> None:
    store, said = shares
    frame = load_boundary_measurements(store)
    assert len(frame) == 3
    assert frame["artifact"].nunique() == 1
    found = frame.iloc[0]
    assert found["stage"] == "fine_tuning"  # a random policy says a word or two, and fewer words win
    assert 0.5 < found["low"] <= found["on_share"] <= found["high"] <= 1
    assert (found["prompts"], found["comparisons"]) == (8, 8 * 4 * 3)
    assert f"the policy's own responses win {found['on_share']:.3f}" in said


def test_sets_and_boundaries_of_several_rounds_say_whose_they_are(
    shares: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = shares
    first, second, third = load_boundary_measurements(store)["result"]
    assert set(load_boundary_measurements(store)["policy"]) == {"local"}
    paths = {first: None, second: ["auto"], third: ["static", "auto"]}
    settings = {result: {"policy.name": "tiny", "rounds.path": path} for result, path in paths.items()}
    monkeypatch.setattr("analysis.candidate_sets.read_settings", lambda *_: settings)
    for frame in (load_boundary_measurements(store), load_candidate_sets(store)):
        policies = dict(zip(frame["result"], frame["policy"], strict=True))
        assert policies.items() <= {first: "tiny", second: "tiny", third: "tiny after static"}.items()
    said = "\n".join(candidate_sets_section(load_candidate_sets(store), load_boundary_measurements(store)))
    assert "Boundary of tiny" in said


def test_both_sets_are_described_and_compared(shares: tuple[Path, str]) -> None:
    store, _ = shares
    sets = load_candidate_sets(store)
    assert sets.groupby("set")["artifact"].nunique().to_dict() == {"on-policy": 1, "static": 1}
    means = {row["set"]: row for row in sets.drop_duplicates("set").to_dict("records")}
    assert means["static"]["words"] > means["on-policy"]["words"]
    differences = {row["measure"]: row for row in load_set_differences(store).to_dict("records")}
    words = differences["words"]
    assert words["difference"] == pytest.approx(means["on-policy"]["words"] - means["static"]["words"])
    assert words["high"] < 0
    assert differences["reward"]["difference"] == pytest.approx(-words["difference"])  # a word costs one


def test_the_report_has_a_section_and_compares_the_shares(shares: tuple[Path, str], tmp_path: Path) -> None:
    store, _ = shares
    paths = report(store, None, tmp_path / "report")
    assert (tmp_path / "report" / NAME).is_file()
    assert {"candidate_sets.csv", "boundary.csv"} <= {path.name for path in paths}
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Candidate sets" in text
    assert "fine\\_tuning stage" in text
    for share in ("0", "0.5", "1"):
        assert f"static\\_share={share}" in text
    (against,) = [line for line in text.splitlines() if line.startswith("## Against the best")]
    assert against == "## Against the best"  # one comparison: no setting but the construction's own tells them apart


def test_published_scores_choose_the_rows(tiny_policy: Path, tmp_path: Path) -> None:
    scores = {f"question {i}": [(f"answer {i}-{j}", float((3 * i + 2 * j) % 5)) for j in range(4)] for i in range(6)}
    rows = [
        {"source": "flan", "instruction": text, "completions": [completion(*given) for given in answers]}
        for text, answers in scores.items()
    ]
    path = tmp_path / "flan.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    published = [f"{group}={name}" for group in ("prompts", "candidates") for name in ("ultrafeedback",)]
    store = tmp_path / "store"
    command(
        store,
        tiny_policy,
        [("construction=static", *published, f"prompts.path={path}", f"candidates.path={path}", "prompts.limit=5")],
    )
    _, frame = rows_of(store, 1.0)
    ordered = [sorted(answers, key=lambda given: given[1]) for answers in list(scores.values())[:5]]
    assert set(frame["chosen_text"]) == {answers[-1][0] for answers in ordered}
    assert set(frame["rejected_text"]) == {answers[0][0] for answers in ordered}
    assert set(zip(frame["chosen_reward"], frame["rejected_reward"], strict=True)) == {
        (answers[-1][1], answers[0][1]) for answers in ordered
    }
    (label,) = load_results(store)["reward_label"]
    assert label == "scores of the static data ultrafeedback"
