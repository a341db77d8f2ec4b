"""Exercise 1d: three workers on one queue, and the task as a whole."""

from __future__ import annotations

from graders.harness.check import check
from graders.harness.jobs import Job
from graders.lab01 import side_by_side
from graders.lab01.moments import show_losses

WORKED = "completes_a_job"
POSTED = "accepts_a_task"
TOLD = "tells_how_far_a_task_is"


@check("1d", points=5, needs=[WORKED], workers=3)
def test_shares_the_work_of_three_workers(lab):
    """Three workers share twelve jobs; each job is done once, and each worker has a share.

    This is what more workers are started for. They are led side by side, command by command, so
    that each of them looks at the queue before any of them goes on.
    """
    jobs = [lab.add_job() for _ in range(12)]
    held = side_by_side.first_calls(lab, 3)
    for call in held:
        call.finish()
    lab.world.answer_all()
    for job in jobs:
        lab.expect_result(job)
    side_by_side.expect_each_once(lab)


@check("1d", points=3, needs=[WORKED, POSTED, TOLD], workers=2)
def test_shows_when_all_is_done(lab):
    """The orchestrator shows how a task comes to its end: four results, and “completed”.

    The two programs have never met, and know of each other only what is in Redis.
    """
    api = lab.start_api()
    answer = api.request("POST", "/tasks", {"description": "paint the fence", "priority": 2})
    task = answer.json if isinstance(answer.json, dict) else {}
    parts = {
        part["subtask_id"]: Job(part["subtask_id"], f"J{number}", task["task_id"],
                                part["description"], 2, b"")
        for number, part in enumerate(task.get("subtasks", ()), 1)
    }  # fmt: skip
    for job in parts.values():
        lab.know(job)
    lab.tell("Posted a task.")

    def expect_told(results: int, status: str) -> None:
        request = api.send("GET", f"/tasks/{task['task_id']}")
        told = api.answer_of(request).json
        told = told if isinstance(told, dict) else {}
        if (told.get("results"), told.get("status")) != (results, status):
            raise lab.finding(
                "wrong-answer",
                f"With {results} of the 4 results there, GET /tasks/{{task_id}} says so, and the "
                f"status is “{status}”.",
                f"It says {told.get('results')!r}, and the status is “{told.get('status')}”.",
                api.exchange_evidence(request),
                api.statement_evidence(),
            )
        lab.tell(f"Asked for the task: {results} results, “{status}”.")

    expect_told(0, "queued")
    lab.start_worker()
    for done in range(1, 5):
        # The next one is held, so it is known how many results there are.
        call = lab.world.next_call()
        call.finish()
        lab.expect_result(parts[call.task_id])
        expect_told(done, "completed" if done == 4 else "queued")


@check("1d", points=0, needs=[WORKED], explores=True)
def test_shows_which_moments_lose_a_job(lab):
    """Killed at each moment in turn, the worker shows which moments lose a job (no points).

    What BRPOP has handed out is nowhere but in the worker's memory: at-most-once. Lab 08 has the
    cure.
    """
    show_losses(lab)
