"""A student's API in a check: its process, and requests to it as a client makes them.

A request is told in the history (who: "client"), so that a timeline shows client, API and store
side by side. Requests are made by http.client, one connection each: nothing is tried twice, and
nothing is made well that was not.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graders.harness import history as h
from graders.harness.program import Program
from graders.harness.results import Evidence
from graders.harness.steps import Hold, Step
from graders.harness.untrusted import from_json

if TYPE_CHECKING:
    from graders.harness.room import Room

CLIENT = "client"
SHOWN = 160  # characters of a body in a message
# Below the ports that the kernel gives to outgoing connections, on Linux and macOS alike.
PORTS = range(20_000, 32_000)
STARTING = 1.0  # seconds of one wait for an API that starts
LOOK_AGAIN = 0.02  # seconds between two looks whether an API listens already

_given: set[int] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Answer:
    """What came back for a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is none (or is null)."""
        return from_json(self.body)

    @property
    def shown(self) -> str:
        """The status and the body, in a line."""
        text = " ".join(self.body.decode("utf-8", "backslashreplace").split())
        return f"{self.status} {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}".rstrip()


@dataclass(eq=False)
class Request:
    """One request, sent or on its way. `answer` is there once it has come."""

    method: str
    path: str
    body: bytes | None
    answer: Answer | None = None
    problem: str = ""  # why there is none: "the connection was refused"
    _done: Future[None] = field(default_factory=Future, repr=False)

    @property
    def over(self) -> bool:
        """Whether its answer has come, or can come no more."""
        return self._done.done()

    @property
    def shown(self) -> str:
        """The method, the path and the body, in a line."""
        text = "" if self.body is None else self.body.decode("utf-8", "backslashreplace")
        text = " ".join(text.split())
        more = f" {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}" if text else ""
        return f"{self.method} {self.path[:SHOWN]}{more}"


class Api(Program):
    """An API that a check has started. Its requests may be made by several threads."""

    role = "api"
    exited = "api-exited"

    def __init__(self, lab: Room, name: str) -> None:
        super().__init__(lab, name)
        self.port = 0
        self.store = lab.store
        # Its threads are started as requests need them.
        self._senders = ThreadPoolExecutor(64, thread_name_prefix="client")

    def start(self, env: dict[str, str | None], hold: Callable[[Step], bool] | None) -> None:
        """Start it on a free port. Does not wait for anything."""
        self.port = free_port()
        self.run({"PORT": str(self.port), "WORKER_ID": None, **env}, hold=hold)

    # Requests

    def send(
        self, method: str, path: str, data: Any = None, *, body: bytes | None = None,
        headers: Mapping[str, str] | None = None, told: bool = True, timeout: float | None = None,
        boot: float = 0.0,
    ) -> Request:
        """Send a request and return at once. `data` is sent as JSON, `body` as it is.

        `timeout` (seconds, by default the work budget) bounds each wait for the API. As long as
        nobody listens, and the API lives, connecting is tried again for `boot` seconds.
        """
        if body is None and data is not None:
            body = json.dumps(data).encode()
        request = Request(method, path, body)
        if told:
            self.lab.history.add(h.REQUEST_SENT, CLIENT, request.shown, request=request,
                                 to=self.name)
        timeout = self.lab.budgets.work if timeout is None else timeout
        self._senders.submit(self._exchange, request, dict(headers or {}), timeout, told, boot)
        return request

    def request(
        self, method: str, path: str, data: Any = None, *, body: bytes | None = None,
        headers: Mapping[str, str] | None = None, timeout: float | None = None,
    ) -> Answer:
        """Send a request and wait for its answer. Raises a Finding when none comes."""
        return self.answer_of(
            self.send(method, path, data, body=body, headers=headers, timeout=timeout)
        )

    def answer_of(self, request: Request) -> Answer:
        """The answer to a request that was sent. Raises a Finding when none comes."""
        answer = self.wait_answer(request)
        if answer is not None:
            return answer
        expected = f"{request.shown} is answered."
        self.fail_if_ended(expected, although_stopping=True)
        raise self.lab.finding(
            "request-unanswered", expected, f"No answer came: {request.problem}.",
            self.statement_evidence(), self.log_evidence(),
        )  # fmt: skip

    def wait_answer(self, request: Request, budget: float | None = None) -> Answer | None:
        """The answer to a request; None when none came (`problem` says why)."""
        budget = 3 * self.lab.budgets.work if budget is None else budget
        self.lab.history.wait_until(lambda _: request.over, budget)
        if not request.over:
            request.problem = f"it was still on its way {budget:.0f} s later"
        return request.answer

    def _exchange(
        self, request: Request, headers: dict[str, str], timeout: float, told: bool, boot: float
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            left = self._connect(connection, boot)
            if boot:
                connection.sock.settimeout(max(left, 1.0))
            if request.body is not None:
                headers.setdefault("Content-Type", "application/json")
            chunked = headers.get("Transfer-Encoding") == "chunked"
            connection.request(
                request.method, request.path, request.body, headers, encode_chunked=chunked
            )
            came = connection.getresponse()
            request.answer = Answer(came.status, dict(came.getheaders()), came.read())
        except ConnectionRefusedError:
            request.problem = "the connection was refused"
        except TimeoutError:
            request.problem = f"nothing came for {timeout:.0f} s"
        except (OSError, http.client.HTTPException, ValueError) as error:
            request.problem = f"the connection broke off ({type(error).__name__})"
        finally:
            connection.close()
            # On the loop, as all that proxies and world tell: so what the API was answered before
            # it answered stands before it in the history, however slowly the loop gets to it.
            self.lab.session.loop.call_soon(self._came, request, told)

    def _connect(self, connection: http.client.HTTPConnection, boot: float) -> float:
        """Connect to it; for `boot` seconds that nobody listens yet is no reason to give up.

        Returns what is left of them.
        """
        history = self.lab.history
        while True:
            try:
                connection.connect()
                return boot
            except ConnectionRefusedError:
                if boot <= 0 or not self.alive or history.closed or self.lab.session.stopping:
                    raise
            # Not a moment to hit: only so that a start is not slowed by our asking.
            began = history.now()
            history.wait(lambda e: e.kind == h.EXIT, LOOK_AGAIN, len(history))
            boot -= min(max(history.now() - began, LOOK_AGAIN), 2.0)

    def _came(self, request: Request, told: bool) -> None:
        request._done.set_result(None)
        if told:
            text = request.answer.shown if request.answer else f"no answer: {request.problem}"
            self.lab.history.add(h.REQUEST_ANSWERED, self.name, text, request=request, to=CLIENT)
        else:
            self.lab.history.add(h.LOOKED, CLIENT, "looked whether it answers")

    # What is expected of it

    def send_health(self, budget: float) -> Request:
        """Send GET /health to an API that may not listen yet, and return at once."""
        return self.send("GET", "/health", told=False, timeout=max(budget, 1.0), boot=budget)

    def ask_health(self, budget: float) -> tuple[Request, float]:
        """GET /health of an API that may not listen yet; the request, and what is left.

        Returns when it is over, or the budget (seconds) is. An answer is waited for another second.
        """
        request = self.send_health(budget)
        history, left = self.lab.history, budget
        while not request.over and left > -2.0 and not history.closed:
            # In short turns: a program that starts is at work, and whoever waits for long gives its
            # place to another. A machine that stands still uses up no more than two of them.
            began = history.now()
            history.wait_until(lambda _: request.over, STARTING)
            left -= min(max(history.now() - began, 0.001), 2 * STARTING)
        if not request.over:
            request.problem = "it was still on its way"
        return request, left

    def expect_ready(self) -> None:
        """GET /health is answered, whatever the answer, within the boot budget."""
        self.first_answer(
            f"{self.name} starts, and answers GET /health on the port that PORT names.",
            self.log_evidence,
        )

    def first_answer(self, expected: str, *evidence: Callable[[], Evidence]) -> Answer:
        """What GET /health is answered with first, within the boot budget.

        Raises a Finding, with this evidence, where it is not answered as `expected` says.
        """
        lab = self.lab
        left = lab.budgets.boot
        while True:
            request, left = self.ask_health(left)
            if request.answer is not None:
                return request.answer
            self.fail_if_ended(expected)
            lab.history.wait(lambda e: e.kind == h.EXIT, LOOK_AGAIN, len(lab.history))
            left -= LOOK_AGAIN
            if left <= 0 or lab.session.stopping:
                break
        raise lab.finding(
            "api-never-ready", expected,
            f"In {lab.budgets.boot:.0f} s it did not: {request.problem}.",
            *(each() for each in evidence),
        )  # fmt: skip

    def expect_no_server_error(self, request: Request, expected: str) -> None:
        """The request was not answered with 5xx. Raises a Finding."""
        answer = self.answer_of(request)
        if answer.status >= 500:
            # What it logs of its error may come after the answer; it is there by the next one.
            self.wait_answer(self.send("GET", "/health", told=False, timeout=2.0), 2.0)
            self.read_log()
            raise self.lab.finding(
                "server-error", expected, f"It was answered with status {answer.status}.",
                self.exchange_evidence(request), self.statement_evidence(4), self.log_evidence(20),
            )  # fmt: skip

    def expect_held(self, hold: Hold, request: Request, expected: str, seen: str) -> None:
        """A step of this request is held, within the work budget. Raises a Finding."""
        if hold.wait_reached(self.lab.budgets.work) is None:
            self.answer_of(request)  # or it says why there is none
            raise self.lab.finding(
                "act-failed", expected, seen, self.statement_evidence(),
                self.exchange_evidence(request),
            )  # fmt: skip

    def exchange_evidence(self, request: Request) -> Evidence:
        """A request and what was answered."""
        came = request.answer.shown if request.answer else f"(no answer: {request.problem})"
        return Evidence("The request and its answer", (request.shown, f"-> {came}"))

    def close(self) -> None:
        """End its process, its proxy and what is still being asked."""
        super().close()
        self._senders.shutdown(wait=False, cancel_futures=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, and that is given to nobody else in this run."""
    with _lock:
        while True:
            port = random.choice(PORTS)
            if port in _given:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            _given.add(port)
            if len(_given) > len(PORTS) // 2:
                _given.clear()
            return port
