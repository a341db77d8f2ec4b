"""What a check says to explore: `explore(lab, "crash", SETTING)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graders.harness.check import CouldNotGrade
from graders.harness.explore import crash, disconnect, interleave, shutdown
from graders.harness.explore.points import Explored, coverage, judge
from graders.harness.explore.record import NotRecorded
from graders.harness.explore.stage import Setting

if TYPE_CHECKING:
    from graders.harness.room import Room

EXPLORATIONS: dict[str, tuple[Callable[..., Explored], str]] = {
    "crash": (crash.explore, crash.EXPECTED),
    "interleaving": (interleave.explore, interleave.EXPECTED),
    "shutdown": (shutdown.explore, shutdown.EXPECTED),
    "disconnect": (disconnect.explore, disconnect.EXPECTED),
}


def explore(lab: Room, kind: str, setting: Setting) -> None:
    """Explore every moment of one kind; raises the finding of the first that broke."""
    run, expected = EXPLORATIONS[kind]
    step = lab.session.options.step
    try:
        explored = run(lab.session, setting, step)
    except NotRecorded as error:
        seen = f"{error}."
        raise lab.finding(
            error.code, "A fresh worker takes a pending task at its first poll, and goes on "
            "polling: every exploration starts from there.", seen[:1].upper() + seen[1:],
        ) from None  # fmt: skip
    if step and not explored.points:
        raise CouldNotGrade(f"There is no STEP={step} in this check. Without STEP it lists them.")
    lab.coverage = coverage(explored)
    found = judge(explored, expected)
    if found is None:
        return
    finding, seen = found
    if seen is not None:
        lab.shown = seen.events
        lab.steps = list(seen.told)
    raise finding
