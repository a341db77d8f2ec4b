"""Bodies of POST /tasks that have to be refused, and some at the limits of what is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

LONGEST = 10_000  # characters of a description
TOO_MUCH = 1_300_000  # bytes, more than 1 MB by any way of counting


@dataclass(frozen=True)
class Case:
    """One body. `what` follows “with”; `field` is what the answer names, if it is a field."""

    what: str
    body: bytes
    field: str = ""
    headers: Mapping[str, str] | None = None


def bad() -> Iterator[Case]:
    """Bodies that are refused."""
    good = "tidy the shed"
    for what, data in (
        ("no description", {"priority": 1}),
        ("an empty description", {"description": ""}),
        ("a blank description", {"description": " \t\n "}),
        ("a description that is a number", {"description": 5}),
        ("a description that is null", {"description": None}),
        ("a description that is a list", {"description": [good]}),
        ("a description of 10,001 characters", {"description": "x" * (LONGEST + 1)}),
    ):
        yield Case(what, _as_json(data), "description")
    for what, priority in (
        ("the priority 10", 10), ("the priority -1", -1), ("the priority 1.5", 1.5),
        ("the priority “1”, a text", "1"), ("the priority true", True),
        ("a priority that is null", None), ("a priority that is a list", [1]),
    ):  # fmt: skip
        yield Case(what, _as_json({"description": good, "priority": priority}), "priority")
    yield Case("a priority that is NaN, which JSON does not know",
               b'{"description": "tidy the shed", "priority": NaN}')  # fmt: skip
    yield Case("no body", b"")
    yield Case("a body that is no JSON", b"description=tidy+the+shed")
    yield Case("a body that is cut off", b'{"description": "tidy')
    yield Case("a list as its body", _as_json([{"description": good}]))
    yield Case("a text as its body", _as_json(good))
    yield Case("null as its body", b"null")
    yield Case("a body that is no UTF-8", b'{"description": "caf\xe9"}')


def too_large() -> Iterator[Case]:
    """Bodies of which everything but the size is right; of one the size is not announced."""
    data = {"description": "tidy the shed", "notes": "x" * TOO_MUCH}
    case = Case("a body of 1.3 MB", _as_json(data))
    yield case
    yield replace(
        case, what=f"{case.what} whose length is not announced (chunked)",
        headers={"Transfer-Encoding": "chunked"},
    )


def good() -> Iterator[dict[str, Any]]:
    """Bodies that are accepted."""
    yield {"description": "d" * LONGEST, "priority": 9}
    yield {"description": "ü" * LONGEST, "priority": 1}  # characters, and not bytes
    yield {"description": "sweep the yard", "priority": 0}


def _as_json(data: Any) -> bytes:
    return json.dumps(data).encode()
