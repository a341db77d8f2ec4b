"""`make up` and `make down`: servers that live until they are stopped.

What is up stands in .worker-labs/servers.json, so that a later command finds it. A server listens
on a free port of 127.0.0.1, so it is in nobody's way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from graders.harness import servers, settings
from graders.harness.hand.detached import Detached, Running
from graders.harness.keeper import Keeper
from graders.harness.servers.base import Server, connect
from graders.harness.settings import Lab, SettingError

STATE = "servers.json"
# Everything is on loopback and thrown away, so the worker's password may be one to remember.
WORKER, PASSWORD = "worker", "worker"
# `make down` removes folders that a file names: only ones that were made for servers.
FOLDER_PREFIX = "wl-"


@dataclass
class Up:
    """What is up."""

    servers: dict[str, dict[str, Any]] = field(default_factory=dict)  # by kind
    databases: list[str] = field(default_factory=list)  # one for each lab, named after it
    running: list[Running] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)  # of containers

    def server(self, kind: str) -> Server | None:
        """The server of this kind if it is up and answers."""
        told = self.servers.get(kind)
        server = Server(**told) if told else None
        return server if server and server.healthy() else None


def up(env: Mapping[str, str]) -> int:
    """Start the lab's servers unless they are up, and print the variables that lead to them.

    Only those lines go to standard output: `eval "$(make -s up LAB=03)"` sets them.
    """
    chosen = settings.read(env)
    lab = chosen.the_lab
    if chosen.services == "external":
        raise SettingError(
            "make up starts servers of its own. To use one of yours, set DATABASE_URL instead."
        )
    with _locked():
        state = _read()
        if any(state.server(kind) is None for kind in state.servers):
            _say("The servers that were up have ended; starting new ones.")
            _end(state)
            state = Up()
        missing = set(lab.services) - set(state.servers)
        if missing:
            _start(state, missing, chosen.services)
        elif state.servers:
            _say("The servers are up already.")
        if "postgres" in lab.services and lab.name not in state.databases:
            _make_database(state, lab)
    for name, value in variables(lab).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def down(env: Mapping[str, str]) -> int:
    """Stop what `make up` has started, and throw its data away."""
    with _locked():
        state = _read()
        _end(state)
    if state.servers or state.running or state.labels:
        print("The servers are stopped, and their data is gone.")
    else:
        print("No servers are up.")
    return 0


def variables(lab: Lab, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that lead a worker to the servers that are up.

    If none are up: DATABASE_URL as the user has set it. Raises SettingError when there is neither.
    """
    state = _read()
    found = {}
    if "postgres" in lab.services:
        server = state.server("postgres")
        if server is not None and lab.name in state.databases:
            found["DATABASE_URL"] = server.url(lab.name, WORKER, PASSWORD)
        elif (env or {}).get("DATABASE_URL"):
            found["DATABASE_URL"] = env["DATABASE_URL"]
        else:
            raise _not_up(lab)
    if "redis" in lab.services:
        server = state.server("redis")
        if server is None:
            raise _not_up(lab)
        found |= {"REDIS_HOST": server.host, "REDIS_PORT": str(server.port)}
    return found


def admin_url(lab: Lab, env: Mapping[str, str]) -> str:
    """The URL of the lab's database for its owner; else the user's DATABASE_URL.

    Raises SettingError when there is neither.
    """
    state = _read()
    server = state.server("postgres")
    if server is not None and lab.name in state.databases:
        return server.url(lab.name)
    if env.get("DATABASE_URL"):
        return env["DATABASE_URL"]
    raise _not_up(lab)


def latest_lab() -> Lab | None:
    """The lab for which `make up` was run last, if its servers are up."""
    databases = _read().databases
    return settings.lab(databases[-1]) if databases else None


def is_up() -> bool:
    """Whether `make up` has left servers that were not stopped."""
    return bool(_read().servers)


def _not_up(lab: Lab) -> SettingError:
    return SettingError(f"No servers are up. Start them with: make up LAB={lab.number}")


# Starting and ending


def _start(state: Up, kinds: set[str], mode: str) -> None:
    spawner = Detached()
    base = "/tmp" if os.access("/tmp", os.W_OK) else None  # a short path, for Unix sockets
    run_dir = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}up-", dir=base))
    run_dir.chmod(0o711)  # an unprivileged PostgreSQL passes through, nobody looks in
    spawner.tidy(run_dir)
    try:
        started = servers.start(kinds, mode, spawner, run_dir)
    except BaseException as error:
        _end(Up(running=spawner.running, folders=list(map(str, spawner.folders)),
                labels=spawner.labels), forget=False)
        if isinstance(error, servers.ServerError):
            raise SettingError(str(error)) from None
        raise
    for server in started.all:
        state.servers[server.kind] = {
            "kind": server.kind, "host": server.host, "port": server.port,
            "admin_url": server.admin_url, "version": server.version, "backend": server.backend,
        }
    # What helped to start them (initdb) has ended by now.
    state.running += [each for each in spawner.running if each.process()]
    state.folders += map(str, spawner.folders)
    state.labels += spawner.labels
    try:
        _write(state)
    except OSError as error:
        _end(state, forget=False)  # what nobody remembers, nobody could stop
        raise SettingError(f"What is up cannot be remembered: {error}") from None
    for note in started.notes:
        _say(note)


def _make_database(state: Up, lab: Lab) -> None:
    """A database with the lab's schema, and the worker's role, which owns nothing in it."""
    server = Server(**state.servers["postgres"])
    role, name = sql.Identifier(WORKER), sql.Identifier(lab.name)
    try:
        with connect(server.admin_url) as admin:
            known = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (WORKER,)).fetchone()
            if known is None:
                admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    role, sql.Literal(PASSWORD)))
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
        with connect(server.url(lab.name)) as database:
            database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # PostgreSQL < 15
            database.execute(lab.schema_sql or "SELECT")
            database.execute(
                sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}")
                .format(role)
            )
    except psycopg.Error as error:
        raise SettingError(f"The database of {lab.name} cannot be made: {error}") from None
    state.databases.append(lab.name)
    _write(state)


def _end(state: Up, forget: bool = True) -> None:
    for each in state.running:
        each.stop()
    if state.labels:
        with Keeper.start() as keeper:  # it knows how to remove containers
            for label in state.labels:
                keeper.container(label)
    for folder in state.folders:
        if Path(folder).name.startswith(FOLDER_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)
    if forget:
        with contextlib.suppress(FileNotFoundError):
            _path().unlink()


# The state file


def _path() -> Path:
    return settings.state_dir() / STATE


def _read() -> Up:
    try:
        told = json.loads(_path().read_text(encoding="utf-8"))
        told["running"] = [Running(**each) for each in told["running"]]
        return Up(**told)
    except (OSError, ValueError, TypeError, KeyError):
        return Up()


def _write(state: Up) -> None:
    beside = _path().with_suffix(".new")
    # A password is in it, so nobody else may read it.
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(state), file, indent=2)
    beside.replace(_path())


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One `make up` or `make down` at a time; the lock goes with the process that holds it."""
    with (settings.state_dir() / "servers.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr)
