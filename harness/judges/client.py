"""One request to an OpenAI-compatible server: tried again where that may help, refused in words where it will not."""

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from harness.errors import PrefsweepError

_FIRST_WAIT = 1.0
"""Seconds before the second attempt; doubled for each further one, and half of it drawn at random."""
_LONGEST_WAIT = 60.0
_LONGEST_RETRY_AFTER = 600.0
"""A server that asks for more patience than this is not waited for."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered."""

    answer: str
    logprobs: Mapping[str, float] | None
    """Of the first token's likely ones, in nats."""
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None


class RequestError(PrefsweepError):
    """One request that came to nothing; the others may go on."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        """Short name, to be counted."""


class ServerError(PrefsweepError):
    """A server that cannot be asked: no request will do better."""


class Client:
    """Asks one model of one server.

    Args:
        secret: the key; None for a server that asks for none.
        request: fields of every request but the messages.
        served_as: whether a name is one under which the server may say that the model answers.
    """

    def __init__(
        self,
        base_url: str,
        secret: str | None,
        request: Mapping[str, Any],
        served_as: Callable[[str], bool],
        *,
        timeout: float,
        attempts: int,
    ) -> None:
        import openai

        self._openai = openai
        self._base_url, self._secret, self._request = base_url, secret, dict(request)
        self._served_as, self._timeout, self._attempts = served_as, timeout, attempts
        self._not_before = 0.0
        """Monotonic time before which the server wants no request."""
        # A proxy of the environment must not see requests to this machine, nor their token.
        local = urlsplit(base_url).hostname in _LOOPBACK
        self._client = openai.AsyncOpenAI(
            api_key=secret or "none",
            base_url=base_url,
            max_retries=0,  # counted and waited for here
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if local else None,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """The answer to one conversation.

        Raises:
            RequestError: this request failed at all of its attempts, or cannot succeed.
            ServerError: the key, the model or the server is wrong.
        """
        for attempt in range(1, self._attempts + 1):
            await self._wait()
            try:
                # The library's own time-out is for each read: a server that trickles would hold a request for ever.
                async with asyncio.timeout(self._timeout):
                    completion = await self._client.chat.completions.create(messages=messages, **self._request)
                return self._checked(_reply(completion))
            except (TimeoutError, self._openai.APITimeoutError):
                error = RequestError("timeout", f"no answer within {self._timeout:g} s")
            except self._openai.APIStatusError as status:
                error = await self._refused(status)
                self._note_patience(status)
            except self._openai.APIConnectionError as connection:
                error = RequestError("connection", self._safe(f"{connection}: {connection.__cause__ or ''}"))
            except (self._openai.APIResponseValidationError, _UnreadableError, ValueError) as garbage:
                error = RequestError("unreadable_reply", self._safe(f"no chat completion: {garbage}"))
            if attempt == self._attempts or error.reason == "rejected":
                raise error
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1))
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)
        raise AssertionError("unreachable")

    def _checked(self, reply: Reply) -> Reply:
        """A reply of the model that was asked.

        Raises:
            ServerError: of another one.
        """
        if not self._served_as(reply.model):
            raise ServerError(
                f"judge.model: the server answers as {reply.model[:100]!r}; if that is the judge you mean, set "
                "judge.served_as to it"
            )
        return reply

    async def _wait(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _note_patience(self, status: Any) -> None:
        """Hold back all requests for as long as the server asks."""
        seconds = _retry_after(status.response.headers.get("retry-after"))
        if seconds is None:
            return
        if seconds > _LONGEST_RETRY_AFTER:
            raise ServerError(
                f"judge: {self._base_url} asks to wait {seconds:.0f} s (status {status.status_code}); what was "
                "answered is kept, and the same command goes on from there"
            )
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    async def _refused(self, status: Any) -> RequestError:
        """What a status means: to be tried again, or of no use for this request.

        Raises:
            ServerError: of no use for any.
        """
        code, text = status.status_code, self._safe(str(status.message))
        if code in (401, 403):
            raise ServerError(f"judge: {self._base_url} refuses the key (status {code}): {text}")
        if code == 404:
            raise ServerError(f"judge.model: {self._base_url} has no {self._request['model']!r}{await self._models()}")
        if code == 429 and getattr(status, "code", None) == "insufficient_quota":
            raise ServerError(f"judge: {self._base_url}: the quota of this key is spent: {text}")
        if code == 429:
            return RequestError("rate_limit", text)
        if code in (408, 409) or code >= 500:
            return RequestError("server_error", f"status {code}: {text}")
        return RequestError("rejected", f"status {code}: {text}")

    async def _models(self) -> str:
        """The models that there are, where the server says so."""
        try:
            async with asyncio.timeout(self._timeout):
                names = sorted([model.id async for model in self._client.models.list()])
        except (self._openai.OpenAIError, TimeoutError, ValueError):
            return " (or judge.base_url is wrong: it ends with /v1 as a rule)"
        return self._safe(f"; it has {', '.join(names) or 'none'}")

    def _safe(self, text: str) -> str:
        """A server's words in one line, without the key, which some repeat."""
        line = " ".join(text.split())
        return (line.replace(self._secret, "***") if self._secret else line)[:300]


class _UnreadableError(Exception):
    """A reply that is no chat completion."""


def _reply(completion: Any) -> Reply:
    """What counts of a completion; a server's mistakes in it are errors here, and not numbers.

    Raises:
        _UnreadableError: not in the form of a chat completion.
    """
    try:
        choice = completion.choices[0]
        content = choice.message.content
        logprobs = _logprobs(choice.logprobs)
        usage = completion.usage
        counts = (None, None) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
        model = completion.model
    except (AttributeError, IndexError, TypeError, KeyError) as error:
        raise _UnreadableError(f"{type(completion).__name__} without {error}") from None
    if not isinstance(content, str | None) or not all(_is_count(count) for count in counts):
        raise _UnreadableError("content that is no text, or token counts that are none")
    return Reply(
        answer=content or "",
        logprobs=logprobs,
        model=str(model or ""),
        prompt_tokens=counts[0],
        completion_tokens=counts[1],
    )


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _logprobs(given: Any) -> dict[str, float] | None:
    """Log-probabilities of the first token's likely ones; None where the server gave none."""
    if given is None or not given.content or not given.content[0].top_logprobs:
        return None
    top = given.content[0].top_logprobs
    found = {t.token: float(t.logprob) for t in top if isinstance(t.token, str) and isinstance(t.logprob, float | int)}
    return {token: logprob for token, logprob in found.items() if math.isfinite(logprob)} or None


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None without one, or one that is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
