"""A database for each check, whose tasks table tells of every committed change.

One template holds the lab's schema and the audit; each check gets a copy. The worker's role may
use the tables and owns nothing, and it cannot write the audit.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import re
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from graders.harness import history as h
from graders.harness.loop import LoopThread
from graders.harness.servers.base import Server, ServerError, connect, patience, poll

CHANNEL = "worker_labs_audit"
_ECHO_CHANNEL = "worker_labs_echo"
PREFIX = "worker_labs_"  # of every database and role that is made here

_LOCK = 20307  # of all advisory locks, those of our runs

AHEAD = 4  # databases that are kept ready; one takes 15 to 60 ms, on a busy disk much longer
# A worker that opens connections without end must not take them from the checks beside it.
CONNECTION_LIMIT = 60
# On a server that is thrown away, dropping is needed only for the space that databases take.
DROP_BEYOND = 8
BOUND = 60.0  # seconds, times PATIENCE, for anything that the server is asked here
TURN = 0.5  # seconds of a wait that are counted at once

# The trigger runs as the owner, so the worker needs no right on the audit. What it announces has
# to stay far below the 8000 bytes of a notification: a long worker name must not fail an UPDATE.
_AUDIT = f"""
CREATE SCHEMA audit;

CREATE TABLE audit.changes (
    seq             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    backend         int         NOT NULL DEFAULT pg_backend_pid(),
    task            uuid        NOT NULL,
    old             text,
    new             text,
    assigned_worker text,
    updated_at      timestamptz
);

CREATE FUNCTION audit.note_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number bigint;
BEGIN
    INSERT INTO audit.changes (task, old, new, assigned_worker, updated_at)
    VALUES (coalesce(NEW.id, OLD.id), OLD.status, NEW.status, NEW.assigned_worker, NEW.updated_at)
    RETURNING seq INTO number;
    PERFORM pg_notify('{CHANNEL}', json_build_object(
        'seq', number, 'task', coalesce(NEW.id, OLD.id), 'old', OLD.status, 'new', NEW.status,
        'worker', left(NEW.assigned_worker, 200), 'backend', pg_backend_pid())::text);
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION audit.note_change() FROM PUBLIC;
REVOKE ALL ON SCHEMA audit FROM PUBLIC;

CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON public.tasks
    FOR EACH ROW EXECUTE FUNCTION audit.note_change();
"""


# Ends the worker's sessions in this database, and waits until they are gone.
_END_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = %s
"""


@dataclass(frozen=True, eq=False)
class Database:
    """One check's database. The worker connects as `worker_user`, the grader by `admin_url`."""

    name: str
    admin_url: str
    worker_user: str
    worker_password: str
    _factory: DatabaseFactory

    def worker_url(self, host: str, port: int) -> str:
        """DATABASE_URL for a worker that comes in at this address (the wire's)."""
        user, password = quote(self.worker_user, safe=""), quote(self.worker_password, safe="")
        return f"postgresql://{user}:{password}@{host}:{port}/{quote(self.name, safe='')}"

    def use_again(self, admin: psycopg.Connection[Any]) -> None:
        """It is needed no more: emptied by this connection to it, it serves somebody else.

        Making one costs far more than emptying one. Where that does not work it is just left.
        """
        try:
            admin.execute(_END_OTHERS, (self.worker_user,))
            admin.execute("DELETE FROM tasks; DELETE FROM audit.changes")
        except (psycopg.Error, OSError):
            self.drop()
        else:
            self._factory._empty_again(self.name)

    def drop(self) -> None:
        """It is needed no more. It goes later, in the background, whoever is still connected."""
        self._factory._give_back(self.name)


class DatabaseFactory:
    """Makes databases from one template, some of them ahead of time.

    Works for a superuser, and for a role with CREATEDB and CREATEROLE. Everything it makes is
    named `worker_labs_<run>…`. Raises ServerError when the server refuses. With `owned` the
    databases belong to the worker's role, which may then create what it likes in them. With `tidy`
    everything is dropped at the end, although the server itself is one that is thrown away.
    """

    def __init__(
        self, server: Server, schema_sql: str, run_id: str, ahead: int = AHEAD,
        owned: bool = False, tidy: bool = False,
    ) -> None:
        self.server = server
        self._tidy = tidy or not server.disposable  # the server lives on after this run
        self._owned = owned
        self.run = re.sub(r"[^a-z0-9]", "", run_id.lower())[:16] or secrets.token_hex(4)
        self.worker_user = f"{PREFIX}{self.run}_worker"
        self.worker_password = secrets.token_hex(12)
        self._template = f"{PREFIX}{self.run}_template"
        self._ahead = ahead
        self._changed = threading.Condition()
        self._ready: deque[str] = deque()
        self._done: deque[str] = deque()
        self._made: list[str] = []
        self._waiting = 0
        self._closed = False
        self._problem: ServerError | None = None
        try:
            self._admin = connect(server.admin_url, timeout=BOUND * patience())
            self._dropping = connect(server.admin_url, timeout=BOUND * patience())
            self._make_template(schema_sql)
        except (psycopg.Error, OSError) as error:
            raise _server_error("The grader's database cannot be made", error) from error
        # DROP DATABASE waits for every session of the server, also for one that is still busy
        # logging in; nobody who wants a database shall wait with it.
        self._threads = [
            threading.Thread(target=work, name=f"databases-{work.__name__}", daemon=True)
            for work in (self._make, self._drop)
        ]
        for thread in self._threads:
            thread.start()

    def new(self) -> Database:
        """A fresh database with the lab's schema and no rows. May be called by many threads."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                left = BOUND * patience()
                while not (self._ready or self._problem or self._closed) and left > 0:
                    # In short turns: a machine that stands still for a while uses up only one.
                    began = time.monotonic()
                    self._changed.wait(TURN)
                    left -= min(time.monotonic() - began, TURN)
                if not self._ready:
                    raise self._problem or ServerError("PostgreSQL made no database in time.")
                name = self._ready.popleft()
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        return Database(
            name, self.server.url(name), self.worker_user, self.worker_password, self
        )

    @property
    def max_connections(self) -> int:
        """How many sessions the server takes in all."""
        return int(_one(self._admin, "SHOW max_connections"))

    def close(self) -> None:
        """Make no more. On a server that lives on, drop all databases and roles of this run."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(psycopg.Error, OSError):
            self._dropping.cancel()  # what it has not dropped goes now, or with the server
        for thread in self._threads:
            thread.join(BOUND * patience())
        if self._tidy:
            with contextlib.suppress(psycopg.Error, OSError):
                drop_run(self._admin, self.run)
        self._dropping.close()
        self._admin.close()

    # The template

    def _make_template(self, schema_sql: str) -> None:
        if not self.server.disposable:
            # Held as long as this run lives: so a later run knows what a dead one has left.
            self._admin.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_LOCK, self.run))
            drop_dead_runs(self._admin)
        worker = sql.Identifier(self.worker_user)
        self._admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD {}").format(
                worker, sql.Literal(self.worker_password)
            )
        )
        if not self._is_superuser():
            # A superuser may end anybody's session; others only those of roles they are in.
            self._admin.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(worker))
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' {}").format(
                sql.Identifier(self._template), self._strategy()
            )
        )
        with connect(self.server.url(self._template), timeout=BOUND * patience()) as template:
            template.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # PostgreSQL < 15
            if schema_sql.strip():
                template.execute(schema_sql)
            if _one(template, "SELECT to_regclass('public.tasks') IS NOT NULL"):
                template.execute(_AUDIT)
            template.execute(
                sql.SQL(
                    "GRANT USAGE ON SCHEMA public TO {0};"
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {0};"
                    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {0}"
                ).format(worker)
            )
            if self._owned:
                template.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(worker))
        # CREATE DATABASE waits in steps of 100 ms for sessions of the template to end.
        poll(
            lambda: _one(
                self._admin,
                "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = %s)",
                self._template,
            ),
            BOUND * patience(), every=0.002,
        )

    def _is_superuser(self) -> bool:
        return bool(_one(self._admin, "SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER"))

    def _strategy(self) -> sql.SQL:
        """Copying files is two to five times faster here than logging every page (the default of
        PostgreSQL 15 and newer), above all with fsync=off. Before 15 there was no other way.
        """
        new = self._admin.info.server_version >= 150000
        return sql.SQL("STRATEGY file_copy" if new and self.server.disposable else "")

    def _owner(self) -> sql.Composable:
        if not self._owned:
            return sql.SQL("")
        return sql.SQL("OWNER {}").format(sql.Identifier(self.worker_user))

    # In the background

    def _make(self) -> None:
        """Make databases whenever more are wanted than are there."""
        for number in itertools.count(1):
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._short())
                if self._closed:
                    return
            name = f"{PREFIX}{self.run}_{number}"
            try:
                self._admin.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE {} {} CONNECTION LIMIT {} {}").format(
                        sql.Identifier(name), sql.Identifier(self._template),
                        self._strategy(), sql.Literal(CONNECTION_LIMIT), self._owner(),
                    )
                )
            except (psycopg.Error, OSError) as error:
                with self._changed:
                    self._problem = _server_error("PostgreSQL made no database", error)
                    self._changed.notify_all()
                return
            with self._changed:
                self._ready.append(name)
                self._changed.notify_all()

    def _drop(self) -> None:
        """Drop databases that are done with, while nobody waits for one."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed
                    or (len(self._done) > self._kept() and not self._short())
                )
                if self._closed:
                    return
                name = self._done.popleft()
            try:
                self._dropping.execute(
                    sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
                )
            except (psycopg.Error, OSError):
                # It cannot be dropped now; it goes with the server, or with close().
                if self._dropping.closed:
                    return

    def _short(self) -> bool:
        return len(self._ready) < self._ahead + self._waiting

    def _kept(self) -> int:
        return DROP_BEYOND if self.server.disposable else 0

    def _empty_again(self, name: str) -> None:
        with self._changed:
            self._ready.append(name)
            self._changed.notify_all()

    def _give_back(self, name: str) -> None:
        with self._changed:
            self._done.append(name)
            self._changed.notify_all()


def drop_run(admin: psycopg.Connection[Any], run: str) -> None:
    """Drop every database and role of one run. `admin` is connected to another database."""
    databases = admin.execute(
        "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (f"{PREFIX}{run}_",)
    ).fetchall()
    for (name,) in databases:
        admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )
    roles = admin.execute(
        "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (f"{PREFIX}{run}_",)
    ).fetchall()
    for (name,) in roles:
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def drop_dead_runs(admin: psycopg.Connection[Any]) -> list[str]:
    """Drop what runs that were killed have left on a server that lives on; returns their ids.

    A living run holds a lock under its name. pg_locks shows it, whichever database it was taken
    from; trying to take it would not.
    """
    rows = admin.execute(
        "SELECT DISTINCT substring(name FROM %s) FROM (SELECT datname AS name FROM pg_database"
        " UNION SELECT rolname FROM pg_roles) AS all_names WHERE name ~ %s",
        (f"^{PREFIX}([a-z0-9]+)_", f"^{PREFIX}[a-z0-9]+_"),
    ).fetchall()
    dropped = []
    for (run,) in rows:
        alive = _one(
            admin,
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"
            " AND objid = (hashtext(%s)::bigint & 4294967295)::oid)",
            _LOCK, run,
        )
        if alive:
            continue
        with contextlib.suppress(psycopg.Error):  # made by another role: not ours to drop
            drop_run(admin, run)
            dropped.append(run)
    return dropped


# Watching


class Watch:
    """Turns committed changes of one database's tasks into events, in the order of their commits.

    It listens on a connection of its own, read on the loop. PostgreSQL queues notifications in
    the order of the commits that sent them, so an echo of our own says that all before it came.
    """

    def __init__(self, database: Database, loop: LoopThread, history: h.History) -> None:
        self._loop = loop
        self._history = history
        self._labels: dict[str, str] = {}
        self._waiting: dict[str, concurrent.futures.Future[bool]] = {}
        self._to_send: deque[str] = deque()
        self._sending = False
        self._open = True
        try:
            self._connection = connect(database.admin_url, timeout=BOUND * patience())
            self._connection.execute(f"LISTEN {CHANNEL}; LISTEN {_ECHO_CHANNEL}")
        except (psycopg.Error, OSError) as error:
            raise _server_error("The grader cannot watch its database", error) from error
        # From here on libpq's own non-blocking calls are used, on the loop's thread only: a
        # psycopg connection that waits for notifications cannot send the echo at the same time.
        self._libpq = self._connection.pgconn
        self._libpq.nonblocking = 1
        self._socket = self._libpq.socket
        loop.call_soon(self._listen)

    def sync(self, timeout: float) -> bool:
        """Wait until every change committed before this call is an event; False if it cannot be
        known after `timeout` seconds, or because the connection is gone.
        """
        heard: concurrent.futures.Future[bool] = concurrent.futures.Future()
        self._loop.call_soon(self._ask, secrets.token_hex(8), heard)
        try:
            return heard.result(timeout)
        except concurrent.futures.TimeoutError:
            return False

    def close(self) -> None:
        """Stop listening and close the connection."""
        done: concurrent.futures.Future[bool] = concurrent.futures.Future()
        self._loop.call_soon(self._stop, done)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            done.result(5)
        self._connection.close()

    # On the loop

    def _listen(self) -> None:
        if self._open:
            self._loop.loop.add_reader(self._socket, self._read)
            self._read()  # what came while the connection was being made

    def _stop(self, done: concurrent.futures.Future[bool] | None = None) -> None:
        if self._open:
            self._open = False
            self._loop.loop.remove_reader(self._socket)
        for heard in self._waiting.values():
            _answer(heard, False)
        self._waiting.clear()
        if done:
            _answer(done, True)

    def _ask(self, token: str, heard: concurrent.futures.Future[bool]) -> None:
        if not self._open:
            _answer(heard, False)
            return
        self._waiting[token] = heard
        self._to_send.append(token)
        self._send()

    def _send(self) -> None:
        if self._sending or not self._to_send:
            return
        self._sending = True
        token = self._to_send.popleft()
        try:
            self._libpq.send_query(f"NOTIFY {_ECHO_CHANNEL}, '{token}'".encode())
            self._libpq.flush()  # 60 bytes on a socket with nothing under way: never partial
        except psycopg.Error:
            self._stop()

    def _read(self) -> None:
        try:
            self._libpq.consume_input()
            while self._sending and not self._libpq.is_busy():
                if self._libpq.get_result() is None:
                    self._sending = False
            while notice := self._libpq.notifies():
                self._heard(notice.relname.decode(), notice.extra.decode())
        except psycopg.Error:  # the server, or this database, has gone
            self._stop()
            return
        self._send()

    def _heard(self, channel: str, text: str) -> None:
        if channel == _ECHO_CHANNEL:
            heard = self._waiting.pop(text, None)
            if heard:
                _answer(heard, True)
            return
        try:
            change = json.loads(text)
            task, old, new = str(change["task"]), change["old"], change["new"]
        except (ValueError, KeyError, TypeError):
            return  # anybody may NOTIFY on any channel; this one was not the audit's
        worker = change.get("worker")
        self._history.add(
            h.ROW_CHANGED, "postgres", _in_words(self._label(task), old, new, worker),
            task=task, old=old, new=new, worker=worker, backend=change.get("backend"),
        )

    def _label(self, task: str) -> str:
        if task not in self._labels:
            for event in self._history.events(h.TASK_ADDED):
                self._labels[str(event.data.get("task"))] = str(event.data.get("label", "?"))
        return self._labels.get(task, f"task {task[:8]}")


def watch(database: Database, loop: LoopThread, history: h.History) -> Watch:
    """Add a ROW_CHANGED event for every change of a task committed from now on.

    An UPDATE that leaves the status as it was is an event too, with `old` equal to `new`.
    """
    return Watch(database, loop, history)


def _in_words(label: str, old: str | None, new: str | None, worker: str | None) -> str:
    if old is None:
        return f"{label} is added: {new}"
    if new is None:
        return f"{label} is deleted (was {old})"
    by = f", assigned to {worker}" if worker and new == "processing" else ""
    return f"{label} {old} → {new}{by}" if old != new else f"{label} is still {new}{by}"


def _answer(future: concurrent.futures.Future[bool], value: bool) -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # nobody waits any more
        future.set_result(value)


def _one(connection: psycopg.Connection[Any], query: str, *params: Any) -> Any:
    row = connection.execute(query, params or None).fetchone()
    return row[0] if row else None


def _server_error(what: str, error: BaseException) -> ServerError:
    """One sentence of an error that may have several lines."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
    if "No space left on device" in str(error):
        return ServerError(f"{what}: there is no free space on the disk.")
    return ServerError(f"{what}: {said.rstrip('.')}.")
