"""Exercise 3d: from end to end. A client posts tasks to an API, and asks it what became of them."""

from __future__ import annotations

from graders.harness.check import check
from graders.lab03 import dataflow, flow

ROOT = "completes_a_pending_task"


@check("3d", points=4, needs=["shares_the_work"], workers=3)
def test_carries_tasks_from_end_to_end(lab):
    """Ten tasks posted to an API at once are worked by two workers, and the API tells of it.

    Here all parts come together: client, API, PostgreSQL, workers and world. Each task goes from
    pending to processing to completed, once.
    """
    api = flow.start_api(lab)
    tasks = flow.post(lab, api, 10)
    lab.world.answer_all()
    for _ in range(2):
        lab.start_worker(ready=False)
    for task in tasks:
        lab.expect_status(task, "completed")
    flow.expect_history(lab, tasks)
    flow.expect_told(lab, api, tasks)


@check("3d", points=2, needs=[ROOT])
def test_draws_the_data_flow(lab):
    """DATAFLOW.md draws the messages of one task, from the client's POST to its GET.

    Whoever can draw from memory who speaks to whom, and in which order, has understood the queue.
    """
    api = flow.start_api(lab)
    since = len(lab.history)
    (task,) = flow.post(lab, api, 1)
    worker = lab.start_worker()
    lab.world.next_call(task).finish()
    lab.expect_status(task, "completed")
    worker.wire.settle(lab.budgets.work)
    flow.expect_told(lab, api, [task])
    dataflow.expect_drawn(lab, [api, worker], since)
