"""Judges behind a server: what is asked and counted, what is tried again, what ends it, and what it costs."""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import tables
from harness.config import used
from harness.errors import ConfigError, PrefsweepError
from harness.judges import prompt
from harness.judges.config import check_judge
from harness.judges.cost import BudgetError
from harness.judges.engines import plan_judge
from harness.judges.expected import check_found
from harness.judges.openai_server import _is_served_as
from tests.artifacts import Shelf, adds_up, written
from tests.configs import point
from tests.judges import server
from tests.judges.conftest import VARIABLE, Ask, configured, texts


def expected(answer: str, reference: str, instruction: str) -> tuple[float, float]:
    """The answer's share in both orders, as the server gives it."""
    template = prompt.load(prompt.PUBLISHED)
    first = server.strength(template.fill(instruction, answer, reference))
    return first, 1.0 - server.strength(template.fill(instruction, reference, answer))


def test_both_orders_are_asked_and_averaged(judge: server.Judge, ask: Ask) -> None:
    outcome, context = ask(12)
    for row, (name, (answer, reference)) in zip(written(context, "verdicts"), texts(12).items(), strict=True):
        first, second = expected(answer, reference, f"instruction {name}")
        assert (row["preference_first"], row["preference_second"]) == pytest.approx((first, second), abs=1e-9)
        assert row["preference"] == pytest.approx((first + second) / 2, abs=1e-9)
        assert row["failure"] is None
    assert adds_up(outcome.rows, 12, 12)
    assert set(judge.paid.values()) == {1}
    assert len(judge.paid) == 24
    assert judge.bodies[0] | {"messages": None} == {
        "model": server.MODEL,
        "messages": None,
        "temperature": 1.0,
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": 20,
    }


def test_every_answer_is_kept_with_its_log_probabilities_and_tokens(ask: Ask) -> None:
    outcome, context = ask(3)
    rows = written(context, "judgements")
    assert [(r["prompt_id"], r["reference_first"]) for r in rows] == [(f"p{i}", o) for i in range(3) for o in (0, 1)]
    assert all({t["token"] for t in r["logprobs"]} == {"m", "M", "Both", "The"} for r in rows)
    assert all(r["answer"] in ("m", "M") and r["completion_tokens"] == 1 and r["failure"] is None for r in rows)
    assert sum(r["prompt_tokens"] for r in rows) == outcome.measures["prompt_tokens"] > 1000
    assert outcome.measures["served_models"] == {server.MODEL: 6}
    assert outcome.measures["cost_usd"] is None  # no price is known


def test_one_order_is_asked_where_the_leaderboard_asked_one(judge: server.Judge, ask: Ask) -> None:
    outcome, context = ask(40, order="seeded")
    rows = written(context, "verdicts")
    assert len(judge.paid) == 40
    first = [row["preference_second"] is None for row in rows]
    assert 5 < sum(first) < 35
    for row, shown_first in zip(rows, first, strict=True):
        side = row["preference_first"] if shown_first else row["preference_second"]
        assert row["preference"] == side
    assert outcome.measures["order_disagreement"] == 0
    assert outcome.measures["position_bias"] is None
    ask(40, order="both")
    assert len(judge.asked) == 80  # the orders that were asked are not asked again


def test_equal_answers_cost_nothing(judge: server.Judge, ask: Ask) -> None:
    outcome, context = ask({"a": ("same", "same"), "b": ("one", "other")})
    assert len(judge.asked) == 2
    assert [row["preference"] == 0.5 for row in written(context, "verdicts")] == [True, False]
    assert adds_up(outcome.rows, 2, 2)


def test_what_another_node_asked_is_not_asked_again(judge: server.Judge, ask: Ask) -> None:
    ask(6)
    outcome, _ = ask(8)
    assert len(judge.asked) == 16
    assert outcome.measures["judgements"] == 16
    assert outcome.measures["judgements_asked"] == 4
    ask(8, temperature=0.5)
    assert len(judge.asked) == 32  # another decoding is another judge


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "html", "hang", "retry_after", "nothing"])
def test_what_may_pass_is_tried_again(judge: server.Judge, ask: Ask, fault: str) -> None:
    judge.faults = lambda number, tries: fault if number in (1, 4) else None
    outcome, _ = ask(4, timeout_seconds=0.5)
    assert adds_up(outcome.rows, 4, 4)
    assert len(judge.asked) == 10
    assert [number for number in judge.paid.values() if number] == [1] * 8


def test_a_server_that_asks_for_patience_gets_it_from_all(judge: server.Judge, ask: Ask) -> None:
    judge.faults = lambda number, tries: "retry_after" if number == 2 else None
    ask(20, concurrency=4)
    assert len(judge.asked) == 41


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no_logprobs", "no_logprobs"),
        ("garbage", "no_choice"),
        ("odd_logprobs", "no_choice"),
        ("500", "server_error"),
        ("cut", "connection"),
        ("hang", "timeout"),
        ("html", "unreadable_reply"),
        ("400", "rejected"),
    ],
)
def test_what_stays_wrong_is_a_counted_failure_and_no_score(
    judge: server.Judge, ask: Ask, fault: str, reason: str
) -> None:
    bad: list[str] = []

    def faults(number: int, tries: int) -> str | None:
        if number == 3:
            bad.append(judge.asked[number])
        return fault if judge.asked[number] in bad else None

    judge.faults = faults
    outcome, context = ask(5, max_failed_share=0.3, timeout_seconds=0.3, concurrency=1)
    assert adds_up(outcome.rows, 5, 4, failed_judgement=1)
    assert outcome.measures["failures"] == {reason: 1}
    (failed,) = [row for row in written(context, "verdicts") if row["failure"]]
    assert failed["preference"] != failed["preference"]
    good = [row["preference"] for row in written(context, "verdicts") if not row["failure"]]
    assert outcome.measures["win_rate"] == pytest.approx(sum(good) / 4)


@pytest.mark.parametrize("fault", ["no_logprobs", "garbage", "500", "400"])
def test_too_many_failures_end_it_and_are_asked_again_next_time(judge: server.Judge, ask: Ask, fault: str) -> None:
    judge.faults = lambda number, tries: fault if number > 5 else None
    with pytest.raises(PrefsweepError, match=r"^judge: 3 comparisons failed .*max_failed_share"):
        ask(40, max_failed_share=0.05, concurrency=1, attempts=1)
    assert len(judge.asked) == 9
    judge.faults = lambda number, tries: None
    outcome, _ = ask(40, max_failed_share=0.05)
    assert adds_up(outcome.rows, 40, 40)
    assert len(judge.asked) == 9 + 74


def test_failures_within_bounds_are_not_paid_for_again(judge: server.Judge, ask: Ask) -> None:
    judge.faults = lambda number, tries: "garbage" if number == 3 else None
    for _ in range(2):
        outcome, _ = ask(4, max_failed_share=0.5)
        assert outcome.measures["failures"] == {"no_choice": 1}
    assert len(judge.asked) == 8


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", r"refuses the key \(status 401\)"),
        ("404", r"judge\.model: .* has no 'judge-1'; it has judge-1"),
        ("wrong_model", r"judge\.model: the server answers as 'another'.*judge\.served_as"),
        ("quota", "the quota of this key is spent"),
    ],
)
def test_what_no_request_can_mend_ends_it_after_one(judge: server.Judge, ask: Ask, fault: str, said: str) -> None:
    judge.faults = lambda number, tries: fault
    with pytest.raises(PrefsweepError, match=said):
        ask(10)
    assert len(judge.asked) == 1


def test_a_model_may_answer_under_a_dated_or_a_given_name(judge: server.Judge, ask: Ask) -> None:
    judge.faults = lambda number, tries: "wrong_model"
    outcome, _ = ask(2, served_as="another")
    assert outcome.measures["served_models"] == {"another": 4}


@pytest.mark.parametrize("ending", ["0613", "20241022", "2024-08-06"])
def test_a_date_after_the_name_is_a_snapshot_of_it(ending: str) -> None:
    spec = plan_judge(configured("http://127.0.0.1:1/v1", model="gpt-4o")).spec
    assert _is_served_as(spec, f"gpt-4o-{ending}")
    assert not _is_served_as(spec, f"gpt-4o-mini-{ending}")
    assert not _is_served_as(spec, "gpt-4o-mini")


def test_an_unknown_model_is_named_with_those_there_are(ask: Ask) -> None:
    with pytest.raises(PrefsweepError, match=r"judge\.model: http://.* has no 'judge-2'; it has judge-1"):
        ask(2, model="judge-2")


def test_a_server_that_is_not_there_is_said_to_be(ask: Ask) -> None:
    with pytest.raises(PrefsweepError, match=r"connection.*is judge\.base_url the address of a running server"):
        ask(30, base_url="http://127.0.0.1:9/v1", attempts=1)


def test_the_key_is_named_where_it_is_missing_and_told_nowhere(
    judge: server.Judge, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask(2)
    monkeypatch.setenv(VARIABLE, "sk-another-secret-key")
    with pytest.raises(PrefsweepError, match=r"refuses the key .* provided: Bearer \*\*\*"):
        ask(3)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigError, match=rf"^judge\.api_key_env: the environment variable {VARIABLE} is not set"):
        ask(2)
    for damaged in (f"{server.KEY}\n{server.KEY}", f"{server.KEY}\tx", f"{server.KEY}\x00", f"{server.KEY}\u00e4"):
        # Not a real environment: that holds no NUL.
        monkeypatch.setattr("os.environ", {VARIABLE: damaged})
        with pytest.raises(ConfigError, match=rf"^judge\.api_key_env: .* {VARIABLE} holds more than a key") as refused:
            ask(2)
        assert server.KEY not in str(refused.value)
    written_bytes = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert server.KEY.encode() not in written_bytes
    assert b"sk-another" not in written_bytes


def test_the_budget_is_checked_before_anything_is_asked(judge: server.Judge, ask: Ask) -> None:
    with pytest.raises(BudgetError, match=r"^judge\.max_tokens: 20 judgements would take about [\d,]+ tokens"):
        ask(10, max_tokens=1000)
    with pytest.raises(BudgetError, match=r"^judge\.max_cost_usd: .* more than 0\.01$"):
        ask(10, max_cost_usd=0.01, price_input=10.0, price_output=30.0)
    with pytest.raises(BudgetError, match=r"^judge\.max_tokens: 2 judgements would take about 1,000,"):
        ask(1, max_tokens=100_000, extra_body={"max_completion_tokens": 500_000})  # in place of max_new_tokens
    assert judge.asked == []


def test_the_budget_is_checked_while_asking(judge: server.Judge, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    # The server charges four times what was expected.
    monkeypatch.setattr("harness.judges.cost.CHARACTERS_PER_TOKEN", 16.0)
    with pytest.raises(BudgetError, match=r"^judge\.max_tokens: the next judgement would take"):
        ask(10, max_tokens=3000, concurrency=2)
    assert 5 < len(judge.asked) < 12
    spent = sum(len(json.dumps(b["messages"])) // 4 + 1 for b in judge.bodies)
    assert spent < 3000 + 2 * 500  # at most what was under way beyond it
    monkeypatch.undo()


def test_costs_are_those_of_the_servers_own_counts(ask: Ask) -> None:
    outcome, _ = ask(5, price_input=10.0, price_output=30.0, max_cost_usd=5.0)
    measures = outcome.measures
    cost = (measures["prompt_tokens"] * 10 + measures["completion_tokens"] * 30) / 1e6
    assert measures["cost_usd"] == measures["cost_usd_of_this_run"] == pytest.approx(cost)
    again, _ = ask(5, price_input=10.0, price_output=30.0, max_cost_usd=5.0)
    assert (again.measures["cost_usd"], again.measures["cost_usd_of_this_run"]) == (pytest.approx(cost), 0.0)


def test_tokens_that_no_server_counted_are_estimated_and_said_to_be(judge: server.Judge, ask: Ask) -> None:
    judge.faults = lambda number, tries: "no_usage"
    outcome, _ = ask(2)
    assert outcome.measures["tokens_estimated"] == 4
    assert outcome.measures["prompt_tokens"] > 1000


def test_no_more_requests_are_under_way_than_allowed(judge: server.Judge, ask: Ask) -> None:
    judge.slowness = 0.02
    ask(20, concurrency=4)
    assert 2 <= judge.most_at_once <= 4


def test_a_judge_without_log_probabilities_is_read_by_its_words(judge: server.Judge, ask: Ask) -> None:
    outcome, context = ask(5, parser="text")
    assert "logprobs" not in judge.bodies[0]
    sides = {row["preference_first"] for row in written(context, "verdicts")}
    assert sides <= {0.0, 1.0}
    assert "answered text" in outcome.measures["label"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": "ftp://x"}, r"^judge\.base_url: 'ftp://x' is no address"),
        ({"base_url": "http://[::1/v1"}, r"^judge\.base_url: no address \(Invalid IPv6 URL\)"),
        ({"base_url": "http://host:port/v1"}, r"^judge\.base_url: no address"),
        ({"base_url": "https://host/v1#secret"}, r"^judge\.base_url: holds credentials"),
        ({"base_url": "https://me:secret@host/v1"}, r"^judge\.base_url: holds credentials"),
        ({"api_key_env": "sk-12345"}, r"^judge\.api_key_env: expected the name of an environment variable"),
        ({"api_key_env": "MY_JUDGE"}, r"^judge\.api_key_env: expected a name with a word that ends in KEY"),
        ({"top_logprobs": 1}, r"^judge\.top_logprobs: expected 2 to 20, got 1"),
        ({"max_failed_share": 1.0}, r"^judge\.max_failed_share: "),
        ({"concurrency": 0}, r"^judge\.concurrency: "),
        ({"max_cost_usd": 1.0}, r"^judge\.max_cost_usd: needs judge\.price_input"),
        ({"price_input": 1.0}, r"^judge\.price_input, judge\.price_output: expected both"),
        ({"extra_body": {"n": 2}}, r"^judge\.extra_body: n cannot be set here"),
        (
            {"extra_body": {"max_completion_tokens": "8"}},
            r"^judge\.extra_body\.max_completion_tokens: expected a number",
        ),
    ],
)
def test_settings_that_could_ask_nothing_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        check_judge(configured("http://127.0.0.1:1/v1", **settings))
    assert "secret" not in str(refused.value)
    assert "12345" not in str(refused.value)


def test_the_group_is_read_by_its_engine() -> None:
    with pytest.raises(ConfigError, match=r"^judge\.order: 'one' is not valid; choose one of both, seeded"):
        point("judge=openai", "judge.model=m", "judge.order=one")
    with pytest.raises(ConfigError, match=r"^judge\.engine: .gpt. is not valid; choose one of embedded, "):
        point("judge=openai", "judge.model=m", "judge.engine=gpt")
    assert point("judge=alpaca_eval2", "judge.model=m").judge.order == "seeded"  # type: ignore[union-attr]


def test_a_result_of_an_earlier_command_that_failed_more_than_is_allowed_now_is_refused(
    judge: server.Judge, ask: Ask, tmp_path: Path
) -> None:
    judge.faults = lambda number, tries: "garbage" if number in (3, 4) else None
    equal = {"same": ("one text", "one text")}
    outcome, context = ask({**texts(9), **equal}, max_failed_share=0.5, concurrency=1)
    rows = [{**row, "logprobs": []} for row in written(context, "verdicts")]
    rows = [{name: row[name] for name in tables.VERDICTS.names} for row in rows]
    done = Shelf(tmp_path).put("judge", {"verdicts": (tables.VERDICTS, rows)}, rows=dataclasses.asdict(outcome.rows))
    failed = outcome.measures["failures"]["no_choice"]
    for allowed, refused in ((failed / 9, False), (failed / 9 - 0.01, True)):
        node = SimpleNamespace(stage="judge", params={"max_failed_share": allowed})
        with (
            pytest.raises(ConfigError, match=rf"^judge\.max_failed_share: {failed} of 9 .* retry k`")
            if refused
            else nullcontext()
        ):
            check_found(SimpleNamespace(nodes={"k": node}), {"k": done})  # type: ignore[arg-type]
        check_found(SimpleNamespace(nodes={"k": node}), {})  # type: ignore[arg-type]


def test_another_server_price_or_limit_makes_no_other_point() -> None:
    def settings(**changed: Any) -> dict[str, Any]:
        return used(dataclasses.replace(config, judge=configured(**{"url": "https://host/v1", **changed})))

    config = point("judge=openai", "judge.model=m")
    asking = {
        "url": "https://other/v1",
        "api_key_env": "A_KEY",
        "concurrency": 3,
        "timeout_seconds": 9.0,
        "attempts": 2,
    }
    spending = {"price_input": 1.0, "price_output": 2.0, "max_cost_usd": 3.0, "max_tokens": 4, "max_failed_share": 0.5}
    assert settings(**asking, **spending) == settings()
    for name, value in {"model": "n", "revision": "r", "temperature": 0.0}.items():
        assert settings(**{name: value}) != settings()


def test_only_what_decides_a_verdict_is_in_the_key() -> None:
    def spec(**settings: object) -> object:
        return plan_judge(configured("http://127.0.0.1:1/v1", **settings)).spec

    assert spec(base_url="http://elsewhere/v1", concurrency=1, attempts=9, max_tokens=10**9) == spec()
    for changed in ({"model": "b"}, {"revision": "q4"}, {"order": "seeded"}, {"top_logprobs": 5}, {"parser": "text"}):
        assert spec(**changed) != spec()
