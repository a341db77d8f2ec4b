"""Requests to an API that is still starting: when they are made, and when they are given up."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from graders.harness.api import Api, free_port
from graders.harness.history import History


class Health(http.server.BaseHTTPRequestHandler):
    """Answers every GET with 200."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    """An API without a process; `looks` counts how often it was found that nobody listens."""
    history = History()
    session = SimpleNamespace(stopping=False, loop=SimpleNamespace(call_soon=lambda f, *a: f(*a)))
    lab = SimpleNamespace(history=history, session=session, store="Redis",
                          budgets=SimpleNamespace(work=10.0, boot=10.0))
    api = Api(lab, "api-1")
    api.port, api.process, api.looks = free_port(), SimpleNamespace(exit=None), 0

    def looked(*_: object) -> None:
        api.looks += 1
        api.on_look()

    history.wait = looked
    api.on_look = lambda: None
    yield api
    api._senders.shutdown()


def test_an_api_is_asked_once_as_soon_as_it_listens(api: Api) -> None:
    with contextlib.ExitStack() as stack:

        def listen_at_last() -> None:
            if api.looks == 3:
                server = stack.enter_context(
                    http.server.HTTPServer(("127.0.0.1", api.port), Health)
                )
                threading.Thread(target=server.handle_request).start()

        api.on_look = listen_at_last
        request, _ = api.ask_health(1000.0)
        assert (request.answer.status, api.looks) == (200, 3)


def test_an_api_that_ends_while_it_starts_is_waited_for_no_longer(api: Api) -> None:
    def ends() -> None:
        api.process.exit = "ended"

    api.on_look = ends
    request, _ = api.ask_health(1000.0)
    assert (request.over, request.answer, request.problem) == (
        True, None, "the connection was refused",
    )  # fmt: skip
    assert api.looks == 1


def test_a_request_that_is_no_start_is_refused_at_once(api: Api) -> None:
    request = api.send("GET", "/tasks")
    assert api.wait_answer(request) is None
    assert (request.problem, api.looks) == ("the connection was refused", 0)


def test_the_time_to_start_runs_out(api: Api) -> None:
    request, _ = api.ask_health(0.1)  # a look counts as 20 ms at least, and may take longer
    assert request.problem == "the connection was refused"
    assert 1 <= api.looks <= 6
