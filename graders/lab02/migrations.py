"""What a run of the migrations has to do, seen in the database and in how it ends."""

from __future__ import annotations

import re

import psycopg

from graders.harness import history as h
from graders.harness.database import Database
from graders.harness.lab import Lab
from graders.harness.migration import Migration
from graders.harness.program import how_it_ended
from graders.harness.results import Evidence
from graders.harness.steps import Step
from graders.lab02 import schema
from graders.lab02.folders import Folder

_CREATES = re.compile(r"\bcreate\b.*\btable\b.*\btasks\b", re.IGNORECASE)
PROBE_UP = "CREATE TABLE probe (n int);\nINSERT INTO probe VALUES (1);\n"
PROBE_DOWN = "DROP TABLE probe;\n"
LATER_UP = "CREATE TABLE later (n int);\n"
LATER_DOWN = "DROP TABLE later;\n"
TURNS = 10  # statements after which a run that waits by asking again and again is seen to wait
LOOK_AGAIN = 0.02  # seconds between two looks at locks


def build_the_schema(lab: Lab) -> None:
    """Up on an empty database, up while there is no database, and what is no command."""
    database, untouched = lab.empty_database(), lab.empty_database()
    nonsense = lab.migrate("sideways", untouched, wait=False)
    away = lab.migrate(
        "up", lab.empty_database(), wait=False, prepare=lambda m: m.wire.refuse(),
        told="its database is away",
    )  # fmt: skip
    expect_schema(lab, database, lab.migrate("up", database))
    ended = away.expect_end()
    if ended.code == 0:
        raise lab.finding(
            "failure-hidden", f"{away.name}, whose database is away, ends with a status above 0.",
            "It ended with exit status 0, which says that all is well.", away.log_evidence(),
        )  # fmt: skip
    _expect_no_secret(away)
    ended = nonsense.expect_end()
    if ended.code == 0 or schema.has_tasks(lab, untouched):
        raise lab.finding(
            "failure-hidden",
            "“migrate sideways”, which there is not, does nothing, and ends with a status above 0.",
            f"It {how_it_ended(ended)}, and there is "
            f"{'a' if schema.has_tasks(lab, untouched) else 'no'} table “tasks”.",
            nonsense.statement_evidence(), nonsense.log_evidence(),
        )  # fmt: skip


def _expect_no_secret(run: Migration) -> None:
    """What it printed does not hold the database's password."""
    if run.database.worker_password in run.said:
        raise run.lab.finding(
            "password-shown", f"What {run.name} prints does not show the database's password.",
            "The password stands in it. (It is another one on each run.)", run.log_evidence(12),
        )  # fmt: skip


def apply_each_once(lab: Lab) -> None:
    """Up again changes nothing; a migration that comes later is applied, and once."""
    folder = Folder.copied(lab)
    database = lab.empty_database()
    lab.migrate("up", database, folder=folder.path)
    title = "sort the mail"
    try:
        lab.catalogue(database, "INSERT INTO tasks (title) VALUES (%s)", (title,))
    except psycopg.Error as error:
        raise lab.finding(
            "schema-wrong", "After migrate up the table takes a task that has a title.",
            f"PostgreSQL refuses it: {' '.join(str(error).split())}.", _shown(lab, database),
        ) from None  # fmt: skip
    lab.tell("Added a task.")
    again = lab.migrate("up", database, folder=folder.path, told="once more")
    expect_schema(lab, database, again)
    if not lab.catalogue(database, "SELECT 1 FROM tasks WHERE title = %s", (title,)):
        raise lab.finding(
            "applied-again", f"{again.name}, for which there is nothing to do, leaves the task.",
            "The task is gone: the table was made anew.", again.statement_evidence(12),
        )  # fmt: skip
    name = folder.write("probe", PROBE_UP, PROBE_DOWN)
    lab.tell(f"Added the migration {name}, which makes the table “probe” and puts a row into it.")
    later = lab.migrate("up", database, folder=folder.path)
    expect_probe(lab, database, later, name)
    expect_probe(lab, database, lab.migrate("up", database, folder=folder.path), name)


def expect_probe(lab: Lab, database: Database, last: Migration, name: str) -> None:
    """The added migration has been applied once."""
    there = lab.catalogue(database, "SELECT to_regclass('public.probe') IS NOT NULL AS there")
    if not there[0]["there"]:
        raise lab.finding(
            "not-applied", f"{last.name} has applied {name}.", "There is no table “probe”.",
            last.statement_evidence(12), last.log_evidence(),
        )  # fmt: skip
    count = lab.catalogue(database, "SELECT count(*) AS n FROM probe")[0]["n"]
    if count != 1:
        raise lab.finding(
            "applied-again", f"{name} has been applied once: the table “probe” has one row.",
            f"It has {count} rows.", last.statement_evidence(12), last.log_evidence(),
        )  # fmt: skip


def go_down_and_up_again(lab: Lab) -> None:
    """Down until nothing is left (one by one, or all at once), once more, and up again."""
    folder = Folder.copied(lab)
    database = lab.empty_database()
    lab.migrate("up", database, folder=folder.path)
    last = None
    for _ in range(max(folder.count, 1)):
        last = lab.migrate("down", database, folder=folder.path)
        if not schema.has_tasks(lab, database):
            break
    else:
        raise lab.finding(
            "not-undone",
            f"After “migrate down” for each of the {folder.count} migrations the table “tasks” is "
            "gone.",
            "It is still there.",
            last.statement_evidence(12),
            last.log_evidence(),
        )
    lab.migrate("down", database, folder=folder.path, told="there is nothing to undo")
    expect_schema(lab, database, lab.migrate("up", database, folder=folder.path))


def fail_whole(lab: Lab) -> None:
    """A migration whose second statement fails; then it is mended."""
    folder = Folder.copied(lab)
    database = lab.empty_database()
    lab.migrate("up", database, folder=folder.path)
    before = schema.describe(lab, database)
    broken = "CREATE TABLE probe (n int);\nINSERT INTO no_such_table VALUES (1);\n"
    name = folder.write("broken", broken, PROBE_DOWN)
    later = folder.write("later", LATER_UP, LATER_DOWN, later=1)
    lab.tell(
        f"Added the migration {name}, whose first statement is right and whose second one fails, "
        f"and {later} after it."
    )
    failing = lab.migrate("up", database, wait=False, folder=folder.path)
    ended = failing.expect_end()
    said = failing.log_evidence(12)
    if ended.code == 0:
        raise lab.finding(
            "failure-hidden", f"{failing.name}, of which {name} fails, ends with a status above 0.",
            "It ended with exit status 0, which says that all is well.", said,
        )  # fmt: skip
    if name.removesuffix(".up.sql") not in failing.said:
        raise lab.finding(
            "cause-not-named", f"{failing.name} says which file failed: {name}.",
            f"It {how_it_ended(ended)}, and what it printed does not name the file.", said,
        )  # fmt: skip
    _expect_no_secret(failing)
    after = schema.describe(lab, database)
    if any(each["name"] == "later" for each in after["relations"]):
        raise lab.finding(
            "half-migrated", f"After {name}, which has failed, no later one is applied.",
            f"{later} was applied: the table “later” is there.", failing.statement_evidence(12),
            said,
        )  # fmt: skip
    if after != before:
        raise lab.finding(
            "half-migrated", f"{name}, which has failed, has left nothing behind.",
            _changed(before, after), failing.statement_evidence(12), said,
        )  # fmt: skip
    folder.write("broken", PROBE_UP, PROBE_DOWN)
    lab.tell(f"Mended {name}.")
    mended = lab.migrate("up", database, folder=folder.path)
    expect_probe(lab, database, mended, name)
    expect_schema(lab, database, mended)


def _changed(before: schema.Described, after: schema.Described) -> str:
    names = [{each["name"] for each in told["relations"]} for told in (before, after)]
    if extra := sorted(names[1] - names[0]):
        return f"“{extra[0]}” is there, which was not there before."
    if gone := sorted(names[0] - names[1]):
        return f"“{gone[0]}” is gone."
    return "The table “tasks” is not what it was before."


def run_two_at_once(lab: Lab) -> None:
    """One is held when it has made the tasks table; another one starts; then both go on."""
    folder = Folder.copied(lab)
    name = folder.write("probe", PROBE_UP, PROBE_DOWN)
    database = lab.empty_database()
    first = lab.migrate(
        "up", database, wait=False, folder=folder.path, hold=_creates_tasks
    )
    if first.wait_held_or_call(lab.budgets.boot + lab.budgets.work) is None:
        first.expect_success()
        raise lab.finding(
            "not-applied", f"{first.name} makes the table “tasks”.",
            "It ended, and no statement of it did.", first.statement_evidence(12),
        )  # fmt: skip
    lab.tell(f"Held {first.name} when it had made the table “tasks”.")
    second = lab.migrate("up", database, wait=False, folder=folder.path)
    _wait_until_it_waits(lab, second)
    if not second.alive:
        second.expect_success()
        raise lab.finding(
            "not-applied",
            f"{second.name} ends with status 0 once the migrations are applied.",
            f"It ended with status 0 while {first.name} had not committed the table “tasks”.",
            second.statement_evidence(12), second.log_evidence(),
        )  # fmt: skip
    first.hold_no_more()
    lab.tell(f"Let {first.name} go on.")
    first.expect_success()
    second.expect_success()
    expect_schema(lab, database, second)
    expect_probe(lab, database, second, name)


def _creates_tasks(step: Step) -> bool:
    return step.kind == "query" and _CREATES.search(step.words) is not None


def _wait_until_it_waits(lab: Lab, run: Migration) -> None:
    """Until this run waits for a lock, asks the same again and again, or has ended."""
    left = lab.budgets.boot + lab.budgets.work
    while left > 0 and run.alive and not lab.session.stopping:
        if any(lab.blocked_by(backend) for backend in run.backends):
            lab.tell(f"Waited until {run.name} waited for a lock.")
            return
        said = [step.words for step in run.steps(h.STEP_DELIVERED) if step.kind == "query"]
        if said and said.count(said[-1]) >= TURNS:
            lab.tell(f"Waited until {run.name} had asked the same {TURNS} times.")
            return
        began = lab.history.now()
        lab.history.wait(lambda _: True, LOOK_AGAIN, len(lab.history))
        left -= max(lab.history.now() - began, 0.001)


def expect_schema(lab: Lab, database: Database, last: Migration) -> None:
    """The schema is that of the lab. Raises a Finding."""
    wrong = schema.difference(lab, database)
    if wrong:
        raise lab.finding(
            "schema-wrong", f"After {last.name} the schema is that of labs/lab02/schema.sql.",
            f"{wrong[:1].upper()}{wrong[1:]}.", _shown(lab, database),
            last.statement_evidence(12), last.log_evidence(),
        )  # fmt: skip


def _shown(lab: Lab, database: Database) -> Evidence:
    """The table as it is."""
    told = schema.describe(lab, database)
    lines = [
        f"{c['name']} {c['type']}{' NOT NULL' if c['needed'] else ''}"
        + (f" DEFAULT {c['default']}" if c["default"] else "")
        for c in told["columns"]
    ]
    lines += [c["told"] for c in told["constraints"]] + [i["told"] for i in told["indexes"]]
    return Evidence("The table “tasks” as it is", tuple(lines) or ("(there is none)",))
