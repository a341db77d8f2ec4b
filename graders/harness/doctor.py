"""`make doctor`: what works on this machine, and what to do about what does not.

`make test-setup` grades the starters as they came, and so shows that all of it works together.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from graders.harness import results, servers, settings
from graders.harness.catalog import grade_folder, standing_servers
from graders.harness.hand import servers as hand
from graders.harness.keeper import Keeper
from graders.harness.report.text import emit, wrap
from graders.harness.reset import original_of, write_files
from graders.harness.results import LabResult
from graders.harness.servers import Services, containers
from graders.harness.servers.base import run_folder
from graders.harness.servers.embedded import psql_path
from graders.harness.settings import Lab, SettingError

WIDTH = 100
NEEDED_MB = 500  # free disk for a run: a cluster, databases, copies of the submission
KINDS = ("postgres", "redis")

OK, NOT_NEEDED, BROKEN = " ok ", " -- ", "FAIL"


@dataclass(frozen=True)
class Found:
    """One thing that was looked at."""

    mark: str
    what: str
    told: str
    do: str = ""  # what to do about it


def main(env: Mapping[str, str]) -> int:
    """Look at everything and print it; 0 if grading works here, else 2."""
    works: list[str] = []
    broken = False
    for look in (_python, _disk, _loopback, lambda: _docker(works), lambda: _embedded(works),
                 _psql, _left_up):
        for found in look():
            broken |= found.mark == BROKEN
            emit(_lines(found), sys.stdout, color=False)
            sys.stdout.flush()
    print()
    if works and not broken:
        emit([f"Grading works here, with {' and with '.join(works)}."], sys.stdout, color=False)
        return 0
    emit(["Grading does not work here yet; mend what is marked FAIL."], sys.stdout, color=False)
    return 2


def images(env: Mapping[str, str]) -> int:
    """`make images`: fetch the container images that are not here."""
    try:
        containers.pull_images()
    except servers.ServerError as error:
        raise SettingError(str(error)) from None
    return 0


def test_setup(env: Mapping[str, str]) -> int:
    """`make test-setup`: grade each lab's starter as it came; 0 if all went as it has to, else 2.

    Nothing is written, and the student's own work is not looked at. LAB=03 tries that lab only.
    """
    chosen = settings.read(env)
    labs = [chosen.lab] if chosen.lab else settings.labs()
    broken = False
    try:
        with standing_servers({kind for lab in labs for kind in lab.services},
                              chosen.services) as standing:
            for note in standing.notes:
                emit(wrap(note, WIDTH), sys.stdout, color=False)
            for lab in labs:
                found = _try_out(lab, standing)
                broken |= found.mark == BROKEN
                emit(_lines(found), sys.stdout, color=False)
                sys.stdout.flush()
    except (servers.ServerError, OSError) as error:
        told = str(error)
        end = "" if told.endswith((".", "!", "?")) else "."
        raise SettingError(
            f"No lab can be graded here: {told}{end} See what make doctor says."
        ) from None
    except KeyboardInterrupt:
        print("\nStopped. Nothing was written.", file=sys.stderr)
        return settings.EXIT_STOPPED
    print()
    if broken:
        emit(["Not every lab can be graded here yet; see what make doctor says."], sys.stdout,
             color=False)
        return 2
    what = f"Lab {chosen.lab.number}" if chosen.lab else "Every lab"
    emit([f"{what} can be graded here."], sys.stdout, color=False)
    return 0


# Its name is that of the command; pytest is not to take it for a test where it is imported.
test_setup.__test__ = False


def _try_out(lab: Lab, standing: Services) -> Found:
    """Grade the starter of a lab: nothing is to be earned, and nothing to stay ungraded."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wl-setup-", ignore_cleanup_errors=True) as place:
        folder = Path(place) / lab.name
        write_files(original_of(lab), folder)
        result = grade_folder(lab, folder, standing=standing)
    return _judged(lab, result, time.monotonic() - began)


def _judged(lab: Lab, result: LabResult, seconds: float) -> Found:
    count = len(result.checks)
    ungraded = [c for c in result.checks if c.verdict == results.COULD_NOT_GRADE]
    earned = [c for c in result.checks if c.earned]
    if ungraded:
        first = ungraded[0]
        return Found(BROKEN, lab.name, f"{len(ungraded)} of {count} checks could not be graded, "
                     f"the first of them {first.name}: {first.reason}")
    if earned or not count:
        told = (f"The untouched starter earned {result.earned} of {result.points} points and has "
                f"none to earn; the first are for {earned[0].name}." if earned else
                "There are no checks.")
        return Found(BROKEN, lab.name, told, "Compare this kit with a fresh copy of it.")
    return Found(OK, lab.name, f"graded in {seconds:.1f} s; the starter has 0 of {result.points} "
                 "points, as it should")


def _lines(found: Found) -> Iterator[str]:
    head = f"{found.mark}  {found.what:<16} "
    said = wrap(found.told, WIDTH - len(head)) + (
        wrap(f"→ {found.do}", WIDTH - len(head)) if found.do else []
    )
    for n, line in enumerate(said):
        yield (head if n == 0 else " " * len(head)) + line


def _python() -> Iterator[Found]:
    version = platform.python_version()
    yield Found(OK, "Python", f"{version}, {platform.system()} {platform.machine()}")
    inside = Path(sys.prefix).resolve() == (settings.ROOT / ".venv").resolve()
    yield Found(
        OK if inside else NOT_NEEDED, "environment", str(sys.prefix),
        "" if inside else "This is not the kit's own; `make doctor` looks at that one.",
    )


def _disk() -> Iterator[Found]:
    seen = set()
    for folder in (settings.ROOT, Path(tempfile.gettempdir()), Path("/tmp")):
        if not folder.is_dir() or folder.stat().st_dev in seen:
            continue
        seen.add(folder.stat().st_dev)
        free = shutil.disk_usage(folder).free // 2**20
        if not os.access(folder, os.W_OK):
            yield Found(BROKEN, "free disk", f"{folder} cannot be written to.",
                        "Give your user the right to write there.")
        elif free < NEEDED_MB:
            yield Found(BROKEN, "free disk", f"{free} MB where {folder} is",
                        f"Free some: a run needs up to {NEEDED_MB} MB for a short time.")
        else:
            yield Found(OK, "free disk", f"{free / 1024:.1f} GB where {folder} is")


def _loopback() -> Iterator[Found]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass
    except OSError as error:
        yield Found(BROKEN, "ports", f"No port of 127.0.0.1 can be opened and reached: {error}.",
                    "Look at firewalls and at what confines this terminal; the servers, the "
                    "worker and the grader talk to each other there.")
        return
    yield Found(OK, "ports", "free ports of 127.0.0.1 can be opened and reached")


def _docker(works: list[str]) -> Iterator[Found]:
    if not containers.engine_answers(timeout=2.0):
        yield Found(NOT_NEEDED, "Docker", "no engine answers; it is not needed, as the embedded "
                    "servers do the same", "To use containers, start Docker.")
        return
    yield Found(OK, "Docker", "an engine answers")
    try:
        missing = containers.missing_images(set(KINDS))
    except servers.ServerError as error:
        yield Found(NOT_NEEDED, "images", str(error), "Look at `docker images`.")
        return
    if missing:
        yield Found(NOT_NEEDED, "images", f"{' and '.join(missing)} not here",
                    "`make images` fetches them; until then the embedded servers are used.")
        return
    yield Found(OK, "images", " and ".join(containers.image(kind) for kind in KINDS))
    yield from _really_start("containers", works)


def _embedded(works: list[str]) -> Iterator[Found]:
    yield from _really_start("embedded", works)


def _really_start(mode: str, works: list[str]) -> Iterator[Found]:
    """Start both servers as a run would, and stop them."""
    what = "embedded servers" if mode == "embedded" else mode
    began = time.monotonic()
    try:
        with Keeper.start() as keeper:
            run_dir = run_folder("wl-doctor-")
            keeper.tidy(run_dir)
            started = servers.start(set(KINDS), mode, keeper, run_dir)
            took = time.monotonic() - began
            names = " and ".join(server.version for server in started.all)
            healthy = started.healthy()
            started.stop()
    except (servers.ServerError, OSError) as error:
        other = "embedded" if mode == "containers" else "containers"
        # One way to have servers is enough.
        mark = NOT_NEEDED if works or mode == "containers" else BROKEN
        yield Found(mark, what, str(error), f"Mend it, or grade with SERVICES={other}.")
        return
    if not healthy:
        yield Found(BROKEN, what, f"{names} start, and then do not answer.",
                    "Look at what confines this terminal, and run make doctor again.")
        return
    works.append("containers" if mode == "containers" else "embedded servers")
    yield Found(OK, what, f"{names}, started in {took:.1f} s")


def _psql() -> Iterator[Found]:
    program = psql_path() or shutil.which("psql")
    if program:
        yield Found(OK, "psql", str(program))
    else:
        yield Found(NOT_NEEDED, "psql", "none is here, so `make psql` does not work",
                    "Grading does not need it; your system's packages have one.")


def _left_up() -> Iterator[Found]:
    if hand.is_up():
        yield Found(OK, "make up", "servers were started by hand", "`make down` stops them.")
