"""How a task becomes four parts, by the words of its description."""

from __future__ import annotations

import re

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
    words = set(re.findall(r"\w+", description.lower()))
    for triggers, parts in RULES:
        if words & triggers:
            return parts
    return [f"{part}: {description}" for part in OTHERWISE]
