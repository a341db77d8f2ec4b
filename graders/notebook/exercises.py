"""Exercises in a notebook: the reader's own few lines, run at every moment, and told at once."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graders.harness.explore.acts import CRASH, Post
from graders.lab02.moments import PostTask
from graders.notebook.bench import Bench, current, drawn
from graders.notebook.moments import Moments
from graders.notebook.problem import Problem
from graders.notebook.programs import Source
from graders.notebook.tables import Html

CLAIMING = '''
import json, os, time, urllib.request
import psycopg
from psycopg.rows import dict_row

STATEMENTS = {statements!r}
ME = os.environ["WORKER_ID"]
PAUSE = float(os.environ["WORKER_POLL_INTERVAL"])

def claim(db):
    row = None
    with db.transaction():
        for statement in STATEMENTS:
            cursor = db.execute(statement, {{"worker": ME, "id": row and row["id"]}})
            if cursor.description:
                row = cursor.fetchone()
                if row is None:
                    return None
            elif cursor.rowcount == 0:
                return None
    return row

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row) as db:
    while True:
        task = claim(db)
        if task is None:
            time.sleep(PAUSE)
            continue
        told = json.dumps({{"id": str(task["id"])}}).encode()
        urllib.request.urlopen(os.environ["WORK_URL"], told).read()
        db.execute("UPDATE tasks SET status = 'completed', updated_at = now() WHERE id = %s",
                   [task["id"]])
'''

TAKING = '''
import json, os, time, urllib.request
import redis

{code}

r = redis.Redis(os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"]), socket_timeout=10)
while True:
    raw = take(r)
    if raw is None:
        time.sleep(0.05)
        continue
    job = json.loads(raw)
    urllib.request.urlopen(os.environ["WORK_URL"], json.dumps(job).encode()).read()
    result = {{"subtask_id": job["subtask_id"], "status": "completed"}}
    r.set("result:" + job["subtask_id"], json.dumps(result), ex=86400)
'''

STORING = '''
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer
import psycopg
from psycopg.rows import dict_row

{code}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {{"data": "well"}})

    def do_POST(self):
        task = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True,
                             row_factory=dict_row) as db:
            row = store(db, task)
        self.answer(201, {{"data": row}})

    def answer(self, status, told):
        body = json.dumps(told, default=str).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
'''


@dataclass(frozen=True)
class Checked:
    """What came of the reader's own lines at every moment."""

    what: str  # "Your claim"
    moments: Moments
    picture: Html  # of the first moment that broke, else of one undisturbed run

    @property
    def good(self) -> bool:
        """Whether nothing broke at any moment."""
        return not self.moments.broken

    @property
    def says(self) -> str:
        """The verdict in a sentence or two."""
        total, broken = len(self.moments.points), self.moments.broken
        noun = f"{self.moments.noun}{'' if total == 1 else 's'}"
        if not broken:
            return f"{self.what} held at all {total} {noun}."
        first = next(p for p in self.moments.points if p.label == broken[0])
        return (f"{self.what} broke at {len(broken)} of {total} {noun}. The first, step "
                f"{first.label}: {first.where}: {first.outcome.what}.")

    def _repr_html_(self) -> str:
        return f"<p>{Html('', self.says).escaped}</p>{self.picture._repr_html_()}"

    def __repr__(self) -> str:
        return f"{self.says}\n\n{self.picture!r}"


def check_my_claim(*statements: str) -> Checked:
    """Let two workers claim by these SQL statements, at every interleaving. Raises Problem.

    They are run one after the other in one transaction, with `%(worker)s` (the worker's name) and
    `%(id)s` (of the row that an earlier one returned). A statement that finds nothing ends the
    claim; the row that was returned last is the task that is worked.
    """
    if not statements or not all(isinstance(s, str) and s.strip() for s in statements):
        raise Problem("check_my_claim takes one or more SQL statements, each a text of its own.")
    lab = _lab("postgres", "check_my_claim", "03")
    program = Source.of("worker", "your_claim", CLAIMING.format(statements=statements))
    return _checked(lab, "Your claim", program, "interleaving")


def check_my_take(take: Callable[[Any], Any]) -> Checked:
    """Let two workers take jobs by `take(r)`, at every interleaving. Raises Problem.

    It is given a redis.Redis and returns a job as it came (bytes), or None if there is none.
    """
    lab = _lab("redis", "check_my_take", "01")
    program = Source.of("worker", "your_take", TAKING.format(code=_code(take, "take")))
    return _checked(lab, "Your take", program, "interleaving")


def check_my_store(store: Callable[[Any, dict], Any]) -> Checked:
    """Let an API store what was posted by `store(db, task)`, killed at each step. Raises Problem.

    It is given a psycopg connection (autocommit, rows as dictionaries) and the task that was
    posted, with `title` and `priority`; it returns the row.
    """
    lab = _lab("postgres", "check_my_store", "02")
    program = Source.of("api", "your_store", STORING.format(code=_code(store, "store")))
    return _checked(lab, "Your store", program, CRASH, PostTask())


def _lab(service: str, what: str, number: str) -> Bench:
    lab = current()
    if service not in lab.info.services:
        raise Problem(f'{what} needs lab {number}: run open_lab("{number}") first.')
    return lab


def _code(function: Callable[..., Any], name: str) -> str:
    try:
        code = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise Problem(f"The code of {name} cannot be read: write it in a cell, as def {name}(…).") \
            from None
    if not code.startswith(f"def {name}("):
        raise Problem(f"Call it {name}: def {name}(…).")
    return code


def _checked(
    lab: Bench, what: str, program: Source, kind: str, act: Post | None = None
) -> Checked:
    seen = _alone(lab, program, act)  # first by itself: what is wrong there is told plainly
    moments = lab.explore(program, kind, act)
    events = moments.at(moments.broken[0]).events if moments.broken else seen
    title = f"{what}, step {moments.broken[0]}" if moments.broken else f"{what}, undisturbed"
    return Checked(what, moments, drawn(events, title, most=100))


def _alone(lab: Bench, program: Source, act: Post | None) -> list[Any]:
    """One task, one program, nothing disturbed; the events. Raises Problem."""
    with lab.room(program) as room:
        if act is not None:
            room.start_api().request("POST", act.path, dict(act.data))
            return room.history.events()
        room.world.answer_all()
        if hasattr(room, "add_task"):
            task = room.add_task()
            room.start_worker()
            room.expect_status(task, "completed")
        else:
            job = room.add_job()
            room.start_worker()
            room.expect_result(job)
        return room.history.events()
