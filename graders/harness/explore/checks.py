"""What a check says to explore: `explore(lab, "crash", SETTING)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from graders.harness import results
from graders.harness.check import CouldNotGrade, Finding
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
    report(lab, explored_by(lab, run, setting), expected)


def explored_by(lab: Room, run: Callable[..., Explored], setting: Setting) -> Explored:
    """What an exploration of a worker came upon. Raises a Finding where there is nothing to try."""
    try:
        return run(lab.session, setting, lab.session.options.step)
    except NotRecorded as error:
        raise not_recorded(
            lab, error, "A fresh worker takes a pending task at its first poll, and goes on polling"
        ) from None


def not_recorded(lab: Room, error: NotRecorded, does: str) -> Finding:
    """The finding that what every exploration starts from is not so: `does` says what should be."""
    seen = f"{error}."
    return lab.finding(error.code, f"{does}: every exploration starts from there.",
                       seen[:1].upper() + seen[1:])


def report(
    lab: Room, explored: Explored, expected: str, judged: Explored | None = None
) -> None:
    """Give the check its coverage, and raise the finding of the first moment that broke.

    `judged` is what is judged, where that is not all of it.
    """
    step = lab.session.options.step
    if step and not explored.points:
        raise CouldNotGrade(f"{results.NO_SUCH_STEP}{step} in this check.")
    lab.coverage = coverage(explored)
    found = judge(judged or explored, expected)
    if found is None:
        return
    finding, seen = found
    if seen is not None:
        lab.shown = seen.events
        lab.steps = list(seen.told)
    raise finding
