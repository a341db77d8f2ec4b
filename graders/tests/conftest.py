"""Fixtures of the harness's own tests: real servers, one of each for the whole run."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from graders.harness import servers, settings
from graders.harness.history import History
from graders.harness.keeper import Keeper
from graders.harness.loop import LoopThread
from graders.harness.overload import Overload
from graders.harness.servers import Server, containers, embedded
from graders.harness.servers.base import poll

# A job in the background of a shell ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each process of pytest-xdist has its share of the cores, as a lane of a class has: three that take
# all of them make each other miss time limits.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    processes = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault(settings.SHARE, f"{settings.cores() / processes:.2f}")

_numbers = itertools.count(1)

# Images are built in test_image.py only: else every whole grading of lab 01 would build one.
# Kept under another name: the processes of pytest-xdist get this environment as it is left here.
BASE_IMAGE = os.environ.setdefault(
    "WORKER_LABS_TESTED_IMAGE",
    os.environ.get("WORKER_LABS_PYTHON_IMAGE", "").strip() or "python:3.12-slim",
)
os.environ["WORKER_LABS_PYTHON_IMAGE"] = "worker-labs/none"


@dataclass(frozen=True)
class PostgresServer:
    """A running PostgreSQL: (host, port) and a superuser's connection string."""

    host: str
    port: int
    dsn: str


@dataclass(frozen=True)
class RedisServer:
    """A running Redis or Valkey."""

    host: str
    port: int


@pytest.fixture(scope="session")
def run_dir() -> Iterator[Path]:
    """A folder with a short path, as a grading run has one."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="wl-", dir=base, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def keeper() -> Iterator[Keeper]:
    """The keeper that ends what the tests start, whatever happens to them."""
    with Keeper.start() as keeper:
        yield keeper


@pytest.fixture(scope="session")
def postgres_server(keeper: Keeper, run_dir: Path) -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests. It is shared: a test makes what it needs under its own name."""
    services = servers.start({"postgres"}, "embedded", keeper, run_dir)
    server = services.postgres
    assert server is not None
    yield PostgresServer(server.host, server.port, server.admin_url)
    services.stop()


@pytest.fixture(scope="module")
def server(keeper: Keeper, run_dir: Path) -> Iterator[Server]:
    """A PostgreSQL of a module's own, as a run has it."""
    server = embedded.start_postgres(keeper, run_dir)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(keeper: Keeper, run_dir: Path) -> Iterator[RedisServer]:
    """One Redis for all tests; each one takes a database of its own (`redis_database`)."""
    services = servers.start({"redis"}, "embedded", keeper, run_dir)
    server = services.redis
    assert server is not None
    yield RedisServer(server.host, server.port)
    services.stop()


@pytest.fixture
def redis_database(redis_server: RedisServer) -> int:
    """The number of a database that no other test uses."""
    return next(_numbers)


@pytest.fixture(scope="session")
def session_loop() -> Iterator[LoopThread]:
    """One loop for all tests, as a run has one for all checks."""
    with LoopThread() as loop:
        yield loop


@pytest.fixture
def loop(session_loop: LoopThread) -> Iterator[LoopThread]:
    """The loop; a test during which something went wrong on it unheard fails."""
    session_loop.errors.clear()
    yield session_loop
    assert session_loop.errors == []


@pytest.fixture
def history() -> Iterator[History]:
    """A fresh history."""
    history = History()
    yield history
    history.close()


@pytest.fixture(autouse=True)
def _crowded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole gradings side by side keep the machine busy by themselves, and believe what they find.

    Each of them would take the other ones' load for somebody else's.
    """
    if request.node.get_closest_marker("proof"):
        monkeypatch.setattr(Overload, "why", lambda *_: "")


@pytest.fixture
def engine() -> None:
    """A Docker engine with the images; where they are required, their lack is a failure."""
    lack = ""
    required = os.environ.get("WORKER_LABS_REQUIRE_CONTAINERS") == "1"
    if not poll(lambda: containers.engine_answers(timeout=10.0), 60 if required else 0):
        lack = "no Docker engine answers"
    elif missing := containers.missing_images({"postgres", "redis"}):
        lack = f"no image {missing}"
    if lack and required:
        pytest.fail(lack)
    if lack:
        pytest.skip(lack)


# Whole gradings mostly wait for time-outs, so `make test` runs them in several processes at once
# (pytest-xdist), after everything that looks at the whole machine or needs it for itself.
PROOFS = ("test_mutants.py", "test_explore.py", "test_explore_redis.py")


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.name in PROOFS and not item.get_closest_marker("hungry"):
        item.add_marker(pytest.mark.proof)
