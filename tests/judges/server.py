"""An OpenAI-compatible server that answers as it is told, with every fault that real ones have.

What it answers follows from the question alone. What it was asked, what it answered and what it would have charged for
are kept, so that a test can say: every question once.
"""

import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdef"
MODEL = "judge-1"

Fault = str
"""`429`, `500`, `400`, `401`, `404`, `hang`, `cut`, `html`, `garbage`, `nothing`, `no_logprobs`, `no_usage`,
`wrong_model`, `retry_after`, `slow`, `odd_logprobs`, `quota`."""


def strength(messages: Sequence[Mapping[str, str]]) -> float:
    """Probability of the first answer that this judge gives to a question."""
    text = json.dumps(messages, sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


@dataclass
class Judge:
    """The server's memory, and its orders."""

    faults: Callable[[int, int], Fault | None] = lambda number, tries: None
    """Fault of a request, by its number from 0 and how often this question was asked before."""
    key: str | None = KEY
    model: str = MODEL
    slowness: float = 0.0
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Questions in the order in which they came."""
    paid: Counter[str] = field(default_factory=Counter)
    """How often each question was answered in full, whatever was said."""
    most_at_once: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, question: str, body: dict[str, Any]) -> tuple[int, int]:
        """Note a request; says its number, and how often the question was asked before."""
        with self.lock:
            self.busy += 1
            self.most_at_once = max(self.most_at_once, self.busy)
            number, tries = len(self.asked), self.asked.count(question)
            self.asked.append(question)
            self.bodies.append(body)
            return number, tries

    def leave(self, question: str, *, answered: bool) -> None:
        with self.lock:
            self.busy -= 1
            self.paid[question] += answered


def completion(messages: Sequence[Mapping[str, str]], body: Mapping[str, Any], fault: Fault | None) -> dict[str, Any]:
    """A chat completion, with what is wrong with it."""
    p = strength(messages)
    top = [("m", math.log(p)), ("M", math.log1p(-p)), ("Both", -9.0), ("The", -12.0)]
    if fault == "odd_logprobs":
        top = [("Both", -0.1), ("The", -3.0)]
    answer = "I cannot say." if fault == "garbage" else max(top[:2], key=lambda t: t[1])[0]
    logprobs = {"content": [{"token": answer, "logprob": 0.0, "top_logprobs": [_token(*t) for t in top]}]}
    if fault == "no_logprobs" or not body.get("logprobs"):
        logprobs = None  # type: ignore[assignment]
    if fault == "garbage" and logprobs is not None:
        logprobs["content"][0]["top_logprobs"] = [_token("I", -0.1)]
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "another" if fault == "wrong_model" else body["model"],
        "choices": []
        if fault == "nothing"
        else [
            {
                "index": 0,
                "finish_reason": "length",
                "message": {"role": "assistant", "content": answer},
                "logprobs": logprobs,
            }
        ],
        "usage": None
        if fault == "no_usage"
        else {
            "prompt_tokens": (tokens := len(json.dumps(messages)) // 4),
            "completion_tokens": 1,
            "total_tokens": tokens + 1,
        },
    }


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    judge: Judge

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._send(
            200,
            {"object": "list", "data": [{"id": self.judge.model, "object": "model", "created": 1, "owned_by": "me"}]},
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()
        number, tries = self.judge.enter(question, body)
        answered = False
        try:
            with suppress(OSError):  # the client may have gone
                answered = self._answer(body, self.judge.faults(number, tries))
        finally:
            self.judge.leave(question, answered=answered)

    def _answer(self, body: dict[str, Any], fault: Fault | None) -> bool:  # noqa: PLR0911 (one return per fault)
        if self.judge.key is not None and self.headers["Authorization"] != f"Bearer {self.judge.key}":
            return self._refuse(401, f"Incorrect API key provided: {self.headers['Authorization']}")
        if body["model"] != self.judge.model or fault == "404":
            return self._refuse(404, f"The model {body['model']} does not exist")
        if fault in ("400", "401", "429", "500", "503"):
            return self._refuse(int(fault), f"told to say {fault}")
        if fault == "quota":
            return self._refuse(429, "You exceeded your quota", code="insufficient_quota")
        if fault == "retry_after":
            return self._refuse(429, "slower", headers={"Retry-After": "0.2"})
        if fault == "hang":
            time.sleep(30)
            return False
        if fault == "html":
            self._raw(200, b"<html>gateway</html>", "text/html")
            return False
        time.sleep(self.judge.slowness * (20 if fault == "slow" else 1))
        reply = completion(body["messages"], body, fault)
        if fault == "cut":
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return False
        return self._send(200, reply) and fault != "nothing"

    def _refuse(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> bool:
        error = {"error": {"message": message, "type": "told", "code": code}}
        self._send(status, error, headers)
        return False

    def _send(self, status: int, reply: Any, headers: Mapping[str, str] | None = None) -> bool:
        return self._raw(status, json.dumps(reply).encode(), "application/json", headers)

    def _raw(self, status: int, data: bytes, kind: str, headers: Mapping[str, str] | None = None) -> bool:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
        return status == 200


@contextmanager
def serving(judge: Judge) -> Iterator[Judge]:
    """The server, on a free port of this machine, for as long as the block lasts."""
    handler = type("Handler", (_Handler,), {"judge": judge})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
