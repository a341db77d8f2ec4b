"""Exercise 2c: restarts, deploys and crashes, of the API and of its database."""

from __future__ import annotations

from graders.harness.check import check
from graders.harness.explore import acts
from graders.lab02 import deploy, outage, rows
from graders.lab02.moments import MigrateUp, PostTask
from graders.lab02.rows import path_of

ROOT = "creates_a_task"


@check("2c", points=4, needs=[ROOT], workers=3)
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
        ("PUT", path_of(task), {"priority": 4}), ("GET", path_of(task), None),
        ("DELETE", path_of(task), None),
    )  # fmt: skip
    outage.end(api)
    outage.expect_well_again(api, "GET", path_of(task), status=200)
    rows.create(api, {"title": "after the restart"})
    deploy.cut_off_while_storing(lab, api)


@check("2c", points=4, needs=[ROOT])
def test_answers_what_is_in_flight_on_sigterm(lab):
    """Told to stop by SIGTERM, the API answers the requests in flight, and then ends with status 0.

    Every deploy sends SIGTERM. A client whose request breaks off does not know whether it was done.
    """
    deploy.stop_while_storing(lab)


@check("2c", points=5, needs=[ROOT], explores=True)
def test_stores_all_or_nothing(lab):
    """Killed at any moment of a POST, the API leaves the whole task in the table, or nothing.

    Machines do not fail between two requests, they fail in the middle of one.
    """
    acts.explore(
        lab, acts.CRASH, PostTask(),
        "Whenever the API is killed (SIGKILL), the table holds the whole task once, or not at all.",
    )


@check("2c", points=5, needs=[ROOT], explores=True)
def test_stops_cleanly_at_every_step(lab):
    """Told to stop at any moment of a request, the API answers it, and ends with status 0.

    Every deploy stops an API in the middle of requests. Clients should not notice.
    """
    acts.explore(
        lab, acts.SHUTDOWN, PostTask(),
        "Whenever SIGTERM comes, the request in flight is answered 201, its task is stored, and "
        "the API ends with status 0.",
    )


@check("2c", points=5, needs=[ROOT], explores=True)
def test_survives_a_disconnect_at_every_step(lab):
    """Cut off from PostgreSQL at any moment, the API answers, stores nothing twice, and goes on.

    The answer to an INSERT can be lost although the INSERT was done: whoever just tries again
    stores the task twice.
    """
    acts.explore(
        lab, acts.DISCONNECT, PostTask(),
        "Whenever its connections are cut, the request is answered 201 or 503, the task is stored "
        "once at most, and the API works on without a restart.",
    )


@check("2c", points=5, needs=["migrates_up"], explores=True)
def test_migrates_whole_or_not_at_all(lab):
    """Killed at any moment, migrate up is made good by the next migrate up.

    A migration that is half done, or done and not recorded, stops every later deploy.
    """
    acts.explore(
        lab, acts.CRASH, MigrateUp(),
        "Whenever migrate up is killed (SIGKILL), the next migrate up ends with status 0 and the "
        "schema is whole.",
    )
