"""PostgreSQL and Redis in containers, through testcontainers.

The servers' ports are published on 127.0.0.1 only. Every container carries a label that the
keeper knows before the container exists, so that it is removed whatever ends the grader;
testcontainers' own reaper is not needed, nor is its image.

testcontainers is imported only once something says that there may be a Docker engine: importing
it takes a quarter of a second, which nobody without Docker should pay.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg

from graders.harness.servers.base import (
    POSTGRES_SETTINGS,
    REDIS_DATABASES,
    Server,
    ServerError,
    Spawner,
    connect,
    patience,
    poll,
    postgres_version,
    redis_info,
    redis_version,
)

if TYPE_CHECKING:
    from docker import DockerClient
    from testcontainers.core.container import DockerContainer

IMAGE_SETTINGS = {"postgres": "WORKER_LABS_POSTGRES_IMAGE", "redis": "WORKER_LABS_REDIS_IMAGE"}
DEFAULT_IMAGES = {"postgres": "postgres:18", "redis": "redis:8"}
LABEL = "worker-labs.run"
SOCKET = Path("/var/run/docker.sock")  # where an engine listens unless something says otherwise
START_BOUND = 120.0  # seconds, times PATIENCE; a container takes two to five
# PostgreSQL's data are in memory, as the embedded one's are: on a disk that others keep busy, a
# login (which writes a cache file into a fresh database) has waited longer than clients do.
DATA = "/worker-labs"


def image(kind: str) -> str:
    """The image of "postgres" or "redis": by setting, else the default."""
    return os.environ.get(IMAGE_SETTINGS[kind], "").strip() or DEFAULT_IMAGES[kind]


# Is there an engine, and are the images here?


def engine_answers(timeout: float = 2.0) -> bool:
    """Whether a Docker engine of this machine answers within `timeout` seconds."""
    return _may_have_engine(timeout) and _bounded(lambda: _ping(timeout), timeout) is True


def missing_images(kinds: set[str]) -> list[str]:
    """Names of the images of these kinds that the engine does not have. Raises ServerError."""
    with _as_server_error("Docker does not say which images it has"), _client() as client:
        return [image(kind) for kind in sorted(kinds) if not _has_image(client, image(kind))]


def pull_images(
    kinds: set[str] | None = None, say: Callable[[str], None] = print
) -> None:
    """Fetch the images that are not here (`make images`). Raises ServerError."""
    if not engine_answers(timeout=10.0):
        raise ServerError(
            "No Docker engine answers here, so no image can be fetched; the embedded servers need "
            "none (SERVICES=embedded)."
        )
    for kind in sorted(kinds or set(DEFAULT_IMAGES)):
        name = image(kind)
        with _as_server_error(f"The image {name} cannot be fetched"), _client(60.0) as client:
            if _has_image(client, name):
                say(f"{name} is here.")
                continue
            say(f"Fetching {name} …")
            from docker.utils import parse_repository_tag

            repository, tag = parse_repository_tag(_with_prefix(name))
            client.images.pull(repository, tag=tag or "latest")
            say(f"{name} is here now.")


def _may_have_engine(timeout: float) -> bool:
    """Cheap signs of an engine: a setting, a context, or a socket that somebody listens on."""
    if os.environ.get("DOCKER_HOST"):
        return True
    home = Path(os.environ.get("HOME") or "/")
    with contextlib.suppress(OSError):
        if "tc.host" in (home / ".testcontainers.properties").read_text(errors="replace"):
            return True
    config = Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        context = os.environ.get("DOCKER_CONTEXT") or json.loads(
            config.read_text(errors="replace")
        ).get("currentContext")
        if context and context != "default":
            return True
    return _listens(SOCKET, timeout)


def _listens(path: Path, timeout: float) -> bool:
    """A socket that a dead engine left behind refuses connections at once."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(timeout)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _ping(timeout: float) -> bool:
    with _client(timeout) as client:
        return bool(client.ping())


def _bounded(ask: Callable[[], Any], timeout: float) -> Any:
    """What `ask` answers, or None if it fails or takes longer (a paused engine, ssh)."""
    answers: list[Any] = []

    def asking() -> None:
        with contextlib.suppress(Exception):
            answers.append(ask())

    thread = threading.Thread(target=asking, daemon=True)
    thread.start()
    thread.join(timeout)
    return answers[0] if answers else None


def _client(timeout: float = 10.0) -> contextlib.closing[DockerClient]:
    """A plain client of the engine that testcontainers would use (it knows contexts)."""
    import docker
    from testcontainers.core.docker_client import get_docker_host

    host = get_docker_host()
    if host:
        ssh = {"use_ssh_client": True} if host.startswith("ssh://") else {}
        return contextlib.closing(docker.DockerClient(base_url=host, timeout=timeout, **ssh))
    return contextlib.closing(docker.from_env(timeout=timeout))


def _has_image(client: DockerClient, name: str) -> bool:
    from docker.errors import ImageNotFound

    try:
        client.images.get(_with_prefix(name))
    except ImageNotFound:
        return False
    return True


def _with_prefix(name: str) -> str:
    """testcontainers can be told to fetch from a mirror; it then calls images by that name."""
    from testcontainers.core.config import testcontainers_config

    return testcontainers_config.hub_image_name_prefix + name


# Starting


def start_postgres(keeper: Spawner, run_dir: Path) -> Server:
    """Start PostgreSQL in a container. Raises ServerError."""
    _prepare("postgres")
    from testcontainers.community.postgres import PostgresContainer

    password = secrets.token_hex(16)
    settings = [part for name, value in POSTGRES_SETTINGS.items() for part in
                ("-c", f"{name}={value}")]
    with _as_server_error("PostgreSQL's container does not start"):
        container = PostgresContainer(
            image("postgres"), username="postgres", password=password, dbname="postgres",
            driver=None,
        )
        container.with_command(["postgres", *settings])
        container.with_env("PGDATA", f"{DATA}/data")
        container.with_tmpfs_mount(DATA)

        def ask(host: str, port: int) -> str:
            with connect(_postgres_url(host, port, password), timeout=5) as admin:
                return postgres_version(admin)

        host, port, version = _run(container, 5432, ask, keeper, run_dir)
    return Server(
        kind="postgres", host=host, port=port, admin_url=_postgres_url(host, port, password),
        version=version, backend="containers", stop=lambda: _stop(container),
    )


def start_redis(keeper: Spawner, run_dir: Path) -> Server:
    """Start Redis in a container. Raises ServerError."""
    _prepare("redis")
    from testcontainers.community.redis import RedisContainer

    with _as_server_error("Redis's container does not start"):
        container = RedisContainer(image("redis"))
        container.with_command(
            ["redis-server", "--save", "", "--appendonly", "no",
             "--databases", str(REDIS_DATABASES)]
        )

        def ask(host: str, port: int) -> str | None:
            info = redis_info(host, port)
            return redis_version(info) if info else None

        host, port, version = _run(container, 6379, ask, keeper, run_dir)
    return Server(
        kind="redis", host=host, port=port, admin_url=f"redis://{host}:{port}/0",
        version=version, backend="containers", stop=lambda: _stop(container),
    )


def _postgres_url(host: str, port: int, password: str) -> str:
    return f"postgresql://postgres:{quote(password)}@{host}:{port}/postgres"


def _prepare(kind: str) -> None:
    """Fail early and clearly; set testcontainers up for servers on this machine's loopback."""
    if not engine_answers(timeout=10.0):
        raise ServerError(
            "No Docker engine answers here; start Docker, or use SERVICES=embedded, which needs "
            "none."
        )
    missing = missing_images({kind})
    if missing:
        raise ServerError(f"The image {missing[0]} is not here; `make images` fetches it.")
    from testcontainers.core.config import ConnectionMode, testcontainers_config

    testcontainers_config.ryuk_disabled = True  # the keeper removes the containers
    # A machine that looks like a container would be sent to the bridge, where nothing listens.
    if testcontainers_config.connection_mode_override is None:
        testcontainers_config.connection_mode_override = ConnectionMode.docker_host
    if testcontainers_config.tc_host_override is None:
        testcontainers_config.tc_host_override = "127.0.0.1"


def _run(
    container: DockerContainer,
    inner_port: int,
    ask: Callable[[str, int], str | None],
    keeper: Spawner,
    run_dir: Path,
) -> tuple[str, int, str]:
    """Start it and wait until `ask` gets its version from outside."""
    from testcontainers.core.waiting_utils import WaitStrategy

    found: list[tuple[str, int, str]] = []

    class Answers(WaitStrategy):
        """Ready is who answers through the published port; who has exited never will."""

        def wait_until_ready(self, target: Any) -> None:
            host, port = target.get_container_host_ip(), target.get_exposed_port(inner_port)

            def version() -> str | None:
                with contextlib.suppress(OSError, psycopg.Error):
                    if told := ask(host, port):
                        return told
                target.reload()
                if target.status not in ("created", "running", "restarting"):
                    raise ServerError(f"it ended while it was starting: {_last_words(target)}")
                return None

            told = poll(version, START_BOUND * patience(), every=0.05)
            if not told:
                raise ServerError(
                    f"it is not ready at {host}:{port} after {START_BOUND * patience():.0f} "
                    f"seconds: {_last_words(target)}"
                )
            found.append((host, port, told))

    run = f"{run_dir.name}-{secrets.token_hex(4)}"
    container.ports = {str(inner_port): ("127.0.0.1", None)}  # type: ignore[dict-item]
    container.with_kwargs(labels={LABEL: run})
    container.waiting_for(Answers())
    keeper.container(f"{LABEL}={run}")
    try:
        container.start()
    except BaseException:
        _stop(container)
        raise
    return found[0]


def _last_words(container: Any) -> str:
    said = b"\n".join(container.get_logs()).decode(errors="replace").split("\n")
    lines = [line.strip() for line in said if line.strip()]
    return (lines or ["it wrote nothing"])[-1][:300]


def _stop(container: DockerContainer) -> None:
    with contextlib.suppress(Exception):  # the engine may be gone, and the container with it
        container.stop()


@contextlib.contextmanager
def _as_server_error(what: str) -> Any:
    """Docker, its client and HTTP below it raise errors of many kinds; the user gets one."""
    try:
        yield
    except ServerError as error:
        said = str(error).rstrip(".")
        raise ServerError(f"{what}: {said}.") from error
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        if "no space left" in said.lower():
            said = "there is no free space on the disk"
        raise ServerError(f"{what}: {said.rstrip('.')}.") from error
