"""JSON of a stranger's, which may be none, or be nested as deeply as somebody likes."""

from __future__ import annotations

import json
from typing import Any


def from_json(text: str | bytes) -> Any:
    """What a text says as JSON; None if it is none (or is null)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
