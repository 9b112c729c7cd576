"""Against one server, alpaca_eval's own annotator and ours give the same preferences, row by row.

Needs the package (the extra `eval`); elsewhere these skip.
"""

import json
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import app
from harness.export_answers import export_answers
from harness.imports import bring
from harness.judges import parsers, prompt
from harness.judges.order import reference_first
from harness.store import Store
from tests.artifacts import quiet, written
from tests.configs import composed
from tests.judges import server
from tests.judges.conftest import VARIABLE, Ask


@pytest.fixture(scope="module")
def alpaca_eval() -> Iterator[Any]:
    """The package, whose import warns, and turns on the root logger."""
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip(
            "alpaca_eval", reason="alpaca_eval is not installed (pip install 'prefsweep[eval]')", exc_type=ImportError
        )
    logging.getLogger().setLevel(level)


CONFIG = """
{name}:
  prompt_template: "alpaca_eval_clf.txt"
  fn_completions: "openai_completions"
  completions_kwargs:
    model_name: "{model}"
    max_tokens: 1
    temperature: 1
    logprobs: true
    top_logprobs: 5
    requires_chatml: true
    num_procs: 2
    client_config_path: "{clients}"
  fn_completion_parser: "logprob_parser"
  completion_parser_kwargs:
    numerator_token: "m"
    denominator_tokens: ["m", "M"]
    is_binarize: false
  completion_key: "completions_all"
  batch_size: 1
"""

MATCHES = {
    **{f"p{i}": (f"answer {i} " + "word " * (i % 5), f"reference {i}") for i in range(40)},
    "same": ("the same", "the same"),
    "odd": ('quotes """ and {braces} and \\ and ü', "  blanks around  \n"),
}


def annotated(alpaca_eval: Any, judge: server.Judge, folder: Path) -> list[dict[str, Any]]:
    """What the package makes of the matches, in a folder of its own."""
    from alpaca_eval.annotators import PairwiseAnnotator

    own = folder / "judge_1"
    own.mkdir(parents=True)
    published = Path(alpaca_eval.__file__).parent / "evaluators_configs" / "alpaca_eval_clf_gpt4_turbo"
    (folder / "alpaca_eval_clf.txt").write_text((published / "alpaca_eval_clf.txt").read_text())
    clients = folder / "clients.yaml"
    clients.write_text(f"default: [{{api_key: {server.KEY}, base_url: '{judge.url}'}}]\n")
    (own / "configs.yaml").write_text(CONFIG.format(name="judge_1", model=server.MODEL, clients=clients))
    sides = [
        [
            {"instruction": f"instruction {i}", "output": pair[side], "generator": str(side)}
            for i, pair in MATCHES.items()
        ]
        for side in (1, 0)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        annotator = PairwiseAnnotator(annotators_config=own, base_dir=folder)
        annotations: list[dict[str, Any]] = annotator.annotate_head2head(*sides)
    return annotations


def test_the_packages_annotator_and_ours_agree_row_by_row(
    alpaca_eval: Any, judge: server.Judge, ask: Ask, tmp_path: Path
) -> None:
    theirs = {row["instruction"]: row["preference"] for row in annotated(alpaca_eval, judge, tmp_path / "package")}
    asked = set(judge.asked)
    _, context = ask(MATCHES, order="seeded", top_logprobs=5)
    assert set(judge.asked) == asked, "the questions differ"
    rows = {f"instruction {row['prompt_id']}": row["preference"] for row in written(context, "verdicts")}
    assert rows.keys() == theirs.keys()
    for instruction, preference in rows.items():
        assert 1 + preference == pytest.approx(theirs[instruction], abs=1e-12), instruction
    assert any(reference_first(instruction) for instruction in rows)


def test_the_prompt_is_the_packages(alpaca_eval: Any) -> None:
    published = Path(alpaca_eval.__file__).parent / "evaluators_configs" / "alpaca_eval_clf_gpt4_turbo"
    text = (published / "alpaca_eval_clf.txt").read_text()
    assert prompt.parse(text, "published") == prompt.load(prompt.PUBLISHED)


PROBABLE = st.dictionaries(st.sampled_from(["m", "M", "Both", "The"]), st.floats(-60, 0), max_size=4)


@given(logprobs=PROBABLE)
@settings(max_examples=200, deadline=None)
def test_log_probabilities_are_read_as_the_package_reads_them(alpaca_eval: Any, logprobs: dict[str, float]) -> None:
    from alpaca_eval.completion_parsers import logprob_parser

    top = [{"token": token, "logprob": logprob} for token, logprob in logprobs.items()]
    completion = {"logprobs": {"content": [{"top_logprobs": top}]}}
    (theirs,) = logprob_parser(completion, numerator_token="m", denominator_tokens=["m", "M"], is_binarize=False)
    ours, failure = parsers.from_logprobs(logprobs)
    if ours is None:
        assert failure == parsers.NO_CHOICE
        assert math.isnan(theirs)
    else:
        assert 2 - ours == pytest.approx(theirs, abs=1e-12)


def test_the_package_run_on_an_export_gives_our_win_rate(alpaca_eval: Any, judge: server.Judge, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"prompt": f"instruction {i}", "answer": r}) + "\n" for i, (_, r) in MATCHES.items())
    (tmp_path / "held_out.jsonl").write_text(lines)
    outputs = [{"instruction": f"instruction {i}", "output": a, "generator": "x"} for i, (a, _) in MATCHES.items()]
    (tmp_path / "outputs.json").write_text(json.dumps(outputs))
    store = Store(tmp_path / "store").prepare()
    bring(store, "answers", tmp_path / "outputs.json", "mine", quiet())
    held_out = f"evaluate.path={tmp_path / 'held_out.jsonl'}"
    settings = {"base_url": judge.url, "model": server.MODEL, "api_key_env": VARIABLE}
    overrides = [
        "evaluate.limit=null",
        "judge=alpaca_eval2",
        *(f"judge.{name}={value}" for name, value in settings.items()),
    ]
    data = composed("evaluate.answers=mine", held_out, held_out.replace("path", "references"), *overrides)
    assert app.run([{**data, "store": str(store.root)}], quiet()) == 0
    (judged,) = store.folders("judge")
    assert export_answers(store, judged.name, tmp_path / "export") == len(MATCHES)
    asked = len(judge.asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        board, annotations = alpaca_eval.evaluate(
            model_outputs=tmp_path / "export" / "model_outputs.json",
            reference_outputs=tmp_path / "export" / "reference_outputs.json",
            annotators_config=tmp_path / "export" / "judge",
            name="mine",
            precomputed_leaderboard=None,
            is_overwrite_leaderboard=True,
            is_cache_leaderboard=False,
            is_return_instead_of_print=True,
            output_path=None,
            fn_metric="get_winrate",
            sort_by="win_rate",
        )
        direct = alpaca_eval.metrics.get_winrate(json.loads((tmp_path / "export" / "annotations.json").read_text()))
    ours = store.find("judge", judged.name.rpartition("-")[2])
    assert ours is not None
    assert len(judge.asked) == asked
    assert len(annotations) == len(MATCHES)
    assert board.loc["mine", "win_rate"] == pytest.approx(100 * ours.manifest.measures["win_rate"], abs=1e-9)
    assert direct["win_rate"] == pytest.approx(100 * ours.manifest.measures["win_rate"], abs=1e-9)
    described = json.loads((tmp_path / "export" / "export.json").read_text())
    assert described["measures"]["win_rate"] == ours.manifest.measures["win_rate"]
