"""Requests that an API has to refuse, and those that look like it and are good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HUGE = 10**30
OVER_BIGINT = 9_223_372_036_854_775_807 // 100 + 2  # a page whose offset no bigint holds


@dataclass(frozen=True)
class Case:
    """One request. `what` follows “with”: “a title that is blank”."""

    what: str
    method: str
    path: str
    body: bytes | None = None


def as_json(data: Any) -> bytes:
    return json.dumps(data).encode()


def good_tasks() -> Iterator[tuple[str, dict[str, Any]]]:
    """Bodies of POST /tasks at the limits of what is allowed."""
    yield "a title of 200 characters", {"title": "x" * 200}
    yield "a title of 200 characters that are three bytes each", {"title": "漢" * 200}
    yield "a title that begins and ends with a space", {"title": " tidy up "}
    yield "a description of 10,000 characters", {"title": "long", "description": "ä" * 10_000}
    yield "a type of 50 characters", {"title": "typed", "type": "t" * 50}
    yield "the priority 0", {"title": "least", "priority": 0}
    yield "the priority 9", {"title": "most", "priority": 9}
    yield "a description that is null", {"title": "bare", "description": None}
    yield "an empty description", {"title": "bare", "description": ""}


def bad_tasks() -> Iterator[Case]:
    """Bodies of POST /tasks that are refused."""
    good = {"title": "a good one"}
    for what, data in (
        ("no title", {"description": "no title"}),
        ("a title that is null", {"title": None}),
        ("a title that is a number", {"title": 7}),
        ("a title that is a list", {"title": ["a"]}),
        ("an empty title", {"title": ""}),
        ("a title that is blank", {"title": " \t\n"}),
        ("a title of 201 characters", {"title": "x" * 201}),
        ("a NUL character in the title", {"title": "a\0b"}),
        ("a description that is a number", {**good, "description": 7}),
        ("a description of 10,001 characters", {**good, "description": "x" * 10_001}),
        ("a NUL character in the description", {**good, "description": "a\0b"}),
        ("an empty type", {**good, "type": ""}),
        ("a type that is blank", {**good, "type": "  "}),
        ("a type that is a number", {**good, "type": 1}),
        ("a type of 51 characters", {**good, "type": "x" * 51}),
        ("a NUL character in the type", {**good, "type": "a\0"}),
        ("the priority 10", {**good, "priority": 10}),
        ("the priority -1", {**good, "priority": -1}),
        ("the priority 1.5", {**good, "priority": 1.5}),
        ("the priority true", {**good, "priority": True}),
        ("the priority “1”, a text", {**good, "priority": "1"}),
        ("a priority of 31 digits", {**good, "priority": HUGE}),
        ("a priority that is null", {**good, "priority": None}),
        ("a type that is null", {**good, "type": None}),
        ("a field that no task has", {**good, "prioritty": 3}),
        ("an id of its own", {**good, "id": "6b3f8d52-0000-4000-8000-1c2d3e4f5a6b"}),
        ("an assigned_worker", {**good, "assigned_worker": "me"}),
        ("a status of its own", {**good, "status": "completed"}),
        ("a list as its body", [good]),
        ("a text as its body", "a good one"),
        ("null as its body", None),
    ):
        yield Case(what, "POST", "/tasks", as_json(data))
    yield Case("an empty body", "POST", "/tasks", b"")
    yield Case("a body that is cut off", "POST", "/tasks", b'{"title": "a good')
    yield Case("a body that is no JSON", "POST", "/tasks", b"title=a+good+one")
    yield Case("the priority NaN (which is no JSON)", "POST", "/tasks",
               b'{"title": "a good one", "priority": NaN}')


def bad_changes(path: str) -> Iterator[Case]:
    """Bodies of PUT that are refused; `path` is that of a task that is pending."""
    for what, data in (
        ("nothing to change", {}),
        ("a title that is blank", {"title": "  "}),
        ("a title that is null", {"title": None}),
        ("a title of 201 characters", {"title": "x" * 201}),
        ("a NUL character in the title", {"title": "\0"}),
        ("a description of 10,001 characters", {"description": "x" * 10_001}),
        ("the priority 10", {"priority": 10}),
        ("the priority -1", {"priority": -1}),
        ("the priority “high”", {"priority": "high"}),
        ("the priority “1”, a text", {"priority": "1"}),
        ("the priority true", {"priority": True}),
        ("a priority that is null", {"priority": None}),
        ("a NUL character in the description", {"description": "a\0b"}),
        ("a status that is null", {"status": None}),
        ("a type", {"type": "email"}),
        ("the status “cancelled”, which there is not", {"status": "cancelled"}),
        ("an assigned_worker", {"assigned_worker": "me"}),
        ("a field that no task has", {"title": "new", "colour": "red"}),
        ("a list as its body", []),
    ):
        yield Case(what, "PUT", path, as_json(data))
    yield Case("an empty body", "PUT", path, b"")
    yield Case("a body that is cut off", "PUT", path, b'{"title":')


def bad_questions() -> Iterator[Case]:
    """Queries of GET /tasks that are refused."""
    for what, query in (
        ("page=0", "page=0"),
        ("page=-1", "page=-1"),
        ("page=x", "page=x"),
        ("page=1.5", "page=1.5"),
        ("limit=0", "limit=0"),
        ("limit=101", "limit=101"),
        ("limit=-5", "limit=-5"),
        ("limit=ten", "limit=ten"),
        ("a limit of 31 digits", f"limit={HUGE}"),
        ("status=done, which there is not", "status=done"),
        ("a NUL character in the status", "status=pending%00"),
    ):
        yield Case(what, "GET", f"/tasks?{query}")


def bad_ids() -> Iterator[Case]:
    """Requests for a task whose id is malformed."""
    good = as_json({"title": "new"})
    for what, id in (
        ("an id that is no UUID", "not-a-uuid"),
        ("an id that is a number", "1"),
        ("an id that is a NUL character", "%00"),
        ("an id that has a letter too many", "6b3f8d52-0000-4000-8000-1c2d3e4f5a6bc"),
    ):
        for method in ("GET", "PUT", "DELETE"):
            yield Case(what, method, f"/tasks/{id}", good if method == "PUT" else None)


def odd_ones() -> Iterator[Case]:
    """Requests that may be answered in several ways, but never with a server's error."""
    yield Case("half a surrogate pair in the title", "POST", "/tasks", b'{"title": "\\ud800"}')
    yield Case("bytes that are no UTF-8", "POST", "/tasks", b'{"title": "\xff\xfe"}')
    yield Case("a page of 31 digits", "GET", f"/tasks?page={HUGE}")
    yield Case("a page whose offset no bigint holds", "GET",
               f"/tasks?page={OVER_BIGINT}&limit=100")
