"""Asking a server many questions: each once, many at a time, within a budget, and no longer than it makes sense."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from harness.errors import PrefsweepError
from harness.judges import parsers
from harness.judges.client import Client, Reply, RequestError
from harness.judges.cost import Budget, Tokens
from harness.judges.journal import Entry, Journal

Read = Callable[[str, Mapping[str, float] | None], tuple[float | None, str | None]]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request."""

    group: str
    """The match that it is about: one failed question is enough for a match to have failed."""
    request: str
    """Hash of the messages."""
    messages: Sequence[Mapping[str, str]]
    expected: Tokens
    """Estimate of what it will take."""


class Asking:
    """One node's questions to one judge.

    An answer is on disk before it counts. What a killed process had under way may have been paid for, and is asked
    again: at most as many questions as were under way at once.
    """

    def __init__(
        self,
        client: Callable[[], AbstractAsyncContextManager[Client]],
        journal: Journal,
        budget: Budget,
        read: Read,
    ) -> None:
        self._new_client, self._journal, self._budget = client, journal, budget
        self._read = read
        self._under_way = Tokens()
        self._failed: dict[str, RequestError] = {}
        """By request: those without an answer."""
        self._failed_groups: set[str] = set()
        self._reasons: Counter[str] = Counter()
        self._last_words = ""
        self.asked = 0
        self.paid = Tokens()

    def outcome(self, question: Question) -> Entry | str:
        """What was answered, or why nothing was."""
        entry = self._journal.get(question.request)
        return entry if entry is not None else self._failed[question.request].reason

    async def ask(
        self, questions: Sequence[Question], concurrency: int, share: float, advance: Callable[[int], None]
    ) -> None:
        """Have every question answered, or know why it is not.

        Args:
            share: of the matches that may fail; asking ends when more have.

        Raises:
            ServerError: no question can be answered.
            BudgetError: more would be spent than was allowed; what was answered is kept.
            PrefsweepError: too many failed.
        """
        allowed = share * len({question.group for question in questions})
        for question in questions:
            if (entry := self._journal.get(question.request)) is not None and entry.failure is not None:
                self._note_failure(question, entry.failure, entry.answer)
        new = list({q.request: q for q in questions if self._journal.get(q.request) is None}.values())
        advance(len(questions) - len(new))
        expected = sum((question.expected for question in new), start=Tokens())
        self._budget.check(self._spent, expected, f"{len(new)} judgements would take")
        if new:
            async with self._new_client() as client:
                # Alone, so that a wrong key or model costs one request, and says so at once.
                await self._ask_all(client, iter(new[:1]), 1, allowed, advance)
                await self._ask_all(client, iter(new[1:]), concurrency, allowed, advance)
        self._check_failures(allowed)

    @property
    def _spent(self) -> Tokens:
        return Tokens(prompt=self._journal.prompt_tokens, completion=self._journal.completion_tokens)

    async def _ask_all(
        self,
        client: Client,
        queue: Iterator[Question],
        concurrency: int,
        allowed: float,
        advance: Callable[[int], None],
    ) -> None:
        """Ask until the queue is empty or something ends it; what is under way then is paid for, and waited for."""
        ended: list[PrefsweepError] = []

        async def work() -> None:
            for question in queue:
                try:
                    if self._journal.get(question.request) is None:  # no other node has asked it in the meantime
                        await self._ask(client, question)
                    self._check_failures(allowed)
                except PrefsweepError as error:
                    ended.append(error)
                if ended:
                    return
                advance(1)

        await asyncio.gather(*(work() for _ in range(concurrency)))
        if ended:
            raise ended[0]

    async def _ask(self, client: Client, question: Question) -> None:
        self._budget.check(self._spent + self._under_way, question.expected, "the next judgement would take")
        self._under_way += question.expected
        try:
            reply = await client.ask(question.messages)
        except RequestError as error:
            self._failed[question.request] = error
            self._note_failure(question, error.reason, str(error))
            return
        finally:
            self._under_way -= question.expected
        entry = self._entry(question, reply)
        self._journal.add(question.request, entry)
        self.asked += 1
        self.paid += Tokens(prompt=entry.prompt_tokens, completion=entry.completion_tokens)
        if entry.failure is not None:
            self._note_failure(question, entry.failure, entry.answer)

    def _entry(self, question: Question, reply: Reply) -> Entry:
        counted = (reply.prompt_tokens, reply.completion_tokens)
        guessed = (question.expected.prompt, question.expected.completion)
        prompt, completion = (guess if count is None else count for count, guess in zip(counted, guessed, strict=True))
        return Entry(
            answer=reply.answer,
            logprobs=reply.logprobs,
            model=reply.model,
            prompt_tokens=prompt,
            completion_tokens=completion,
            estimated=None in counted,
            failure=self._read(reply.answer, reply.logprobs)[1],
        )

    def _note_failure(self, question: Question, reason: str, words: str) -> None:
        self._failed_groups.add(question.group)
        self._reasons[reason] += 1
        self._last_words = f"the last, {reason}: {words[:200]!r}"

    def _check_failures(self, allowed: float) -> None:
        """End where too much has failed.

        Raises:
            PrefsweepError: names the reasons.
        """
        if len(self._failed_groups) <= allowed:
            return
        self._journal.forget_failures()  # so that the same command asks again, once the judge has been mended
        said = ", ".join(f"{reason} {number}" for reason, number in self._reasons.most_common())
        hint = _HINTS.get(self._reasons.most_common(1)[0][0], "")
        raise PrefsweepError(
            f"judge: {len(self._failed_groups)} comparisons failed ({said}; {self._last_words}), more than "
            f"judge.max_failed_share allows{hint}"
        )


_HINTS = {
    parsers.NO_LOGPROBS: "; the server gives no log-probabilities for this model (judge.parser=text does without them)",
    parsers.NO_CHOICE: "; the judge does not answer with m or M, as the prompt asks",
    "connection": "; is judge.base_url the address of a running server?",
}
"""What to do about the most frequent reason."""
