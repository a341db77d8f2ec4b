"""How a task becomes four parts, by the words of its description."""

from __future__ import annotations

RULES = [
    (
        {"auth", "authentication", "login"},
        [
            "Design the user table",
            "Write the login endpoint",
            "Hash and check passwords",
            "Test the login",
        ],
    ),
    (
        {"api", "endpoint", "rest"},
        ["Design the endpoints", "Write the handlers", "Check the input", "Test the endpoints"],
    ),
]
OTHERWISE = ["Plan", "Build", "Test", "Document"]


def split(description: str) -> list[str]:
    """The four parts of a task. The first rule counts of which the description holds a word."""
    raise NotImplementedError("TODO 4 is open: split a task in four (orchestrator/splitting.py)")
