"""Exercise 2c: restarts, deploys and crashes, of the API and of its database."""

from __future__ import annotations

from graders.harness.check import check
from graders.lab02 import deploy, outage, rows
from graders.lab02.rows import path_of

ROOT = "creates_a_task"


@check("2c", points=4, needs=["answers_health_truly"])
def test_survives_a_database_restart(lab):
    """While PostgreSQL is away the API answers 503, and afterwards it is well without a restart.

    Databases are restarted for every upgrade. A request that hangs meanwhile is worse than one that
    is refused, and an API that has to be restarted by hand is down until somebody wakes up.
    """
    task = rows.add(lab)
    api = lab.start_api()
    rows.create(api, {"title": "before the restart"})
    outage.begin(api)
    outage.expect_unavailable(
        api, ("POST", "/tasks", {"title": "meanwhile"}), ("GET", "/tasks", None),
        ("PUT", path_of(task), {"priority": 4}), ("GET", "/health", None),
    )  # fmt: skip
    outage.end(api)
    outage.expect_well_again(api, "GET", path_of(task), status=200)
    outage.expect_health(api, 200)
    rows.create(api, {"title": "after the restart"})
    deploy.cut_off_while_storing(lab, api)


@check("2c", points=4, needs=[ROOT])
def test_answers_what_is_in_flight_on_sigterm(lab):
    """Told to stop by SIGTERM, the API answers the requests in flight, and then ends with status 0.

    Every deploy sends SIGTERM. A client whose request breaks off does not know whether it was done.
    """
    deploy.stop_while_storing(lab)
