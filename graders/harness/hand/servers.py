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
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from graders.harness import leftovers, servers, settings
from graders.harness.hand.detached import Detached, Running
from graders.harness.keeper import Keeper
from graders.harness.servers.base import Server, connect, run_folder
from graders.harness.settings import Lab, SettingError

STATE = "servers.json"
NAMES = {"postgres": "PostgreSQL", "redis": "Redis"}
# The roles of a student's programs, whose passwords are their names: everything is on loopback and
# thrown away. One owns nothing and finds the tables in place; the other owns its database, and
# makes the tables itself.
WORKER, OWNER = "worker", "owner"
# What leads to servers that the user runs.
OWN = {"postgres": ("DATABASE_URL",), "redis": ("REDIS_HOST", "REDIS_PORT")}


@dataclass
class Held:
    """What one server is made of, and ends with it."""

    running: list[Running] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)  # of containers


@dataclass
class Up:
    """What is up."""

    servers: dict[str, dict[str, Any]] = field(default_factory=dict)  # by kind
    held: dict[str, Held] = field(default_factory=dict)  # by kind
    databases: list[str] = field(default_factory=list)  # one for each lab, named after it

    def server(self, kind: str) -> Server | None:
        """The server of this kind if it is up and answers."""
        told = self.servers.get(kind)
        server = Server(**told) if told else None
        return server if server and server.healthy() else None


def up(env: Mapping[str, str]) -> int:
    """Start the lab's servers unless they are up, and print the variables that lead to them.

    Only those go to standard output: `eval "$(make -s up LAB=03)"` sets them.
    """
    chosen = settings.read(env)
    lab = chosen.the_lab
    if chosen.services == "external":
        own = " and ".join(name for kind in lab.services for name in OWN[kind])
        raise SettingError(
            f"make up starts servers of its own. To use one of yours, set {own} instead."
        )
    with _locked():
        state = _read()
        for kind in list(state.servers):
            if state.server(kind) is None:
                new = "; starting a new one" if kind in lab.services else ""
                _say(f"The {NAMES[kind]} that was up has ended{new}.")
                _end(state, kind)
                _write(state)
        missing = [kind for kind in lab.services if kind not in state.servers]
        for kind in missing:
            _start(state, kind, chosen.services)
        if not missing:
            _say("The servers are up already.")
        if "postgres" in lab.services:
            if lab.name not in state.databases:
                _make_database(state, lab)
            state.databases.remove(lab.name)
            state.databases.append(lab.name)  # the latest stands last
            _write(state)
    found = variables(lab)
    print("export", " ".join(f"{name}={shlex.quote(value)}" for name, value in found.items()))
    return 0


def down(env: Mapping[str, str]) -> int:
    """Stop what `make up` has started, and throw its data away."""
    with _locked():
        state = _read()
        was_up = bool(state.held)
        for kind in list(state.held):
            _end(state, kind)
        with contextlib.suppress(FileNotFoundError):
            _path().unlink()
    if was_up:
        print("The servers are stopped, and their data is gone.")
    else:
        print("No servers are up.")
    return 0


def variables(lab: Lab, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that lead a program of this lab to the servers that are up.

    Where one is not up: as the user has set them. Raises SettingError when there is neither.
    """
    state = _read()
    found = {}
    for kind in lab.services:
        server = state.server(kind)
        if server is not None and kind == "redis":
            found |= {"REDIS_HOST": server.host, "REDIS_PORT": str(server.port)}
        elif server is not None and lab.name in state.databases:
            found["DATABASE_URL"] = _url(server, lab)
        else:
            own = {name: env[name] for name in OWN[kind] if env.get(name)} if env else {}
            if not own:
                raise _not_up(lab)
            found |= own
    return found


def database_url(lab: Lab, env: Mapping[str, str]) -> str:
    """The URL of the lab's database for whoever owns its tables; else the user's DATABASE_URL.

    Raises SettingError when there is neither.
    """
    state = _read()
    server = state.server("postgres")
    if server is not None and lab.name in state.databases:
        return _url(server, lab) if lab.migrates else server.url(lab.name)
    if env.get("DATABASE_URL"):
        return env["DATABASE_URL"]
    raise _not_up(lab)


def redis_address(env: Mapping[str, str]) -> tuple[str, int]:
    """Host and port of the Redis that is up; else of the user's own, as REDIS_HOST, REDIS_PORT.

    Raises SettingError when there is neither.
    """
    server = _read().server("redis")
    if server is not None:
        return server.host, server.port
    if not (env.get("REDIS_HOST") or env.get("REDIS_PORT")):
        first = next((lab.number for lab in settings.labs() if "redis" in lab.services), "01")
        raise SettingError(f"No Redis is up. Start one with: make up LAB={first}")
    port = env.get("REDIS_PORT") or "6379"
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise SettingError(f"REDIS_PORT={port} is no port; a port is a number from 1 to 65535.")
    return env.get("REDIS_HOST") or "localhost", int(port)


def latest_lab() -> Lab | None:
    """The lab for whose database `make up` was run last, if it is up."""
    databases = _read().databases
    return settings.lab(databases[-1]) if databases else None


def is_up() -> bool:
    """Whether `make up` has left servers that were not stopped."""
    return bool(_read().servers)


def _url(server: Server, lab: Lab) -> str:
    """The URL of the lab's database for the student's programs."""
    role = OWNER if lab.migrates else WORKER
    return server.url(lab.name, role, role)


def _not_up(lab: Lab) -> SettingError:
    return SettingError(
        f"The servers of lab {lab.number} are not up. Start them with: make up LAB={lab.number}"
    )


# Starting and ending


def _start(state: Up, kind: str, mode: str) -> None:
    spawner = Detached()
    run_dir = run_folder(f"{leftovers.PREFIX}up-")
    spawner.tidy(run_dir)
    try:
        started = servers.start({kind}, mode, spawner, run_dir)
    except BaseException as error:
        _stop(_held_by(spawner))
        if isinstance(error, servers.ServerError):
            raise SettingError(str(error)) from None
        raise
    (server,) = started.all
    state.servers[kind] = {
        "kind": kind, "host": server.host, "port": server.port,
        "admin_url": server.admin_url, "version": server.version, "backend": server.backend,
    }
    # What helped to start it (initdb) has ended by now.
    held = _held_by(spawner)
    held.running = [each for each in held.running if each.process()]
    state.held[kind] = held
    try:
        _write(state)
    except OSError as error:
        _end(state, kind)  # what nobody remembers, nobody could stop
        raise SettingError(f"What is up cannot be remembered: {error}") from None
    for note in started.notes:
        _say(note)


def _held_by(spawner: Detached) -> Held:
    return Held(spawner.running, list(map(str, spawner.folders)), spawner.labels)


def _make_database(state: Up, lab: Lab) -> None:
    """The lab's database, and the role of the student's programs.

    With the lab's schema in it, and nothing that the role owns; or empty and the role's own, where
    the student's migrations make the tables.
    """
    server = Server(**state.servers["postgres"])
    who = OWNER if lab.migrates else WORKER
    role, name = sql.Identifier(who), sql.Identifier(lab.name)
    try:
        with connect(server.admin_url) as admin:
            known = admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (who,)).fetchone()
            if known is None:
                admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    role, sql.Literal(who)))
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
            if lab.migrates:
                admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, role))
        if not lab.migrates:
            with connect(server.url(lab.name)) as database:
                # PostgreSQL before 15 lets everybody make tables.
                database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
                database.execute(lab.schema_sql or "SELECT")
                database.execute(
                    sql.SQL(
                        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}"
                    ).format(role)
                )
    except psycopg.Error as error:
        raise SettingError(f"The database of {lab.name} cannot be made: {error}") from None
    state.databases.append(lab.name)
    _write(state)


def _end(state: Up, kind: str) -> None:
    """Stop what is left of this server, and take it out of the state."""
    _stop(state.held.pop(kind, Held()))
    state.servers.pop(kind, None)
    if kind == "postgres":
        state.databases.clear()


def _stop(held: Held) -> None:
    for each in held.running:
        each.stop()
    if held.labels:
        with Keeper.start() as keeper:  # it knows how to remove containers
            for label in held.labels:
                keeper.container(label)
    # A file names these folders: only ones that were made for servers go.
    leftovers.remove((f for f in held.folders if Path(f).name.startswith(leftovers.PREFIX)), ())


# The state file


def _path() -> Path:
    return settings.state_dir() / STATE


def _read() -> Up:
    try:
        told = json.loads(_path().read_text(encoding="utf-8"))
        for kind, held in told["held"].items():
            running = [Running(**each) for each in held.pop("running")]
            told["held"][kind] = Held(running, **held)
        return Up(**told)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
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
