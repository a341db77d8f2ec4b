"""Exercise 3c: the same at every moment. Every crash, interleaving, shutdown and disconnect."""

from __future__ import annotations

from graders.harness.check import check
from graders.harness.explore.checks import explore
from graders.lab03.moments import SETTING

ROOT = "completes_a_pending_task"


@check("3c", points=8, needs=[ROOT], explores=True)
def test_survives_a_crash_at_every_step(lab):
    """Killed at any moment, a worker leaves a task that another worker brings to its end.

    A machine does not choose the moment at which it fails. What is left between two statements
    must be something that the next worker can go on from.
    """
    explore(lab, "crash", SETTING)


@check("3c", points=8, needs=[ROOT], explores=True)
def test_meets_another_worker_at_every_step(lab):
    """Whatever a worker is at when another one polls, each task is executed once.

    Two workers meet at every moment sooner or later. And nobody waits for another's lock while a
    task is free.
    """
    explore(lab, "interleaving", SETTING)


@check("3c", points=7, needs=[ROOT], explores=True)
def test_stops_cleanly_at_every_step(lab):
    """Told to stop at any moment, a worker finishes what it has begun and takes nothing more.

    A deploy does not ask what a worker is doing. It ends with status 0, and no task is left in
    processing.
    """
    explore(lab, "shutdown", SETTING)


@check("3c", points=6, needs=[ROOT], explores=True)
def test_survives_a_disconnect_at_every_step(lab):
    """Cut off at any moment, a worker connects again (or makes way), and nothing is lost.

    The answer to a COMMIT can be lost although the COMMIT was done: whoever asks again must be
    prepared for that.
    """
    explore(lab, "disconnect", SETTING)
