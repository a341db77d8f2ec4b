"""PostgreSQL and Redis for one run: from containers, from Python packages, or the user's own.

One interface for all: `start()` gives `Services`, whose `postgres` and `redis` are `Server`s on
127.0.0.1 (external ones may be elsewhere). One server per run; each check gets a database of its
own on it. Whatever cannot be had is a `ServerError` with one sentence, and never a student's fault.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from graders.harness.servers.base import Server, ServerError, Spawner

__all__ = ["MODES", "Server", "ServerError", "Services", "Spawner", "start"]

MODES = ("auto", "containers", "embedded", "external")
KINDS = ("postgres", "redis")


@dataclass(eq=False)
class Services:
    """The servers of one run, and the lines that say which they are and why."""

    postgres: Server | None = None
    redis: Server | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[Server]:
        """Those that run."""
        return [server for server in (self.postgres, self.redis) if server]

    def describe(self) -> dict[str, str]:
        """What a result says about them: {"postgres": "embedded (PostgreSQL 18.6)"}."""
        return {server.kind: f"{server.backend} ({server.version})" for server in self.all}

    def healthy(self) -> bool:
        """Whether each of them answers now; if not, no finding is to be believed."""
        return all(server.healthy() for server in self.all)

    def stop(self) -> None:
        """Stop them and remove their data; external ones are left as they are."""
        for server in self.all:
            server.stop()


def start(kinds: set[str], mode: str, keeper: Spawner, run_dir: Path) -> Services:
    """Start servers of these kinds ("postgres", "redis") side by side. Raises ServerError.

    `mode` is one of MODES; "auto" takes containers where a Docker engine answers at once and the
    images are here, else the embedded servers.
    """
    unknown = kinds - set(KINDS)
    if unknown or mode not in MODES:
        raise ValueError(f"no such server or mode: {', '.join(sorted(unknown)) or mode}")
    if not kinds:
        return Services()
    why = ""
    if mode == "auto":
        mode, why = _choose(kinds)
    if mode == "containers":
        from graders.harness.servers import containers

        try:
            return _start(kinds, containers, keeper, run_dir, why)
        except ServerError as error:
            if not why:  # asked for by name
                raise
            why = f"the containers did not start: {str(error).rstrip('.')}"
    if mode == "external":
        from graders.harness.servers import external

        return _start(kinds, external, keeper, run_dir, why)
    from graders.harness.servers import embedded

    return _start(kinds, embedded, keeper, run_dir, why)


def _choose(kinds: set[str]) -> tuple[str, str]:
    """Containers or embedded, and why. Costs next to nothing where there is no Docker."""
    from graders.harness.servers import containers

    if not containers.engine_answers(timeout=2.0):
        return "embedded", "no Docker engine answers here"
    missing = containers.missing_images(kinds)
    if missing:
        names = " and ".join(missing)
        return "embedded", f"Docker has no {names} here; `make images` fetches what is missing"
    return "containers", "a Docker engine answers and the images are here"


def _start(
    kinds: set[str], backend: ModuleType, keeper: Spawner, run_dir: Path, why: str
) -> Services:
    starters = {"postgres": backend.start_postgres, "redis": backend.start_redis}
    services = Services()
    problems: list[BaseException] = []
    with ThreadPoolExecutor(len(kinds)) as pool:
        under_way = {
            kind: pool.submit(starters[kind], keeper, run_dir)
            for kind in KINDS if kind in kinds
        }
        for kind, future in under_way.items():
            try:
                setattr(services, kind, future.result())
            except Exception as error:
                problems.append(error)
    if problems:
        with contextlib.suppress(Exception):
            services.stop()
        raise problems[0]
    names = " and ".join(server.version for server in services.all)
    mode = services.all[0].backend
    services.notes.append(f"Servers: {mode}, {names}{f' ({why})' if why else ''}.")
    return services
