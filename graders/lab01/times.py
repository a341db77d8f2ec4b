"""Times as RFC 3339 writes them, in UTC."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

SLACK = timedelta(seconds=0.1)  # some clocks are read in coarse ticks

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?(?P<zone>[Zz]|[+-]\d\d:\d\d)"
)


def read(text: Any) -> tuple[datetime | None, timedelta]:
    """A time as RFC 3339 has it, or None; and its unit, the smallest step that it shows."""
    found = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None, timedelta(0)
    fraction = found["fraction"] or ""
    zone = found["zone"].upper().replace("Z", "+00:00")
    try:
        time = datetime.fromisoformat(f"{found[1]}T{found[2]}.{fraction[:6]:0<6}{zone}")
    except ValueError:
        return None, timedelta(0)
    return time, timedelta(seconds=10 ** -len(fraction))


def trouble_with(text: Any, earliest: datetime, latest: datetime) -> str:
    """What is wrong with this text as a time in UTC between these two; empty if nothing is.

    A time that is written in whole seconds, or in other steps, may be off by one of them.
    """
    time, unit = read(text)
    if time is None:
        shown = f"“{text}”" if isinstance(text, str) else repr(text)
        return f"It is {shown[:80]}, which is no time with a zone as RFC 3339 writes it."
    if time.utcoffset() != timedelta(0):
        return f"It is {text}, which is in another time zone."
    if earliest - unit - SLACK <= time <= latest + unit + SLACK:
        return ""
    return f"It is {text}; it was between {earliest:%H:%M:%S.%f} and {latest:%H:%M:%S.%f} UTC."
