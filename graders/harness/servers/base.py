"""What every backend gives back: a running server, or one clear sentence why there is none."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg

# Speed before safety: these servers live for a minute and their data is thrown away. Every name
# here is known to PostgreSQL 13 and newer; a name it does not know would stop it from starting.
POSTGRES_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",  # CREATE DATABASE need not write the whole template to the log
    "max_wal_senders": "0",  # goes with wal_level=minimal
    "max_connections": "300",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "16MB",
    "max_logical_replication_workers": "0",
    "checkpoint_timeout": "1h",
    "timezone": "UTC",
}

# Each check has a Redis database of its own, so there must be enough of them.
REDIS_DATABASES = 256


class ServerError(Exception):
    """A server cannot be had; `str(error)` says why, in one sentence. Never a student's fault."""


class Spawner(Protocol):
    """What starting a server needs of the keeper (keeper.py); `make up` brings its own."""

    def spawn(
        self,
        argv: list[str],
        *,
        env: dict[str, str],
        cwd: Path,
        stdout: int | None,
        stderr: int | None,
        user: str | None = None,
        marker: str,
        limits: dict[str, Any] | None,
    ) -> int: ...

    def on_exit(self, pid: int, callback: Callable[[int | None, str | None], None]) -> None: ...

    def signal(self, pid: int, signum: int, group: bool = False) -> None: ...

    def kill_tree(self, marker: str) -> None: ...

    def tidy(self, path: Path) -> None: ...

    def container(self, label: str) -> None: ...


@dataclass(eq=False)
class Server:
    """A running server. Its superuser's password, if it has one, stands in `admin_url` only."""

    kind: str  # "postgres" or "redis"
    host: str
    port: int
    admin_url: str
    version: str  # "PostgreSQL 18.6", "Valkey 9.1.2", "Redis 8.0.1"
    backend: str  # "embedded", "containers" or "external"
    pid: int | None = None  # embedded only
    folder: Path | None = None  # embedded only: where its data is
    stop: Callable[[], None] = field(default=lambda: None, repr=False)  # may be called twice

    @property
    def disposable(self) -> bool:
        """Whether its data goes when it stops, so that nobody needs to clean up in it."""
        return self.backend != "external"

    def url(
        self, database: str, user: str | None = None, password: str | None = None
    ) -> str:
        """The admin's URL with another database, and another user if one is given."""
        whole = urlsplit(self.admin_url)
        place = whole.netloc
        if user is not None:
            host = f"[{self.host}]" if ":" in self.host else self.host
            secret = f":{quote(password, safe='')}" if password else ""
            place = f"{quote(user, safe='')}{secret}@{host}:{self.port}"
        return urlunsplit(whole._replace(netloc=place, path="/" + quote(database, safe="")))

    def healthy(self) -> bool:
        """Whether it answers now. Asked before a finding is believed, so it is patient."""
        try:
            if self.kind == "redis":
                return bool(redis_info(self.host, self.port, timeout=10 * patience()))
            with connect(self.admin_url, timeout=10 * patience()) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except (OSError, psycopg.Error):
            return False


def patience() -> float:
    """The factor PATIENCE that every bound is multiplied by; 1 if it is unset or unusable."""
    try:
        return min(max(float(os.environ.get("PATIENCE") or 1), 0.1), 100.0)
    except ValueError:
        return 1.0


def connect(url: str, timeout: float = 30.0, **options: Any) -> psycopg.Connection[Any]:
    """An autocommit connection without TLS or GSS, which loopback does not need.

    Each of the two would cost a round trip, and the wire's proxy declines them as well.
    """
    return psycopg.connect(
        url, autocommit=True, sslmode="disable", gssencmode="disable",
        connect_timeout=max(2, round(timeout)), **options,
    )


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis_info(host: str, port: int, section: str = "server", timeout: float = 5.0
               ) -> dict[str, str]:
    """One section of INFO, asked in RESP over a plain socket; {} while the server still loads.

    Raises OSError when nobody listens. redis-py is not used: it takes a quarter of a second to
    import, and labs without Redis never need it.
    """
    with socket.create_connection((host, port), timeout=timeout) as link:
        name = section.encode()
        link.sendall(b"*2\r\n$4\r\nINFO\r\n$%d\r\n%b\r\n" % (len(name), name))
        answer = link.makefile("rb")
        head = answer.readline()
        if not head.startswith(b"$"):
            if head.startswith((b"-NOAUTH", b"-WRONGPASS", b"-NOPERM")):
                raise PermissionError(head[1:].decode(errors="replace").strip())
            return {}
        text = answer.read(int(head[1:])).decode(errors="replace")
    lines = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key: value for key, _, value in lines}


def redis_version(info: dict[str, str]) -> str:
    """"Valkey 9.1.2" or "Redis 8.0.1", of an INFO."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '(unknown version)')}"


def postgres_version(connection: psycopg.Connection[Any]) -> str:
    """"PostgreSQL 18.6"; what a distribution adds in brackets is left out."""
    row = connection.execute("SHOW server_version").fetchone()
    return f"PostgreSQL {row[0].split()[0]}" if row else "PostgreSQL"


def run_folder(prefix: str) -> Path:
    """A new folder for servers. Its path is short: a Unix socket's may have about 100 characters.

    An unprivileged PostgreSQL passes through it, and nobody looks in.
    """
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    folder.chmod(0o711)
    return folder


def poll(ready: Callable[[], Any], bound: float, every: float = 0.01) -> Any:
    """Ask `ready` until it answers something true, and return that; None after `bound` seconds."""
    deadline = time.monotonic() + bound
    while True:
        answer = ready()
        if answer or time.monotonic() > deadline:
            return answer or None
        time.sleep(every)
