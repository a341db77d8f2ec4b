"""At every moment: the orchestrator is killed; the worker is stopped, cut off, and killed."""

from __future__ import annotations

from graders.harness.check import check
from graders.harness.explore import acts
from graders.harness.explore.checks import explore
from graders.lab01.moments import SETTING, PostTask, show_losses

PUSHED = "accepts_a_task"
WORKED = "completes_a_job"


@check("1a", points=6, needs=[], explores=True)
def test_writes_all_or_nothing(lab):
    """Killed at any moment, the orchestrator leaves a whole task in Redis, or nothing.

    A task of which two jobs are in the queue is never done, and nobody is told.
    """
    acts.explore(
        lab, acts.CRASH, PostTask(),
        "Whenever the orchestrator is killed (SIGKILL), the hash of the task and its four jobs "
        "are all there, or none of them is.",
    )


@check("1b", points=7, needs=[], explores=True)
def test_stops_cleanly_at_every_step(lab):
    """Told to stop at any moment, the worker finishes the job it has taken and takes no more.

    An answer of BRPOP that is already on its way is a job, too: nobody else has it any more.
    """
    explore(lab, "shutdown", SETTING)


@check("1b", points=7, needs=[], explores=True)
def test_survives_a_disconnect_at_every_step(lab):
    """Cut off at any moment, the worker connects again, and the result of its work is stored.

    Only a job that was lost on the wire, with the answer of BRPOP, cannot be helped here.
    """
    explore(lab, "disconnect", SETTING)


@check("1d", points=0, needs=[], explores=True)
def test_shows_which_moments_lose_a_job(lab):
    """Killed at each moment in turn, the worker shows which moments lose a job (no points).

    What BRPOP has handed out is nowhere but in the worker's memory: at-most-once. Lab 08 has the
    cure.
    """
    show_losses(lab)
